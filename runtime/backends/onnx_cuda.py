"""Graphs on ONNX Runtime's CUDA provider, with everything between them left on the GPU; without TensorRT."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from sam2edge.bundle import TensorSpec
from sam2edge.errors import BackendError
from sam2edge.runtime.backends.base import Backend, GraphRunner
from sam2edge.runtime.backends.cuda.backend import CudaBackend
from sam2edge.runtime.backends.cuda.memory import CudaArray
from sam2edge.runtime.backends.cuda.runner import CudaRunner, Signature
from sam2edge.runtime.backends.onnx import Sessions, new_session

_PROVIDER = "CUDAExecutionProvider"
_WITHOUT_CPU = {
    # nodes on the CPU would wait for the GPU, and their inputs be copied before they are written
    "session.disable_cpu_ep_fallback": "1",
    # INT8 weights become floats once, not in every run, and no bias becomes INT32, which CUDA cannot dequantise
    "session.disable_quant_qdq": "1",
}
_DTYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int32)": "int32", "tensor(bool)": "bool"}


class OnnxCudaBackend(CudaBackend):
    """ONNX Runtime on the GPU in float32. Each stream that opens a graph holds its weights once more.

    Raises BackendError without onnxruntime-gpu, the GPU of that number or pycuda.
    """

    def __init__(self, gpu: int = 0) -> None:
        available = onnxruntime.get_available_providers()
        if _PROVIDER not in available:
            raise BackendError(
                f"ONNX Runtime {onnxruntime.__version__} here has no {_PROVIDER} (it has {', '.join(available)}); "
                'install onnxruntime-gpu in place of onnxruntime, or use backend="onnx"'
            )
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it does not find
            onnxruntime.preload_dlls()  # CUDA and cuDNN from pip's packages, which the linker does not know
        super().__init__(gpu)

    def _begin_stream(self) -> None:
        super()._begin_stream()
        self._sessions = Sessions()

    replay = Backend.replay  # not recorded, since ONNX Runtime allocates during its runs

    def open(self, graph: Path) -> GraphRunner:
        with self.exclusive():
            session = self._sessions.open(graph, self._session)
        specs = [
            tuple(TensorSpec(tensor.name, _DTYPES[tensor.type], tuple(tensor.shape)) for tensor in tensors)
            for tensors in (session.get_inputs(), session.get_outputs())
        ]
        dtypes = {spec.name: np.dtype(spec.dtype) for side in specs for spec in side}
        return _Runner(self, Signature(graph.name, specs[0], specs[1], dtypes), session)

    def _session(self, graph: Path) -> onnxruntime.InferenceSession:
        """Open a session that runs the whole graph on the GPU; BackendError if it cannot."""
        options = {
            "device_id": str(self.gpu),
            "user_compute_stream": str(self.stream.handle),
            "use_tf32": "0",  # TF32 has the mantissa of FP16, and this backend is in float32
            # the default times every convolution for every new number of objects, while the video waits
            "cudnn_conv_algo_search": "HEURISTIC",
        }
        try:
            return new_session(graph, _PROVIDER, options, _WITHOUT_CPU)
        except BackendError as error:
            # the message is the same for a missing provider and a missing operator: a session with the CPU shows which
            provider = new_session(graph, _PROVIDER, options).get_providers()[0]
            if provider != _PROVIDER:
                raise BackendError(
                    f"{graph}: ONNX Runtime fell back from {_PROVIDER} to {provider}; "
                    "its log above says why (often a CUDA or cuDNN version; see `sam2edge doctor`)"
                ) from error
            raise BackendError(
                f"{error}; some of its nodes need the CPU: export the bundle again, with onnxruntime-gpu 1.21 or newer"
            ) from error


class _Runner(CudaRunner):
    def __init__(self, backend: OnnxCudaBackend, signature: Signature, session: onnxruntime.InferenceSession) -> None:
        self._session = session  # set first, and so freed before the backend with its stream
        super().__init__(backend, signature)
        self._options = onnxruntime.RunOptions()
        # the next run is on the same stream: only readers on the host wait
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def _enqueue(self, inputs: Mapping[str, CudaArray], outputs: Mapping[str, CudaArray]) -> None:
        try:
            binding = self._session.io_binding()
            for bind, arrays in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
                for name, array in arrays.items():
                    bind(name, "cuda", array.gpu, array.dtype.type, array.shape, array.address)
            self._session.run_with_iobinding(binding, self._options)
        except Exception as error:  # see onnx.new_session
            raise BackendError(f"{self._signature.name}: ONNX Runtime failed: {error}") from error
