"""Track the frames of a source, for least delay or for most frames a second."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import monotonic
from typing import Protocol, TypeVar

from sam2edge.errors import InputError
from sam2edge.runtime.media.grabber import Grabbed
from sam2edge.runtime.model.result import FrameResult
from sam2edge.types import Frame

MODES = ("latency", "throughput")

Encoded = TypeVar("Encoded")


class Tracker(Protocol[Encoded]):
    """What `stream` uses of a VideoTracker or a Follower."""

    @property
    def frame_index(self) -> int: ...

    def looks_at(self, frame_index: int) -> bool: ...

    def encode(self, frame: Frame) -> Encoded: ...

    def track(self, frame: Frame | Encoded) -> FrameResult: ...


@dataclass(frozen=True, eq=False)
class Tracked:
    """A frame and the tracker's result; `delay` is the time from the frame's arrival to its result, in seconds."""

    grabbed: Grabbed
    result: FrameResult
    delay: float


def stream(frames: Iterable[Grabbed], tracker: Tracker[Encoded], mode: str = "latency") -> Iterator[Tracked]:
    """Track every frame that a grabber gives; the caller may prompt and remove objects between two of them.

    The results have the frames' times and are the same in both modes. Raises InputError at once for an unknown mode,
    later for frames that are not from a grabber, and whatever the grabber and the tracker raise.

    Args:
        frames: a Grabber.
        tracker: a VideoTracker or a Follower, which is given every frame.
        mode: "latency" takes a frame, tracks it and yields it before it takes the next. "throughput" reads and encodes
            the next frame in a thread while the current one is tracked: more frames a second where a core or a GPU is
            idle, each up to one frame later. The frame read ahead is lost when the iteration ends early. Without
            objects there is nothing to encode.
    """
    if mode not in MODES:
        raise InputError(f"unknown mode {mode!r}; use one of {', '.join(MODES)}")
    grabbed = _checked(frames)
    return _as_they_come(grabbed, tracker) if mode == "latency" else _encoded_ahead(grabbed, tracker)


def _checked(frames: Iterable[object]) -> Iterator[Grabbed]:
    for grabbed in frames:
        if not isinstance(grabbed, Grabbed):
            raise InputError(
                f"stream() takes what a Grabber gives but got {type(grabbed).__name__}; "
                "give it Grabber(lambda: source) in place of the source"
            )
        yield grabbed


def _as_they_come(frames: Iterable[Grabbed], tracker: Tracker[Encoded]) -> Iterator[Tracked]:
    for grabbed in frames:
        result = tracker.track(grabbed.pixels)
        yield _tracked(grabbed, result)


def _encoded_ahead(frames: Iterable[Grabbed], tracker: Tracker[Encoded]) -> Iterator[Tracked]:
    waiting = iter(frames)
    following = tracker.frame_index + 1

    def prepare(index: int) -> tuple[Grabbed, Encoded | None] | None:
        grabbed = next(waiting, None)
        if grabbed is None:
            return None
        return grabbed, tracker.encode(grabbed.pixels) if tracker.looks_at(index) else None

    thread = ThreadPoolExecutor(1)
    try:
        coming: Future[tuple[Grabbed, Encoded | None] | None] = thread.submit(prepare, following)
        while (prepared := coming.result()) is not None:
            following += 1
            coming = thread.submit(prepare, following)
            grabbed, embedding = prepared
            result = tracker.track(grabbed.pixels if embedding is None else embedding)
            yield _tracked(grabbed, result)
    finally:
        # Do not wait: a source without a next frame would keep the caller from stopping. Closing the grabber ends it.
        thread.shutdown(wait=False, cancel_futures=True)


def _tracked(grabbed: Grabbed, result: FrameResult) -> Tracked:
    return Tracked(grabbed, replace(result, time=grabbed.time), monotonic() - grabbed.arrived)
