"""The scheduler: with a pool that does as it is told, and with real processes."""

import collections
import json
import os
import select
import subprocess
import sys
import tracemalloc

import pytest

from sam2edge.errors import BackendError
from sam2edge.labelling import processes
from sam2edge.labelling.items import Record
from sam2edge.labelling.plan import Draft
from sam2edge.labelling.processes import Processes
from sam2edge.labelling.scheduler import Died, Finished, Pool, Refused, Scheduler, Started, Tally
from sam2edge.labelling.store import Store, write_record
from tests.conftest import REPO
from tests.unit.labelling.double import FRAMES, draft, opener

RUN = {"settings": {}}


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "out") as store:
        store.open_run(RUN)
        yield store


class FakePool(Pool):
    """Does each item at once, as `events` says; most_busy is the most that were in flight."""

    def __init__(self, store, outcome=None):
        self.store, self.outcome = store, outcome or self.finish
        self.events = collections.deque()
        self.started, self.busy, self.most_busy, self.done = 0, 0, 0, []

    def start(self):
        self.started += 1
        self.events.append(Started(self.started, "here"))
        return self.started

    def submit(self, worker, item):
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        self.events.append(self.outcome(worker, item))

    def finish(self, worker, item):
        self.done.append(item.key)
        return Finished(worker, Record(item.key, item.sources, 10, 1, 1.0))

    def kill(self, worker):
        raise AssertionError

    def wait(self, timeout):
        event = self.events.popleft()
        self.busy -= isinstance(event, Finished | Refused | Died) and bool(self.busy)
        return [event]

    def close(self):
        pass


def drafts(count):
    return [draft(f"item-{number}") for number in range(count)]


def run(scheduler, stopped=lambda: False):
    tallies = []
    return scheduler.run(tallies.append, stopped), tallies


def test_all_is_done_with_one_item_a_worker(store):
    pool = FakePool(store)
    scheduler = Scheduler(drafts(7), pool, store, workers=3, report=print)
    assert run(scheduler)[0]
    assert sorted(pool.done) == sorted(f"item-{number}" for number in range(7))
    assert (pool.started, pool.most_busy) == (3, 3)
    assert (scheduler.tally.done, scheduler.tally.frames, scheduler.tally.seconds_left) == (7, 70, 0)


def test_no_more_workers_than_items(store):
    pool = FakePool(store)
    run(Scheduler(drafts(2), pool, store, workers=8, report=print))
    assert pool.started == 2


def test_nothing_to_do_starts_no_worker(store):
    pool = FakePool(store)
    assert run(Scheduler([], pool, store, workers=2, report=print))[0]
    assert pool.started == 0


def test_items_with_problems_are_done_again(store):
    """Those whose images could not all be read."""
    for key, problems in (("item-0", ()), ("item-1", ("1.png: cannot be read",))):
        with store.staged(key) as folder:
            write_record(folder, Record(key, (key,), 10, 1, 1.0, problems))
    pool = FakePool(store)
    scheduler = Scheduler(drafts(3), pool, store, workers=1, report=print)
    run(scheduler)
    assert pool.done == ["item-1", "item-2"]
    assert scheduler.tally.done == 3


def test_item_that_always_ends_its_worker_fails_and_the_others_are_done(store):
    def outcome(worker, item):
        return Died(worker, "killed by SIGSEGV") if item.key == "item-1" else pool.finish(worker, item)

    pool, said = FakePool(store, outcome), []
    scheduler = Scheduler(drafts(5), pool, store, workers=2, attempts=3, report=said.append)
    assert run(scheduler)[0]
    assert len(pool.done) == 4
    [failure] = store.failures()
    assert (failure["key"], failure["attempts"]) == ("item-1", 3)
    assert failure["reason"] == "its worker died in 3 of 3 attempts: killed by SIGSEGV"
    assert said[0] == "/videos/item-1: the worker died (killed by SIGSEGV); attempt 2 of 3 follows"
    assert said[2].startswith("/videos/item-1: its worker died")
    assert (scheduler.tally.done, scheduler.tally.failed) == (4, 1)


def test_what_a_worker_refuses_fails_at_once_and_it_goes_on(store):
    def outcome(worker, item):
        return Refused(worker, "no such file") if item.key == "item-0" else pool.finish(worker, item)

    pool, said = FakePool(store, outcome), []
    run(Scheduler(drafts(3), pool, store, workers=1, report=said.append))
    assert (pool.started, len(pool.done), said) == (1, 2, ["/videos/item-0: no such file"])


def test_draft_with_a_problem_never_reaches_a_worker(store):
    pool, said = FakePool(store), []
    missing = Draft("gone", "video", ("/videos/gone",), problem="/videos/gone: no such file or folder")
    run(Scheduler([missing, *drafts(1)], pool, store, workers=1, report=said.append))
    assert (pool.done, said) == (["item-0"], ["/videos/gone: no such file or folder"])
    assert [failure["key"] for failure in store.failures()] == ["gone"]


def test_workers_that_never_start_end_the_run(store):
    class Dead(FakePool):
        def start(self):
            number = super().start()
            self.events[-1] = Died(number, "no GPU 7")
            return number

    pool = Dead(store)
    with pytest.raises(BackendError, match="no worker can be started, 5 tries in a row: no GPU 7"):
        run(Scheduler(drafts(9), pool, store, workers=2, report=print))
    assert pool.started <= 6
    assert list(store.failures()) == []


def test_end_does_not_wait_for_a_worker_that_finds_no_room(store):
    class Full(FakePool):
        def start(self):
            if self.started:
                self.started += 1
                return self.started  # and nothing follows
            return super().start()

    pool = Full(store)
    assert run(Scheduler(drafts(4), pool, store, workers=3, report=print))[0]
    assert (len(pool.done), pool.most_busy) == (4, 1)


def test_idle_worker_that_dies_is_given_nothing(store):
    class Brittle(FakePool):
        def wait(self, timeout):
            [event] = super().wait(timeout)
            return [event, Died(event.worker, "node lost")] if event == Started(1, "here") else [event]

    pool = Brittle(store)
    assert run(Scheduler(drafts(1), pool, store, workers=1, report=print))[0]
    assert (pool.started, pool.done) == (2, ["item-0"])


def test_full_disk_for_a_note_is_said(store, monkeypatch):
    pool, said = FakePool(store, lambda worker, item: Refused(worker, "bad")), []

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "fail", full)
    assert run(Scheduler(drafts(1), pool, store, workers=1, report=said.append))[0]
    assert said == ["/videos/item-0: bad", f"{store.out}: cannot be written: No space left on device"]


def test_time_left():
    tally = Tally(total=10, done=4, failed=1, frames=200, finished=2)
    tally.started -= 30
    tally.running = {1: (50, 100), 2: (50, None)}
    # 300 frames in 30 s; the mean of the three known lengths is 100; 50 + 50 left of the running, 3 items wait
    assert tally.rate == pytest.approx(10, rel=0.01)
    assert tally.seconds_left == pytest.approx(40, rel=0.01)
    assert Tally(total=10).seconds_left is None


def test_memory_of_the_driver_does_not_grow_with_the_items(store):
    """Beside the drafts, which exist before, nothing is kept of what is done."""
    many = drafts(10_000)
    scheduler = Scheduler(
        many, FakePool(store, lambda worker, item: Finished(worker, record)), store, workers=4, report=print
    )
    record = Record("key", ("source",), 10, 1, 1.0)
    tracemalloc.start()
    scheduler.run(lambda tally: None, lambda: False)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert scheduler.tally.done == 10_000
    assert grown < 100_000


# with real processes


def labels(store):
    return {file.stem: file.read_text() for file in (store.out / "labels").iterdir()}


def expected(*names):
    return {name: "".join(f"/videos/{name} {frame}\n" for frame in range(FRAMES)) for name in names}


def test_processes(store, tmp_path):
    """Kills, bugs and refusals each cost their item only, and one that dies once is done by another worker."""
    names = ["a", "kills-once", "refuses", "breaks", "kills", "b"]
    said = []
    with Processes(opener(tmp_path), store.out, threads=1, gpus=(4, 7)) as pool:
        scheduler = Scheduler([draft(name) for name in names], pool, store, workers=2, attempts=2, report=said.append)
        assert run(scheduler)[0]
        assert len(pool._workers) <= 2
    assert labels(store) == expected("a", "kills-once", "b")
    reasons = {failure["key"]: failure["reason"] for failure in store.failures()}
    assert reasons == {
        "refuses": "/videos/refuses: cannot be read",
        "breaks": "its worker died in 2 of 2 attempts: ZeroDivisionError('a bug')",
        "kills": "its worker died in 2 of 2 attempts: killed by SIGKILL, as the kernel does when memory is full",
    }
    places = {record.where for record in store.records()}
    assert places <= {"threads 1, OMP 1, gpu 4", "threads 1, OMP 1, gpu 7"}


def test_worker_that_cannot_start_says_why(store, tmp_path):
    (tmp_path / "start").write_text("no GPU 7 in this machine")
    refused = pytest.raises(BackendError, match="5 tries in a row: no GPU 7 in this machine")
    with Processes(opener(tmp_path), store.out, threads=1) as pool, refused:
        run(Scheduler([draft("a"), draft("b")], pool, store, workers=2, report=print))
    assert list(store.failures()) == []


def test_stop_gives_up_what_is_being_done(store, tmp_path):
    with Processes(opener(tmp_path), store.out, threads=1) as pool:
        scheduler = Scheduler([draft("a"), draft("waits")], pool, store, workers=1, report=print)
        assert not run(scheduler, lambda: scheduler.tally.done == 1 and bool(scheduler.tally.running))[0]
        [worker] = pool._workers.values()
    assert worker.process.returncode == 0
    assert labels(store) == expected("a")
    assert list((store.out / ".tmp").iterdir()) == []


DRIVER = """
import sys
from pathlib import Path
from sam2edge.labelling import processes
from sam2edge.labelling.processes import Processes
from sam2edge.labelling.scheduler import Scheduler
from sam2edge.labelling.store import Store
from tests.unit.labelling.double import draft, opener

folder = Path(sys.argv[1])
store = Store(folder / "out")
store.open_run({"settings": {}})
pool = Processes(opener(folder), store.out, threads=1)
names = ["a", "b", "waits"]
def show(tally):
    if tally.done == 2 and tally.running:
        print([worker.process.pid for worker in pool._workers.values()], flush=True)
Scheduler([draft(name) for name in names], pool, store, workers=1, report=print).run(show, lambda: False)
"""


def test_driver_is_killed(tmp_path):
    """Its worker ends by itself, its lock is gone, and a new run does only what is missing."""
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, tmp_path], cwd=REPO, stdout=subprocess.PIPE, text=True)
    [worker] = json.loads(driver.stdout.readline())
    process = os.pidfd_open(worker)
    driver.kill()
    driver.communicate()
    assert select.select([process], [], [], 20)[0], "the worker outlived its driver"
    os.close(process)
    with Store(tmp_path / "out") as store:
        store.open_run(RUN)
        before = {file.name: file.stat().st_ino for file in (store.out / "labels").iterdir()}
        assert store.done() == {"a", "b"}
        pool = FakePool(store)
        run(Scheduler([draft("a"), draft("b"), draft("waits")], pool, store, workers=1, report=print))
        assert pool.done == ["waits"]
        assert {file.name: file.stat().st_ino for file in (store.out / "labels").iterdir()} == before


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (-9, "killed by SIGKILL, as the kernel does when memory is full"),
        (-11, "killed by SIGSEGV"),
        (-40, "killed by 40"),
        (1, "ended by itself, with exit code 1"),
        (None, "closed its pipe, but did not end"),
    ],
)
def test_reasons(code, reason):
    assert processes._reason(code) == reason
