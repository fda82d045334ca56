"""Frames from any source, read in a thread, whatever the source does meanwhile.

The thread only opens, reads and closes. Whether to wait, to give a source up or to open it again is decided in `read`,
by the caller's thread; so a reader that is stuck inside a driver can be left behind.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2

from sam2edge.closeable import Closeable
from sam2edge.errors import FrameError, InputError, MediaError
from sam2edge.runtime.media.reader import Reader
from sam2edge.runtime.media.sources import Frame, Source
from sam2edge.runtime.model.resize import check_frame

POLICIES = ("every", "latest")
_READ_AHEAD = 4
"""So many frames wait at most, with the policy "every"."""
_FAULTS = (MediaError, OSError, cv2.error)
"""What a live source may die of and be opened again; anything else is a mistake in the program."""


@dataclass(frozen=True, eq=False)
class Grabbed:
    """A frame.

    pixels: RGB uint8 [H,W,3]. number: how many came before it, broken and dropped ones too, since the grabber was
    made. arrived: when it was read, in seconds of time.monotonic().
    """

    pixels: Frame
    number: int
    arrived: float


@dataclass(frozen=True)
class Statistics:
    """What became of the frames and the source.

    delivered: frames given to the caller. dropped: overwritten by newer ones. broken: no picture, so skipped. resized:
    brought to the size of the first. reconnects: how often the source was lost and came back. stalls: how often it was
    given up because no frame came.
    """

    delivered: int = 0
    dropped: int = 0
    broken: int = 0
    resized: int = 0
    reconnects: int = 0
    stalls: int = 0


@dataclass(frozen=True)
class Reconnect:
    """When to open a lost source again: after `first` seconds, then each time `factor` times as long, up to `longest`.

    attempts: how often in a row without a frame, before it is given up; None is for ever. Raises InputError.
    """

    first: float = 0.5
    factor: float = 2.0
    longest: float = 10.0
    attempts: int | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.first <= self.longest < math.inf and self.factor >= 1):
            raise InputError(f"expected 0 ≤ first ≤ longest (seconds) and factor ≥ 1 but got {self}")
        if self.attempts is not None and self.attempts < 0:
            raise InputError(f"attempts must be 0 or more, or None for ever, but is {self.attempts}")


class Grabber(Closeable):
    """Read a source in a thread; iterating gives Grabbed frames, all of the size of the first.

    open: makes the source, and makes it again after a fault: lambda: CameraSource(0). policy: "every" holds the source
    up while the caller is busy, "latest" gives the newest frame and counts those that it overwrote; None is "latest"
    for live sources and "every" for others. reconnect: when to try again. stall_timeout: seconds without a frame,
    opening again included, after which a live source counts as lost. report: is told of every fault, in a sentence, by
    `read`.

    Broken frames are skipped, those of another size resized. Only live sources are opened again; others are over at
    their end, and raise what they fail with. The reader of a source that stalls is left behind; what it still reads is
    thrown away, and it closes the source as soon as it can.

    name, live, width, height, fps, frame_count: those of the source when it was first opened.

    To be used by one thread; `close` and `statistics` by any. Raises InputError, and what `open` raises the first
    time: what never worked is not tried again.
    """

    def __init__(
        self,
        open: Callable[[], Source],
        policy: str | None = None,
        *,
        reconnect: Reconnect | None = None,
        stall_timeout: float = 10.0,
        report: Callable[[str], None] | None = None,
    ) -> None:
        if policy not in (*POLICIES, None):
            raise InputError(f"unknown policy {policy!r}; use one of {', '.join(POLICIES)}")
        if not stall_timeout > 0:
            raise InputError(f"stall_timeout must be above 0 seconds but is {stall_timeout}")
        self._open = open
        self._reconnect = reconnect or Reconnect()
        self._stall_timeout = stall_timeout
        self._report = report
        source = open()
        self.name, self.live, self.frame_count = source.name, source.live, source.frame_count
        self.width, self.height, self.fps = source.width, source.height, source.fps
        self._policy = policy or ("latest" if source.live else "every")
        self._changed = threading.Condition()  # guards what follows
        self._frames: collections.deque[Grabbed] = collections.deque()
        self._events: list[str] = []
        self._statistics = Statistics()
        self._number = 0
        self._last_size: tuple[int, ...] = (self.height, self.width)
        self._last_broken = False
        self._over = False
        self._attempts = 0
        self._delay = self._reconnect.first
        self._retry_at = 0.0
        with self._changed:  # the thread may not deliver before it is known here
            self._reader: Reader | None = Reader(lambda: source, self._deliver, self._changed)

    @property
    def ended(self) -> bool:
        """Whether no frame will come any more: the source is at its end, given up or closed."""
        with self._changed:
            return self._over

    @property
    def statistics(self) -> Statistics:
        """What has happened so far."""
        with self._changed:
            return self._statistics

    def __iter__(self) -> Iterator[Grabbed]:
        """Yield frames until the source has ended or `close` is called. Raises what `read` raises."""
        while (grabbed := self.read()) is not None:
            yield grabbed

    def read(self, timeout: float = math.inf) -> Grabbed | None:
        """Return the next frame; None if there is none within `timeout` seconds, or if the source has `ended`.

        Raises MediaError when a live source did not come back or another failed, after the frames that were read
        before.
        """
        deadline = time.monotonic() + timeout
        while True:
            with self._changed:
                if not self._events:
                    if self._frames:
                        self._count("delivered")
                        self._changed.notify_all()
                        return self._frames.popleft()
                    until = min(self._supervise(), deadline)
                    if self._over or until == deadline <= time.monotonic():
                        return None
                    if not self._events:
                        self._changed.wait(min(max(0.0, until - time.monotonic()), threading.TIMEOUT_MAX))
                events, self._events = self._events, []
            # Without the lock, so that the reader goes on whatever the caller does with them.
            if self._report is not None:
                for event in events:
                    self._report(event)

    def close(self) -> None:
        """Stop; iterating then ends. May be called again, and by any thread."""
        with self._changed:
            self._over = True
            self._frames.clear()
            reader, self._reader = self._reader, None
            self._changed.notify_all()
        if reader is not None:
            reader.leave()
            reader.join(0.5)  # a device is then free again, unless its driver is stuck

    def _supervise(self) -> float:
        """Do what is due while there are no frames, and return until when there is nothing more to do."""
        now, reader = time.monotonic(), self._reader
        if self._over:
            return now
        if reader is None:
            if now < self._retry_at:
                return self._retry_at
            self._reader = Reader(self._open, self._deliver, self._changed)
            return now
        if reader.ended:
            self._lose(reader.error)
            return now
        patience = reader.heard + self._stall_timeout if self.live else math.inf
        if now < patience:
            return patience
        self._count("stalls")
        reader.leave()
        self._lose(MediaError(f"no frame for {self._stall_timeout:g} s"))
        return now

    def _lose(self, error: BaseException | None) -> None:
        """Plan to open the source again, or end for good; raises if that is an error."""
        self._reader = None
        why = str(error).removeprefix(f"{self.name}: ") if error else "it gives no more frames"
        cause = f"{self.name}: lost ({why})"
        again = self.live and (error is None or isinstance(error, _FAULTS))
        if again and self._attempts != self._reconnect.attempts:
            self._attempts += 1
            self._retry_at = time.monotonic() + self._delay
            self._events.append(f"{cause}; trying again in {self._delay:g} s")
            self._delay = min(self._delay * self._reconnect.factor, self._reconnect.longest)
            return
        self._over = True
        if again:
            raise MediaError(f"{cause}; given up, attempts in vain: {self._attempts}") from error
        if error is not None:
            raise error

    def _deliver(self, reader: Reader, item: object) -> bool:
        """Take what a reader read, in its thread; False if it is to stop."""
        arrived = time.monotonic()
        try:
            frame = _checked(item)
        except (MediaError, FrameError) as error:
            return self._skip(reader, error)
        size = frame.shape[:2]
        fitted = _fit(frame, (self.height, self.width))
        with self._changed:
            if reader is not self._reader:
                return False
            if self._attempts:
                self._count("reconnects")
                self._events.append(f"{self.name}: back at attempt {self._attempts}")
                self._attempts, self._delay = 0, self._reconnect.first
            if size != self._last_size:
                self._events.append(f"{self.name}: {_text(size)} now, given as {self.width}×{self.height}")
            if fitted is not frame:
                self._count("resized")
            self._last_size, self._last_broken = size, False
            grabbed = Grabbed(fitted, self._number, arrived)
            self._number += 1
            if self._policy == "latest":
                self._count("dropped", len(self._frames))
                self._frames.clear()
            while len(self._frames) == _READ_AHEAD:
                reader.heard = math.inf  # held up, which is no stall
                self._changed.wait()
                if reader is not self._reader:
                    return False
            self._frames.append(grabbed)
            reader.heard = time.monotonic()
            self._changed.notify_all()
        return True

    def _skip(self, reader: Reader, error: Exception) -> bool:
        with self._changed:
            if reader is not self._reader:
                return False
            self._number += 1
            self._count("broken")
            if not self._last_broken:  # the first of several only
                self._events.append(f"{self.name}: frame {self._number - 1} is skipped: {error}")
            self._last_broken = True
            self._changed.notify_all()
        return True

    def _count(self, what: str, by: int = 1) -> None:
        now = getattr(self._statistics, what)
        self._statistics = dataclasses.replace(self._statistics, **{what: now + by})


def _checked(item: object) -> Frame:
    if isinstance(item, MediaError):
        raise item
    return check_frame(item)


def _fit(frame: Frame, size: tuple[int, int]) -> Frame:
    """The frame, resized if it is not of this size (H,W)."""
    if frame.shape[:2] == size:
        return frame
    shrinks = frame.shape[0] > size[0]
    fitted: Frame = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return fitted


def _text(size: tuple[int, ...]) -> str:
    return f"{size[1]}×{size[0]}"
