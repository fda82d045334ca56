"""What a worker does with items: tracks a video, or segments images, and commits what it found."""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import socket
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from sam2edge.bundle import Bundle
from sam2edge.closeable import Closeable
from sam2edge.errors import BackendError, MediaError, Sam2EdgeError
from sam2edge.labelling.items import Item, Record, Settings, StoppedError
from sam2edge.labelling.outputs import Outputs, check_format
from sam2edge.labelling.store import Store, write_record
from sam2edge.runtime import BACKENDS
from sam2edge.runtime.backends.base import open_backend
from sam2edge.runtime.image import GRID
from sam2edge.runtime.image.mask_generator import AutomaticMaskGenerator
from sam2edge.runtime.image.predictor import ImagePredictor
from sam2edge.runtime.image.segments import Segment, find_everything, segment_words
from sam2edge.runtime.media.grabber import Grabber
from sam2edge.runtime.media.image_files import read_image
from sam2edge.runtime.media.sources import open_source
from sam2edge.runtime.video import KNOBS
from sam2edge.runtime.video.follower import Event, Follower
from sam2edge.runtime.video.prompted import follow_prompts, never_came
from sam2edge.runtime.video.tracker import VideoTracker
from sam2edge.runtime.words import SCORE
from sam2edge.runtime.words.detector import WordDetector
from sam2edge.runtime.words.words import Words
from sam2edge.types import Frame

Tell = Callable[[int, int | None], None]
_WORD_OBJECTS = 16
"""Objects that words may find in a video at a time, as `track` allows."""
_PAUSE = 0.5
"""Seconds between two reports of how far an item is."""


class Labeller(Closeable):
    """Labels items with one bundle. What it opens for one it keeps for the next.

    Args:
        bundle: Directory of the bundle.
        settings: Of the run.
        threads: Of the CPU, for a backend that runs there.
        gpu: Its number, for other backends; None for the first.

    Raises:
        BundleError, BackendError: The bundle or the backend cannot be used.
        InputError: The words are none that the bundle's detector knows.
    """

    def __init__(self, bundle: Path, settings: Settings, *, threads: int, gpu: int | None) -> None:
        check_format(settings)
        self._settings, self._bundle = settings, Bundle.open(bundle)
        on_cpu = BACKENDS[settings.backend] == BACKENDS["onnx"]
        self._backend = open_backend(settings.backend, threads=threads if on_cpu else None, gpu=None if on_cpu else gpu)
        self._stack = contextlib.ExitStack()
        # What an item may need is opened now: what fails then is the worker's fault and not the item's.
        if settings.mode == "words":
            self._detector = self._stack.enter_context(WordDetector(self._bundle, self._backend))
            file = settings.words_file
            self._words = Words.load(file) if file else self._detector.words(settings.words, settings.others)
            self._score = SCORE if settings.words_score is None else settings.words_score
        if settings.mode != "prompts":
            self._predictor = self._stack.enter_context(ImagePredictor(self._bundle, self._backend))
        if settings.mode == "auto":
            grid = {name: getattr(settings, name) for name in GRID if getattr(settings, name) is not None}
            self._generator = AutomaticMaskGenerator(self._predictor, **grid)
        else:
            self._room = _WORD_OBJECTS if settings.mode == "words" else 1
            self._tracker = self._new_tracker()

    def label(self, item: Item, store: Store, tell: Tell, stop: Callable[[], bool]) -> Record:
        """Label an item, commit it to the store, and return its record.

        Args:
            item: The item.
            store: Of the run.
            tell: Takes how many frames are done, of how many if that is known, every half second.
            stop: Says that the run is being ended.

        Raises:
            StoppedError: `stop` said so; nothing is kept.
            MediaError, PromptError: The item cannot be done, because of what it is.
            BackendError: The backend failed.
        """
        begin = told = time.perf_counter()
        said: list[str] = []
        with store.staged(item.key) as folder:
            outputs = Outputs(folder, item, self._settings)
            work = (self._track if item.kind == "video" else self._segment)(item, outputs, said)
            with contextlib.closing(outputs), contextlib.closing(work):
                for total in work:
                    if stop():
                        raise StoppedError
                    if time.perf_counter() > told + _PAUSE:
                        told = time.perf_counter()
                        tell(outputs.frames, total)
            record = Record(
                item.key,
                item.sources,
                frames=outputs.frames,
                objects=outputs.objects,
                seconds=round(time.perf_counter() - begin, 3),
                problems=tuple(said) if item.kind == "images" else (),
                remarks=tuple(said) if item.kind == "video" else (),
                doubtful=outputs.doubtful(),
                where=f"process {os.getpid()} on {socket.gethostname()}",
            )
            write_record(folder, record)
        return record

    def close(self) -> None:
        """Free what was opened."""
        if self._settings.mode != "auto":
            self._tracker.close()
        self._stack.close()

    def _track(self, item: Item, outputs: Outputs, remarks: list[str]) -> Generator[int | None, None, None]:
        """Follow what is prompted or named in a video, and yield how many frames it has after each of them."""
        [source], waiting, number = item.sources, collections.deque(item.prompts), -1
        with Grabber(lambda: open_source(source, value_range=self._settings.value_range)) as grabber:
            for line in item.prompts:
                line.check((grabber.height, grabber.width))
            with self._followed(item, remarks) as tracker:
                frames = follow_prompts(iter(grabber), tracker, waiting, start=item.start, report=remarks.append)
                for grabbed, result in frames:
                    outputs.add_frame(result)
                    number = grabbed.number
                    yield grabber.frame_count
            faults = grabber.statistics
        if waiting:
            raise never_came(waiting, len(item.prompts), number)
        if faults.broken:
            remarks.append(f"{source}: {faults.broken} damaged frames were left out")
        if faults.resized:
            remarks.append(f"{source}: {faults.resized} frames of another size were brought to that of the first")

    @contextlib.contextmanager
    def _followed(self, item: Item, remarks: list[str]) -> Iterator[VideoTracker | Follower]:
        """Yield a tracker for the objects of a video, which is ready for the next one afterwards."""
        room = len({line.object_id for line in item.prompts})
        if room > self._room:
            self._room, before = room, self._tracker
            self._tracker = self._new_tracker()  # before the other one is closed, which has the graphs open
            before.close()
        try:
            if self._settings.mode == "prompts":
                yield self._tracker
                return
            every: dict[str, Any] = {} if self._settings.words_every is None else {"every": self._settings.words_every}
            tell = functools.partial(_note, item.sources[0], remarks)
            yield Follower(self._tracker, self._detector, self._words, score=self._score, on_event=tell, **every)
        finally:
            self._tracker.reset()

    def _new_tracker(self) -> VideoTracker:
        knobs = {name: getattr(self._settings, name) for name in KNOBS}
        return VideoTracker(self._bundle, self._backend, max_objects=self._room, **knobs)

    def _segment(self, item: Item, outputs: Outputs, problems: list[str]) -> Generator[int | None, None, None]:
        """Segment images, each for itself, and yield how many there are after each of them."""
        for source in item.sources:
            try:
                image = read_image(source, self._settings.value_range)
                segments = self._found(image)
            except BackendError:
                raise
            except Sam2EdgeError as error:
                problems.append(str(error) if source in str(error) else f"{source}: {error}")
            else:
                outputs.add_image(source, image.shape[:2], [segment.record() for segment in segments])
            yield len(item.sources)
        if not outputs.frames and problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise MediaError(f"{problems[0]}{more}")

    def _found(self, image: Frame) -> list[Segment]:
        if self._settings.mode == "auto":
            return find_everything(self._generator, image)
        self._predictor.set_image(image)
        return segment_words(self._predictor, self._detector, self._words, self._score, image)


def _note(source: str, remarks: list[str], event: Event) -> None:
    """Note that more objects were found than there is room for, once."""
    remark = f"{source}: {event}"
    if event.kind == "full" and remark not in remarks:
        remarks.append(remark)
