"""One queue of work on the GPU (a CUDA stream) and graphs that were recorded on it."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Hashable
from typing import Any

from sam2edge.errors import BackendError
from sam2edge.runtime.backends.cuda import driver
from sam2edge.runtime.backends.cuda.context import NON_BLOCKING, Context
from sam2edge.runtime.backends.cuda.memory import CudaArray, Memory, Timeline


class Queue:
    """A stream, which is waited for before it ends. scratch: arrays that only its own work uses."""

    def __init__(self, context: Context, memory: Memory) -> None:
        self.context, self._memory = context, memory
        with context.active():
            self._streams = [context.cuda.Stream(NON_BLOCKING)]  # a list, which `_end` can empty
        self._timeline = memory.new_timeline()
        self.scratch: dict[Hashable, CudaArray] = {}
        weakref.finalize(self, _end, context, memory, self._timeline, self._streams, self.scratch)

    @property
    def stream(self) -> Any:
        """Pycuda's Stream."""
        return self._streams[0]

    @property
    def handle(self) -> int:
        """CUstream."""
        return int(self.stream.handle)

    def use(self) -> None:
        """Say that something is going to be queued. Called by one thread at a time, and so is `wait`."""
        self._timeline.used = self._memory.tick()

    def wait(self) -> None:
        """Until all that was queued is done; BackendError if it failed."""
        begin = self._memory.tick()
        with self.context.active():
            self.stream.synchronize()
        self._timeline.waited = begin

    def drain(self) -> None:
        """The same for the garbage collector, which may come while another thread queues something.

        What failed is over too. Who queued it is told; here nobody could hear it.
        """
        with contextlib.suppress(BackendError), self.context.active():
            self.stream.synchronize()


def _end(context: Context, memory: Memory, timeline: Timeline, streams: list[Any], scratch: dict[Any, Any]) -> None:
    with context.active():
        with contextlib.suppress(context.cuda.Error):  # see Queue.drain
            streams[0].synchronize()
        streams.clear()
    memory.end_timeline(timeline)
    scratch.clear()
    with contextlib.suppress(BackendError):
        memory.settle(keep=0)


class Recorded:
    """A graph that can be launched. It waits for its queue before it goes."""

    def __init__(self, queue: Queue, graph: int) -> None:
        self._queue = queue
        self._executable = driver.instantiate(graph)
        weakref.finalize(self, _destroy, queue, self._executable)

    def launch(self) -> None:
        """Queue all that was recorded. The context is current."""
        driver.launch(self._executable, self._queue.handle)


def _destroy(queue: Queue, executable: int) -> None:
    queue.drain()
    with contextlib.suppress(BackendError), queue.context.active():
        driver.destroy_executable(executable)
