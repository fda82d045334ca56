"""Runs in closed loop, their comparison, and the gate's conditions, on masks made by hand."""

import zlib

import numpy as np
import pytest

from sam2edge import VideoTracker
from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.closed_loop import STAGES, Agreement, Run, compare, track_clip
from sam2edge.calibration.measure.gate import Gate, RangeRatio
from sam2edge.calibration.measure.graph_errors import OutputError, graph_errors
from sam2edge.calibration.measure.recorder import Recorded
from sam2edge.errors import InputError, PromptError
from sam2edge.runtime.backends.base import Backend, GraphRunner
from sam2edge.runtime.model.prompts import Prompt
from tests.helpers import BALL, BLOCK, CLIP

PROMPTS = {1: Prompt(box=BALL), 7: Prompt(box=BLOCK)}


def run_of(masks, ids=(1, 2)):
    """A Run of masks bool [T,N,H,W]."""
    count = masks.shape[:2]
    packed = tuple(zlib.compress(np.packbits(frame).tobytes()) for frame in masks)
    numbers = np.zeros(count, np.float32)
    return Run(ids, masks.shape[2:], packed, numbers, numbers, np.zeros((len(masks), 5), np.float32))


def full(frames, objects=2, size=(7, 9)):
    return np.ones((frames, objects, *size), bool)


def test_a_run_holds_what_the_tracker_gives(nano):
    run, recorded = track_clip(nano, Clip(CLIP, 4), PROMPTS, record=(0, 2))
    with VideoTracker(nano) as tracker:
        for number, frame in enumerate(Clip(CLIP, 4)):
            result = tracker.track(frame)
            for object_id, prompt in PROMPTS.items() if number == 0 else ():
                result = tracker.prompt(object_id, **prompt.arguments)
            np.testing.assert_array_equal(run.masks(number), result.masks)
            np.testing.assert_array_equal(run.ious[number], result.ious)
            np.testing.assert_array_equal(run.scores[number], result.object_scores)
    assert (len(run), run.object_ids, run.frame_size) == (4, (1, 7), (240, 320))
    first = ["image_encoder", "mask_decoder", "mask_decoder"]
    later = ["image_encoder", "memory_encoder", "memory_attention", "mask_decoder"]
    assert [one.graph for one in recorded[:3]] == first
    assert sorted(one.graph for one in recorded[3:]) == sorted(later)
    assert list(run.milliseconds) == list(STAGES)
    assert (run.seconds[1:] > 0).all()
    assert run.seconds[0, STAGES.index("memory_attention")] == 0


def test_errors_say_where_a_prompt_came_from(nano):
    mask = np.zeros((240, 320), bool)
    mask[100, 100] = True
    with pytest.raises(PromptError, match=r"^--mask a\.png: the mask is too small"):
        track_clip(nano, Clip(CLIP, 1), {1: Prompt(mask=mask, origin="--mask a.png")})


def test_iou_of_two_runs():
    reference, masks = full(3), full(3)
    masks[1, 0, :, :3] = False  # 6 of 9 columns
    reference[2, 1] = masks[2, 1] = False
    masks[0, 1] = False
    agreement = compare(run_of(reference), run_of(masks))
    np.testing.assert_allclose(agreement.iou, [[1, 0], [2 / 3, 1], [1, 1]], rtol=1e-6)
    assert agreement.mean == pytest.approx((4 + 2 / 3) / 6)
    assert agreement.worst == (0, 0, 2)
    assert agreement.lost == ()


@pytest.mark.parametrize(
    ("away", "lost"),
    [
        (range(5, 11), (2,)),
        (range(5, 10), ()),  # one frame less
        ([*range(5, 10), *range(11, 16)], ()),  # found in between
        (range(14, 20), (2,)),  # to the end
    ],
)
def test_an_object_is_lost_after_six_frames(away, lost):
    masks = full(20)
    masks[list(away), 1, :, 4:] = False  # IoU 4/9: most of another object's mask is as good as none
    assert compare(run_of(full(20)), run_of(masks)).lost == lost


def test_frames_on_which_the_reference_does_not_show_the_object_do_not_count_as_lost():
    reference, masks = full(14), full(14)
    reference[4:10, 0] = False
    assert compare(run_of(reference), run_of(masks)).lost == ()  # seen where there is nothing: low IoU, not lost
    masks[1:4, 0] = masks[10:13, 0] = False
    assert compare(run_of(reference), run_of(masks)).lost == (1,)  # neither do they end an absence


@pytest.mark.parametrize("other", [run_of(full(4)), run_of(full(3, size=(9, 7))), run_of(full(3), ids=(1, 3))])
def test_runs_of_different_clips_cannot_be_compared(other):
    with pytest.raises(InputError, match="one clip and the same objects"):
        compare(run_of(full(3)), other)


def judged(iou, lost=(), errors=None, **limits):
    return Gate(**limits).judge(Agreement((1, 2), np.array(iou, np.float32), lost), errors)


def test_the_gate():
    assert judged([[0.98, 0.97], [0.99, 0.96]]).passed
    assert judged([[0.98, 0.96], [0.97, 0.96]]).failures == ("mean IoU 0.967500 is below 0.97",)
    assert judged([[0.98, 0.96], [0.97, 0.96]], min_mean_iou=0.96).passed
    assert judged([[1, 1], [1, 0.9]], min_worst_iou=0.95).failures == (
        "IoU 0.900000 of object 2 on frame 1 is below 0.95",
    )
    assert judged([[1, 1]], lost=(2,)).failures == ("object 2 is lost for 6 frames or more",)
    with pytest.raises(InputError, match="min_mean_iou must be from 0 to 1 but is 97"):
        Gate(min_mean_iou=97)
    with pytest.raises(InputError, match="max_range_ratio must be 1 or more but is nan"):
        Gate(max_range_ratio=np.nan)


def test_the_gate_and_ranges():
    same = Agreement((1,), np.ones((2, 1), np.float32), ())
    ratios = [RangeRatio("mask_decoder", "b", 8.25), RangeRatio("mask_decoder", "a", 6.1)]
    verdict = Gate().judge(same, None, [*ratios, RangeRatio("mask_decoder", "c", 6)])
    assert verdict.failures == (
        "mask_decoder: the INT8 range of b is 8.2 times what the clip shows, above 6, and 1 more",
    )
    assert verdict.wide == tuple(ratios)
    assert Gate(max_range_ratio=9).judge(same, None, ratios).passed


def test_the_gate_names_the_most_sensitive_graph_and_values_that_are_not_finite():
    errors = {
        "image_encoder": {"features": OutputError(0.9, 0.01)},
        "mask_decoder": {"mask": OutputError(0.1, 0.02), "iou": OutputError(0.3, 0.001)},
    }
    verdict = judged([[1, 1]], errors=errors)
    assert (verdict.passed, verdict.sensitive) == (True, "mask_decoder")
    errors["image_encoder"] = {"features": OutputError(np.inf, np.inf)}
    verdict = judged([[1, 1]], errors=errors)
    assert verdict.failures == ("image_encoder gives values that are not finite",)
    assert verdict.sensitive == "image_encoder"


class Adding(Backend, GraphRunner):
    """Graphs that give their input plus a number."""

    def __init__(self, number):
        self.number = number

    def open(self, graph):
        return self

    def run(self, inputs):
        return {"memory": inputs["mask"] + np.float32(self.number)}


@pytest.mark.parametrize(
    ("number", "last", "expected"),
    [
        (0, 0, (0, 0)),
        # Relative to 4, the smaller of the runs' largest values; to the root mean square of 3, 4, 0 and 0, 5, 0.
        (1, 0, (1 / 4, 1 / np.sqrt(50 / 6))),
        (np.nan, 0, (np.inf, np.inf)),
        *((0, value, (np.inf, np.inf)) for value in (np.nan, np.inf, -np.inf)),  # of the reference
    ],
)
def test_graph_errors(nano, number, last, expected):
    values = [np.array([3, -4, 0], np.float32), np.array([0, 5, last], np.float32)]
    recorded = [Recorded("memory_encoder", {"mask": value}, {"memory": value}) for value in values]
    [error] = graph_errors(nano, recorded, Adding(number))["memory_encoder"].values()
    assert (error.largest, error.rms) == pytest.approx(expected, rel=1e-6)
