"""`sam2edge track`."""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from sam2edge.commands import INTERRUPTED
from sam2edge.commands.console import StatusLine
from sam2edge.commands.options import (
    SOURCES,
    add_backend,
    add_bundle,
    add_knobs,
    add_range,
    backend,
    check_bundle_first,
    check_outputs,
    file_path,
)
from sam2edge.commands.prompts import add_prompts, gather
from sam2edge.commands.words import Search, add_words, check_words, found_line, open_search
from sam2edge.errors import InputError, PromptError
from sam2edge.files import user_path
from sam2edge.runtime.video import KNOBS

if TYPE_CHECKING:
    from sam2edge.runtime.media.grabber import Grabbed, Grabber, Statistics
    from sam2edge.runtime.media.sinks import Sink
    from sam2edge.runtime.model.result import FrameResult
    from sam2edge.runtime.video.follower import Event, Follower
    from sam2edge.runtime.video.tracker import VideoTracker

_FPS_IF_UNKNOWN = 25.0
_WORD_OBJECTS = 16
"""Objects that words may find, beside those of the prompts."""
_REPORTED = ("full", "late")
"""The follower's events that take something away from the user."""
_RECENT = 10_000
"""Number of frames whose delays are kept."""
_PATIENCE = 0.2
"""Seconds after which a signal is noticed while there are no frames."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Track objects through a video or what a camera sees: what prompts mark, and what words name. A prompt without "
        "an ID is a new object; prompts with the same ID belong to one object; on another frame they correct it. "
        "Coordinates are pixels of the prompted frame."
    )
    add_bundle(parser)
    parser.add_argument("source", metavar="SOURCE", help=SOURCES)
    add_range(parser)
    add_prompts(parser, frames=True)
    parser.add_argument(
        "--frame",
        type=int,
        action="append",
        metavar="N",
        help="the frame of the prompts that are without @FRAME (default: 0)",
    )
    add_words(parser, following=True)
    parser.add_argument(
        "--policy",
        choices=("every", "latest"),
        help="track every frame (default for files), or the latest one, and drop those that arrived in between "
        "(default for cameras)",
    )
    parser.add_argument(
        "--mode",
        choices=("latency", "throughput"),
        default="latency",
        help="the least delay, or more frames a second by encoding the next frame meanwhile (default: latency)",
    )
    parser.add_argument("-o", "--output", type=file_path, metavar="FILE.mp4", help="write a video with the masks drawn")
    parser.add_argument("--masks", type=file_path, metavar="DIR", help="write a PNG of object ids for every frame")
    parser.add_argument("--json", type=file_path, metavar="FILE", help="write COCO masks and scores, a line per frame")
    parser.add_argument("--window", action="store_true", help="show the masks on the screen; q ends")
    add_backend(parser)
    add_knobs(parser)
    parser.set_defaults(verb=_track)


def _track(args: argparse.Namespace) -> int:
    _check_track(args)
    from sam2edge.runtime.media.grabber import Grabber
    from sam2edge.runtime.media.sources import open_source
    from sam2edge.runtime.video.prompted import follow_prompts, never_came
    from sam2edge.runtime.video.tracker import VideoTracker

    prompts = gather(args.prompts, _frame(args), args.source)
    waiting = collections.deque(prompts)
    count, number, delays = 0, -1, collections.deque[float](maxlen=_RECENT)
    found: dict[int, str] = {}
    with contextlib.ExitStack() as stack:
        status = stack.enter_context(StatusLine())
        source = stack.enter_context(
            Grabber(lambda: open_source(args.source, value_range=args.range), args.policy, report=status.report)
        )
        for given in prompts:
            given.check((source.height, source.width))
        # Entered before the sinks: no signal may interrupt their closing.
        stop = stack.enter_context(stop_on_signal())
        sinks = [stack.enter_context(sink) for sink in _sinks(args, source, status.report)]
        search = stack.enter_context(open_search(args))
        bundle = search.bundle if search else args.bundle
        knobs = {name: getattr(args, name) for name in KNOBS}
        ids = {given.object_id for given in prompts}
        max_objects = len(ids) + _WORD_OBJECTS * (search is not None)
        tracker = stack.enter_context(VideoTracker(bundle, backend(args), max_objects=max_objects, **knobs))
        following: VideoTracker | Follower = tracker
        if search:
            first_id = max(ids, default=0) + 1
            following = stack.enter_context(_follower(args, tracker, search, first_id, source.live, status.report))
        start = 0 if search else waiting[0].frame
        started = time.perf_counter()
        for grabbed, result in follow_prompts(
            _frames(source, stop), following, waiting, start=start, mode=args.mode, report=status.report
        ):
            for sink in sinks:
                sink.write(grabbed.pixels, result)
            found.update(_named(result))
            count, number = count + 1, grabbed.number
            delays.append(time.monotonic() - grabbed.arrived)
            fps = count / (time.perf_counter() - started)
            shown = f"{count}/{source.frame_count or '?'} frames, {fps:.1f} frames/s"
            status.show(shown + _faults(source.statistics))
            if stop.is_set() or any(sink.closed_by_user for sink in sinks):
                break
    outputs, faults = ", ".join(map(str, _outputs(args))), _faults(source.statistics)
    if search:
        print(found_line(search.words.texts, found.values()))
    if stop.is_set():
        kept = f", which are kept in {outputs}" if outputs else ""
        print(f"sam2edge: interrupted after {count} frames{faults}{kept}", file=sys.stderr)
        return INTERRUPTED
    if waiting and not any(sink.closed_by_user for sink in sinks):
        raise never_came(waiting, len(prompts), number)
    delay = _delay(delays) if source.live else ""
    cut_short = f" of {source.frame_count}" if source.frame_count and count < source.frame_count else ""
    print(
        f"{count}{cut_short} frames, {fps:.1f} frames/s with reading and writing{delay}{faults}: {outputs or 'shown'}"
    )
    return 0


def _check_track(args: argparse.Namespace) -> None:
    check_bundle_first(args, "sam2edge track BUNDLE SOURCE")
    check_words(args)
    if not args.prompts and args.words is None:
        raise PromptError(
            "nothing to track: give --point x,y or --box x0,y0,x1,y1 or --mask file.png, or --words 'red cup'"
        )
    if not (_outputs(args) or args.window):
        raise InputError("nothing to write: give -o out.mp4 or --masks DIR or --json FILE")
    if len(args.frame or ()) > 1:
        raise InputError("--frame is for all prompts; give each its own, as --box 10,10,90,90@0 --point 30,40@60")
    if _frame(args) < 0:
        raise InputError(f"--frame {_frame(args)}: frames are counted from 0")
    outputs = [path.absolute() for path in _outputs(args)]
    if len(set(outputs)) < len(outputs):
        raise InputError("-o, --masks and --json must not write to the same place")
    source = user_path(args.source)
    for path in _outputs(args):
        if path.exists() and os.path.exists(source) and path.samefile(source):
            raise InputError(f"{path}: is the video that is read; write to another file")
    check_outputs(files=(args.output, args.json), directories=(args.masks,))


def _frame(args: argparse.Namespace) -> int:
    """Return the frame of prompts without one."""
    return int(args.frame[0]) if args.frame else 0


def _outputs(args: argparse.Namespace) -> list[Path]:
    return [path for path in (args.output, args.masks, args.json) if path is not None]


def _sinks(args: argparse.Namespace, source: Grabber, report: Callable[[str], None]) -> Iterator[Sink]:
    from sam2edge.runtime.media.encoders import MPEG4
    from sam2edge.runtime.media.sinks import JsonSink, MaskSink, VideoSink, WindowSink
    from sam2edge.runtime.media.sources.video_file import finest_rate

    if args.output:
        path = user_path(args.source)
        fps = source.fps if source.live or not path.is_file() else finest_rate(path)
        overlay = VideoSink(args.output, fps or _FPS_IF_UNKNOWN, (source.width, source.height))
        if overlay.codec == MPEG4:
            report(f"{args.output}: MPEG-4, which browsers do not play; install ffmpeg for H.264, or write .webm")
        yield overlay
    if args.masks:
        yield MaskSink(args.masks)
    if args.json:
        yield JsonSink(args.json)
    if args.window:
        yield WindowSink()


def _frames(source: Grabber, stop: threading.Event) -> Iterator[Grabbed]:
    """Yield the source's frames until `stop` is set, which is noticed while there are no frames, too."""
    while not (stop.is_set() or source.ended):
        grabbed = source.read(timeout=_PATIENCE)
        if grabbed is not None:
            yield grabbed


def _follower(
    args: argparse.Namespace,
    tracker: VideoTracker,
    search: Search,
    first_id: int,
    live: bool,
    report: Callable[[str], None],
) -> Follower:
    """Return what finds the words' objects; on a live source, frames do not wait for it."""
    from sam2edge.runtime.video.follower import Follower

    def tell(event: Event) -> None:
        if event.kind in _REPORTED:
            report(str(event))

    every = {} if args.words_every is None else {"every": args.words_every}
    return Follower(
        tracker,
        search.detector,
        search.words,
        score=search.score,
        first_id=first_id,
        background=live,
        on_event=tell,
        **every,
    )


def _named(result: FrameResult) -> Iterator[tuple[int, str]]:
    """Yield the objects that words found, and their words."""
    yield from ((object_id, word) for object_id, word in zip(result.object_ids, result.words, strict=False) if word)


def _faults(statistics: Statistics) -> str:
    """Return what went wrong as the end of a line (`, dropped 3, reconnects 1`), empty if nothing did."""
    counts = dataclasses.asdict(statistics)
    return "".join(f", {fault} {count}" for fault, count in counts.items() if count and fault != "delivered")


def _delay(seconds: collections.deque[float]) -> str:
    """Return how long after its arrival a frame was written."""
    import numpy as np

    median, worst = 1e3 * np.percentile(seconds, (50, 99))
    return f", delay {median:.0f} ms (p99 {worst:.0f})"


@contextlib.contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets, so that the work ends between two frames.

    A second signal acts as usual: nobody has to wait for the end of a frame.
    """
    stop = threading.Event()

    def request(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, usual[number])

    usual: dict[int, Any] = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
