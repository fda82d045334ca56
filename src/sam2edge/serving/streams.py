"""The live streams of one instance: a tracker for each, a limit, and an end for those that went silent.

Triton says when a sequence starts and ends, but not when it gives one up, so that the time since its last request is
measured here too. Nothing here is thread-safe: an instance computes for one stream at a time, and calls this in
between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from sam2edge.closeable import Closeable
from sam2edge.errors import StreamError
from sam2edge.runtime.model.result import FrameResult
from sam2edge.runtime.video.tracker import VideoTracker


@dataclass(eq=False)
class Stream:
    """A stream, or a tracker that waits for the next one.

    Attributes:
        tracker: What its frames are given to.
        used: When it was last used, by `time.monotonic`.
        result: Of its last frame; None before the first.
    """

    tracker: VideoTracker
    used: float
    result: FrameResult | None = None


class Streams(Closeable):
    """The streams by their ids.

    Args:
        make: Makes a tracker. One is made at once, and one is always kept, since it holds the graphs open.
        most: How many streams there may be.
        idle: Seconds after its last request when a stream is given up.
    """

    def __init__(self, make: Callable[[], VideoTracker], most: int, idle: float) -> None:
        self._make, self._most, self._idle = make, most, idle
        self._live: dict[Hashable, Stream] = {}
        self._spare = [Stream(make(), time.monotonic())]

    def __len__(self) -> int:
        return len(self._live)

    def begin(self, key: Hashable, *, only_request: bool = False) -> Stream:
        """Begin a stream, anew if it is live.

        One of a single request, as a probe sends, is served beyond the limit too.

        Raises:
            StreamError: There are too many streams.
        """
        self.end(key)
        if len(self._live) >= self._most and not only_request:
            raise StreamError(
                f"{self._most} streams are live, as many as this instance takes: end one with sequence_end, wait until "
                f"one has been idle for {self._idle:g} s, or serve more (sam2edge triton --streams)"
            )
        tracker = self._spare.pop().tracker if self._spare else self._make()
        self._live[key] = Stream(tracker, time.monotonic())
        return self._live[key]

    def find(self, key: Hashable) -> Stream:
        """Return a live stream; StreamError if it is none."""
        if key not in self._live:
            raise StreamError(
                f"stream {key} is not live: its first request failed, it was idle for {self._idle:g} s, or the server "
                "was restarted; begin it again with sequence_start"
            )
        return self._live[key]

    def end(self, key: Hashable) -> None:
        """Forget a stream, if it is live; its tracker waits for the next one."""
        if stream := self._live.pop(key, None):
            stream.tracker.reset()
            self._spare.append(Stream(stream.tracker, time.monotonic()))

    def reap(self) -> None:
        """End streams that are idle, and free trackers that no stream needed for as long."""
        before = time.monotonic() - self._idle
        for key in [key for key, stream in self._live.items() if stream.used < before]:
            self.end(key)
        unused = [spare for spare in self._spare if spare.used < before]
        for spare in unused[: len(self._spare) + len(self._live) - 1]:
            self._spare.remove(spare)
            spare.tracker.close()

    def close(self) -> None:
        """End all streams and free the graphs."""
        for stream in (*self._live.values(), *self._spare):
            stream.tracker.close()
        self._live.clear()
        self._spare.clear()
