"""A GPU's primary context, which PyTorch, ONNX Runtime and TensorRT use too, made current only while it is needed.

pycuda keeps a stack of contexts for each thread. A thread that ends with a context on its stack ends the process, and
an object that is freed where its context is not current leaks with a warning. So every use of pycuda is inside
`active`, and memory is freed explicitly (`free`) and not by the garbage collector.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

from sam2edge.errors import BackendError
from sam2edge.runtime.backends.cuda import gpus

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: the stream and the default stream, which PyTorch uses, do not wait for each other.
Otherwise what PyTorch queues during a recording would break the recording."""
DISABLE_TIMING = 2
"""CU_EVENT_DISABLE_TIMING: an event that is only waited for, which is the fastest kind."""

_lock = threading.Lock()


class Context:
    """The primary context of a GPU; `gpu` is its number, and `cuda` the module pycuda.driver."""

    def __init__(self, cuda: Any, gpu: int = 0) -> None:
        self.cuda, self.gpu = cuda, gpu
        try:
            cuda.init()
            if gpu >= (count := cuda.Device.count()):
                raise gpus.no_such_gpu(gpu, count)
            self._primary = cuda.Device(gpu).retain_primary_context()
        except cuda.Error as error:
            raise BackendError(f"CUDA has no GPU for this process: {error}; see `sam2edge doctor`") from error

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make the context current in this thread, and turn errors of CUDA into BackendError."""
        try:
            self._primary.push()
            try:
                yield
            except BaseException:
                with contextlib.suppress(self.cuda.Error):  # after an error of the GPU this fails too, and says less
                    self.cuda.Context.pop()
                raise
            self.cuda.Context.pop()
        except self.cuda.MemoryError as error:
            raise out_of_memory(str(error)) from error
        except self.cuda.Error as error:
            raise BackendError(
                f"CUDA failed: {error}; the queued work is lost. If this repeats, restart the process, and see "
                "`sam2edge doctor`"
            ) from error


def out_of_memory(reason: str) -> BackendError:
    """Make the error for a full GPU, with the message of CUDA or TensorRT."""
    return BackendError(
        f"GPU memory ran out ({reason}); close other programs, lower max_objects, build engines with a lower "
        "--max-objects or --max-prompts, or export with a smaller --image-size or with --memory-pool 2"
    )


def primary(gpu: int = 0) -> Context:
    """Return this process's context of a GPU; BackendError without pycuda or that GPU."""
    with _lock:
        return _primary(gpu)


@functools.cache
def _primary(gpu: int) -> Context:
    try:
        import pycuda.driver
    except ImportError as error:
        raise BackendError(
            f"the GPU backends need pycuda ({error}): pip install pycuda, which compiles with the CUDA toolkit; see "
            "`sam2edge doctor`"
        ) from error
    return Context(pycuda.driver, gpu)
