"""The two modes of a stream: the same results, and what each promises."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest

from sam2edge import Bundle, FrameResult, VideoTracker
from sam2edge.errors import InputError, MediaError
from sam2edge.runtime.media.grabber import Grabbed, Grabber
from sam2edge.runtime.media.sources import VideoSource
from sam2edge.runtime.model.staging import FrameLoader
from sam2edge.runtime.video.stream import MODES, stream
from tests.helpers import BALL, BLOCK, CLIP, Counting, Frames, assert_same, clip_frames

PATIENCE = 10.0
"""Seconds after which something that should have happened did not."""


@pytest.fixture(scope="module")
def clip() -> Frames:
    return clip_frames(8)


@pytest.fixture
def tracker(nano: Bundle) -> Iterator[VideoTracker]:
    with VideoTracker(nano) as tracker:
        yield tracker


def grabbed(clip: Frames) -> Iterator[Grabbed]:
    for number, frame in enumerate(clip):
        yield Grabbed(frame, number, monotonic())


def interfere(tracker: VideoTracker, result: FrameResult) -> FrameResult:
    """What a caller does between two frames."""
    if result.frame_index == 0:
        tracker.prompt(1, box=BALL)
        return tracker.prompt(2, box=BLOCK)
    if result.frame_index == 4:
        tracker.remove(1)
        return tracker.prompt(2, points=[(262, 60)])
    return result


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("track_every", [1, 3])
def test_the_results_are_the_trackers(nano: Bundle, clip: Frames, mode: str, track_every: int) -> None:
    with VideoTracker(nano, track_every=track_every) as tracker:
        expected = [interfere(tracker, tracker.track(frame)) for frame in clip]
    with VideoTracker(nano, track_every=track_every) as tracker, Grabber(lambda: VideoSource(CLIP)) as grabber:
        results = []
        for tracked in islice(stream(grabber, tracker, mode), len(clip)):
            np.testing.assert_array_equal(tracked.grabbed.pixels, clip[tracked.result.frame_index])
            results.append(interfere(tracker, tracked.result))
    assert_same(results, expected)


def test_latency_takes_no_frame_before_its_time(tracker: VideoTracker, clip: Frames) -> None:
    taken = []

    def counted() -> Iterator[Grabbed]:
        for item in grabbed(clip):
            taken.append(item.number)
            yield item

    for number, _ in enumerate(stream(counted(), tracker)):
        assert taken == list(range(number + 1))


def test_throughput_encodes_the_next_frame_meanwhile(
    tracker: VideoTracker, clip: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame's tracking is held up until the next one is encoded."""
    encoded = [threading.Event() for _ in clip[1:]]
    encode, track = tracker.encode, tracker.track
    tracker.track(clip[0])
    tracker.prompt(1, box=BALL)

    def seen_encode(frame: Any) -> Any:
        embedding = encode(frame)
        next(event for event in encoded if not event.is_set()).set()
        return embedding

    def held_track(embedding: Any) -> FrameResult:
        following = tracker.frame_index + 2
        assert following == len(clip) or encoded[following - 1].wait(PATIENCE)
        return track(embedding)

    monkeypatch.setattr(tracker, "encode", seen_encode)
    monkeypatch.setattr(tracker, "track", held_track)
    assert len(list(stream(grabbed(clip[1:]), tracker, "throughput"))) == len(clip) - 1


@pytest.mark.parametrize("track_every", [2, 3])
def test_frames_that_are_left_out_are_not_encoded(nano: Bundle, clip: Frames, track_every: int) -> None:
    with VideoTracker(nano, backend := Counting(), track_every=track_every) as tracker:
        for tracked in stream(grabbed(clip), tracker, "throughput"):
            if tracked.result.frame_index == 0:
                tracker.prompt(1, box=BALL)
    assert backend.runs["image_encoder"] == -(-len(clip) // track_every)


@pytest.mark.parametrize("mode", MODES)
def test_frames_without_objects_are_not_encoded(nano: Bundle, clip: Frames, mode: str) -> None:
    with VideoTracker(nano, backend := Counting()) as tracker:
        assert len(list(stream(grabbed(clip), tracker, mode))) == len(clip)
    assert not backend.runs


@pytest.mark.parametrize("mode", MODES)
def test_delay_counts_from_the_arrival(tracker: VideoTracker, clip: Frames, mode: str) -> None:
    begin = monotonic()
    (tracked,) = stream([Grabbed(clip[0], 0, begin - 5, 1.5)], tracker, mode)
    assert 5 < tracked.delay < 5 + monotonic() - begin
    assert tracked.result.time == 1.5


@pytest.mark.parametrize("mode", MODES)
def test_a_source_that_fails(tracker: VideoTracker, clip: Frames, mode: str) -> None:
    def failing() -> Iterator[Grabbed]:
        yield from grabbed(clip[:3])
        raise MediaError("the camera is gone")

    results = []
    with pytest.raises(MediaError, match="the camera is gone"):
        results.extend(tracked.result.frame_index for tracked in stream(failing(), tracker, mode))
    assert tracker.frame_index == 2


def test_stopping_does_not_wait_for_the_source(tracker: VideoTracker, clip: Frames) -> None:
    blocked, go_on = threading.Event(), threading.Event()

    def stalling() -> Iterator[Grabbed]:
        yield from grabbed(clip[:1])
        blocked.set()
        go_on.wait(PATIENCE)

    running = stream(stalling(), tracker, "throughput")
    assert next(running).result.frame_index == 0
    assert blocked.wait(PATIENCE)
    begin = monotonic()
    running.close()  # type: ignore[attr-defined]
    assert monotonic() - begin < PATIENCE / 2
    go_on.set()


def test_two_threads_may_encode(tracker: VideoTracker, clip: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of a stream that was given up, and that of the next one."""
    expected = [tracker.encode(frame) for frame in clip[:2]]
    load = FrameLoader.load

    def after_a_while(loader: FrameLoader) -> Any:
        sleep(0.1)  # long enough for the other thread to bring its frame
        return load(loader)

    monkeypatch.setattr(FrameLoader, "load", after_a_while)
    with ThreadPoolExecutor(2) as threads:
        embeddings = list(threads.map(tracker.encode, clip[:2]))
    assert_same([embedding.features for embedding in embeddings], [embedding.features for embedding in expected])


def test_unknown_mode(tracker: VideoTracker) -> None:
    with pytest.raises(InputError, match="unknown mode 'fast'; use one of latency, throughput"):
        stream([], tracker, "fast")


@pytest.mark.parametrize("mode", MODES)
def test_frames_without_a_grabber(tracker: VideoTracker, clip: Frames, mode: str) -> None:
    with pytest.raises(InputError, match="takes what a Grabber gives but got ndarray"):
        next(stream(clip, tracker, mode))  # type: ignore[arg-type]
