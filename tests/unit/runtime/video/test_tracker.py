"""What the tracker accepts, refuses and returns; tests/conformance checks that it tracks as SAM 2 does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam2edge import Bundle, FrameResult, VideoTracker
from sam2edge.bundle import GRAPHS
from sam2edge.errors import BackendError, FrameError, InputError, ObjectIdError, PromptError
from sam2edge.runtime.video.tracker import Earlier
from tests.helpers import (
    BALL,
    BLOCK,
    HEIGHT,
    STAR,
    WIDTH,
    Frames,
    assert_close,
    assert_same,
    clip_frames,
    play,
    true_masks,
)

MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[50:120, 100:170] = True
FEW = np.zeros((HEIGHT, WIDTH), bool)
FEW[100:108, 100:108] = True
TURNED = np.zeros((WIDTH, HEIGHT, 3), np.uint8)

FIELDS = ("logits", "ious", "object_scores", "visible", "masks")
SESSION = {
    0: [(7, {"box": BALL}), (-3, {"points": [(260, 60)]})],
    1: [(7, {"points": [(140, 80), (10, 10)], "labels": [1, 0]})],
}
"""Two objects, in three frames; the caller may interfere between the results that `play` yields."""


@pytest.fixture(scope="module")
def clip() -> Frames:
    return clip_frames(12)


@pytest.fixture(scope="module")
def shared_tracker(nano: Bundle) -> Iterator[VideoTracker]:
    with VideoTracker(nano, max_objects=2) as tracker:
        yield tracker


@pytest.fixture
def tracker(shared_tracker: VideoTracker) -> VideoTracker:
    """A tracker for two objects, as good as new."""
    shared_tracker.reset()
    return shared_tracker


@pytest.fixture(scope="module")
def undisturbed(nano: Bundle, clip: Frames) -> list[FrameResult]:
    with VideoTracker(nano) as tracker:
        return list(play(tracker, clip[:3], SESSION))


def test_result(undisturbed: list[FrameResult]) -> None:
    assert [result.frame_index for result in undisturbed] == [0, 0, 0, 1, 1, 2]
    assert [result.object_ids for result in undisturbed] == [(), (7,), (7, -3), (7, -3), (7, -3), (7, -3)]
    for result in undisturbed:
        n = len(result.object_ids)
        kinds = np.float32, np.float32, np.float32, bool, bool
        shapes = (n, 32, 32), (n,), (n,), (n,), (n, HEIGHT, WIDTH)
        values = [getattr(result, name) for name in FIELDS]
        assert [(array.dtype, array.shape) for array in values] == list(zip(kinds, shapes, strict=True))
    mask = undisturbed[-1].masks[0]
    x0, y0, x1, y1 = BALL
    assert mask[y0:y1, x0:x1].sum() > 0.9 * mask.sum() > 0.5 * (x1 - x0) * (y1 - y0)


def prompted(**prompt: Any) -> Callable[[VideoTracker], object]:
    return lambda tracker: tracker.prompt(7, **prompt)


# test_prompts.py and test_resize.py have all the ways in which prompts and frames may be wrong
DISTURBANCES: dict[str, tuple[Callable[[Any], object], type[InputError], str]] = {
    "frame is a list": (lambda tracker: tracker.track([[[0, 0, 0]]]), FrameError, "but got list"),
    "other size": (lambda tracker: tracker.track(TURNED), FrameError, "changed from 320×240 to 240×320"),
    "point outside": (prompted(points=[(322, 5)]), PromptError, "outside the 320×240 frame"),
    "fractions of the frame": (prompted(box=(0.1, 0.2, 0.5, 0.6)), PromptError, "looks like fractions of the frame"),
    "mask of a few pixels": (prompted(mask=FEW), PromptError, "the mask is too small: nothing is left of it"),
    "inverted box": (prompted(box=(9, 9, 5, 5)), PromptError, "inverted or empty"),
    "empty mask": (prompted(mask=MASK & ~MASK), PromptError, "the mask is empty"),
    "mask of another size": (prompted(mask=MASK.T), PromptError, r"\[240, 320\] but got shape \[320, 240\]"),
    "bool as id": (lambda tracker: tracker.prompt(True, points=(5, 5)), ObjectIdError, "integer but got True"),
    "str as id": (lambda tracker: tracker.prompt("7", points=(5, 5)), ObjectIdError, "integer but got '7'"),
    "bool removed": (lambda tracker: tracker.remove(False), ObjectIdError, "integer but got False"),
    "unknown id removed": (lambda tracker: tracker.remove(8), ObjectIdError, "object 8 is not tracked"),
}


@pytest.mark.parametrize(("disturb", "error", "words"), DISTURBANCES.values(), ids=DISTURBANCES)
def test_a_refused_call_changes_nothing(
    tracker: VideoTracker,
    clip: Frames,
    undisturbed: list[FrameResult],
    disturb: Callable[[VideoTracker], object],
    error: type[InputError],
    words: str,
) -> None:
    for result, expected in zip(play(tracker, clip[:3], SESSION), undisturbed, strict=True):
        assert_same(result, expected)
        with pytest.raises(error, match=words):
            disturb(tracker)


def test_max_objects(tracker: VideoTracker, clip: Frames, undisturbed: list[FrameResult]) -> None:
    *_, last = play(tracker, clip[:3], SESSION)
    assert_same(last, undisturbed[-1])
    with pytest.raises(ObjectIdError, match=r"2 objects are tracked already; remove\(\) one"):
        tracker.prompt(8, points=[(250, 180)])
    tracker.remove(7)
    assert tracker.prompt(8, points=[(250, 180)]).object_ids == (-3, 8)


def test_calls_that_need_a_frame_or_an_object(tracker: VideoTracker) -> None:
    with pytest.raises(PromptError, match=r"call track\(frame\) first"):
        tracker.prompt(1, points=[(5, 5)])
    for call in (tracker.remove, tracker.clear_prompts):
        with pytest.raises(ObjectIdError, match="object 1 is not tracked; tracked are none"):
            call(1)


def test_an_object_starts_with_what_it_is(tracker: VideoTracker, clip: Frames) -> None:
    tracker.track(clip[0])
    with pytest.raises(PromptError, match="object 9 is new, and points with label 0 only say where it is not"):
        tracker.prompt(9, points=[(120, 105)], labels=[0])
    assert tracker.object_ids == ()


def test_the_caller_may_change_frames_and_results(
    tracker: VideoTracker, clip: Frames, undisturbed: list[FrameResult]
) -> None:
    frames = clip[:3].copy()
    for result, expected in zip(play(tracker, frames, SESSION), undisturbed, strict=True):
        assert_same(result, expected)
        frames[result.frame_index] = 0
        for values in (result.logits, result.ious, result.object_scores, result.masks):
            values[:] = 99


def test_an_object_remembers_nothing_of_those_removed(
    tracker: VideoTracker, clip: Frames, undisturbed: list[FrameResult]
) -> None:
    assert len(list(play(tracker, clip[:3], SESSION))) == len(undisturbed)
    tracker.remove(-3)
    tracker.remove(7)
    assert tracker.object_ids == ()
    _, joined = play(tracker, clip[:1], {0: [(7, {"box": BALL})]})
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(joined, name), getattr(undisturbed[1], name), err_msg=name)


@pytest.mark.parametrize(
    "knobs", [{}, {"max_conditioning_frames": 2}, {"lost_after": 1, "min_confidence": 0.999}], ids=str
)
@pytest.mark.parametrize(
    "corrections",
    [[{"points": [(140, 80)]}], [{"box": STAR}, {"points": [(10, 10)], "labels": [0]}], [{"mask": MASK}]],
    ids=["point", "box and point", "mask"],
)
def test_taking_prompts_back_leaves_no_trace(
    nano: Bundle, clip: Frames, corrections: list[dict[str, Any]], knobs: dict[str, Any]
) -> None:
    def results(corrections: list[dict[str, Any]]) -> list[FrameResult]:
        with VideoTracker(nano, **knobs) as tracker:
            joins = [(object_id, {"box": box}) for object_id, box in enumerate((BALL, BLOCK))]
            *_, result = play(tracker, clip[:2], {0: joins})
            for correction in corrections:
                tracker.prompt(1, **correction)
            if corrections:
                result = tracker.clear_prompts(1)
            return [result, *play(tracker, clip[2:4], {})]

    assert_same(results(corrections), results([]))


def test_taking_prompts_back_after_the_row_moved(tracker: VideoTracker, clip: Frames) -> None:
    *_, before = play(tracker, clip[:2], {0: [(1, {"box": BALL}), (2, {"box": BLOCK})]})
    tracker.prompt(2, points=[(10, 10)], labels=[0])
    tracker.remove(1)
    np.testing.assert_array_equal(tracker.clear_prompts(2).logits, before.logits[1:])


def test_taking_back_an_objects_first_prompts_removes_it(tracker: VideoTracker, clip: Frames) -> None:
    joins = [(1, {"box": BALL}), (2, {"box": BLOCK}), (2, {"points": [(260, 60)]})]
    _, expected, _, _ = play(tracker, clip[:1], {0: joins})
    assert_same(tracker.clear_prompts(2), expected)
    assert tracker.object_ids == (1,)
    with pytest.raises(ObjectIdError, match=r"object 2 is not tracked; tracked are \[1\]"):
        tracker.clear_prompts(2)


def test_nothing_to_take_back(nano: Bundle, clip: Frames) -> None:
    with VideoTracker(nano, track_every=2) as tracker:
        tracker.track(clip[0])
        tracker.prompt(1, box=BALL)
        for frame in clip[1:3]:  # one that is left out, and one that is not
            tracker.track(frame)
            with pytest.raises(PromptError, match="object 1 was not prompted on this frame"):
                tracker.clear_prompts(1)


def test_a_prompt_on_the_frame_before(tracker: VideoTracker, clip: Frames) -> None:
    """What the prompt finds is what it would have found in time, on that frame and on all that follow."""
    in_time = list(play(tracker, clip[:5], {0: [(1, {"box": BALL}), (2, {"box": BLOCK})]}))[3:]
    tracker.reset()
    before = Earlier(0, tracker.encode(clip[0]))
    late = list(play(tracker, clip[:5], {0: [(1, {"box": BALL})], 1: [(2, {"box": BLOCK, "earlier": before})]}))[3:]
    assert_close(late, in_time, 1e-5)  # the objects were found one by one, which changes the order of sums


def test_a_prompt_on_an_earlier_frame(tracker: VideoTracker, clip: Frames) -> None:
    """Nothing was followed yet, so that only this frame and the earlier one were ever encoded."""
    earlier = Earlier(1, tracker.encode(clip[1]))
    for frame in clip[:10]:
        tracker.track(frame)
    tracker.prompt(5, points=[(100, 60)], earlier=earlier)
    result = tracker.prompt(6, box=BLOCK, earlier=earlier)
    assert result.frame_index == 9
    truth = true_masks(2)[9]
    assert (result.masks[1] & truth).sum() / (result.masks[1] | truth).sum() > 0.85
    assert tracker.clear_prompts(6).object_ids == (5,)
    assert tracker.track(clip[10]).object_ids == (5,)


def test_earlier_frames_that_cannot_be_prompted(tracker: VideoTracker, clip: Frames) -> None:
    embedding = tracker.encode(clip[0])
    list(play(tracker, clip[:3], {0: [(1, {"box": BALL})]}))
    before = tracker.track(clip[3])
    for number in (-1, 4):
        with pytest.raises(PromptError, match=f"frame {number} is not an earlier one: the frame last given is 3"):
            tracker.prompt(2, box=BLOCK, earlier=Earlier(number, embedding))
    with pytest.raises(PromptError, match=r"object 1 is tracked already: .* remove\(\) it first"):
        tracker.prompt(1, box=BALL, earlier=Earlier(0, embedding))
    with pytest.raises(FrameError, match="an embedding must be what encode"):
        tracker.prompt(2, box=BLOCK, earlier=Earlier(0, clip[0]))  # type: ignore[arg-type]
    assert tracker.object_ids == before.object_ids
    assert tracker.prompt(2, box=BLOCK, earlier=Earlier(3, embedding)).object_ids == (1, 2)


def test_rename(tracker: VideoTracker, clip: Frames) -> None:
    """Under its new id an object is what it was, to prompts and to what takes them back, too."""
    list(play(tracker, clip[:3], {0: [(1, {"box": BALL}), (2, {"box": BLOCK})]}))
    tracker.prompt(2, points=[(262, 60)])
    before = tracker.prompt(1, points=[(138, 84)])
    tracker.rename(1, 7)
    tracker.rename(7, 7)
    with pytest.raises(ObjectIdError, match="object 2 is tracked already"):
        tracker.rename(7, 2)
    with pytest.raises(ObjectIdError, match="object 1 is not tracked; tracked are"):
        tracker.rename(1, 3)
    after = tracker.clear_prompts(2)
    assert after.object_ids == tracker.object_ids == (7, 2)
    assert_same(after.logits[0], before.logits[0])
    assert tracker.clear_prompts(7).object_ids == (7, 2)
    assert tracker.track(clip[3]).object_ids == (7, 2)
    assert tracker.max_objects == 2


def test_reset(tracker: VideoTracker, clip: Frames, undisturbed: list[FrameResult]) -> None:
    assert len(list(play(tracker, clip[:3], SESSION))) == len(undisturbed)
    tracker.reset()
    assert tracker.object_ids == ()
    other_size = clip[:, ::2, ::4]
    assert tracker.track(other_size[0]).frame_index == 0
    assert tracker.prompt(7, points=[(30, 40)]).masks.shape == (1, HEIGHT // 2, WIDTH // 4)
    tracker.reset()
    assert_same(list(play(tracker, clip[:3], SESSION)), undisturbed)


def test_close(nano: Bundle, clip: Frames) -> None:
    """By an error in a with block, and again by hand."""
    tracker = VideoTracker(nano)
    *_, result = play(tracker, clip[:1], {0: [(1, {"box": BALL})]})
    assert result.object_ids == (1,)
    with pytest.raises(ObjectIdError), tracker as entered:
        entered.remove(2)
    tracker.close()
    assert tracker.object_ids == ()
    for use in (lambda: tracker.track(clip[1]), lambda: tracker.prompt(1, box=BALL), lambda: tracker.remove(1)):
        with pytest.raises(BackendError, match="the tracker is closed; make a new one"):
            use()


def test_objects_do_not_see_each_other(nano: Bundle, clip: Frames) -> None:
    """Three that join on different frames, in one tracker and in one each; the last then outlives the others."""
    joins = {0: [(1, {"box": BALL})], 2: [(2, {"box": BLOCK})], 5: [(3, {"box": STAR})]}

    def results(joins: dict[int, Any]) -> list[FrameResult]:
        """The last result of each frame."""
        with VideoTracker(nano) as tracker:
            seen = {result.frame_index: result for result in play(tracker, clip[:-1], joins)}
            for object_id in set(tracker.object_ids) - {3}:
                tracker.remove(object_id)
            return [*seen.values(), tracker.track(clip[-1])]

    together = results(joins)
    assert [together[n].object_ids for n in (-2, -1)] == [(1, 2, 3), (3,)]
    for n, (start, join) in enumerate(joins.items()):
        alone = results({start: join})
        for one, all_of_them in list(zip(alone, together, strict=True))[start:-1]:
            assert_close(all_of_them.logits[n], one.logits[0])
            assert all_of_them.visible[n] == one.visible[0]
    assert_close(together[-1], alone[-1])
    assert all(result.masks.any(axis=(1, 2)).all() for result in together)


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_graph_damaged_after_opening(nano: Bundle, tmp_path: Path, graph: str) -> None:
    bundle = Bundle.open(shutil.copytree(nano.path, tmp_path / "bundle", copy_function=os.link))
    file = bundle.graph_path(graph)
    file.unlink()
    file.write_bytes(b"garbage")
    with pytest.raises(BackendError) as caught:
        VideoTracker(bundle)
    assert str(caught.value).startswith(f"{file}: ONNX Runtime cannot load it")


def test_a_bundle_given_by_its_path(nano: Bundle, clip: Frames, undisturbed: list[FrameResult]) -> None:
    with VideoTracker(str(nano.path), "onnx") as tracker:
        *_, last = play(tracker, clip[:3], SESSION)
        assert_same(last, undisturbed[-1])


def test_unknown_backend(nano: Bundle) -> None:
    with pytest.raises(BackendError, match="unknown backend 'openvino'; choose from auto, onnx, onnx-cuda, tensorrt"):
        VideoTracker(nano, "openvino")
