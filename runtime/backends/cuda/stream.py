"""A CUDA stream, on which work is queued, and graphs that were recorded on it."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Hashable
from typing import Any

from sam2edge.errors import BackendError
from sam2edge.runtime.backends.cuda import driver
from sam2edge.runtime.backends.cuda.context import NON_BLOCKING, Context
from sam2edge.runtime.backends.cuda.memory import CudaArray, Memory, Timeline


class Stream:
    """A stream, whose work is waited for before it is destroyed; only that work uses the arrays in `scratch`.

    One thread at a time may use it.
    """

    def __init__(self, context: Context, memory: Memory) -> None:
        self.context, self._memory = context, memory
        with context.active():
            self._streams = [context.cuda.Stream(NON_BLOCKING)]  # a list, which `_destroy_stream` can empty
        self._timeline = memory.new_timeline()
        self.scratch: dict[Hashable, CudaArray] = {}
        weakref.finalize(self, _destroy_stream, context, memory, self._timeline, self._streams, self.scratch)

    @property
    def pycuda(self) -> Any:
        """The pycuda.driver.Stream."""
        return self._streams[0]

    @property
    def handle(self) -> int:
        """The CUstream."""
        return int(self.pycuda.handle)

    def use(self) -> None:
        """Announce that work is going to be queued."""
        self._timeline.used = self._memory.tick()

    def wait(self) -> None:
        """Wait until all queued work is done; BackendError if it failed."""
        begin = self._memory.tick()
        with self.context.active():
            self.pycuda.synchronize()
        self._timeline.waited = begin

    def drain(self) -> None:
        """Wait, for the garbage collector, which may run while another thread queues work.

        Work that failed has ended too. The thread that queued it gets the error; here nobody could handle it.
        """
        with contextlib.suppress(BackendError), self.context.active():
            self.pycuda.synchronize()


def _destroy_stream(
    context: Context, memory: Memory, timeline: Timeline, streams: list[Any], scratch: dict[Any, Any]
) -> None:
    with context.active():
        with contextlib.suppress(context.cuda.Error):  # see Stream.drain
            streams[0].synchronize()
        streams.clear()
    memory.end_timeline(timeline)
    scratch.clear()
    with contextlib.suppress(BackendError):
        memory.settle(keep=0)


class RecordedGraph:
    """A CUDA graph that can be launched on its stream, which is waited for before the graph is destroyed."""

    def __init__(self, stream: Stream, graph: int) -> None:
        self._stream = stream
        self._executable = driver.instantiate(graph)
        weakref.finalize(self, _destroy_graph, stream, self._executable)

    def launch(self) -> None:
        """Queue all that was recorded. The context must be current."""
        driver.launch(self._executable, self._stream.handle)


def _destroy_graph(stream: Stream, executable: int) -> None:
    stream.drain()
    with contextlib.suppress(BackendError), stream.context.active():
        driver.destroy_executable(executable)
