"""A GPU's primary context, which PyTorch, ONNX Runtime and TensorRT use too, made current only while it is needed.

pycuda keeps a stack of contexts for each thread. A thread that ends with a context on its stack ends the process, and
an object that is freed where its context is not current leaks with a warning. So every use of pycuda is inside
`with context:`, and memory is freed explicitly (`free`) and not by the garbage collector.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
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
    """The primary context of a GPU; `gpu` is its number, and `cuda` the module pycuda.driver.

    `with context:` makes it current in this thread, and turns errors of CUDA into BackendError. After an error of the
    GPU that it cannot recover from, every later use raises BackendError.
    """

    def __init__(self, cuda: Any, gpu: int = 0) -> None:
        self.cuda, self.gpu = cuda, gpu
        self._failure = ""
        try:
            cuda.init()
            if gpu >= (count := cuda.Device.count()):
                raise gpus.no_such_gpu(gpu, count)
            self._primary = cuda.Device(gpu).retain_primary_context()
        except cuda.Error as error:
            raise BackendError(f"CUDA has no GPU for this process: {error}; see `sam2edge doctor`") from error

    def __enter__(self) -> None:
        if _thread.entered[-1] is not self:
            if self._failure:
                raise BackendError(f"the GPU failed before ({self._failure}); restart the process")
            try:
                self._primary.push()
            except self.cuda.Error as error:
                raise self._translated(error) from error
        _thread.entered.append(self)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        _thread.entered.pop()
        if _thread.entered[-1] is not self:
            try:
                self._pop()
            except self.cuda.Error as failed:
                error = error or failed  # the first says more
        if isinstance(error, self.cuda.Error):
            raise self._translated(error) from error

    def _pop(self) -> None:
        try:
            self.cuda.Context.pop()
        except self.cuda.Error as error:  # the GPU failed, for good
            self._failure = str(error)
            # pycuda left it on this thread's stack. Once it is dead, pycuda takes it off, here or where another thread
            # made it dead, and frees what belongs to it without calls of CUDA, whose errors would end the process
            with contextlib.suppress(self.cuda.Error):
                self._primary.detach()
            self.cuda.Context.get_current()
            raise

    def _translated(self, error: Exception) -> BackendError:
        if isinstance(error, self.cuda.MemoryError):
            return out_of_memory(str(error))
        return BackendError(
            f"CUDA failed: {error}; the queued work is lost. If this repeats, restart the process, and see "
            "`sam2edge doctor`"
        )


class _Thread(threading.local):
    """The contexts that this thread has entered, the current one last."""

    def __init__(self) -> None:
        self.entered: list[Context | None] = [None]


_thread = _Thread()


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
    context = Context(pycuda.driver, gpu)
    # It is never freed: CUDA ends it after everything else. pycuda's destructor would take it for a context of another
    # kind, and complain about that at the end of every process.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(context))
    return context
