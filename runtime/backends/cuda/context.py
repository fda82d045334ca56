"""The GPU's primary context, which PyTorch, ONNX Runtime and TensorRT use too, made current only while it is needed.

pycuda keeps a stack of contexts for each thread. A thread that ends with anything on it ends the process, and an object
that is freed where the context is not current is lost with a warning. So every use of pycuda here is inside of
`active`, and what is freed is freed by name (`free`) and not when Python gets round to it.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

from sam2edge.errors import BackendError

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: the default stream, which PyTorch uses, does not wait for the stream nor the stream for it.
With a stream that does, what PyTorch queues during a recording would break the recording."""

_lock = threading.Lock()


class Context:
    """The primary context of the first GPU that CUDA_VISIBLE_DEVICES leaves. cuda: the module pycuda.driver."""

    def __init__(self, cuda: Any) -> None:
        self.cuda = cuda
        try:
            cuda.init()
            self._primary = cuda.Device(0).retain_primary_context()
        except cuda.Error as error:
            raise BackendError(f"CUDA has no GPU for this process: {error}; see `sam2edge doctor`") from error

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make the context current in this thread; what CUDA says against the block becomes BackendError."""
        self._primary.push()
        try:
            yield
        except self.cuda.MemoryError as error:
            raise out_of_memory(str(error)) from error
        except self.cuda.Error as error:
            raise BackendError(
                f"CUDA failed: {error}; what was queued is lost. If it stays, start the process anew, and see "
                "`sam2edge doctor`"
            ) from error
        finally:
            self.cuda.Context.pop()


def out_of_memory(said: str) -> BackendError:
    """The error for a full GPU; `said`: what CUDA or TensorRT says."""
    return BackendError(
        f"GPU memory ran out ({said}); close other programs, lower max_objects, build engines with a lower "
        "--max-objects or --max-prompts, or export with a smaller --image-size or with --memory-pool 2"
    )


def primary() -> Context:
    """The context of this process; BackendError without pycuda or a GPU."""
    with _lock:
        return _primary()


@functools.cache
def _primary() -> Context:
    try:
        import pycuda.driver
    except ImportError as error:
        raise BackendError(
            f"the GPU backends need pycuda ({error}): pip install pycuda, which compiles with the CUDA toolkit; see "
            "`sam2edge doctor`"
        ) from error
    return Context(pycuda.driver)
