"""What the backends on an NVIDIA GPU share: arrays, copies, the stream, and recordings of queued work."""

from __future__ import annotations

import contextlib
import copy
import math
import threading
import warnings
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
from sam2edge.runtime.backends.cuda.stream import RecordedGraph, Stream

_RECORDINGS = 16
"""How many keys may have a recording, or get one with their next run; each holds execution contexts."""
_SEEN = 64
"""How many other keys are remembered, and whether their next run may prepare a recording."""

T = TypeVar("T")


class _RefusedError(Exception):
    """CUDA does not record the steps; none of them were done."""


class _OtherStepsError(BackendError):
    """The caller of `replay` broke its contract."""


class Recording:
    """What belongs to the steps of one key: arrays whose addresses are recorded, and what the runs of graphs need.

    `resources` are by graph file and number of its run within the steps (`counts`), and never change once recorded.
    """

    def __init__(self) -> None:
        self.held: list[object] = []
        self.resources: dict[Hashable, Any] = {}
        self.counts: Counter[Hashable] = Counter()
        self.graph: RecordedGraph | None = None


class CudaBackend(Backend):
    """Arrays and copies on one GPU, on a stream of its own; a subclass opens graphs.

    Any thread may call it, and one at a time is admitted. `gpu` is the GPU's number in CUDA_VISIBLE_DEVICES. Raises
    BackendError without a driver, that GPU or pycuda.
    """

    def __init__(self, gpu: int = 0) -> None:
        self.context = primary(gpu)
        self._memory = Memory(self.context)
        self._begin_stream()

    @property
    def gpu(self) -> int:
        """The number of its GPU."""
        return self.context.gpu

    def _begin_stream(self) -> None:
        self.stream = Stream(self.context, self._memory)
        self._lock = threading.RLock()
        self._begin_use()

    def _begin_use(self) -> None:
        self._seen: OrderedDict[Hashable, bool] = OrderedDict()
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()
        self._under_way: Recording | None = None
        self._capturing = False
        self._warned = False
        self._plain: dict[Hashable, Any] = {}

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> DeviceArray:
        """Make an array on the GPU. It is filled when this returns, so that any stream may use it."""
        return self._memory.zeros(tuple(shape), dtype)

    def staging(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
        return self._memory.staging(tuple(shape), dtype)

    def copy(self, source: AnyArray, to: AnyArray) -> None:
        """Queue a copy between contiguous arrays of one shape and dtype, at least one on the GPU; else BackendError."""
        if (source.shape, source.dtype) != (to.shape, to.dtype):
            raise BackendError(
                "copy() needs arrays of one shape and dtype, but they are "
                f"{source.dtype}{list(source.shape)} and {to.dtype}{list(to.shape)}"
            )
        for array in (source, to):
            if isinstance(array, CudaArray) and array.gpu != self.gpu:
                raise BackendError(f"copy() on GPU {self.gpu} got an array on GPU {array.gpu}")
            if isinstance(array, np.ndarray) and not array.flags.c_contiguous:
                raise BackendError("copy() needs contiguous arrays: copy whole entries of the first axis")
        if math.prod(source.shape) == 0:
            return
        cuda = self.context.cuda
        with self.exclusive():
            self.hold(source, to)
            self.stream.use()
            if isinstance(source, CudaArray) and isinstance(to, CudaArray):
                cuda.memcpy_dtod_async(to.address, source.address, to.nbytes, self.stream.pycuda)
            elif isinstance(to, CudaArray):
                cuda.memcpy_htod_async(to.address, cast("Array", source), self.stream.pycuda)
            elif isinstance(source, CudaArray):
                cuda.memcpy_dtoh_async(to, source.address, self.stream.pycuda)
            else:
                raise BackendError("copy() needs an array on the GPU; copy between arrays on the host with numpy")

    def replay(self, key: Hashable, steps: Callable[[], None]) -> None:
        """Queue `steps`: by calling them twice, then as a CUDA graph that is recorded once and launched from then on.

        The second time they already use the resources that will be recorded, since TensorRT prepares for shapes at
        their first use. Of many keys, those last used are kept. Steps that CUDA does not record are called every time,
        and the first of them are reported with a RuntimeWarning. An error of the steps themselves is raised.
        """
        with self.exclusive():
            if self._under_way is not None:
                raise BackendError("replay() was called within the steps of another replay()")
            if key in self._recordings:
                self._recordings.move_to_end(key)
                self._launch(key, steps)
                return
            may_prepare = self._seen.pop(key, None)
            if may_prepare:
                recording = Recording()
                with self._belonging_to(recording):
                    steps()
                self._recordings[key] = recording
                if len(self._recordings) > _RECORDINGS:
                    self._recordings.popitem(last=False)
            else:
                steps()
                self._see(key, may_prepare=may_prepare is None)

    def _launch(self, key: Hashable, steps: Callable[[], None]) -> None:
        recording = self._recordings[key]
        if recording.graph is None:
            try:
                recording.graph = self._recorded(recording, steps)
            except _RefusedError as error:
                del self._recordings[key]
                steps()  # which raise what has nothing to do with the recording
                self._see(key, may_prepare=False)
                if not self._warned:
                    self._warned = True
                    warnings.warn(
                        f"CUDA does not record these steps as a graph ({error}); they are queued one by one instead, "
                        "which takes more of the host's time",
                        RuntimeWarning,
                        stacklevel=3,
                    )
                return
            except BaseException:
                del self._recordings[key]
                raise
        self.stream.use()
        recording.graph.launch()

    def _see(self, key: Hashable, *, may_prepare: bool) -> None:
        self._seen[key] = may_prepare
        if len(self._seen) > _SEEN:
            self._seen.popitem(last=False)

    def forget(self) -> None:
        """Drop this user's recordings, the resources of its other runs, and memory that is kept for later."""
        with self.exclusive():
            self._recordings.clear()
            self._seen.clear()
            self._plain.clear()
            if not self.stream.runners:  # else other users would soon need as much again
                self.stream.scratch.clear()
            self.stream.wait()
            self._memory.settle(keep=0)

    def synchronize(self) -> None:
        with self.exclusive():
            self.stream.wait()
            self._memory.settle()

    def fence(self) -> Callable[[], None]:
        with self.exclusive():
            if self._under_way is not None:
                raise BackendError("fence() was called within the steps of replay()")
            reached = self.stream.fence()

        def wait() -> None:
            with self.exclusive():
                reached()
                self._memory.settle()

        return wait

    def new_stream(self) -> Backend:
        """Return a backend on the same GPU and arrays with a stream of its own, on which graphs are opened anew.

        One stream may read what another one wrote once that was synchronised.
        """
        other = copy.copy(self)
        other._begin_stream()
        return other

    def for_user(self) -> Backend:
        other = copy.copy(self)
        other._begin_use()
        return other

    # For the runners of graphs.

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other threads from the stream, and make the context current."""
        with self._lock, self.context:
            yield

    def hold(self, *used: object) -> None:
        """Keep what the steps use as long as their recording lives."""
        if self._under_way is not None:
            self._under_way.held.extend(used)

    def resource(self, name: Hashable, make: Callable[[], T]) -> T:
        """Return what the next run of a graph needs for itself: what is in a recording must never be changed again."""
        recording = self._under_way
        if recording is None:
            if name not in self._plain:
                self._plain[name] = make()
            return cast("T", self._plain[name])
        place = (name, recording.counts[name])
        recording.counts[name] += 1
        if place not in recording.resources:
            if self._capturing:
                raise _OtherStepsError("replay() was called with other steps under the same key; use another for them")
            recording.resources[place] = make()
        return cast("T", recording.resources[place])

    def scratch(self, name: Hashable, shape: tuple[int, ...], dtype: npt.DTypeLike) -> CudaArray:
        """Return a temporary array of undefined content, in the memory of the last one of its name if that suffices."""
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        if name not in self.stream.scratch or self.stream.scratch[name].nbytes < size:
            self.stream.scratch[name] = self._memory.array((size,), np.uint8)
        array = self.stream.scratch[name].reinterpreted(shape, kind)
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

    def _recorded(self, recording: Recording, steps: Callable[[], None]) -> RecordedGraph:
        """Record the steps; raise _RefusedError if CUDA does not, or their own error."""
        stream = self.stream.handle
        with _refusals():
            driver.begin_capture(stream)
        self._capturing = True
        try:
            with self._belonging_to(recording):
                steps()
        except BackendError as error:
            with contextlib.suppress(BackendError):  # CUDA may have given up the recording
                driver.destroy_graph(driver.end_capture(stream))
            if isinstance(error, _OtherStepsError):
                raise
            raise _RefusedError(str(error)) from error
        except BaseException:
            with contextlib.suppress(BackendError):  # the error of the steps says more
                driver.destroy_graph(driver.end_capture(stream))
            raise
        finally:
            self._capturing = False
        with _refusals():
            graph = driver.end_capture(stream)
            try:
                return RecordedGraph(self.stream, graph)
            finally:
                driver.destroy_graph(graph)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except BackendError as error:
        raise _RefusedError(str(error)) from error
