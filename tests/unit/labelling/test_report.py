"""The report of a run: what its records and notes say, summed up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sam2edge.errors import MediaError
from sam2edge.labelling.items import Doubtful, Record
from sam2edge.labelling.report import Report
from sam2edge.labelling.store import Store, write_record


@pytest.fixture
def store(tmp_path: Path) -> Store:
    with Store(tmp_path / "out") as opened:
        opened.open_run({})
        yield opened


def commit(store: Store, key: str, scores: list[float], **fields: tuple[str, ...]) -> None:
    doubtful = tuple(Doubtful(f"{key}.mp4", number, 1, score, "unsure mask") for number, score in enumerate(scores))
    with store.staged(key) as folder:
        write_record(folder, Record(key, (f"{key}.mp4",), 10, 2, 1.5, doubtful=doubtful, **fields))


def test_sums_and_the_worst_frames_of_all(store: Store) -> None:
    for number in range(6):
        commit(store, f"v{number}", [0.1 * number + 0.001 * row for row in range(20)])
    commit(store, "old", [0.0])  # of a source that has changed
    store.fail("bad", ("bad.mp4",), "bad.mp4: no video", 1)
    store.fail("other", ("other.mp4",), "not of this run", 1)
    keys = [*(f"v{number}" for number in range(6)), "bad", "open"]
    report = Report.of(store, keys, 7.126)
    assert (report.items, report.done, report.frames, report.objects, report.seconds) == (8, 6, 60, 12, 9.0)
    assert [note["sources"] for note in report.failed] == [["bad.mp4"]]
    assert len(report.doubtful) == 50
    assert [one.score for one in report.doubtful] == sorted(one.score for one in report.doubtful)
    assert {one.source for one in report.doubtful} == {"v0.mp4", "v1.mp4", "v2.mp4"}
    assert report.lines() == [
        "6 of 8 items, 60 frames, 12 objects, 7.1 frames/s, 1 failed; the same command tries again",
        "worth a look (report.json has 50):",
        *(f"  v0.mp4, frame {row}, object 1: unsure mask, score 0.00" for row in range(5)),
    ]
    report.write(store)
    written = json.loads((store.out / "report.json").read_text())
    assert written["frames_a_second"] == 7.13
    assert written["doubtful"][0] == {
        "source": "v0.mp4",
        "frame": 0,
        "object": 1,
        "score": 0.0,
        "reason": "unsure mask",
    }


def test_nothing_to_do_and_nothing_to_look_at(store: Store) -> None:
    commit(store, "v", [], problems=("v: 1",), remarks=("v: 2",))
    report = Report.of(store, ["v"], None)
    assert report.lines() == ["1 of 1 items, 10 frames, 2 objects"]
    assert (report.problems, report.remarks) == (("v: 1",), ("v: 2",))


def test_a_folder_that_cannot_be_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sam2edge.labelling.report.write_text", full)
    with pytest.raises(MediaError, match=r"report\.json: cannot be written: No space left on device"):
        Report.of(store, [], None).write(store)
