"""What a person does with a video, one call after another: open, advance, click, undo, remove, look for words, save."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from sam2edge.bundle.words import EXPORT_WORDS
from sam2edge.closeable import Closeable
from sam2edge.errors import InputError, MediaError, ObjectIdError, PromptError
from sam2edge.runtime.media.grabber import Grabbed, Grabber
from sam2edge.runtime.media.image_files import ValueRange, stands_for_images
from sam2edge.runtime.media.prompt_files import PromptLine, write_prompts
from sam2edge.runtime.media.sinks import JsonSink, MaskSink, make_directory
from sam2edge.runtime.media.sources import open_source
from sam2edge.runtime.model.result import FrameResult
from sam2edge.runtime.video.follower import Follower
from sam2edge.runtime.video.tracker import VideoTracker
from sam2edge.runtime.words import SCORE
from sam2edge.runtime.words.detector import WordDetector
from sam2edge.runtime.words.words import Words
from sam2edge.types import Frame
from sam2edge.ui.view import Click, View

_MAX_ID = 65535
"""The largest value of a pixel in a label image."""
_PATIENCE = 10.0
"""Seconds to wait for the first frame of a source."""


class Session(Closeable):
    """A source, a tracker and the current frame, used by one thread.

    Frames without objects are not tracked, so that looking for a place to start costs only decoding. A frame is saved
    when it is left, with its corrections. The caller closes the tracker, which is for this session alone.

    value_range is for folders of images (`read_image`). detector finds words: what scores at least `score`.
    serial counts the frames that were shown, over all sources; first is its value at the current source's first frame.
    message says what last happened to the source.
    """

    def __init__(
        self,
        tracker: VideoTracker,
        output: Path,
        value_range: ValueRange | None = None,
        *,
        detector: WordDetector | None = None,
        score: float = SCORE,
    ) -> None:
        self._tracker, self._output, self._range = tracker, output, value_range
        self._detector, self._score = detector, score
        self._words: Words | None = None  # what is looked for, in every source
        self._follower: Follower | None = None  # looks for it in the open one
        self._found: dict[int, str] = {}  # the objects that it has found
        self._word = ""
        self._name: str | None = None
        self._grabber: Grabber | None = None
        self._saver: _Saver | None = None
        self._pixels: Frame | None = None
        self._result: FrameResult | None = None
        self._clicks: list[Click] = []
        # All that was clicked and removed on the source's earlier frames, which objects there were when the current one
        # came, and which of them were removed on it
        self._history: list[PromptLine] = []
        self._came: tuple[int, ...] = ()
        self._removed: list[int] = []
        self._number = -1
        self._time: float | None = None
        self.serial = self.first = 0
        self.message = ""

    @property
    def live(self) -> bool:
        """Whether frames come at their own pace."""
        return self._grabber is not None and self._grabber.live

    @property
    def ended(self) -> bool:
        """Whether no more frames will come."""
        return self._grabber is None or self._grabber.ended

    @property
    def fps(self) -> float | None:
        """The source's frames per second, None if unknown."""
        return None if self._grabber is None else self._grabber.fps

    def view(self) -> View:
        """Return a view of the current state."""
        return View(
            source=self._name,
            live=self.live,
            ended=self.ended,
            serial=self.serial,
            number=self._number,
            count=None if self._grabber is None else self._grabber.frame_count,
            pixels=self._pixels,
            result=self._result,
            clicks=tuple(self._clicks),
            folder=str(self._saver.folder) if self._saver else None,
            saved=self._saver.frames if self._saver else 0,
            message=self.message,
            words=None if self._detector is None else ", ".join(self._words.texts if self._words else ()),
        )

    def open(self, word: str, name: str | None = None) -> None:
        """Open a source as `open_source` does, show its first frame and forget what was open before.

        Raises MediaError or InputError; what was open then stays open, unless it was the same source.
        """
        if word == self._word:
            self._leave()  # a camera opens once only
        self.message = ""
        value_range = self._range if stands_for_images(word) else None
        grabber = Grabber(lambda: open_source(word, value_range=value_range), report=self._report)
        try:
            first = grabber.read(_PATIENCE)
            if first is None:
                raise MediaError(f"{grabber.name}: no frame came within {_PATIENCE:g} seconds")
        except BaseException:
            grabber.close()
            raise
        try:
            self._leave()
        finally:
            self._grabber, self._word, self._name = grabber, word, name or grabber.name
            self._show(first)
            self.first = self.serial
            self._follow()

    def restart(self) -> None:
        """Open the same video again; raise InputError if there is none, or if it is live."""
        if self._grabber is None or self.live:
            raise InputError("there is no video to start again; a camera has no beginning")
        self.open(self._word, self._name)

    def advance(self, timeout: float = math.inf) -> bool:
        """Go to the next frame and track what was clicked; return False if none came within `timeout` seconds.

        Raises InputError if nothing is open, MediaError if the source fails or masks cannot be saved.
        """
        if self._grabber is None:
            raise InputError("nothing is open; open a video or a camera first")
        before = self.message
        grabbed = self._grabber.read(timeout)
        if grabbed is None:
            return False
        if self.message == before:
            self.message = ""
        try:
            self._save_frame()
        finally:
            self._show(grabbed)
            if self._follower or self._tracker.object_ids:
                self._keep(self._tracking.track(grabbed.pixels))
        return True

    def look_for(self, texts: Sequence[str]) -> None:
        """Look for words in the current frame and follow what they name from there on, and in sources opened later.

        What was found by other words before is forgotten; without texts, nothing is looked for any more. Raises
        InputError, and changes nothing, if there is no detector or if it does not take the texts.
        """
        if self._detector is None:
            raise InputError(f"this bundle has no word detector; `{EXPORT_WORDS}` adds one")
        self.look_for_words(self._detector.words(texts) if texts else None)

    def look_for_words(self, words: Words | None) -> None:
        """Look for words that the detector has made, as `look_for` does; None ends it."""
        self._words = words
        self._forget_found()
        self._follow()

    def click(self, click: Click) -> None:
        """Mark a pixel of the current frame as part of an object or not; a new id makes a new object.

        All clicks on an object on this frame count together. Raises PromptError or ObjectIdError and changes nothing.
        """
        if not 1 <= click.object_id <= _MAX_ID:
            raise ObjectIdError(f"object ids are from 1 to {_MAX_ID} but got {click.object_id}")
        if click.label == 0 and click.object_id not in self._tracker.object_ids:
            raise PromptError(f"click on object {click.object_id} first; only then can parts of it be taken away")
        self._prompt([*self._clicks_on(click.object_id), click])
        self._clicks.append(click)

    def undo(self) -> None:
        """Take back the last click on the current frame without a trace; raise PromptError if there is none."""
        if not self._clicks:
            raise PromptError("there is no click on this frame to take back")
        object_id = self._clicks[-1].object_id
        kept = self._clicks_on(object_id)[:-1]
        self._keep(self._tracking.clear_prompts(object_id))
        self._clicks.pop()
        for count in range(1, len(kept) + 1):  # each click refines the mask of those before it
            self._prompt(kept[:count])

    def remove(self, object_id: int) -> None:
        """Forget an object; raise ObjectIdError if it is not tracked."""
        self._tracking.remove(object_id)
        if object_id in self._came and object_id not in (*self._removed, *self._found):
            self._removed.append(object_id)
        if self._result is not None:
            rest = self._result.without(object_id)
            self._result = rest if rest.object_ids else None
        self._clicks = [click for click in self._clicks if click.object_id != object_id]

    def save(self, on: bool) -> None:
        """Save masks into a new folder, from the current frame on, or stop after the current frame.

        Raises InputError if nothing is open, MediaError if the files cannot be written.
        """
        if on and self._pixels is None:
            raise InputError("there are no masks to save; open a video or a camera first")
        if on and self._saver is None:
            self._saver = _Saver(self._output)
        elif not on:
            self._stop_saving()

    def close(self) -> None:
        """Close the source and finish the files; further calls do nothing."""
        self._leave()

    @property
    def _tracking(self) -> VideoTracker | Follower:
        """What frames and prompts are given to."""
        return self._follower or self._tracker

    def _follow(self) -> None:
        """Look for the words in the current frame, and from there on."""
        if self._detector is None or self._words is None or self._pixels is None:
            return
        if not self._tracker.object_ids:
            self._tracker.reset()
            self._keep(self._tracker.track(self._pixels))
        result = self._result or FrameResult.empty(self._number, self._pixels.shape[:2])
        self._follower = Follower(
            self._tracker,
            self._detector,
            self._words,
            score=self._score,
            first_id=max(self._tracker.object_ids, default=0) + 1,
            background=self.live,
        )
        index = self._tracker.frame_index
        self._keep(self._follower.look(self._pixels, dataclasses.replace(result, frame_index=index)))
        missing = [word for word in self._words.texts if word not in self._found.values()]
        if missing:
            self.message = f"not found on this frame: {', '.join(missing)}"

    def _forget_found(self) -> None:
        """Stop looking for words and forget what they found, also what is not shown yet."""
        if self._follower:
            self._follower.close()
        self._follower = None
        for object_id in self._tracker.object_ids:
            if object_id < 0 or object_id in self._found:
                self.remove(object_id)
        self._found = {}

    def _show(self, grabbed: Grabbed) -> None:
        self._history += self._lines()
        self._came, self._removed = self._tracking.object_ids, []
        self._pixels, self._number, self._time, self._result = grabbed.pixels, grabbed.number, grabbed.time, None
        self._clicks = []
        self.serial += 1

    def _lines(self) -> list[PromptLine]:
        """Return what was done on the current frame: each click with those before it, whose mask it refines.

        Clicks on what words found are left out: without the words there is no such object.
        """
        lines = [PromptLine(self._number, object_id, remove=True) for object_id in self._removed]
        for n, click in enumerate(self._clicks, 1):
            if click.object_id in self._found:
                continue
            clicks = [other for other in self._clicks[:n] if other.object_id == click.object_id]
            points, labels = tuple((other.x, other.y) for other in clicks), tuple(other.label for other in clicks)
            lines.append(PromptLine(self._number, click.object_id, points, labels))
        return lines

    def _clicks_on(self, object_id: int) -> list[Click]:
        return [click for click in self._clicks if click.object_id == object_id]

    def _prompt(self, clicks: list[Click]) -> None:
        if self._pixels is None:
            raise PromptError("there is no frame to click on; open a video or a camera first")
        if not (self._follower or self._tracker.object_ids):
            self._tracker.reset()
            self._tracker.track(self._pixels)
        points, labels = [(click.x, click.y) for click in clicks], [click.label for click in clicks]
        self._keep(self._tracking.prompt(clicks[0].object_id, points=points, labels=labels))

    def _keep(self, result: FrameResult) -> None:
        # The tracker counts from the first click, the files from the start of the video.
        named = dataclasses.replace(result, frame_index=self._number, time=self._time)
        self._result = named if result.object_ids else None
        words = zip(result.object_ids, result.words, strict=False)  # a tracker's result has none
        self._found |= {object_id: word for object_id, word in words if word}

    def _save_frame(self) -> None:
        """Save the current frame, which is about to be left."""
        if self._saver is None or self._pixels is None:
            return
        result = self._result or FrameResult.empty(self._number, self._pixels.shape[:2], self._time)
        try:
            self._saver.write(self._pixels, result, [*self._history, *self._lines()])
        except MediaError:
            saver, self._saver = self._saver, None
            saver.close()
            raise

    def _stop_saving(self) -> None:
        self._save_frame()
        saver, self._saver = self._saver, None
        if saver is not None:
            saver.close()

    def _leave(self) -> None:
        try:
            self._stop_saving()
        finally:
            if self._grabber is not None:
                self._grabber.close()
            self._grabber, self._word, self._name = None, "", None
            self._pixels, self._result, self._number = None, None, -1
            self._clicks, self._history, self._removed = [], [], []
            self._forget_found()
            for object_id in self._tracker.object_ids:
                self._tracker.remove(object_id)

    def _report(self, event: str) -> None:
        self.message = event


class _Saver(Closeable):
    """Writes label images, COCO RLE and the clicks into a new folder, the first free of PARENT/001, /002, and so on.

    The clicks are those of the whole source, so that `sam2edge track --prompts` finds the same masks again.
    """

    def __init__(self, parent: Path) -> None:
        self.frames = 0
        parent = parent.absolute()
        make_directory(parent)
        self._prompts: list[PromptLine] = []
        self.folder = next(path for n in itertools.count(1) if not (path := parent / f"{n:03d}").exists())
        make_directory(self.folder)
        with contextlib.ExitStack() as stack:
            self._sinks = [
                stack.enter_context(MaskSink(self.folder / "masks")),
                stack.enter_context(JsonSink(self.folder / "masks.jsonl")),
            ]
            self._open = stack.pop_all()

    def write(self, frame: Frame, result: FrameResult, prompts: list[PromptLine]) -> None:
        for sink in self._sinks:
            sink.write(frame, result)
        self.frames += 1
        if prompts != self._prompts:
            write_prompts(self.folder / "prompts.jsonl", prompts)
            self._prompts = prompts

    def close(self) -> None:
        self._open.close()
