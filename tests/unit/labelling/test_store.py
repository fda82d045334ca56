"""The folder of a run: exactly once, whatever is killed and when."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
import time

import pytest

from sam2edge.errors import InputError, MediaError
from sam2edge.labelling import store as store_module
from sam2edge.labelling.items import Doubtful, Record
from sam2edge.labelling.store import Store, write_record

RUN = {"bundle": "abc", "settings": {"format": "jsonl", "words": ["cup"]}}
RECORD = Record("a", ("/a.mp4",), 2, 1, 0.5, (), (Doubtful("/a.mp4", 1, 2, 0.25, "low"),), "here", ("r",))


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "out") as store:
        store.open_run(RUN)
        yield store


def commit(store, text="line\n", key="a", record=RECORD):
    with store.staged(key) as folder:
        for name in (f"labels/{key}.jsonl", f"masks/{key}/00000.png", f"masks/{key}/00001.png"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        write_record(folder, dataclasses.replace(record, key=key))


def files(store):
    """The files of the run, without what says which run it is."""
    found = {str(file.relative_to(store.out)): file.read_text() for file in store.out.rglob("*") if file.is_file()}
    return {name: text for name, text in found.items() if name not in ("run.json", ".lock")}


WHOLE = {
    "labels/a.jsonl": "line\n",
    "masks/a/00000.png": "line\n",
    "masks/a/00001.png": "line\n",
    "items/a.json": RECORD.to_json() + "\n",
}


def test_commit(store):
    commit(store)
    assert files(store) == WHOLE
    assert store.done() == {"a"}
    assert list(store.records()) == [store.record("a")] == [RECORD]


def test_error_in_the_block_commits_nothing(store):
    def fail():
        with store.staged("a") as folder:
            write_record(folder, RECORD)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (files(store), store.done()) == ({}, set())


def test_kill_at_each_step_leaves_what_a_second_attempt_completes(store, monkeypatch):
    """After each call to the system that a commit makes, the process is gone; the next attempt does the same."""

    class KilledError(BaseException):
        pass

    calls, limit = 0, 0

    def killed_after(real):
        def call(*args, **options):
            nonlocal calls
            calls += 1
            if calls > limit:
                raise KilledError
            return real(*args, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(store_module.shutil, "rmtree", killed_after(store_module.shutil.rmtree))
        for name in ("replace", "fsync"):
            patch.setattr(store_module.os, name, killed_after(getattr(os, name)))
        while True:
            calls = 0
            try:
                commit(store)
                break
            except KilledError:
                assert store.done() <= {"a"}
                if store.done():  # only once all is in its place
                    assert {name: text for name, text in files(store).items() if not name.startswith(".tmp")} == WHOLE
            limit += 1
    assert limit > 8
    store.close()
    assert files(store) == WHOLE


def test_second_attempt_replaces_what_the_first_has_moved(store):
    commit(store, "old\n")
    (store.out / "items" / "a.json").unlink()
    commit(store)
    assert files(store) == WHOLE


def test_worker_that_was_given_up_and_lived_on_changes_nothing(store):
    commit(store)
    before = os.stat(store.out / "labels" / "a.jsonl").st_ino
    commit(store)
    assert os.stat(store.out / "labels" / "a.jsonl").st_ino == before


def test_what_had_problems_is_not_settled_and_may_be_replaced(store):
    """Its labels stay until the next attempt is whole."""
    commit(store, "old\n", record=dataclasses.replace(RECORD, problems=("1.png: damaged",)))
    commit(store, key="b")
    assert (store.done(), store.settled()) == ({"a", "b"}, {"b"})
    store.forget("b")
    commit(store)
    assert files(store) == WHOLE
    assert store.settled() == {"a"}


def test_full_disk_while_committing(store, monkeypatch):
    commit(store, key="b")
    before = files(store)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(store_module.os, "fsync", full)
        with pytest.raises(MediaError, match="cannot be written: No space left on device"):
            commit(store)
    assert files(store) == before
    commit(store)
    assert store.done() == {"a", "b"}


def test_forgetting_leaves_other_items(store):
    commit(store)
    commit(store, key="a.0of2")
    store.forget("a.0of2")
    assert files(store) == WHOLE


def test_failures(store):
    store.fail("a", ("/a.mp4",), "is no video", 1)
    [failure] = store.failures()
    assert failure == {"key": "a", "sources": ["/a.mp4"], "reason": "is no video", "attempts": 1}
    commit(store)
    assert list(store.failures()) == []
    store.fail("a", ("/a.mp4",), "is no video", 1)  # as after a kill between the commit and the note's removal
    assert list(store.failures()) == []


def test_same_run_goes_on(store):
    commit(store)
    store.close()
    with Store(store.out) as again:
        again.open_run({**RUN, "settings": {"format": "jsonl", "words": ("cup",)}})
        assert again.done() == {"a"}


@pytest.mark.parametrize(
    ("run", "difference"),
    [
        ({**RUN, "bundle": "def"}, 'bundle "abc" (now "def")'),
        ({**RUN, "settings": {"format": "parquet", "words": ["cup"]}}, 'format "jsonl" (now "parquet")'),
        ({"bundle": "abc", "settings": {"words": ["cup"]}}, 'format "jsonl" (now null)'),
    ],
)
def test_other_run(store, run, difference):
    commit(store)
    store.close()
    with pytest.raises(InputError) as error, Store(store.out) as other:
        other.open_run(run)
    assert str(error.value) == (
        f"{store.out}: is a run with other settings: {difference}; give the same settings, or another folder to -o"
    )


def test_a_run_that_did_nothing_may_become_another(store):
    """As after --ray without Ray."""
    store.close()
    with Store(store.out) as other:
        other.open_run({**RUN, "bundle": "def"})
    assert json.loads((store.out / "run.json").read_text())["bundle"] == "def"


def test_damaged_run(store):
    commit(store)
    store.close()
    (store.out / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json: is damaged"), Store(store.out) as other:
        other.open_run(RUN)


def test_foreign_folder(tmp_path):
    (tmp_path / "holiday.mp4").touch()
    with pytest.raises(InputError, match=r"holds holiday\.mp4, which is no run"), Store(tmp_path) as store:
        store.open_run(RUN)
    with pytest.raises(InputError, match="is a file"), Store(tmp_path / "holiday.mp4") as store:
        store.open_run(RUN)
    assert os.listdir(tmp_path) == ["holiday.mp4"]


def test_driver_killed_before_anything_was_written(tmp_path):
    (tmp_path / ".lock").touch()
    with Store(tmp_path) as store:
        store.open_run(RUN)
    assert json.loads((tmp_path / "run.json").read_text()) == RUN


def test_two_runs_at_once(store):
    commit(store)
    with pytest.raises(InputError, match=rf"another run is writing there \(process {os.getpid()} on .*\); wait"):
        Store(store.out).open_run(RUN)
    assert files(store) == WHOLE


HOLDER = (
    "import sys\nfrom sam2edge.labelling.store import *\nStore(Path(sys.argv[1])).open_run({})\nprint(flush=1)\ninput()"
)


def test_lock_of_a_killed_process(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "out"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    holder.stdout.readline()
    with pytest.raises(InputError, match=f"process {holder.pid} on"):
        Store(tmp_path / "out").open_run({})
    holder.kill()
    holder.communicate()
    with Store(tmp_path / "out") as store:
        store.open_run({})


def test_sweep_removes_what_is_old(store):
    old, new = store.out / ".tmp" / "old", store.out / ".tmp" / "new"
    for folder in (old, new):
        (folder / "labels").mkdir(parents=True)
    (new / "labels" / "a.jsonl").touch()
    hours_ago = time.time() - 7200
    for path in (old / "labels", old, new / "labels", new):
        os.utime(path, (hours_ago, hours_ago))
    os.close(store._lock)  # as a kill does it
    store._lock = None
    with Store(store.out) as again:
        again.open_run(RUN)
        assert [path.name for path in (store.out / ".tmp").iterdir()] == ["new"]
    assert list((store.out / ".tmp").iterdir()) == []
