"""Follow what words name through a stream: a detector looks now and then, and SAM 2 keeps masks and ids in between."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from sam2edge import checks
from sam2edge.closeable import Closeable
from sam2edge.errors import BackendError, FrameError, InputError
from sam2edge.runtime.model.graphs import Embedding
from sam2edge.runtime.model.resize import check_frame
from sam2edge.runtime.model.result import FrameResult
from sam2edge.runtime.video.followed import FollowedObjects, Kind, SeenFrame
from sam2edge.runtime.video.tracker import VideoTracker
from sam2edge.runtime.words import SCORE
from sam2edge.runtime.words.detections import Detections
from sam2edge.types import Frame

_KEEP = 0.5
"""A detection with this much of the score that a new object needs still says that a known one is there."""


class Detector(Protocol):
    """What finds words in a frame: a WordDetector, or one of your own."""

    def detect(self, frame: Frame, words: Any, *, threshold: float) -> Detections:
        """Return what scores above `threshold` in a frame RGB uint8 [H,W,3], each object once."""


@dataclass(frozen=True)
class Event:
    """Something that a follower did; str(event) is a sentence about it.

    Attributes:
        frame_index: the frame last given when it happened.
        kind: "new": an object has joined. "found": a lost one is followed again, under its id. "renamed": one has
            another word now. "dropped": one is not shown any more; it had another one's mask, or was not
            confirmed. "lost": one is given up that was out of view for long. "full": one could not join, as the tracker
            has its max_objects; said once for each word. "late": a detection took too long and was not used.
        object_id: None for "full" and "late".
        word: "" for "late".
        message: the sentence without the frame.
    """

    frame_index: int
    kind: Kind
    object_id: int | None
    word: str
    message: str

    def __str__(self) -> str:
        return f"frame {self.frame_index}: {self.message}"


@dataclass(frozen=True, eq=False)
class EncodedFrame:
    """A frame that a follower encoded ahead: its pixels, which the detector may want, and its embedding."""

    pixels: Frame
    embedding: Embedding


class Follower(Closeable):
    """Finds objects by words and follows them. It is used like the VideoTracker that it prompts, also in `stream`.

    Results have the `words` of their objects. Ids count up; until `reset`, none is given twice. When the detector
    runs and what its answers mean is in docs/explanation/following.md. Any thread may call any method: calls wait for
    each other, except for `encode`.

    Args:
        tracker: is used through the follower from now on. It stays open when the follower is closed. Its max_objects
            holds for all objects together, those that wait to be confirmed included: they have negative ids there and
            are not in results.
        detector: a WordDetector, or anything with its `detect`.
        words: is given to the detector: what WordDetector.words returns.
        every: frames from one detection to the next.
        pause: the same while nothing is followed, an object is out of view or waits to be confirmed.
        score: what a detection must score for a new object; half of it is enough to confirm one.
        confirm: detections that must find an object before it is shown; what the first one finds is shown at once.
        forget_after: frames out of view after which an object is given up, and its id with it.
        background: let the detector run in a thread of its own, one detection at a time, while frames go on. What it
            finds is prompted on the frame that it saw and brought forward. Results then depend on how long it takes.
        max_age: frames after which such a detection is dropped.
        first_id: the first id that an object gets. Ids below it are left to prompts that come later.
        on_event: called with each Event at the end of the call that caused it.

    Raises:
        InputError: an argument is wrong.
    """

    def __init__(
        self,
        tracker: VideoTracker,
        detector: Detector,
        words: Any,
        *,
        every: int = 25,
        pause: int = 5,
        score: float = SCORE,
        confirm: int = 2,
        forget_after: int = 250,
        background: bool = False,
        max_age: int = 50,
        first_id: int = 1,
        on_event: Callable[[Event], object] | None = None,
    ) -> None:
        if not isinstance(tracker, VideoTracker):
            raise InputError(f"a follower needs a VideoTracker but got {type(tracker).__name__}")
        if not callable(getattr(detector, "detect", None)):
            raise InputError(f"a detector must have detect(frame, words, threshold=…) but got {detector!r}")
        if on_event is not None and not callable(on_event):
            raise InputError(f"on_event must be a function of an Event but got {on_event!r}")
        self._tracker, self._detector, self._words = tracker, detector, words
        self._every, self._pause = checks.integer("every", every, 1), checks.integer("pause", pause, 1)
        self._score = checks.number("score", score, 0, 1)
        self._confirm = checks.integer("confirm", confirm, 1)
        self._forget_after = checks.integer("forget_after", forget_after, 1)
        self._max_age = checks.integer("max_age", max_age, 1)
        self._first_id = checks.integer("first_id", first_id, 1)
        self._on_event = on_event
        self._counts: Counter[str] = Counter()
        self._events: list[Event] = []
        self._turn = threading.RLock()
        self._thread = ThreadPoolExecutor(1, "sam2edge-detector") if checks.flag("background", background) else None
        self._closed = False
        self._start()

    def _start(self) -> None:
        rules = self._score, self._confirm, self._forget_after
        self._objects = FollowedObjects(self._tracker, *rules, self._note_event)
        self._objects.reserve(self._first_id - 1)
        self._detected: int | None = None  # the frame that was last given to the detector
        self._running: tuple[SeenFrame, Future[Detections]] | None = None

    @property
    def frame_index(self) -> int:
        """Number of the frame last given, -1 before the first."""
        return self._tracker.frame_index

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Ids of the objects that are tracked, in the order in which they joined."""
        with self._turn:
            return self._objects.ids

    @property
    def counts(self) -> Mapping[str, int]:
        """How many "detections" were used and how many events there were of each kind, since the follower was made."""
        return dict(self._counts)

    def looks_at(self, frame_index: int) -> bool:
        """Tell whether the tracker looks at the frame of this number."""
        return self._tracker.looks_at(frame_index)

    def encode(self, frame: Frame) -> EncodedFrame:
        """Encode a frame, RGB uint8 [H,W,3], for `track`, even while another thread tracks; leave its pixels alone."""
        return EncodedFrame(frame, self._tracker.encode(frame))

    def track(self, frame: Frame | EncodedFrame) -> FrameResult:
        """Make a frame the current one, find every object in it, and give it to the detector if it is time to.

        The frame is RGB uint8 [H,W,3], or what `encode` made of one. Raises what the tracker and the detector raise,
        and if that runs in the background, in the call after it failed: the frame is then not taken.
        """
        with self._turn:
            if self._closed:
                raise BackendError("the follower is closed; make a new one")
            if isinstance(frame, Embedding):
                raise FrameError("a follower needs the pixels, too: track(frame) or track(follower.encode(frame))")
            pixels, embedding = (frame.pixels, frame.embedding) if isinstance(frame, EncodedFrame) else (frame, None)
            check_frame(pixels)
            index, done = self.frame_index + 1, self._finished()
            due = self._is_due(index) and (done or not self._running)
            found = self._detect(pixels) if due and not self._thread else None
            if due and self._thread and not embedding and self.looks_at(index):
                embedding = self._tracker.encode(pixels)  # to be kept; the tracker does not encode the frame again
            result = self._objects.note(self._tracker.track(embedding or pixels))
            if done:
                self._running = None
                result = self._use(*done, result)
            if found:
                self._detected = index
                result = self._use(SeenFrame(result, pixels, embedding), found, result)
            elif due and self._thread and self._is_due(index):  # what was just found may have settled all
                self._detected = index
                seen = SeenFrame(result, pixels.copy(), embedding)
                self._running = seen, self._thread.submit(self._detect, seen.pixels)
            return self._told(result)

    def look(self, frame: Frame, result: FrameResult) -> FrameResult:
        """Give the detector the frame last given at once, and wait for it: for a follower made after its frame came.

        Args:
            frame: the pixels of that frame, RGB uint8 [H,W,3].
            result: what the tracker found in it.

        Returns:
            The result with what was found.

        Raises:
            FrameError: The result is of another frame. Otherwise what the tracker and the detector raise.
        """
        with self._turn:
            check_frame(frame)
            if result.frame_index != self.frame_index:
                raise FrameError(f"the result is of frame {result.frame_index}, but {self.frame_index} came last")
            found = self._detect(frame)
            self._detected = self.frame_index
            return self._told(self._use(SeenFrame(result, frame, None), found, result))

    def _is_due(self, index: int) -> bool:
        """Tell whether it is time for a detection, on a frame of which the tracker has masks to compare it with."""
        if self._tracker.object_ids and not self.looks_at(index):
            return False
        wait = self._every if self._objects.are_settled else min(self._pause, self._every)
        return self._detected is None or index - self._detected >= wait

    def _finished(self) -> tuple[SeenFrame, Detections] | None:
        """Return what the detector found in the background, once it is done, and raise what it raised."""
        if not self._running or not self._running[1].done():
            return None
        seen, future = self._running
        if future.exception():
            self._running = None
        return seen, future.result()

    def _detect(self, pixels: Frame) -> Detections:
        found = self._detector.detect(pixels, self._words, threshold=self._score * _KEEP)
        if not isinstance(found, Detections):
            raise InputError(f"a detector must return Detections but this one returned {found!r}")
        return found.within(pixels.shape[:2])

    def _use(self, seen: SeenFrame, found: Detections, result: FrameResult) -> FrameResult:
        age = result.frame_index - seen.result.frame_index
        if age > self._max_age:
            message = f"a detection took {age} frames and was dropped: max_age={self._max_age}"
            self._note_event("late", None, "", message)
            return result
        self._counts["detections"] += 1
        return self._objects.use(seen, found, result)

    def prompt(self, object_id: int, **prompt: Any) -> FrameResult:
        """Mark an object on the frame last given, as VideoTracker.prompt does.

        A known one is corrected. Another one, with any id from 0 on, has no word; the follower never gives it up.
        """
        with self._turn:
            result = self._tracker.prompt(object_id, **prompt)
            self._objects.reserve(object_id)
            return self._told(result)

    def clear_prompts(self, object_id: int) -> FrameResult:
        """Take back the prompts for an object on the frame last given, as VideoTracker.clear_prompts does."""
        with self._turn:
            return self._told(self._tracker.clear_prompts(object_id))

    def remove(self, object_id: int) -> None:
        """Stop tracking an object and forget it; what the detector finds there next is a new object."""
        with self._turn:
            self._tracker.remove(object_id)
            self._objects.forget(object_id)

    def reset(self) -> None:
        """Forget all objects and frames, and what the detector is looking for just now."""
        with self._turn:
            self._tracker.reset()
            self._start()

    def close(self) -> None:
        """Wait for the detector's thread and end it; what it still finds or raises is dropped. May be called again."""
        with self._turn:
            self._closed, self._running = True, None
            if self._thread:
                self._thread.shutdown(cancel_futures=True)

    def _note_event(self, kind: Kind, object_id: int | None, word: str, message: str) -> None:
        self._counts[kind] += 1
        if self._on_event:
            self._events.append(Event(self.frame_index, kind, object_id, word, message))

    def _told(self, result: FrameResult) -> FrameResult:
        """Call on_event with what happened, and return the result as it is shown."""
        shown = self._objects.shown(result)
        while self._events and self._on_event:
            self._on_event(self._events.pop(0))
        return shown
