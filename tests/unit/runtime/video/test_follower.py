"""What is followed by words on the bundled clip, with detectors that err; and the detector's thread."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from time import monotonic

import numpy as np
import pytest

from sam2edge import Bundle, Follower, FrameResult, VideoTracker, stream
from sam2edge.errors import BackendError, FrameError, InputError, MediaError
from sam2edge.runtime.media.grabber import Grabbed
from sam2edge.runtime.video.follower import Event
from sam2edge.runtime.words.detections import Detections
from tests.helpers import BALL, Frames, assert_same, clip_frames
from tests.scripted_detector import WORDS, Scripted, judge

Follow = Callable[..., Follower]


@pytest.fixture(scope="module")
def clip() -> Frames:
    return clip_frames(120)


@pytest.fixture(scope="module")
def opened(nano: Bundle) -> Iterator[VideoTracker]:
    with VideoTracker(nano, max_objects=8) as tracker:
        yield tracker


@pytest.fixture
def tracker(opened: VideoTracker) -> VideoTracker:
    opened.reset()
    return opened


@pytest.fixture
def follow(tracker: VideoTracker) -> Iterator[Follow]:
    """A function that makes a follower of the tracker, which is closed at the end."""
    made = []

    def make(detector: Scripted, **options: object) -> Follower:
        made.append(Follower(tracker, detector, WORDS, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for follower in made:
        follower.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sam2edge-detector")]


def test_a_detector_that_is_right(clip: Frames, follow: Follow) -> None:
    """Three objects get one id each; the star, which leaves, is found again under its own."""
    detector, events = Scripted(clip), list[Event]()
    follower = follow(detector, on_event=events.append)
    results = [follower.track(frame) for frame in clip[:96]]
    accuracy, ids, ghosts = judge(results)
    assert accuracy > 0.87
    assert (ids, ghosts) == (3, 0)
    assert results[0].words == WORDS
    assert results[0].object_ids == follower.object_ids == (1, 2, 3)
    assert [str(event) for event in events[:2]] == [
        "frame 0: object 1 (red ball) is new",
        "frame 0: object 2 (blue block) is new",
    ]
    assert {event.kind for event in events[3:]} == {"found"}
    # Once to confirm what the first detection found, then every 25 frames, and while the star is away, every 5
    assert detector.looked_at[:3] == [0, 5, 30]
    gaps = np.diff(detector.looked_at[1:])
    assert (gaps.min(), gaps.max()) == (5, 25)
    assert follower.counts == {"detections": len(detector.looked_at), "new": 3, "found": len(events) - 3}


def test_a_detector_that_errs(clip: Frames, follow: Follow) -> None:
    """It misses 30 % of the objects, its boxes are inexact, and every second detection has one of nothing."""
    follower = follow(Scripted(clip, misses=0.3, jitter=0.06, false=0.5, seed=1))
    accuracy, ids, ghosts = judge([follower.track(frame) for frame in clip[:48]])
    assert accuracy > 0.86
    assert (ids, ghosts) == (3, 0)


def test_objects_of_one_word(clip: Frames, follow: Follow) -> None:
    """The ball rolls past the block, and the star behind it; all three keep their ids."""
    follower = follow(Scripted(clip, ["thing"] * 3), every=5, pause=5)
    results = [follower.track(frame) for frame in clip[:60]]
    accuracy, ids, ghosts = judge(results, by_id=True)
    assert accuracy > 0.86
    assert (ids, ghosts) == (3, 0)
    assert results[-1].words == ("thing",) * 3


def test_a_follower_that_is_made_late(clip: Frames, tracker: VideoTracker, follow: Follow) -> None:
    """It looks at the frame that its tracker has; what was prompted there stays, and has no word."""
    tracker.track(clip[0])
    prompted = tracker.prompt(1, box=BALL)
    follower = follow(Scripted(clip), first_id=5)
    found = follower.look(clip[0], prompted)
    assert (found.object_ids, found.words) == ((1, 5, 6), ("", "blue block", "yellow star"))
    assert follower.track(clip[1]).object_ids == (1, 5, 6)
    with pytest.raises(FrameError, match="the result is of frame 0, but 1 came last"):
        follower.look(clip[1], prompted)


def test_only_false_alarms(clip: Frames, follow: Follow) -> None:
    """What the first detection finds goes when no other one finds it; later ones are not even shown."""
    follower = follow(Scripted(clip, ["dog"], misses=1, false=1, seed=4))
    shown = [follower.track(frame).object_ids for frame in clip[:32]]
    assert shown[0] == (1, 2)
    assert {object_id for ids in shown for object_id in ids} == {1, 2}
    assert not any(shown[24:])
    assert follower.counts["dropped"] == follower.counts["new"] == 2


def test_an_empty_scene_is_searched_with_pauses(clip: Frames, follow: Follow) -> None:
    detector = Scripted(clip, [])
    follower = follow(detector, pause=5)
    results = [follower.track(frame) for frame in clip[:12]]
    assert detector.looked_at == [0, 5, 10]
    assert all(result.object_ids == result.words == () for result in results)


@pytest.mark.parametrize("background", [False, True])
def test_in_a_stream(clip: Frames, follow: Follow, background: bool) -> None:
    """Both modes give the same results where the detector answers at once."""
    modes = []
    for mode in ("latency", "throughput"):
        follower = follow(Scripted(clip), every=4, background=background)
        grabbed = (Grabbed(frame, number, monotonic()) for number, frame in enumerate(clip[:7]))
        results = []
        for tracked in stream(grabbed, follower, mode):
            results.append(tracked.result)
            finish(follower)
        modes.append(results)
        follower.reset()
    assert_same(modes[0], modes[1])
    assert modes[0][-1].words == WORDS


def finish(follower: Follower) -> None:
    """Wait until the detection in the background is done."""
    if follower._running:
        concurrent.futures.wait([follower._running[1]], timeout=10)


def test_track_every(nano: Bundle, clip: Frames) -> None:
    """Detections are made on frames that the tracker looks at, to be compared with masks of the same frame."""
    detector = Scripted(clip)
    with VideoTracker(nano, track_every=3) as tracker, Follower(tracker, detector, WORDS, every=4, pause=4) as follower:
        results = [follower.track(frame) for frame in clip[:13]]
    assert detector.looked_at == [0, 6, 12]
    assert judge(results[6:7], first=6)[0] > 0.8


def in_background(follower: Follower, detector: Scripted, clip: Frames, delay: int) -> list[FrameResult]:
    """Track frames with a detector that needs so many of them for its answer."""
    detector.wait, results = True, []
    for frame in clip:
        if follower._running and follower.frame_index + 1 - follower._running[0].result.frame_index >= delay:
            detector.answer()
            finish(follower)
        results.append(follower.track(frame))
    detector.answer()
    return results


def test_a_slow_detector(clip: Frames, follow: Follow) -> None:
    """From its answer on, everything is as good as with a fast one; and other frames are not held up."""
    detector = Scripted(clip)
    follower = follow(detector, background=True)
    results = in_background(follower, detector, clip[:50], delay=12)
    assert not any(result.object_ids for result in results[:12])
    assert results[12].words == WORDS
    accuracy, ids, ghosts = judge(results[12:], first=12)
    assert accuracy > 0.87
    assert (ids, ghosts) == (3, 0)
    assert detector.looked_at == [0, 12, 37, 49]  # at 42 the star has left


def test_a_detection_that_is_too_old(clip: Frames, follow: Follow) -> None:
    detector, events = Scripted(clip), list[Event]()
    follower = follow(detector, background=True, max_age=5, on_event=events.append)
    results = in_background(follower, detector, clip[:9], delay=6)
    assert not any(result.object_ids for result in results)
    assert [str(event) for event in events] == ["frame 6: a detection took 6 frames and was dropped: max_age=5"]
    assert follower.counts == {"late": 1}


@pytest.mark.parametrize("background", [False, True])
def test_what_the_detector_raises(clip: Frames, follow: Follow, background: bool) -> None:
    """It comes out of track, in the background's next call; the frame can be given again, and all goes on."""
    detector = Scripted(clip)
    detector.error = MediaError("no memory left")
    follower = follow(detector, background=background)
    if background:
        follower.track(clip[0])
        finish(follower)
        assert follower.frame_index == 0
    before = follower.frame_index
    with pytest.raises(MediaError, match="no memory left"):
        follower.track(clip[1])
    assert follower.frame_index == before
    detector.error = None
    for frame in clip[1:10]:
        result = follower.track(frame)
        finish(follower)
    assert result.words == WORDS


def test_reset_and_close_forget_what_runs(clip: Frames, follow: Follow) -> None:
    detector = Scripted(clip)
    detector.wait = True
    follower = follow(detector, background=True)
    follower.track(clip[0])
    follower.reset()
    detector.wait = False
    detector.answer()
    assert (follower.frame_index, follower.object_ids) == (-1, ())
    follower.track(clip[3])
    finish(follower)
    assert judge([follower.track(clip[4])], first=4)[0] > 0.8
    follower.close()
    follower.close()
    with pytest.raises(BackendError, match="the follower is closed"):
        follower.track(clip[5])


def test_prompts_beside_words(clip: Frames, tracker: VideoTracker, follow: Follow) -> None:
    """What is prompted by hand has no word, stays, and is not found a second time."""
    detector = Scripted(clip, ["", "blue block"])
    follower = follow(detector, every=2)
    follower.track(clip[0])
    result = follower.prompt(7, box=BALL)
    assert (result.object_ids, result.words) == ((1, 7), ("blue block", ""))
    detector._words = ("red ball", "blue block")
    assert [follower.track(frame).object_ids for frame in clip[1:4]] == [(1, 7)] * 3
    follower.remove(7)
    results = [follower.track(frame) for frame in clip[4:9]]
    assert results[-1].object_ids == (1, 8)
    follower.remove(1)
    assert follower.object_ids == (8,)
    follower.prompt(8, points=[BALL[:2]], labels=[0])
    assert follower.clear_prompts(8).object_ids == (8,)


def test_frames_that_are_refused(clip: Frames, tracker: VideoTracker, follow: Follow) -> None:
    detector = Scripted(clip)
    follower = follow(detector)
    with pytest.raises(FrameError, match="uint8"):
        follower.track(clip[0].astype(float))  # type: ignore[arg-type]
    with pytest.raises(FrameError, match=r"needs the pixels, too: .*follower\.encode"):
        follower.track(tracker.encode(clip[0]))  # type: ignore[arg-type]
    assert (follower.frame_index, detector.looked_at) == (-1, [])


def test_a_detector_that_returns_something_else(clip: Frames, tracker: VideoTracker) -> None:
    class Wrong:
        def detect(self, frame: Frames, words: object, *, threshold: float) -> Detections:
            return []  # type: ignore[return-value]

    with (
        Follower(tracker, Wrong(), ()) as follower,
        pytest.raises(InputError, match=r"must return Detections but .* \[\]"),
    ):
        follower.track(clip[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every must be an integer of at least 1 but got 0"),
        ({"pause": 1.5}, "pause must be an integer"),
        ({"score": 2}, "score must be a finite number from 0 to 1 but got 2"),
        ({"confirm": 0}, "confirm must be"),
        ({"forget_after": 0}, "forget_after must be"),
        ({"max_age": 0}, "max_age must be"),
        ({"background": 1}, "background must be True or False"),
        ({"on_event": 1}, "on_event must be a function of an Event but got 1"),
        ({"detector": 1}, r"a detector must have detect\(frame, words, threshold=…\) but got 1"),
        ({"tracker": 1}, "a follower needs a VideoTracker but got int"),
    ],
)
def test_wrong_arguments(clip: Frames, tracker: VideoTracker, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Follower(**{"tracker": tracker, "detector": Scripted(clip[:1]), "words": WORDS, **arguments})  # type: ignore[arg-type]
