"""The calls of the CUDA driver that pycuda lacks: what is queued on a stream, recorded and launched as a whole.

Handles are integers, that of a stream is pycuda's `stream.handle`. A context must be current (context.py). Every call
raises BackendError with CUDA's own name for what went wrong.
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

from sam2edge.errors import BackendError

LIBCUDA = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
_RELAXED = 2
"""CU_STREAM_CAPTURE_MODE_RELAXED. The stricter modes turn memory that this or any thread allocates or frees meanwhile
(PyTorch in another thread, the garbage collector in this one) into an error of the capture. Nothing of it goes into the
recording, so it may be allowed."""


@functools.cache
def library() -> Any:
    """libcuda; BackendError where there is no driver."""
    try:
        return ctypes.CDLL(LIBCUDA)
    except OSError as error:
        raise BackendError(f"{LIBCUDA} does not load ({error}): install the driver; see `sam2edge doctor`") from error


def begin_capture(stream: int) -> None:
    """From here on what this thread queues on the stream is recorded and not run."""
    _call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), ctypes.c_int(_RELAXED))


def end_capture(stream: int) -> int:
    """The recorded graph. The stream is as before, even when this raises because something could not be recorded."""
    graph = ctypes.c_void_p()
    _call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
    if not graph.value:
        raise BackendError("CUDA recorded nothing: cuStreamEndCapture gave no graph")
    return graph.value


def instantiate(graph: int) -> int:
    """A graph that can be launched, of one that was recorded and may be destroyed then."""
    executable = ctypes.c_void_p()
    if hasattr(library(), "cuGraphInstantiateWithFlags"):
        _call("cuGraphInstantiateWithFlags", ctypes.byref(executable), ctypes.c_void_p(graph), ctypes.c_ulonglong(0))
    else:  # before CUDA 11.4; the last three would say which node is wrong
        no_log = (None, None, ctypes.c_size_t(0))
        _call("cuGraphInstantiate_v2", ctypes.byref(executable), ctypes.c_void_p(graph), *no_log)
    assert executable.value is not None
    return executable.value


def launch(executable: int, stream: int) -> None:
    """Queue all that was recorded."""
    _call("cuGraphLaunch", ctypes.c_void_p(executable), ctypes.c_void_p(stream))


def destroy_executable(executable: int) -> None:
    """Free what `instantiate` gave."""
    _call("cuGraphExecDestroy", ctypes.c_void_p(executable))


def destroy_graph(graph: int) -> None:
    """Free what `end_capture` gave."""
    _call("cuGraphDestroy", ctypes.c_void_p(graph))


def _call(name: str, *arguments: Any) -> None:
    function = getattr(library(), name, None)
    if function is None:
        raise BackendError(f"this driver has no {name}; update NVIDIA's driver to one for CUDA 11.4 or newer")
    if code := function(*arguments):
        raise BackendError(f"{failure(name, code)}; see `sam2edge doctor`")


def failure(name: str, code: int) -> str:
    """Return CUDA's own name and description of the error that a call returned."""
    texts = []
    for describe in (library().cuGetErrorName, library().cuGetErrorString):
        text = ctypes.c_char_p()
        describe(ctypes.c_int(code), ctypes.byref(text))
        texts.append(text.value.decode() if text.value else "unknown error")
    return f"{name} failed with {texts[0]} ({code}): {texts[1]}"
