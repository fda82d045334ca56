"""What is common to the backends on an NVIDIA GPU: arrays, copies, the queue, and recordings of what is queued."""

from __future__ import annotations

import contextlib
import copy
import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from sam2edge.errors import BackendError
from sam2edge.runtime.backends.base import AnyArray, Array, Backend, DeviceArray
from sam2edge.runtime.backends.cuda import driver
from sam2edge.runtime.backends.cuda.context import primary
from sam2edge.runtime.backends.cuda.memory import CudaArray, Memory
from sam2edge.runtime.backends.cuda.stream import Queue, Recorded

_RECORDINGS = 8
"""Keys that have recordings, or will have with their next run; each holds execution contexts."""
_SEEN = 64
"""Keys that ran once and are remembered."""

T = TypeVar("T")


class Recording:
    """What belongs to the steps of one key. Its resources are never touched again once `graph` is there.

    held: arrays whose addresses are in the graph. resources: what a run of a graph file needs for itself, by the
    file and by which of its runs within the steps it is.
    """

    def __init__(self) -> None:
        self.held: list[object] = []
        self.resources: dict[Hashable, Any] = {}
        self.counts: Counter[Hashable] = Counter()
        self.graph: Recorded | None = None


class CudaBackend(Backend):
    """Arrays and copies on the first GPU; a subclass opens graphs. Each fork, and only it, has a queue of its own.

    Any thread may call, one at a time is let in. Raises BackendError without a driver, a GPU or pycuda.
    """

    def __init__(self) -> None:
        self.context = primary()
        self._memory = Memory(self.context)
        self._begin_queue()

    def _begin_queue(self) -> None:
        """All that belongs to one queue."""
        self.queue = Queue(self.context, self._memory)
        self._lock = threading.RLock()
        self._seen: OrderedDict[Hashable, None] = OrderedDict()
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()
        self._under_way: Recording | None = None
        self._capturing = False
        self._plain: dict[Hashable, Any] = {}

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> DeviceArray:
        """A new array on the GPU, filled when this returns, so that any queue may use it."""
        return self._memory.zeros(tuple(shape), dtype)

    def staging(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
        """A new page-locked numpy array of zeros."""
        return self._memory.staging(tuple(shape), dtype)

    def copy(self, source: AnyArray, to: AnyArray) -> None:
        """Queue a copy; BackendError unless shapes and dtypes are the same, both have no gaps and one is the GPU's."""
        if (source.shape, source.dtype) != (to.shape, to.dtype):
            raise BackendError(
                f"copies are between arrays of one shape and dtype, not from {source.dtype}{list(source.shape)} to "
                f"{to.dtype}{list(to.shape)}"
            )
        for array in (source, to):
            if isinstance(array, np.ndarray) and not array.flags.c_contiguous:
                raise BackendError("copies need arrays without gaps: copy whole entries of the first axis")
        if math.prod(source.shape) == 0:
            return
        cuda = self.context.cuda
        with self.exclusive():
            self.hold(source, to)
            if isinstance(source, CudaArray) and isinstance(to, CudaArray):
                cuda.memcpy_dtod_async(to.address, source.address, to.nbytes, self.queue.stream)
            elif isinstance(to, CudaArray):
                cuda.memcpy_htod_async(to.address, cast("Array", source), self.queue.stream)
            elif isinstance(source, CudaArray):
                cuda.memcpy_dtoh_async(to, source.address, self.queue.stream)
            else:
                raise BackendError("one of the arrays of a copy must be on the GPU; copy on the host with numpy")

    def replay(self, key: Hashable, steps: Callable[[], None]) -> None:
        """Queue `steps`: twice as they are, then recorded as a CUDA graph, which is launched from then on.

        The second time they run with what they will be recorded with, since TensorRT prepares for shapes when it first
        meets them. Of many keys those last used are kept. A recording that fails raises BackendError; nothing of the
        steps was done then.
        """
        with self.exclusive():
            if self._under_way is not None:
                raise BackendError("replay() was called within the steps of another replay()")
            if key in self._recordings:
                self._recordings.move_to_end(key)
                recording = self._recordings[key]
                if recording.graph is None:
                    recording.graph = self._recorded(key, recording, steps)
                recording.graph.launch()
            elif key in self._seen:
                del self._seen[key]
                recording = Recording()
                with self._belonging_to(recording):
                    steps()
                self._recordings[key] = recording
                if len(self._recordings) > _RECORDINGS:
                    self._recordings.popitem(last=False)
            else:
                steps()
                self._seen[key] = None
                if len(self._seen) > _SEEN:
                    self._seen.popitem(last=False)

    def forget(self) -> None:
        """Drop all recordings and what runs need besides, such as memory that is kept for later."""
        with self.exclusive():
            self._recordings.clear()
            self._seen.clear()
            self._plain.clear()
            self.queue.scratch.clear()
            self.queue.wait()
            self._memory.settle(keep=0)

    def synchronize(self) -> None:
        """Wait until all that was queued is done; BackendError if it failed."""
        with self.exclusive():
            self.queue.wait()
            self._memory.settle()

    def new_stream(self) -> Backend:
        """The same GPU and arrays with a queue of its own. Graphs are opened anew on it.

        An array that one queue writes may be read by another once the first was synchronised.
        """
        other = copy.copy(self)
        other._begin_queue()
        return other

    # What runners of graphs need.

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Let no other thread use the queue, and make the context current."""
        with self._lock, self.context.active():
            self.queue.use()
            yield

    def hold(self, *used: object) -> None:
        """Keep what the steps use as long as their recording."""
        if self._under_way is not None:
            self._under_way.held.extend(used)

    def resource(self, name: Hashable, make: Callable[[], T]) -> T:
        """What the next run of a graph uses alone: nothing that is in a recording may be changed afterwards."""
        recording = self._under_way
        if recording is None:
            if name not in self._plain:
                self._plain[name] = make()
            return cast("T", self._plain[name])
        place = (name, recording.counts[name])
        recording.counts[name] += 1
        if place not in recording.resources:
            if self._capturing:
                raise BackendError("replay() was called with other steps under the same key; use another key for them")
            recording.resources[place] = make()
        return cast("T", recording.resources[place])

    def scratch(self, name: Hashable, shape: tuple[int, ...], dtype: npt.DTypeLike) -> CudaArray:
        """An array for the moment, whatever is in it: the same memory again for the same name, if that is enough."""
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        if name not in self.queue.scratch or self.queue.scratch[name].nbytes < size:
            self.queue.scratch[name] = self._memory.array((size,), np.uint8)
        array = self.queue.scratch[name].reinterpreted(shape, kind)
        self.hold(array)
        return array

    @contextlib.contextmanager
    def _belonging_to(self, recording: Recording) -> Iterator[None]:
        recording.counts.clear()
        self._under_way = recording
        try:
            yield
        finally:
            self._under_way = None

    def _recorded(self, key: Hashable, recording: Recording, steps: Callable[[], None]) -> Recorded:
        stream = self.queue.handle
        driver.begin_capture(stream)
        self._capturing = True
        try:
            with self._belonging_to(recording):
                steps()
        except BaseException:
            del self._recordings[key]
            with contextlib.suppress(BackendError):  # what made the steps fail tells more
                driver.destroy_graph(driver.end_capture(stream))
            raise
        finally:
            self._capturing = False
        try:
            graph = driver.end_capture(stream)
            try:
                return Recorded(self.queue, graph)
            finally:
                driver.destroy_graph(graph)
        except BackendError:
            del self._recordings[key]
            raise
