"""The memory bank: what each object remembers, in arrays that are allocated once.

Attention does not care about the order of its keys, so a memory never moves: a table says which frame lies in which
slot, and only the ages derived from it change from frame to frame. Every object has a time of its own, which counts the
frames that it remembered since it joined.
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
    evicted; of the others, the oldest makes room. stride: beside the last one, recent frames are those whose time is a
    multiple of it (sam2_base.py, memory_temporal_stride_for_eval).
    """

    def __init__(self, rows: int, conditioning: int, recent: int, stride: int = 1) -> None:
        self._recent, self._stride = recent, stride
        self._conditioning = conditioning
        self._times: Times = np.full((rows, conditioning + recent), EMPTY, np.int64)
        self._is_conditioning = np.zeros(self._times.shape, bool)

    @property
    def rows(self) -> int:
        """How many there are up to the last that remembers anything."""
        return 1 + int(np.flatnonzero((self._times != EMPTY).any(axis=1)).max(initial=-1))

    def place(self, row: int, time: int, conditioning: bool) -> int:
        """Slot for a row's time, evicting one of the same kind if that kind is full; the same slot if asked again."""
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
        """Steps back from `now` [rows] to each slot's [rows, used slots], or EMPTY; and which are conditioning.

        A recent frame is one step back if it is the last, and then each multiple of the stride is one more. It counts
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
        """Forget a row; those after it move up by one."""
        for table, blank in ((self._times, EMPTY), (self._is_conditioning, False)):
            table[row:-1] = table[row + 1 :]
            table[-1] = blank

    def clear(self) -> None:
        """Forget every row."""
        self._times[:] = EMPTY


class MemoryBank:
    """Spatial memories and object pointers of up to `max_objects` objects, on the device; rows in order of joining.

    memory_frames: how many recent memories are kept, the model's number or fewer. stride: see SlotTable; it does not
    hold for pointers, as upstream. Raises BackendError for more than the engines take.
    """

    def __init__(
        self,
        graphs: Graphs,
        max_objects: int,
        max_conditioning: int,
        memory_frames: int | None = None,
        stride: int = 1,
    ) -> None:
        model, self._backend = graphs.model, graphs.backend
        memory_frames = model.memory_frames if memory_frames is None else memory_frames
        self._memory_slots = SlotTable(max_objects, max_conditioning, memory_frames, stride)
        self._pointer_slots = SlotTable(max_objects, max_conditioning, model.max_pointers - 1)
        slots = max_conditioning + memory_frames
        _check_slots(graphs, "memory", slots)
        shape = max_objects, slots, model.memory_tokens, model.memory_dim
        self._memory = graphs.zeros("memory_attention", "memory", shape)
        slots = max_conditioning + model.max_pointers - 1
        _check_slots(graphs, "pointers", slots)
        self._pointers = graphs.zeros("memory_attention", "pointers", (max_objects, slots, model.hidden_dim))

    def write(self, row: int, time: int, memory: DeviceArray, pointer: DeviceArray, conditioning: bool) -> None:
        """Remember a frame of an object: memory [L,M] and pointer [C] at its time."""
        self._backend.copy(memory, self._memory[row][self._memory_slots.place(row, time, conditioning)])
        self._backend.copy(pointer, self._pointers[row][self._pointer_slots.place(row, time, conditioning)])

    def read(self, times: Times) -> dict[str, Any]:
        """Inputs of memory attention for tracking the first N rows, each at its time [N]; the ages are on the host."""
        memory_age, conditioning = self._memory_slots.distances(times)
        memory_age[conditioning & (memory_age > 0)] = 0  # a conditioning frame keeps temporal code 0 for ever
        pointer_age, _ = self._pointer_slots.distances(times)
        memory, memory_age = _used(self._memory, memory_age)
        pointers, pointer_age = _used(self._pointers, pointer_age)
        return {"memory": memory, "memory_age": memory_age, "pointers": pointers, "pointer_age": pointer_age}

    def delete(self, row: int) -> None:
        """Forget an object; those after it move up by one row."""
        for values, slots in ((self._memory, self._memory_slots), (self._pointers, self._pointer_slots)):
            for to in range(row, slots.rows - 1):
                self._backend.copy(values[to + 1], values[to])
            slots.delete(row)

    def clear(self) -> None:
        """Forget every object."""
        self._memory_slots.clear()
        self._pointer_slots.clear()

    def free(self) -> None:
        """Give the device's memory back; the bank cannot be used any more."""
        self._memory = self._pointers = np.empty((0, 0), np.float32)


def _check_slots(graphs: Graphs, name: str, slots: int) -> None:
    most = graphs.max_size("memory_attention", name, 1)
    if most is not None and slots > most:
        raise BackendError(
            f"these engines take {most} frames of an object's {name}, but this tracker keeps {slots}; lower "
            "max_conditioning_frames, or build them with `sam2edge build` and another --max-conditioning-frames"
        )


def _used(values: DeviceArray, ages: Ages) -> tuple[AnyArray, Ages]:
    """The rows and slots that `ages` [N, slots in use] are of.

    On the CPU that is a smaller array, which saves time. On a GPU shapes that stay the same save more (Backend.replay):
    there all slots are given, and those that are not in use are marked as empty.
    """
    rows, used = ages.shape
    if isinstance(values, np.ndarray):
        return np.ascontiguousarray(values[:rows, :used]), ages
    whole = np.full((rows, values.shape[1]), EMPTY, np.int32)
    whole[:, :used] = ages
    return values[:rows], whole
