"""Frames from any source, read in a thread, whatever the source does meanwhile.

That thread only opens, reads and closes the source. Whether to wait, give the source up or open it again is decided in
`read`, by the caller's thread, so a reader that is stuck inside a driver can be abandoned.
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
from sam2edge.runtime.media.sources import Source
from sam2edge.runtime.model.resize import check_frame, fit
from sam2edge.types import Frame

POLICIES = ("every", "latest")
_READ_AHEAD = 4
"""Frames that may wait for the caller under the policy "every"."""
_FAULTS = (MediaError, OSError, cv2.error)
"""Faults after which a live source is reopened; anything else is a mistake in the program."""


@dataclass(frozen=True, eq=False)
class Grabbed:
    """A frame.

    Attributes:
        pixels: RGB uint8 [H,W,3].
        number: How many frames came before it, broken and dropped ones included, since the grabber was made.
        arrived: When it was read, in seconds of time.monotonic().
        time: When it was shown or taken, in seconds since the source's start, however often it was opened again; None
            if the source does not know.
    """

    pixels: Frame
    number: int
    arrived: float
    time: float | None = None


@dataclass(frozen=True)
class Statistics:
    """What became of the frames and the source.

    Attributes:
        delivered: Frames given to the caller.
        dropped: Frames replaced by newer ones before the caller asked.
        broken: Frames without a picture, which are skipped.
        resized: Frames brought to the size of the first.
        reconnects: How often the source was lost and came back.
        stalls: How often the source was given up because no frame came.
    """

    delivered: int = 0
    dropped: int = 0
    broken: int = 0
    resized: int = 0
    reconnects: int = 0
    stalls: int = 0


@dataclass(frozen=True)
class Reconnect:
    """When to open a lost source again; an InputError refuses values that are out of range.

    Args:
        first: Seconds to wait before the first attempt.
        factor: Each wait is this many times as long as the one before.
        longest: The longest wait in seconds.
        attempts: Attempts in a row without a frame after which to give up; None never gives up.
    """

    first: float = 0.5
    factor: float = 2.0
    longest: float = 10.0
    attempts: int | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.first <= self.longest < math.inf and self.factor >= 1):
            raise InputError(f"expected 0 ≤ first ≤ longest (seconds) and factor ≥ 1 but got {self}")
        if self.attempts is not None and self.attempts < 0:
            raise InputError(f"attempts must be 0 or more, or None for no limit, but is {self.attempts}")


class Grabber(Closeable):
    """Reads a source in a thread; iterate over it for Grabbed frames, all of the size of the first.

    Broken frames are skipped, frames of another size are resized. Only live sources are opened again; others end with
    their last frame, or raise what they fail with. The reader of a source that stalls is abandoned: what it still reads
    is thrown away, and it closes the source as soon as it can.

    Use it in one thread; `close` and `statistics` may be called from any. `name`, `live`, `width`, `height`, `fps` and
    `frame_count` are the source's when it was first opened; `frame_count` again when it has ended.

    Args:
        open: Opens the source, and opens it again after a fault: lambda: CameraSource(0).
        policy: "every" makes the source wait while the caller is busy; "latest" gives the newest frame and counts those
            that it replaced. By default "latest" for live sources and "every" for others.
        reconnect: When to open a lost source again.
        stall_timeout: Seconds without a frame, reopening included, after which a live source counts as lost.
        report: Called by `read` with a sentence about every fault.

    Raises:
        InputError: The policy is unknown or a number is out of range.
        Exception: Whatever `open` raises the first time; only a source that has worked is opened again.
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
        self._opened = time.monotonic()
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
        with self._changed:  # the thread must not deliver before self._reader is set
            self._reader: _Reader | None = _Reader(lambda: source, self._deliver, self._changed, 0.0)

    @property
    def ended(self) -> bool:
        """Whether no more frames will come: the source has ended, or was given up or closed."""
        with self._changed:
            return self._over

    @property
    def statistics(self) -> Statistics:
        """What has happened so far."""
        with self._changed:
            return self._statistics

    def __iter__(self) -> Iterator[Grabbed]:
        """Yield frames until the source has ended or `close` is called; raise what `read` raises."""
        while (grabbed := self.read()) is not None:
            yield grabbed

    def read(self, timeout: float = math.inf) -> Grabbed | None:
        """Return the next frame; None if there is none within `timeout` seconds, or if the source has `ended`.

        Raises:
            MediaError: A live source did not come back, or another source failed; the frames read before come first.
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
            # Without the lock, so that the reader goes on whatever the report does.
            if self._report is not None:
                for event in events:
                    self._report(event)

    def close(self) -> None:
        """Stop; iteration then ends. May be called again, and from any thread."""
        with self._changed:
            self._over = True
            self._frames.clear()
            reader, self._reader = self._reader, None
            self._changed.notify_all()
        if reader is not None:
            reader.interrupt()
            reader.thread.join(0.5)  # so that a device is free again, unless its driver is stuck

    def _supervise(self) -> float:
        """Do what is due while there are no frames; return the time until which there is nothing more to do."""
        now, reader = time.monotonic(), self._reader
        if self._over:
            return now
        if reader is None:
            if now < self._retry_at:
                return self._retry_at
            self._reader = _Reader(self._open, self._deliver, self._changed, now - self._opened)
            return now
        if reader.ended:
            self._lose(reader.error)
            return now
        patience = reader.last_frame + self._stall_timeout if self.live else math.inf
        if now < patience:
            return patience
        self._count("stalls")
        reader.interrupt()
        self._lose(MediaError(f"no frame for {self._stall_timeout:g} s"))
        return now

    def _lose(self, error: BaseException | None) -> None:
        """Plan to open the source again, or end for good and raise if that is an error."""
        reader, self._reader = self._reader, None
        why = self._cause(error) if error else "it gives no more frames"
        cause = f"{self.name}: lost ({why})"
        again = self.live and (error is None or isinstance(error, _FAULTS))
        if again and self._attempts != self._reconnect.attempts:
            self._attempts += 1
            self._retry_at = time.monotonic() + self._delay
            self._events.append(f"{cause}; trying again in {self._delay:g} s")
            self._delay = min(self._delay * self._reconnect.factor, self._reconnect.longest)
            return
        self._over = True
        if reader is not None:
            self.frame_count = reader.frame_count
        if again:
            raise MediaError(f"{cause}; gave up after {self._attempts} attempts") from error
        if error is not None:
            raise error

    def _deliver(self, reader: _Reader, item: object) -> bool:
        """Take what a reader has read, in the reader's thread; False tells it to stop."""
        arrived = time.monotonic()
        try:
            frame = check_frame(item)
        except (MediaError, FrameError) as error:
            return self._skip(reader, error)
        size = frame.shape[:2]
        fitted = fit(frame, (self.height, self.width))
        with self._changed:
            if reader is not self._reader:
                return False
            if self._attempts:
                self._count("reconnects")
                self._events.append(f"{self.name}: back at attempt {self._attempts}")
                self._attempts, self._delay = 0, self._reconnect.first
            if size != self._last_size:
                change = f"frames are now {size[1]}×{size[0]}, delivered as {self.width}×{self.height}"
                self._events.append(f"{self.name}: {change}")
            if fitted is not frame:
                self._count("resized")
            self._last_size, self._last_broken = size, False
            grabbed = Grabbed(fitted, self._number, arrived, reader.frame_time)
            self._number += 1
            if self._policy == "latest":
                self._count("dropped", len(self._frames))
                self._frames.clear()
            while len(self._frames) == _READ_AHEAD:
                reader.last_frame = math.inf  # waiting for the caller, which is not a stall
                self._changed.wait()
                if reader is not self._reader:
                    return False
            self._frames.append(grabbed)
            reader.last_frame = time.monotonic()
            self._changed.notify_all()
        return True

    def _skip(self, reader: _Reader, error: Exception) -> bool:
        with self._changed:
            if reader is not self._reader:
                return False
            self._number += 1
            self._count("broken")
            if not self._last_broken:  # only the first of several in a row
                self._events.append(f"{self.name}: frame {self._number - 1} is skipped: {self._cause(error)}")
            self._last_broken = True
            self._changed.notify_all()
        return True

    def _cause(self, error: BaseException) -> str:
        return str(error).removeprefix(f"{self.name}: ")

    def _count(self, name: str, by: int = 1) -> None:
        count = getattr(self._statistics, name)
        self._statistics = dataclasses.replace(self._statistics, **{name: count + by})


class _Reader:
    """A thread that opens a source, hands over its frames until it is told to stop or the source ends, and closes it.

    The condition `changed` guards its attributes: `last_frame`, when the last frame was taken or the reader made, in
    seconds of time.monotonic(); `ended`, whether no more frames will come; `error`, what the source failed with, if so.
    `started` is added to the times of the source.
    """

    def __init__(
        self,
        open: Callable[[], Source],
        deliver: Callable[[_Reader, object], bool],
        changed: threading.Condition,
        started: float,
    ) -> None:
        self.last_frame = time.monotonic()
        self.ended = False
        self.error: BaseException | None = None
        self._open, self._deliver, self._changed, self._started = open, deliver, changed, started
        self._source: Source | None = None
        # A daemon, since a thread that is stuck in a driver must not keep the program from ending.
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    @property
    def frame_count(self) -> int | None:
        """How many frames the source claims to hold, or held."""
        return self._source.frame_count if self._source else None

    @property
    def frame_time(self) -> float | None:
        """The time of the frame that was handed over last."""
        time = self._source.time if self._source else None
        return None if time is None else self._started + time

    def interrupt(self) -> None:
        """Interrupt the source, if it is open, so that the thread ends soon."""
        if self._source is not None:
            self._source.interrupt()

    def _run(self) -> None:
        try:
            with self._open() as self._source:
                for item in self._source:
                    if not self._deliver(self, item):
                        break
        except BaseException as error:  # handled by the grabber, in its caller's thread
            self.error = error
        with self._changed:
            self.ended = True
            self._changed.notify_all()
