"""A CUDA stream, on which work is queued, and graphs that were recorded on it."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Hashable
from typing import Any

from sam2edge.errors import BackendError
from sam2edge.runtime.backends.cuda import driver
from sam2edge.runtime.backends.cuda.context import DISABLE_TIMING, NON_BLOCKING, Context
from sam2edge.runtime.backends.cuda.memory import CudaArray, Memory, Timeline


class Stream:
    """A stream, whose work is waited for before it is destroyed; only that work uses the arrays in `scratch`.

    One thread at a time may use it. `runners` are the graphs that are open on it.
    """

    def __init__(self, context: Context, memory: Memory) -> None:
        self.context, self.memory = context, memory
        with context:  # in a list, which `_destroy_stream` can empty
            self._made = [context.cuda.Stream(NON_BLOCKING), context.cuda.Event(DISABLE_TIMING)]
        self._timeline = memory.new_timeline()
        self.scratch: dict[Hashable, CudaArray] = {}
        self.runners = weakref.WeakSet[Any]()
        weakref.finalize(self, _destroy_stream, context, memory, self._timeline, self._made, self.scratch)

    @property
    def pycuda(self) -> Any:
        """The pycuda.driver.Stream."""
        return self._made[0]

    @property
    def handle(self) -> int:
        """The CUstream."""
        return int(self.pycuda.handle)

    def use(self) -> None:
        """Announce that work is going to be queued."""
        self._timeline.used = self.memory.tick()

    def wait(self) -> None:
        """Wait until all queued work is done; BackendError if it failed."""
        begin = self.memory.tick()
        with self.context:
            self.pycuda.synchronize()
        self._timeline.waited = begin

    def fence(self) -> Callable[[], None]:
        """Return a function that waits until what is queued now is done; BackendError if it failed.

        The fences of a stream share an event: after a later fence, an earlier one waits for the later one.
        """
        queued = self.memory.tick()
        with self.context:
            self._made[1].record(self.pycuda)

        def wait() -> None:
            with self.context:
                self._made[1].synchronize()
            self._timeline.waited = max(self._timeline.waited, queued)

        return wait


def _destroy_stream(
    context: Context, memory: Memory, timeline: Timeline, made: list[Any], scratch: dict[Any, Any]
) -> None:
    # Work that failed has ended too. The thread that queued it got the error; here nobody could handle it.
    with contextlib.suppress(BackendError), context:
        with contextlib.suppress(context.cuda.Error):
            made[0].synchronize()
        made.clear()
    memory.end_timeline(timeline)
    scratch.clear()
    with contextlib.suppress(BackendError):
        memory.settle(keep=0)


class RecordedGraph:
    """A CUDA graph that can be launched on its stream; it is destroyed when its work is done."""

    def __init__(self, stream: Stream, graph: int) -> None:
        self._stream = stream
        self._executable = driver.instantiate(graph)
        stream.memory.free_later(self, functools.partial(driver.destroy_executable, self._executable))

    def launch(self) -> None:
        """Queue all that was recorded. The context must be current."""
        driver.launch(self._executable, self._stream.handle)
