"""Who labels what: items go to workers, workers that die are replaced, and what cannot be done is noted.

It knows neither processes nor Ray, but a `Pool`, which says what its workers did. Each living worker has one item at
most. An item whose worker died goes to another one; after some deaths it has failed, since it may itself be the cause.
"""

from __future__ import annotations

import collections
import itertools
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sam2edge.closeable import Closeable
from sam2edge.errors import BackendError, MediaError, Sam2EdgeError
from sam2edge.labelling.items import Item, Record, whole_key
from sam2edge.labelling.parts import merge, split
from sam2edge.labelling.plan import Draft
from sam2edge.labelling.store import Store

_FAILED_STARTS = 5
"""Workers in a row that get nowhere, after which none will."""
_PATIENCE = 0.2
"""Seconds after which the end of the run is noticed while nothing happens."""


@dataclass(frozen=True)
class Started:
    """A worker is ready. where: what to call it, as "process 71 on host"."""

    worker: int
    where: str


@dataclass(frozen=True)
class Progress:
    """A worker has done so many frames of its item. total: how many there are, None if that is not known."""

    worker: int
    frames: int
    total: int | None


@dataclass(frozen=True)
class Finished:
    """A worker has committed its item."""

    worker: int
    record: Record


@dataclass(frozen=True)
class Refused:
    """A worker cannot do its item, because of what the item is, and is ready for another one."""

    worker: int
    message: str


@dataclass(frozen=True)
class Died:
    """A worker is gone, or got into a state in which it was ended; it need not have started."""

    worker: int
    reason: str


Event = Started | Progress | Finished | Refused | Died


class Pool(Closeable):
    """Workers, which have numbers. No method waits long, except `wait` and `close`."""

    @abstractmethod
    def start(self) -> int:
        """Begin to start a worker, and return its number, which is new; Started or Died follows."""

    @abstractmethod
    def submit(self, worker: int, item: Item) -> None:
        """Give an item to a worker that has started and has none; Finished, Refused or Died follows."""

    @abstractmethod
    def kill(self, worker: int) -> None:
        """End a worker at once; no event follows."""

    @abstractmethod
    def wait(self, timeout: float) -> list[Event]:
        """Return what happened, after `timeout` seconds at most if nothing does."""

    @abstractmethod
    def close(self) -> None:
        """Let workers end the frame they are at, give up their items, and end; kill those that do not."""


@dataclass
class Tally:
    """How far a run is.

    Attributes:
        total: Items, those included that were done before.
        done: Items that are done, those included that were done before.
        failed: Items that failed in this run.
        frames: Frames of items that were finished in this run.
        finished: Items that were finished in this run.
        running: For each busy worker, the frames that it has done and how many there are, None if that is not known.
    """

    total: int
    done: int = 0
    failed: int = 0
    frames: int = 0
    finished: int = 0
    running: dict[int, tuple[int, int | None]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def rate(self) -> float:
        """Frames a second, of this run."""
        return self._frames / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end, as far as can be told; None until something is known of the length of an item.

        Items that did not begin are as long as the others were on average.
        """
        known = [total for _, total in self.running.values() if total]
        count = self.finished + len(known)
        if not count or not self._frames:
            return None
        mean = (self.frames + sum(known)) / count
        running = sum(max((mean if total is None else total) - frames, 0) for frames, total in self.running.values())
        waiting = self.total - self.done - self.failed - len(self.running)
        return (running + waiting * mean) / self.rate

    @property
    def _frames(self) -> int:
        return self.frames + sum(frames for frames, _ in self.running.values())


class Scheduler:
    """Does a run.

    Args:
        drafts: What is to be done, of which what is settled in `store` is left out.
        pool: Has the workers.
        store: Of the run, opened.
        workers: How many work at a time, at most.
        attempts: How often the worker of an item may die before the item has failed.
        parts: Into how many parts a video with prompts is split at most, each with some of its objects.
        report: Takes what a person should know at once, as that an item failed.
    """

    def __init__(
        self,
        drafts: Sequence[Draft],
        pool: Pool,
        store: Store,
        *,
        workers: int,
        attempts: int = 3,
        parts: int = 1,
        report: Callable[[str], None],
    ) -> None:
        self._pool, self._store, self._report = pool, store, report
        self._workers, self._attempts, self._parts = workers, attempts, parts
        self._done = store.settled()
        for key in [key for key in self._done if whole_key(key) != key and whole_key(key) in self._done]:
            store.forget(key)  # a part, whose driver was killed after it had merged the whole
        self.tally = Tally(len(drafts), done=sum(draft.key in self._done for draft in drafts))
        self._items = self._todo(drafts)
        self._ready: collections.deque[Item] = collections.deque()
        self._deaths: collections.Counter[str] = collections.Counter()
        self._split: dict[str, tuple[Item, list[Item]]] = {}
        self._starting: set[int] = set()
        self._idle: list[int] = []
        self._busy: dict[int, Item] = {}
        self._in_vain = 0

    def run(self, show: Callable[[Tally], None], stopped: Callable[[], bool]) -> bool:
        """Do everything, and return whether it came to its end before `stopped`.

        Args:
            show: Takes how far the run is, a few times a second.
            stopped: Says that the run is to be ended; items that are being done are given up.

        Raises:
            BackendError: No worker can be started; what is done is kept.
        """
        while not stopped():
            self._give()
            if not (self._busy or self._ready):  # a worker that has not started yet may never do so
                return True
            for event in self._pool.wait(_PATIENCE):
                self._take(event)
            show(self.tally)
        return False

    def _todo(self, drafts: Iterable[Draft]) -> Iterator[Item]:
        """Yield what is to be done; what cannot be done fails here."""
        for draft in drafts:
            if draft.key in self._done:
                continue
            try:
                whole = draft.item()
                items = split(whole, self._parts)
            except (Sam2EdgeError, OSError) as error:
                self._fail(draft.key, draft.sources, str(error), 0)
                continue
            if len(items) > 1:
                self.tally.total += len(items) - 1
                self._split[whole.key] = whole, items
                self.tally.done += sum(item.key in self._done for item in items)
                self._merge(whole.key)
            yield from (item for item in items if item.key not in self._done)

    def _give(self) -> None:
        """Give items to idle workers, and start as many workers as the items need."""
        # Few are looked up ahead, since an item holds its masks.
        self._ready.extend(itertools.islice(self._items, max(self._workers - len(self._ready), 0)))
        while self._ready and self._idle:
            worker, item = self._idle.pop(), self._ready.popleft()
            self._busy[worker] = item
            self.tally.running[worker] = 0, None
            self._pool.submit(worker, item)
        room = self._workers - len(self._starting) - len(self._busy)
        for _ in range(min(room, len(self._ready) - len(self._starting))):
            self._starting.add(self._pool.start())

    def _take(self, event: Event) -> None:
        worker = event.worker
        if isinstance(event, Progress):
            if worker in self._busy:
                self.tally.running[worker] = event.frames, event.total
            return
        item = self._busy.pop(worker, None)
        self.tally.running.pop(worker, None)
        self._starting.discard(worker)
        if isinstance(event, Died):
            if worker in self._idle:
                self._idle.remove(worker)
            self._lost(item, event.reason)
            return
        self._idle.append(worker)
        if item is None:  # it has started
            return
        self._in_vain = 0
        if isinstance(event, Finished):
            self._finish(item, event.record)
        elif isinstance(event, Refused):
            self._fail(item.key, item.sources, event.message, self._deaths[item.key] + 1)

    def _lost(self, item: Item | None, reason: str) -> None:
        """Do without a worker: its item goes to another one, unless it ended too many."""
        if item is None:
            self._in_vain += 1
            if self._in_vain == _FAILED_STARTS:
                raise BackendError(f"no worker can be started, {_FAILED_STARTS} tries in a row: {reason}")
            return
        self._in_vain = 0
        self._deaths[item.key] += 1
        deaths = self._deaths[item.key]
        if deaths >= self._attempts:
            self._fail(item.key, item.sources, f"its worker died in {deaths} of {deaths} attempts: {reason}", deaths)
            return
        self._report(f"{item.sources[0]}: the worker died ({reason}); attempt {deaths + 1} of {self._attempts} follows")
        self._ready.append(item)

    def _finish(self, item: Item, record: Record) -> None:
        self.tally.done += 1
        self.tally.finished += 1
        self.tally.frames += record.frames
        if item.part:
            self._done.add(item.key)
            self._merge(whole_key(item.key))

    def _merge(self, key: str) -> None:
        """Make a whole of parts, if all are done."""
        item, parts = self._split[key]
        if all(part.key in self._done for part in parts):
            del self._split[key]
            try:
                merge(self._store, item, parts)
            except MediaError as error:
                self._fail(key, item.sources, str(error), 1)

    def _fail(self, key: str, sources: tuple[str, ...], reason: str, attempts: int) -> None:
        self.tally.failed += 1
        self._report(reason if sources[0] in reason else f"{sources[0]}: {reason}")
        try:
            self._store.fail(whole_key(key), sources, reason, attempts)
        except OSError as error:  # the disk is full: what was just said must do
            self._report(f"{self._store.out}: cannot be written: {error.strerror or error}")
