"""The memory bank: what each object remembers, in arrays that are allocated once.

Attention does not depend on the order of its keys, so a memory never moves: a table says which frame lies in which
slot, and only the ages derived from it change from frame to frame. Every object has its own time, the number of frames
that it has remembered since it joined.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sam2edge.errors import BackendError
from sam2edge.runtime.backends.base import AnyArray, DeviceArray
from sam2edge.runtime.model.graphs import Graphs

EMPTY = -1

Times = npt.NDArray[np.int64]
Ages = npt.NDArray[np.int32]


class SlotTable:
    """Which time lies in which slot, for every object (row).

    A row holds up to `conditioning` frames that stay, and `recent` others. The first conditioning frame is never
    evicted; among the others, the oldest makes room. Recent frames are the last one and those whose time is a multiple
    of `stride` (sam2_base.py, memory_temporal_stride_for_eval).
    """

    def __init__(self, rows: int, conditioning: int, recent: int, stride: int = 1) -> None:
        self._recent, self._stride = recent, stride
        self._conditioning = conditioning
        self._times: Times = np.full((rows, conditioning + recent), EMPTY, np.int64)
        self._is_conditioning = np.zeros(self._times.shape, bool)

    @property
    def rows(self) -> int:
        """Number of rows up to the last that remembers anything."""
        return 1 + int(np.flatnonzero((self._times != EMPTY).any(axis=1)).max(initial=-1))

    def place(self, row: int, time: int, conditioning: bool) -> int:
        """Return the slot for a row's time, the same if asked again; evict one of its kind if that kind is full."""
        times, kind = self._times[row], self._is_conditioning[row]
        times[(times == time) & (kind != conditioning)] = EMPTY  # corrected after a call that failed halfway
        slots = np.flatnonzero(times == time)
        if not len(slots):
            same = np.flatnonzero((times != EMPTY) & (kind == conditioning))
            same = same[np.argsort(times[same])]
            if conditioning:
                evictable, capacity = same[1:], self._conditioning
            else:
                between = times[same] % self._stride != 0
                evictable, capacity = np.concatenate([same[between], same[~between]]), self._recent
            slots = np.flatnonzero(times == EMPTY) if len(same) < capacity else evictable
        slot = int(slots[0])
        times[slot], kind[slot] = time, conditioning
        return slot

    def distances(self, now: Times) -> tuple[Ages, npt.NDArray[np.bool_]]:
        """Return the steps from `now` [rows] back to each used slot [rows, slots], or EMPTY; and which condition.

        The last frame is one step back, and each multiple of the stride before it is one more. A recent frame counts
        while it is at most `recent` steps back; a conditioning frame's steps are its true distance.
        """
        rows, now = len(now), now[:, None]
        used = 1 + int(np.flatnonzero((self._times[:rows] != EMPTY).any(axis=0)).max(initial=-1))
        times, conditioning = self._times[:rows, :used], self._is_conditioning[:rows, :used]
        back = now - times
        newest = (now - 2) // self._stride
        steps = np.where(back == 1, 1, 2 + newest - times // self._stride)
        recent = (back == 1) | (times % self._stride == 0)
        seen = (times != EMPTY) & (back > 0) & (conditioning | (recent & (steps <= self._recent)))
        return np.where(seen, np.where(conditioning, back, steps), EMPTY).astype(np.int32), conditioning

    def delete(self, row: int) -> None:
        """Forget a row; the ones after it move up."""
        for table, blank in ((self._times, EMPTY), (self._is_conditioning, False)):
            table[row:-1] = table[row + 1 :]
            table[-1] = blank

    def clear(self) -> None:
        """Forget every row."""
        self._times[:] = EMPTY


class MemoryBank:
    """Spatial memories and object pointers of up to `max_objects` objects, on the device; rows in order of joining.

    The stride does not apply to pointers, as upstream. Raises BackendError for more frames than the engines take.
    """

    def __init__(
        self, graphs: Graphs, max_objects: int, max_conditioning: int, memory_frames: int, stride: int = 1
    ) -> None:
        self._backend = graphs.backend
        self._stores: dict[str, tuple[SlotTable, DeviceArray]] = {}
        recent = {"memory": (memory_frames, stride), "pointers": (graphs.model.max_pointers - 1, 1)}
        for name, (frames, steps) in recent.items():
            slots, limit = max_conditioning + frames, graphs.max_size("memory_attention", name, 1)
            if limit is not None and slots > limit:
                raise BackendError(
                    f"these engines take {limit} frames of an object's {name}, but this tracker keeps {slots}; lower "
                    "max_conditioning_frames, or build them with `sam2edge build` and another --max-conditioning-frames"
                )
            table = SlotTable(max_objects, max_conditioning, frames, steps)
            self._stores[name] = table, graphs.zeros("memory_attention", name, max_objects, slots)

    def write(self, row: int, time: int, memory: DeviceArray, pointer: DeviceArray, conditioning: bool) -> None:
        """Remember a frame of an object: memory [L,M] and pointer [C] at its time."""
        for value, (slots, array) in zip((memory, pointer), self._stores.values(), strict=True):
            self._backend.copy(value, array[row][slots.place(row, time, conditioning)])

    def read(self, times: Times) -> dict[str, Any]:
        """Return memory attention's inputs for the first N rows, each at its time [N]; the ages are on the host."""
        (memory_slots, all_memory), (pointer_slots, all_pointers) = self._stores.values()
        memory_age, conditioning = memory_slots.distances(times)
        memory_age[conditioning & (memory_age > 0)] = 0  # a conditioning frame keeps temporal code 0 for ever
        memory, memory_age = _used(all_memory, memory_age)
        pointers, pointer_age = _used(all_pointers, pointer_slots.distances(times)[0])
        return {"memory": memory, "memory_age": memory_age, "pointers": pointers, "pointer_age": pointer_age}

    def delete(self, row: int) -> None:
        """Forget an object; the rows after it move up by one."""
        for slots, array in self._stores.values():
            for to in range(row, slots.rows - 1):
                self._backend.copy(array[to + 1], array[to])
            slots.delete(row)

    def clear(self) -> None:
        """Forget every object."""
        for slots, _ in self._stores.values():
            slots.clear()

    def free(self) -> None:
        """Give the device's memory back; the bank cannot be used any more."""
        self._stores.clear()


def _used(values: DeviceArray, ages: Ages) -> tuple[AnyArray, Ages]:
    """Return the rows and slots that `ages` [N, slots in use] belong to.

    On the CPU that is a smaller array, which saves time. On a GPU shapes that stay the same save more (Backend.replay),
    so all slots are given there, and those that are not in use are marked as empty.
    """
    rows, used = ages.shape
    if isinstance(values, np.ndarray):
        return np.ascontiguousarray(values[:rows, :used]), ages
    whole = np.full((rows, values.shape[1]), EMPTY, np.int32)
    whole[:, :used] = ages
    return values[:rows], whole
