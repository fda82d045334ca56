"""The memory bank: which frames an object attends to, and with which ages.

Every stored array holds one number, `tag(frame, object)`, so that a read shows whose memory it is.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sam2edge.bundle import Model
from sam2edge.runtime.backends.base import Backend, open_backend
from sam2edge.runtime.video.memory_bank import EMPTY, MemoryBank, SlotTable

MODEL = Model(32, 3, 2, 6, 16, 0, 1, True, ((0.0,) * 4,) * 4, 0.0, (0.0,) * 3)
RECENT, POINTERS = 6, 15


@dataclasses.dataclass
class FakeGraphs:
    """The part of Graphs that a bank uses."""

    model: Model = MODEL
    backend: Backend = dataclasses.field(default_factory=lambda: open_backend("onnx"))

    def max_size(self, graph, name, axis):
        return None

    def zeros(self, graph, name, rows, slots):
        assert graph == "memory_attention"
        shapes = {"memory": (self.model.memory_tokens, self.model.memory_dim), "pointers": (self.model.hidden_dim,)}
        return self.backend.zeros((rows, slots, *shapes[name]))


Ages = list[tuple[int, float]]
"""One object's memories or pointers: (age, tag), sorted."""


def tag(frame: int, object_id: int) -> float:
    return 1000.0 * object_id + frame


def write(bank: MemoryBank, frame: int, object_ids: list[int], conditioning: set[int]) -> None:
    tags = np.array([tag(frame, object_id) for object_id in object_ids], np.float32)
    memory = np.tile(tags[:, None, None], (1, MODEL.grid**2, MODEL.memory_dim))
    pointers = -np.tile(tags[:, None], (1, MODEL.hidden_dim))
    for row, object_id in enumerate(object_ids):
        bank.write(row, frame, memory[row], pointers[row], object_id in conditioning)


def read(bank: MemoryBank, rows: int, frame: int) -> list[tuple[Ages, Ages]]:
    """Return the memories and pointers of each row, and check what holds for every read."""
    inputs = bank.read(np.full(rows, frame))
    assert inputs["memory"].shape[2:] == (4, 2)
    assert inputs["pointers"].shape[2:] == (3,)
    memory = inputs["memory"].reshape(*inputs["memory"].shape[:2], 8)
    values = {"memory": memory, "pointer": -inputs["pointers"]}
    ages: list[list[Ages]] = [[] for _ in range(rows)]
    for name, stored in values.items():
        age = inputs[f"{name}_age"]
        assert age.dtype == np.int32
        assert age.shape == stored.shape[:2]
        assert (stored == stored[:, :, :1]).all()
        for row in range(rows):
            seen = np.flatnonzero(age[row] != EMPTY)
            ages[row].append(sorted((int(age[row, slot]), float(stored[row, slot, 0])) for slot in seen))
    return [(memories, pointers) for memories, pointers in ages]


def one_object(frames: int, conditioning: set[int], max_conditioning: int = 1) -> MemoryBank:
    bank = MemoryBank(FakeGraphs(), 2, max_conditioning, RECENT)
    for frame in range(frames):
        write(bank, frame, [0], {0} if frame in conditioning else set())
    return bank


@pytest.mark.parametrize("memory_frames", [1, 3, 6])
@pytest.mark.parametrize("stride", [1, 2, 5])
def test_stride_and_number_of_memories(memory_frames: int, stride: int) -> None:
    """The last frame, then every stride-th from the nearest multiple on, as in sam2_base.py.

    The conditioning frame keeps age 0 as a memory and its true distance as a pointer. Pointers know no stride.
    """
    bank = MemoryBank(FakeGraphs(), 1, 1, memory_frames, stride)
    for frame in range(60):
        if frame:
            recent = {1: frame - 1} | {
                step: (frame - 2) // stride * stride - (step - 2) * stride for step in range(2, memory_frames + 1)
            }
            memories = [(0, 0.0)] + [(step, float(back)) for step, back in recent.items() if back > 0]
            remembered, pointers = read(bank, 1, frame)[0]
            assert remembered == memories
            assert pointers == sorted({(age, float(frame - age)) for age in [*range(1, min(frame, 15) + 1), frame]})
        write(bank, frame, [0], {0} if frame == 0 else set())


def test_several_conditioning_frames() -> None:
    """With room for 3, the first stays and the oldest of the others makes room: 3 for 9, and 6 for 12."""
    conditioning = {0, 3, 6, 9}
    memories, pointers = read(one_object(12, conditioning, 3), 1, 12)[0]
    assert memories == [(0, 0), (0, 6), (0, 9), (1, 11), (2, 10), (4, 8), (5, 7)]
    assert pointers == [(age, 12 - age) for age in range(1, 13) if age != 9]
    _, pointers = read(one_object(40, {*conditioning, 12}, 3), 1, 40)[0]
    assert [frame for age, frame in pointers if age > POINTERS] == [12, 9, 0]


def test_rows_that_joined_on_different_frames() -> None:
    bank = MemoryBank(FakeGraphs(), 4, 1, RECENT)
    for frame in range(5):
        write(bank, frame, [0, 1] if frame >= 3 else [0], {0: {0}, 3: {1}}.get(frame, set()))
    inputs = bank.read(np.full(2, 5))
    assert np.sort(inputs["memory_age"]).tolist() == [[0, 1, 2, 3, 4], [-1, -1, -1, 0, 1]]
    assert np.sort(inputs["pointer_age"]).tolist() == [[1, 2, 3, 4, 5], [-1, -1, -1, 1, 2]]
    assert inputs["memory"].shape == (2, 5, 4, 2)
    assert inputs["pointers"].shape == (2, 5, 3)
    assert bank.read(np.full(1, 5))["memory"].shape == (1, 5, 4, 2)


def test_clear() -> None:
    bank = one_object(9, {0})
    bank.clear()
    assert bank.read(np.full(2, 9))["memory"].shape == (2, 0, 4, 2)
    write(bank, 0, [0], {0})
    assert read(bank, 1, 1) == [([(0, 0)], [(1, 0)])]


@pytest.mark.parametrize("conditioning", [False, True])
def test_place_gives_a_frame_its_slot_again(conditioning: bool) -> None:
    table = SlotTable(1, 2, 3)
    for frame in range(10):
        table.place(0, frame, frame in (0, 1))
    frame = 1 if conditioning else 8
    before = table.distances(np.array([10]))
    slot = table.place(0, frame, conditioning)
    assert before[0][0, slot] == 10 - frame
    np.testing.assert_equal(table.distances(np.array([10])), before)


def test_place_lets_a_frame_become_a_conditioning_frame() -> None:
    """A call that failed halfway left it as a recent one; then it was corrected."""
    table = SlotTable(1, 2, 3)
    for frame in range(10):
        table.place(0, frame, frame in (0, 4))
    table.place(0, 9, True)
    for frame in range(10, 14):
        table.place(0, frame, False)
    back, conditioning = table.distances(np.array([14]))
    expected = [(1, False), (2, False), (3, False), (5, True), (14, True)]
    assert sorted(zip(back[0].tolist(), conditioning[0].tolist(), strict=True)) == expected


class Diary:
    """A bank that forgets nothing, and applies the rules on reading."""

    def __init__(self, max_conditioning: int) -> None:
        self._limit = max_conditioning
        self.rows: list[tuple[int, dict[int, bool]]] = []
        """Object and, by frame, whether it is a conditioning frame of it."""

    def read(self, frame: int) -> list[tuple[Ages, Ages]]:
        ages = []
        for object_id, history in self.rows:
            first, *others = sorted(f for f, conditioning in history.items() if conditioning)
            kept = [first, *others[max(0, len(others) - self._limit + 1) :]]
            passed = [f for f, conditioning in history.items() if not conditioning]
            memories = [(0, f) for f in kept] + [(frame - f, f) for f in passed if frame - f <= RECENT]
            pointers = [(frame - f, f) for f in [*kept, *(f for f in passed if frame - f <= POINTERS)]]
            ages.append(tuple(sorted((age, tag(f, object_id)) for age, f in kind) for kind in (memories, pointers)))
        return ages


@pytest.mark.parametrize("max_conditioning", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_random_histories(seed: int, max_conditioning: int) -> None:
    """Objects join, are corrected and leave, and now and then everything is forgotten."""
    random = np.random.default_rng(seed)
    bank, diary = MemoryBank(FakeGraphs(), 4, max_conditioning, RECENT), Diary(max_conditioning)
    joined = frame = longest = 0
    for _ in range(400):
        if random.random() < 0.01:
            bank.clear()
            diary.rows.clear()
            frame = 0
        if diary.rows and random.random() < 0.04:
            row = int(random.integers(len(diary.rows)))
            bank.delete(row)
            del diary.rows[row]
        conditioning = {object_id for object_id, _ in diary.rows if random.random() < 0.08}
        if max_conditioning == 1:
            conditioning.clear()
        if len(diary.rows) < 4 and random.random() < 0.1:
            diary.rows.append((joined, {}))
            conditioning.add(joined)
            joined += 1
        write(bank, frame, [object_id for object_id, _ in diary.rows], conditioning)
        for object_id, history in diary.rows:
            history[frame] = object_id in conditioning
            longest = max(longest, len(history))
        frame += 1
        assert read(bank, len(diary.rows), frame) == diary.read(frame)
    assert longest > 2 * POINTERS


def test_the_arrays_end_with_the_last_slot_in_use() -> None:
    for frames in range(1, 30):
        inputs = one_object(frames, {0}).read(np.array([frames]))
        for values, age, slots in (("memory", "memory_age", 1 + RECENT), ("pointers", "pointer_age", 1 + POINTERS)):
            used = (inputs[age] != EMPTY).any(axis=0).sum()
            assert inputs[values].shape[1] == used == min(frames, slots)


def test_a_pooled_memory_has_fewer_tokens() -> None:
    bank = MemoryBank(FakeGraphs(dataclasses.replace(MODEL, memory_pool=2)), 1, 1, RECENT)
    memory = np.array([[3.0, 5.0]], np.float32)
    bank.write(0, 0, memory, np.zeros(3, np.float32), True)
    np.testing.assert_array_equal(bank.read(np.array([1]))["memory"], memory[None, None])
