"""Graphs on ONNX Runtime's CUDA provider, with everything between them left on the GPU. Needs no TensorRT."""

from __future__ import annotations

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
from sam2edge.runtime.backends.onnx import check_provider, new_session

_PROVIDER = "CUDAExecutionProvider"
_ALONE = {
    # What falls to the CPU waits for the GPU, and an input is copied there before it has been written
    "session.disable_cpu_ep_fallback": "1",
    # INT8 weights become floats once and not in every run, and no bias becomes INT32, which CUDA cannot dequantise
    "session.disable_quant_qdq": "1",
}
_DTYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int32)": "int32", "tensor(bool)": "bool"}


class OnnxCudaBackend(CudaBackend):
    """ONNX Runtime on the GPU in float32. A fork that opens a graph holds its weights once more.

    Raises BackendError without onnxruntime-gpu, a GPU or pycuda.
    """

    def __init__(self) -> None:
        check_provider(_PROVIDER)
        super().__init__()

    replay = Backend.replay  # ONNX Runtime allocates in its runs, so they are not recorded

    def open(self, graph: Path) -> GraphRunner:
        """Load an .onnx file."""
        with self.exclusive():
            session = self._session(graph)
        specs = [
            tuple(TensorSpec(tensor.name, _DTYPES[tensor.type], tuple(tensor.shape)) for tensor in tensors)
            for tensors in (session.get_inputs(), session.get_outputs())
        ]
        dtypes = {spec.name: np.dtype(spec.dtype) for side in specs for spec in side}
        return _Runner(self, Signature(graph.name, specs[0], specs[1], dtypes), session)

    def _session(self, graph: Path) -> onnxruntime.InferenceSession:
        """A session that runs the whole graph on the GPU; BackendError when it cannot."""
        options = {
            "device_id": "0",
            "user_compute_stream": str(self.queue.handle),
            "use_tf32": "0",  # TF32 has the mantissa of FP16; this backend is in float32 as on the CPU
            # the default times every convolution at every new number of objects, while the video waits
            "cudnn_conv_algo_search": "HEURISTIC",
        }
        try:
            return new_session(graph, _PROVIDER, options, _ALONE)
        except BackendError as error:
            # the message is the same whether the provider or one operator is missing: with the CPU's help it shows
            found = new_session(graph, _PROVIDER, options).get_providers()[0]
            if found != _PROVIDER:
                raise BackendError(
                    f"{graph}: ONNX Runtime fell back from {_PROVIDER} to {found}; "
                    "its log above says why (often a CUDA or cuDNN version; see `sam2edge doctor`)"
                ) from error
            raise BackendError(
                f"{error}; here some of it needs the CPU: export the bundle again, with onnxruntime-gpu 1.21 or newer"
            ) from error


class _Runner(CudaRunner):
    def __init__(self, backend: OnnxCudaBackend, signature: Signature, session: onnxruntime.InferenceSession) -> None:
        self._session = session  # before the backend, and so freed before its stream
        super().__init__(backend, signature)
        self._options = onnxruntime.RunOptions()
        # the next run is on the same stream: only who reads on the host waits
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def _enqueue(self, inputs: Mapping[str, CudaArray], outputs: Mapping[str, CudaArray]) -> None:
        try:
            binding = self._session.io_binding()
            for bind, arrays in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
                for name, array in arrays.items():
                    bind(name, "cuda", 0, array.dtype.type, array.shape, array.address)
            self._session.run_with_iobinding(binding, self._options)
        except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
            raise BackendError(f"{self._signature.name}: ONNX Runtime failed: {error}") from error
