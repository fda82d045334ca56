"""Threads that share a tracker or a predictor: their calls take turns, and none leaves half of its work behind."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic
from typing import Any

import numpy as np
import pytest

from sam2edge import AutomaticMaskGenerator, Bundle, ImagePredictor, VideoPredictor, VideoTracker
from sam2edge.errors import BackendError, ObjectIdError, PromptError
from sam2edge.runtime.image.consistency import consistency
from tests.helpers import BALL, BLOCK, STAR, Counting, Frames, assert_same, clip_frames

PATIENCE = 10.0
A_WHILE = 0.1
"""Seconds for which a call is held up, in which a short call of another thread would end."""


@pytest.fixture(scope="module")
def clip() -> Frames:
    return clip_frames(4)


class Held(Counting):
    """Holds up the next run of a graph, once it is `armed` with its name, until `other` has ended, or for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.armed = ""
        self.entered, self.other = threading.Event(), threading.Event()
        self.other_ended_first = False

    def ran(self, graph: str, inputs: Mapping[str, Any]) -> None:
        if graph == self.armed:
            self.armed = ""
            self.entered.set()
            self.other_ended_first = self.other.wait(A_WHILE)

    def hold(self, graph: str, call: Callable[[], object], other: Callable[[], object]) -> bool:
        """Run a call in a thread and another one during its run of a graph; tell whether the other ended first."""
        self.armed = graph
        with ThreadPoolExecutor(1) as thread:
            done = thread.submit(call)
            assert self.entered.wait(PATIENCE)
            other()
            self.other.set()
            done.result()
        return self.other_ended_first


@pytest.fixture
def tracker(nano: Bundle, clip: Frames) -> Iterator[VideoTracker]:
    with VideoTracker(nano, Held()) as tracker:
        tracker.track(clip[0])
        tracker.prompt(1, box=BALL)
        tracker.prompt(2, box=BLOCK)
        yield tracker


def backend(owner: Any) -> Held:
    held: Held = owner._graphs.backend
    return held


@pytest.mark.parametrize(
    "other",
    [
        lambda tracker, frame: tracker.track(frame),
        lambda tracker, frame: tracker.prompt(3, box=STAR),
        lambda tracker, frame: tracker.remove(1),
        lambda tracker, frame: tracker.reset(),
        lambda tracker, frame: tracker.close(),
    ],
    ids=["track", "prompt", "remove", "reset", "close"],
)
def test_calls_wait_while_a_frame_is_tracked(
    tracker: VideoTracker, clip: Frames, other: Callable[[VideoTracker, Frames], object]
) -> None:
    track = partial(tracker.track, clip[1])
    assert not backend(tracker).hold("mask_decoder", track, lambda: other(tracker, clip[2]))


def test_a_frame_is_encoded_while_another_is_tracked(tracker: VideoTracker, clip: Frames) -> None:
    track = partial(tracker.track, clip[1])
    assert backend(tracker).hold("mask_decoder", track, lambda: tracker.encode(clip[2]))


def test_close_waits_for_an_encoding(tracker: VideoTracker, clip: Frames) -> None:
    encode = partial(tracker.encode, clip[1])
    assert not backend(tracker).hold("image_encoder", encode, tracker.close)
    with pytest.raises(BackendError, match="the tracker is closed"):
        encode()


def test_image_predictors_calls_wait(nano: Bundle, clip: Frames) -> None:
    with ImagePredictor(nano, held := Held()) as predictor:
        predictor.set_image(clip[0])
        embedding = predictor.encode(clip[1])
        predict = partial(predictor.predict, box=[BALL, BLOCK])
        assert not held.hold("mask_decoder", predict, lambda: predictor.set_embedding(embedding))
    with ImagePredictor(nano, held := Held()) as predictor:
        predictor.set_image(clip[0])
        assert not held.hold("mask_decoder", partial(consistency, predictor, box=BALL), predictor.reset_predictor)
    with ImagePredictor(nano, held := Held()) as predictor:
        generate = partial(AutomaticMaskGenerator(predictor, points_per_side=2).generate, clip[0])
        assert not held.hold("mask_decoder", generate, predictor.reset_predictor)


def test_video_predictors_calls_wait(nano: Bundle, clip: Frames) -> None:
    with VideoPredictor(nano, held := Held()) as predictor:
        state = predictor.init_state(clip)
        predictor.add_new_points_or_box(state, 0, 1, box=BALL)
        results = predictor.propagate_in_video(state)
        next(results)
        remove = partial(predictor.remove_object, state, 1)
        assert not held.hold("mask_decoder", partial(next, results), remove)
        assert next(results, None) is None  # a propagation holds nothing up between its frames


def test_a_camera_thread_and_one_that_prompts(nano: Bundle, clip: Frames) -> None:
    """After any order of their calls the tracker is as good as new."""
    end = monotonic() + 0.2

    def camera() -> None:
        while monotonic() < end:
            for frame in clip:
                result = tracker.track(frame)
                assert len(result.object_ids) == len(result.logits) == len(result.ious) == len(result.states)

    def person() -> None:
        while monotonic() < end:
            for object_id, box in enumerate((BALL, BLOCK, STAR)):
                tracker.prompt(object_id, box=box)
            tracker.remove(0)
            tracker.remove(2)

    def session(tracker: VideoTracker) -> list[Any]:
        tracker.track(clip[0])
        joined = tracker.prompt(5, box=BALL)
        return [result.logits for result in (joined, *map(tracker.track, clip))]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with VideoTracker(nano) as tracker, ThreadPoolExecutor(2) as threads:
            tracker.track(clip[0])
            for done in [threads.submit(camera), threads.submit(person)]:
                done.result()
            for object_id in tracker.object_ids:
                tracker.remove(object_id)
            used = session(tracker)
    finally:
        sys.setswitchinterval(interval)
    with VideoTracker(nano) as fresh:
        assert_same(used, session(fresh))


def test_a_tracker_that_another_thread_closes(nano: Bundle, clip: Frames) -> None:
    """Every thread that still uses it gets the one error that says so."""
    tracker = VideoTracker(nano)
    tracker.track(clip[0])
    tracker.prompt(1, box=BALL)
    started = threading.Barrier(4)

    def use(call: Callable[[], object]) -> str:
        started.wait(PATIENCE)
        end = monotonic() + PATIENCE
        while monotonic() < end:
            try:
                call()
            except (BackendError, ObjectIdError, PromptError) as error:
                return str(error)
        return "never closed"

    calls = [
        lambda: tracker.track(clip[1]),
        lambda: tracker.prompt(1, points=np.array([[138, 84]])),
        lambda: tracker.encode(clip[2]),
    ]
    with ThreadPoolExecutor(3) as threads:
        errors = [threads.submit(use, call) for call in calls]
        started.wait(PATIENCE)
        tracker.close()
        assert {error.result() for error in errors} == {"the tracker is closed; make a new one"}
