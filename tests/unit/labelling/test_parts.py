"""Videos that several workers do: which objects each has, and what is made of the parts."""

import json

import pytest

from sam2edge.labelling import parts as parts_module
from sam2edge.labelling.items import Doubtful, Item, Record, whole_key
from sam2edge.labelling.parts import merge, split
from sam2edge.labelling.scheduler import Scheduler
from sam2edge.labelling.store import LABELS, Store, write_record
from sam2edge.runtime.media.prompt_files import PromptLine
from tests.unit.labelling.double import draft
from tests.unit.labelling.test_scheduler import FakePool

FRAMES = 8


def box(object_id, frame=0):
    return PromptLine(frame, object_id, box=(0, 0, 9, 9))


# 5 joins first, then 2 and 9; 5 is removed and joins again as the last.
PROMPTS = (box(5), box(2), box(9, 2), PromptLine(3, 5, remove=True), box(5, 6), box(2, 7))
ITEM = Item("a-1", "video", ("/a.mp4",), PROMPTS)
ORDERS = [[5, 2], [5, 2], [5, 2, 9], [2, 9], [2, 9], [2, 9], [2, 9, 5], [2, 9, 5]]


def line(frame, ids):
    """A line as JsonSink writes it, as far as matters here."""
    objects = [{"id": each, "iou": round(0.1 * frame + 0.01 * each, 6)} for each in ids]
    return json.dumps({"frame_index": frame, "time": 0.1 * frame, "size": [4, 6], "objects": objects}) + "\n"


WHOLE = "".join(line(frame, ids) for frame, ids in enumerate(ORDERS))


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "out") as store:
        store.open_run({})
        yield store


def do(store, item):
    """Do an item as a worker does it."""
    mine = {prompt.object_id for prompt in item.prompts}
    with store.staged(item.key) as folder:
        (folder / LABELS).mkdir()
        text = "".join(line(frame, [each for each in ids if each in mine]) for frame, ids in enumerate(ORDERS))
        (folder / LABELS / f"{item.key}.jsonl").write_text(text)
        doubtful = tuple(Doubtful("/a.mp4", 1, each, 0.1 * each, "low") for each in sorted(mine))
        record = Record(item.key, item.sources, FRAMES, len(mine), 1.5, (), doubtful, "here", ("frame 3 is damaged",))
        write_record(folder, record)
    return record


def test_split():
    parts = split(ITEM, 2)
    assert [part.key for part in parts] == ["a-1.0of2", "a-1.1of2"]
    assert [part.part for part in parts] == [(0, 2), (1, 2)]
    assert [{prompt.object_id for prompt in part.prompts} for part in parts] == [{5, 9}, {2}]
    assert {whole_key(part.key) for part in parts} == {"a-1"}
    assert [part.start for part in split(Item("a", "video", ("a",), (box(1, 4), box(2, 7)), 4), 9)] == [4, 4]


@pytest.mark.parametrize("item", [Item("a", "video", ("a",), (box(1), box(1, 3))), Item("a", "images", ("a", "b"))])
def test_what_has_one_object_is_not_split(item):
    assert split(item, 4) == [item]


@pytest.mark.parametrize("count", [2, 3])
def test_merge(store, count):
    """The objects are in the order of a tracker that has all of them, and only the whole remains."""
    parts = split(ITEM, count)
    for part in parts:
        do(store, part)
    record = merge(store, ITEM, parts)
    assert {file.name: file.read_text() for file in (store.out / LABELS).iterdir()} == {"a-1.jsonl": WHOLE}
    assert (store.done(), store.record("a-1")) == ({"a-1"}, record)
    assert (record.frames, record.objects, record.seconds) == (FRAMES, 3, 1.5 * count)
    assert record.remarks == ("frame 3 is damaged",)
    assert [one.object for one in record.doubtful] == [2, 5, 9]


def splitting(store, monkeypatch, *drafts, outcome=None):
    """Return a scheduler for these drafts, of which a-1 is `ITEM`, and its pool, whose workers `do` what they get."""
    monkeypatch.setattr(
        "sam2edge.labelling.plan.Draft.item",
        lambda draft: ITEM if draft.key == "a-1" else Item(draft.key, "video", draft.sources),
    )
    pool = FakePool(store, outcome)
    if not outcome:
        pool.outcome = lambda worker, item: (do(store, item), pool.finish(worker, item))[1]
    said = []
    return Scheduler(list(drafts), pool, store, workers=2, parts=3, report=said.append), pool, said


def test_scheduler_merges_what_is_complete(store, monkeypatch):
    scheduler, pool, _ = splitting(store, monkeypatch, draft("a-1"), draft("b"))
    assert scheduler.run(lambda tally: None, lambda: False)
    assert sorted(pool.done) == ["a-1.0of3", "a-1.1of3", "a-1.2of3", "b"]
    assert store.done() == {"a-1", "b"}
    assert (scheduler.tally.done, scheduler.tally.total) == (4, 4)


def test_only_missing_parts_are_done(store, monkeypatch):
    do(store, split(ITEM, 3)[1])
    scheduler, pool, _ = splitting(store, monkeypatch, draft("a-1"))
    assert scheduler.run(lambda tally: None, lambda: False)
    assert sorted(pool.done) == ["a-1.0of3", "a-1.2of3"]
    assert (store.out / LABELS / "a-1.jsonl").read_text() == WHOLE


def test_driver_killed_before_the_merge(store, monkeypatch):
    for part in split(ITEM, 3):
        do(store, part)
    scheduler, pool, _ = splitting(store, monkeypatch, draft("a-1"))
    assert scheduler.run(lambda tally: None, lambda: False)
    assert (pool.started, store.done()) == (0, {"a-1"})


def test_driver_killed_after_the_merge(store, monkeypatch):
    parts = split(ITEM, 3)
    for part in parts:
        do(store, part)
    with monkeypatch.context() as patch:
        patch.setattr(store, "forget", lambda key: None)
        merge(store, ITEM, parts)
    scheduler, pool, _ = splitting(store, monkeypatch, draft("a-1"))
    assert scheduler.run(lambda tally: None, lambda: False)
    assert (pool.started, store.done()) == (0, {"a-1"})
    assert [file.name for file in (store.out / LABELS).iterdir()] == ["a-1.jsonl"]


def test_full_disk_at_the_merge_keeps_the_parts(store, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")
        yield

    scheduler, _, said = splitting(store, monkeypatch, draft("a-1"))
    with monkeypatch.context() as patch:
        patch.setattr(parts_module, "_lines", full)
        assert scheduler.run(lambda tally: None, lambda: False)
    assert said == [f"/a.mp4: {store.out}: cannot be written: No space left on device"]
    assert [failure["key"] for failure in store.failures()] == ["a-1"]
    assert len(store.done()) == 3
    scheduler, pool, _ = splitting(store, monkeypatch, draft("a-1"))
    scheduler.run(lambda tally: None, lambda: False)
    assert (pool.started, store.done(), list(store.failures())) == (0, {"a-1"}, [])
