"""The memory bank: what each object remembers, in arrays that are allocated once.

Attention does not care about the order of its keys, so a memory never moves: a table says which frame lies in which
slot, and only the ages derived from it change from frame to frame. Frames are numbered in the order of tracking.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sam2edge.bundle import Model
from sam2edge.runtime.backend import Array

EMPTY = -1


class SlotTable:
    """Which frame lies in which slot, for every object (row).

    A row holds up to `conditioning` frames that stay, and the `recent` frames tracked last. The first conditioning
    frame is never evicted; of the others, the oldest makes room.
    """

    def __init__(self, rows: int, conditioning: int, recent: int) -> None:
        self._recent = recent
        self._conditioning = conditioning
        self._frames: npt.NDArray[np.int64] = np.full((rows, conditioning + recent), EMPTY, np.int64)
        self._is_conditioning = np.zeros(self._frames.shape, bool)

    def place(self, row: int, frame: int, conditioning: bool) -> int:
        """Slot for a row's frame, evicting one of the same kind if that kind is full; the same slot if asked again."""
        frames, kind = self._frames[row], self._is_conditioning[row]
        frames[(frames == frame) & (kind != conditioning)] = EMPTY  # corrected after a call that failed halfway
        slots = np.flatnonzero(frames == frame)
        if not len(slots):
            same = np.flatnonzero((frames != EMPTY) & (kind == conditioning))
            same = same[np.argsort(frames[same])]
            capacity = self._conditioning if conditioning else self._recent
            evictable = same[1:] if conditioning else same
            slots = np.flatnonzero(frames == EMPTY) if len(same) < capacity else evictable
        slot = int(slots[0])
        frames[slot], kind[slot] = frame, conditioning
        return slot

    def distances(self, rows: int, frame: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Frames back from `frame` to each slot's [rows, used slots], or EMPTY; and which slots are conditioning.

        A recent frame counts while it is at most `recent` frames back.
        """
        used = 1 + int(np.flatnonzero((self._frames[:rows] != EMPTY).any(axis=0)).max(initial=-1))
        frames, conditioning = self._frames[:rows, :used], self._is_conditioning[:rows, :used]
        back = frame - frames
        seen = (frames != EMPTY) & (back >= 0) & (conditioning | (back <= self._recent))
        return np.where(seen, back, EMPTY).astype(np.int32), conditioning

    def delete(self, row: int) -> None:
        """Forget a row; those after it move up by one."""
        for table, blank in ((self._frames, EMPTY), (self._is_conditioning, False)):
            table[row:-1] = table[row + 1 :]
            table[-1] = blank

    def clear(self) -> None:
        """Forget every row."""
        self._frames[:] = EMPTY


class MemoryBank:
    """Spatial memories and object pointers of up to `max_objects` objects; rows are objects in order of joining."""

    def __init__(self, model: Model, max_objects: int, max_conditioning: int) -> None:
        self._memory_slots = SlotTable(max_objects, max_conditioning, model.memory_frames)
        self._pointer_slots = SlotTable(max_objects, max_conditioning, model.max_pointers - 1)
        pixels = model.grid**2
        slots = max_conditioning + model.memory_frames
        self._memory = np.zeros((max_objects, slots, pixels, model.memory_dim), np.float32)
        slots = max_conditioning + model.max_pointers - 1
        self._pointers = np.zeros((max_objects, slots, model.hidden_dim), np.float32)

    def write(self, frame: int, memory: Array, pointers: Array, conditioning: npt.NDArray[np.bool_]) -> None:
        """Remember a frame: memory [N,hh,M], pointers [N,C] and conditioning [N] of the first N rows."""
        for row, kind in enumerate(conditioning.tolist()):
            self._memory[row, self._memory_slots.place(row, frame, kind)] = memory[row]
            self._pointers[row, self._pointer_slots.place(row, frame, kind)] = pointers[row]

    def read(self, rows: int, frame: int) -> dict[str, Array]:
        """Inputs of the memory-attention graph for tracking the first `rows` objects on `frame`."""
        memory_age, conditioning = self._memory_slots.distances(rows, frame)
        memory_age[conditioning & (memory_age > 0)] = 0  # a conditioning frame keeps temporal code 0 for ever
        pointer_age, _ = self._pointer_slots.distances(rows, frame)
        return {
            "memory": np.ascontiguousarray(self._memory[:rows, : memory_age.shape[1]]),
            "memory_age": memory_age,
            "pointers": np.ascontiguousarray(self._pointers[:rows, : pointer_age.shape[1]]),
            "pointer_age": pointer_age,
        }

    def delete(self, row: int) -> None:
        """Forget an object; those after it move up by one row."""
        for values, slots in ((self._memory, self._memory_slots), (self._pointers, self._pointer_slots)):
            values[row:-1] = values[row + 1 :]
            slots.delete(row)

    def clear(self) -> None:
        """Forget every object."""
        self._memory_slots.clear()
        self._pointer_slots.clear()
