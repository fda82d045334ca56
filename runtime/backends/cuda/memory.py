"""Arrays on the GPU, page-locked arrays on the host, and when what queued work uses may be freed.

An array may be dropped while queued work still reads or writes it. Its memory is reused only after every stream was
waited for since then; so are recorded graphs and TensorRT's contexts freed. The garbage collector, which drops them in
any thread at any moment, neither waits nor calls CUDA: waiting for a stream that is being recorded spoils its
recording.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import math
import operator
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sam2edge.errors import BackendError
from sam2edge.runtime.backends.base import Array
from sam2edge.runtime.backends.cuda.context import NON_BLOCKING, Context

_ALIGNMENT = 512
_KEPT = 64 << 20
"""Bytes on the GPU that are kept for new arrays of the same sizes: an allocation makes the whole GPU wait."""


class CudaArray:
    """A contiguous array in GPU memory at an address. It and each of its views keep the memory alive."""

    def __init__(self, memory: _Handle, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._memory, self.address, self.shape, self.dtype = memory, address, shape, dtype
        self.nbytes = math.prod(shape) * dtype.itemsize

    @property
    def gpu(self) -> int:
        """The number of its GPU."""
        return self._memory.gpu

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> CudaArray:
        """Return a view of one entry of the first axis, or of contiguous entries."""
        if not self.shape:
            raise IndexError("an array without axes has no entries")
        count, entry = self.shape[0], self.shape[1:]
        step = math.prod(entry) * self.dtype.itemsize
        if isinstance(index, slice):
            first, last, stride = index.indices(count)
            if stride != 1:
                raise IndexError(f"entries of an array on the GPU must be contiguous, but the step is {stride}")
            shape = (max(last - first, 0), *entry)
            return CudaArray(self._memory, self.address + first * step, shape, self.dtype)
        position = operator.index(index)
        if not -count <= position < count:
            raise IndexError(f"entry {position} of an array on the GPU with {count}")
        return CudaArray(self._memory, self.address + position % count * step, entry, self.dtype)

    def reinterpreted(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> CudaArray:
        """Return its memory as another array, which must not be larger."""
        return CudaArray(self._memory, self.address, shape, dtype)

    def __array__(self, *arguments: Any, **options: Any) -> Array:
        raise BackendError("this array is on the GPU: copy() it into one from staging(), then synchronize()")


@dataclass(frozen=True, eq=False)
class _Handle:
    """Lives as long as an array on a GPU or a view of it."""

    gpu: int


@dataclass(eq=False)
class _Block:
    """Something that queued work may use, and how to free it; memory on the GPU has an address and can be reused."""

    free: Callable[[], object]
    size: int = 0
    address: int = 0


@dataclass(eq=False)
class Timeline:
    """How far a stream is: the ticks of its last use, and of the start of the last wait that is over."""

    used: int = -1
    waited: int = -1

    def is_past(self, tick: int) -> bool:
        """Tell whether all work that was queued before a tick is done."""
        return self.waited > tick or self.waited >= self.used


@dataclass(eq=False)
class _Store:
    """The part of a Memory that outlives it; `dropped` has blocks to free and the ticks when they were dropped."""

    context: Context
    streams: list[Any]
    dropped: deque[tuple[int, _Block]] = field(default_factory=deque)

    def free(self, block: _Block) -> None:
        with self.context:
            block.free()

    def free_all(self) -> None:
        while self.dropped:
            with contextlib.suppress(BackendError):  # nobody could handle it, and after it the GPU has freed everything
                self.free(self.dropped.popleft()[1])
        with contextlib.suppress(BackendError), self.context:
            self.streams.clear()


class Memory:
    """All arrays of a backend, on any of its streams, for any thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.RLock()
        self._ticks = itertools.count()
        with context:  # a stream of its own, so that filling an array waits for no other work
            self._store = _Store(context, [context.cuda.Stream(NON_BLOCKING)])
        self._timelines: list[Timeline] = []
        weakref.finalize(self, self._store.free_all)

    def new_timeline(self) -> Timeline:
        """Return the timeline of a new stream, which may use all arrays from now on."""
        with self._lock:
            self._timelines.append(timeline := Timeline())
        return timeline

    def end_timeline(self, timeline: Timeline) -> None:
        """Remove the timeline of a stream that will do no more work."""
        with self._lock:
            # in a new list, since the garbage collector may call this while the same thread goes through the old one
            self._timelines = [each for each in self._timelines if each is not timeline]

    def tick(self) -> int:
        """Return the present: what was dropped before has a lower number."""
        return next(self._ticks)

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> CudaArray:
        """Make an array on the GPU with undefined content; BackendError if memory runs out."""
        kind = np.dtype(dtype)
        # TensorRT needs an address for empty arrays too
        size = max(-(-math.prod(shape) * kind.itemsize // _ALIGNMENT), 1) * _ALIGNMENT
        block = self._take(size)
        handle = _Handle(self._context.gpu)
        weakref.finalize(handle, self._drop, block)
        return CudaArray(handle, block.address, shape, kind)

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> CudaArray:
        """Make an array of zeros on the GPU; it is filled when this returns."""
        array = self.array(shape, dtype)
        if array.nbytes:
            with self._lock, self._context:
                (stream,) = self._store.streams
                self._context.cuda.memset_d8_async(array.address, 0, array.nbytes, stream)
                stream.synchronize()
        return array

    def staging(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Make a page-locked numpy array of zeros."""
        kind = np.dtype(dtype)
        size = max(math.prod(shape) * kind.itemsize, 1)
        with self._context:
            memory = self._context.cuda.pagelocked_empty(size, np.uint8)
        # pycuda's own array would be freed where the last of its views goes, in any thread
        buffer = (ctypes.c_uint8 * size).from_address(memory.ctypes.data)
        finalizer = weakref.finalize(buffer, self._drop, _Block(memory.base.free))
        finalizer.atexit = False  # queued work may still write there
        array: Array = np.frombuffer(memoryview(buffer), kind, math.prod(shape)).reshape(shape)
        array[...] = 0
        return array

    def free_later(self, owner: object, free: Callable[[], object]) -> None:
        """Call `free` with the context current, when `owner` is gone and what was queued until then is done."""
        weakref.finalize(owner, self._drop, _Block(free))

    def settle(self, keep: int = _KEPT) -> None:
        """Free what was dropped and no stream uses any more, except `keep` bytes on the GPU."""
        with self._lock:
            for tick, block in self._each_dropped():
                unused, kept = self._is_unused(tick), bool(block.address) and block.size <= keep
                if unused and not kept:
                    self._store.free(block)
                    continue
                self._store.dropped.append((tick, block))
                keep -= block.size if unused else 0

    def _take(self, size: int) -> _Block:
        with self._lock:
            for tick, block in self._each_dropped():
                if block.address and block.size == size and self._is_unused(tick):
                    return block
                self._store.dropped.append((tick, block))
        try:
            return self._allocate(size)
        except BackendError:
            self.settle(keep=0)
            return self._allocate(size)

    def _each_dropped(self) -> Iterator[tuple[int, _Block]]:
        """Take out one after the other of those that are there now; the garbage collector may add some meanwhile."""
        for _ in range(len(self._store.dropped)):
            if not self._store.dropped:
                return  # freed by a stream that the garbage collector ended
            yield self._store.dropped.popleft()

    def _allocate(self, size: int) -> _Block:
        with self._context:
            memory = self._context.cuda.mem_alloc(size)
        return _Block(memory.free, size, int(memory))

    def _is_unused(self, tick: int) -> bool:
        return all(timeline.is_past(tick) for timeline in self._timelines)

    def _drop(self, block: _Block) -> None:
        # the garbage collector calls this in any thread at any moment, so that it takes no lock and calls no CUDA
        self._store.dropped.append((self.tick(), block))
