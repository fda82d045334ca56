"""Faults of a source change neither the results of a tracker behind a grabber nor what was written."""

import json
import os
import threading

import numpy as np
import pytest

from sam2edge import VideoTracker
from sam2edge.errors import MediaError
from sam2edge.runtime.media.grabber import Grabber, Reconnect, Statistics
from sam2edge.runtime.media.sinks import CallbackSink, JsonSink
from tests.helpers import BALL, clip_frames
from tests.simulated import Simulated, failing, opening

COUNT = 24
FRAMES = int(os.environ.get("SAM2EDGE_SOAK_FRAMES", "1200")) // 10
"""How many frames of random faults are tracked; `make soak` is the long form."""


@pytest.fixture
def frames():
    return clip_frames(COUNT)


def track(bundle, frames, path):
    """Track the clip's first objects and return the numbers of visible pixels, which show that there is something."""
    pixels = []
    with VideoTracker(bundle) as tracker, JsonSink(path) as sink:
        for frame in frames:
            result = tracker.track(frame)
            if not tracker.object_ids:
                tracker.prompt(1, box=BALL)
                result = tracker.prompt(2, points=[[262, 60]])
            sink.write(frame, result)
            pixels.append(int(result.masks.sum()))
    return pixels


def doubled(frame):
    return frame.repeat(2, axis=0).repeat(2, axis=1)


def test_results_are_those_of_the_frames(nano, frames, tmp_path):
    size = frames[0].shape[:2]
    sources = opening(
        Simulated(*frames[:5], None, *frames[5:8], failing(OSError("unplugged")), size=size),
        MediaError("not there yet"),
        Simulated(*frames[8:10], MediaError("damaged"), frames[10], doubled(frames[11]), threading.Event(), size=size),
        Simulated(*map(doubled, frames[12:14]), frames[14][..., 0], *frames[14:18], size=size),
        Simulated(*frames[18:], failing(MediaError("switched off")), size=size),
    )
    reconnect = Reconnect(first=0.01, longest=0.01, attempts=3)
    with Grabber(sources, "every", reconnect=reconnect, stall_timeout=0.3) as grabber:
        with pytest.raises(MediaError, match=r"camera: lost \(not there\); gave up after 3 attempts"):
            track(nano, (grabbed.pixels for grabbed in grabber), tmp_path / "disturbed.jsonl")
        assert grabber.statistics == Statistics(delivered=COUNT, broken=3, resized=3, reconnects=3, stalls=1)
    assert min(track(nano, frames, tmp_path / "undisturbed.jsonl")) > 1000
    disturbed = (tmp_path / "disturbed.jsonl").read_text()
    assert disturbed == (tmp_path / "undisturbed.jsonl").read_text()
    assert [json.loads(line)["frame_index"] for line in disturbed.splitlines()] == list(range(COUNT))


class Flaky(Simulated):
    """Gives frames, some of them broken or of another size, and then ends, fails or stalls."""

    def __init__(self, random):
        self.released = threading.Event()
        frames = list(random.integers(0, 256, (int(random.integers(1, 30)), 48, 64, 3), np.uint8))
        for index in np.flatnonzero(random.random(len(frames)) < 0.1):
            frames[index] = (None, frames[index][..., 0], MediaError("damaged"), doubled(frames[index]))[
                random.integers(4)
            ]
        ends = [], [failing(OSError("unplugged"))], [failing(MediaError("switched off"))], [self.released]
        super().__init__(*frames, *ends[random.integers(len(ends))])

    def interrupt(self):
        self.released.set()


def test_faults_again_and_again(nano):
    """Every frame that a source gave is tracked or counted as broken, and the threads of lost sources end."""
    random = np.random.default_rng(0)
    opened, tracked, threads = [], [], []

    def open_next():
        opened.append(Flaky(random))
        return opened[-1]

    reconnect = Reconnect(first=0.001, longest=0.001)
    sink = CallbackSink(lambda frame, result: tracked.append((result.frame_index, *result.object_ids)))
    with VideoTracker(nano) as tracker, Grabber(open_next, "every", reconnect=reconnect, stall_timeout=0.5) as grabber:
        numbers = []
        for grabbed in grabber:
            result = tracker.track(grabbed.pixels)
            if not tracker.object_ids:
                result = tracker.prompt(1, box=(5, 5, 40, 40))
            sink.write(grabbed.pixels, result)
            numbers.append(grabbed.number)
            threads.append(threading.active_count())
            if len(numbers) == FRAMES:
                break
        seen = grabber.statistics
    assert tracked == [(index, 1) for index in range(FRAMES)]
    assert seen.delivered == FRAMES
    assert min(seen.broken, seen.resized, seen.reconnects, seen.stalls) > 0
    assert numbers == sorted(set(numbers))
    missing = numbers[-1] + 1 - FRAMES
    assert seen.broken - 5 < missing <= seen.broken  # up to five are read ahead
    assert max(threads) <= threads[0] + 2
