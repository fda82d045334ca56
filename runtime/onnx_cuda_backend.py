"""Graphs on ONNX Runtime's CUDA provider, with everything between them left on the GPU. Needs no TensorRT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from sam2edge.bundle import TensorSpec
from sam2edge.errors import BackendError
from sam2edge.runtime.backend import Backend, GraphRunner
from sam2edge.runtime.cuda.backend import CudaBackend
from sam2edge.runtime.cuda.memory import CudaArray
from sam2edge.runtime.cuda.runner import CudaRunner, Signature
from sam2edge.runtime.onnx_backend import check_provider, new_session

_PROVIDER = "CUDAExecutionProvider"
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
        # TF32 has the mantissa of FP16; this backend is in float32 as on the CPU
        options = {"device_id": "0", "user_compute_stream": str(self.queue.handle), "use_tf32": "0"}
        with self.exclusive():
            session = new_session(graph, _PROVIDER, options)
        specs = [
            tuple(TensorSpec(tensor.name, _DTYPES[tensor.type], tuple(tensor.shape)) for tensor in tensors)
            for tensors in (session.get_inputs(), session.get_outputs())
        ]
        dtypes = {spec.name: np.dtype(spec.dtype) for side in specs for spec in side}
        return _Runner(self, Signature(graph.name, specs[0], specs[1], dtypes), session)


class _Runner(CudaRunner):
    def __init__(self, backend: OnnxCudaBackend, signature: Signature, session: onnxruntime.InferenceSession) -> None:
        super().__init__(backend, signature)
        self._session = session
        self._options = onnxruntime.RunOptions()
        # the next run is on the same stream: only who reads on the host waits
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def _enqueue(self, inputs: Mapping[str, CudaArray], outputs: Mapping[str, CudaArray]) -> None:
        binding = self._session.io_binding()
        for bind, arrays in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, array in arrays.items():
                bind(name, "cuda", 0, array.dtype.type, array.shape, array.address)
        try:
            self._session.run_with_iobinding(binding, self._options)
        except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
            raise BackendError(f"{self._signature.name}: ONNX Runtime failed: {error}") from error
