"""Who labels what: items go to workers, workers that die are replaced, and what cannot be done is noted.

It knows neither processes nor Ray, but a `Pool`, which says what its workers did. Each living worker has one item at
most. An item whose worker died goes to another one; after some deaths it has failed, since it may itself be the cause.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import dataclass, field

from sam2edge.closeable import Closeable
from sam2edge.labelling.items import Item, Record


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
