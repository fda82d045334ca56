"""The calls of the CUDA driver that pycuda lacks: to record what is queued on a stream and launch it as a whole.

Handles are integers; a stream's is pycuda's `stream.handle`. A context must be current (context.py). Every call raises
BackendError with CUDA's own name and description of the error.
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

from sam2edge.errors import BackendError

LIBCUDA = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
_RELAXED = 2
"""CU_STREAM_CAPTURE_MODE_RELAXED. In stricter modes the capture fails if this or any thread allocates or frees memory
meanwhile (PyTorch in another thread, the garbage collector in this one), which is harmless: none of it is recorded."""


@functools.cache
def library() -> Any:
    """Load libcuda; BackendError if there is no driver.

    Kernels are loaded into the GPU's memory when they first run, unless the environment says otherwise. That is CUDA's
    default from 12.2 on, and PyTorch's; before, all kernels of TensorRT's libraries would be loaded.
    """
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    try:
        return ctypes.CDLL(LIBCUDA)
    except OSError as error:
        raise BackendError(f"{LIBCUDA} does not load ({error}): install the driver; see `sam2edge doctor`") from error


def begin_capture(stream: int) -> None:
    """Record from here on what this thread queues on the stream, instead of running it."""
    _call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), ctypes.c_int(_RELAXED))


def end_capture(stream: int) -> int:
    """Return the recorded graph. From here on the stream runs its work again, even if this raises."""
    graph = ctypes.c_void_p()
    _call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
    if not graph.value:
        raise BackendError("CUDA recorded nothing: cuStreamEndCapture returned no graph")
    return graph.value


def instantiate(graph: int) -> int:
    """Make an executable of a recorded graph, which may be destroyed afterwards."""
    executable = ctypes.c_void_p()
    _call("cuGraphInstantiateWithFlags", ctypes.byref(executable), ctypes.c_void_p(graph), ctypes.c_ulonglong(0))
    assert executable.value is not None
    return executable.value


def launch(executable: int, stream: int) -> None:
    """Queue all that was recorded."""
    _call("cuGraphLaunch", ctypes.c_void_p(executable), ctypes.c_void_p(stream))


def destroy_executable(executable: int) -> None:
    """Free an executable that `instantiate` made."""
    _call("cuGraphExecDestroy", ctypes.c_void_p(executable))


def destroy_graph(graph: int) -> None:
    """Free a graph that `end_capture` returned."""
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
