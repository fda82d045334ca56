"""What the page receives to draw."""

import json

import cv2
import numpy as np
import pytest

from sam2edge.runtime.media import overlay
from sam2edge.runtime.model.result import FrameResult
from sam2edge.ui.view import View, css_color, outlines
from tests.conftest import REPO


def filled(lines, size):
    """Fill lines by the even-odd rule."""
    picture = np.zeros(size, np.uint8)
    cv2.fillPoly(picture, [np.round(np.reshape(line, (-1, 2)) * 16).astype(np.int32) for line in lines], 1, shift=4)
    return picture.astype(bool)


@pytest.mark.parametrize("object_id", [1, 2, 3])
def test_outlines_are_the_mask(object_id):
    mask = np.load(REPO / "samples" / "clip_masks.npz")["labels"][0] == object_id
    shown = filled(outlines(mask), mask.shape)
    assert (shown & mask).sum() / (shown | mask).sum() > 0.98


def test_parts_and_holes():
    mask = np.zeros((60, 80), bool)
    mask[5:45, 5:45] = True
    mask[15:35, 15:35] = False
    mask[50:58, 60:78] = True
    lines = outlines(mask)
    assert len(lines) == 3
    shown = filled(lines, mask.shape)
    assert (shown & mask).sum() / (shown | mask).sum() > 0.95
    assert not shown[18:32, 18:32].any()


def test_an_empty_mask_has_no_outline():
    assert outlines(np.zeros((4, 4), bool)) == []


def test_a_single_pixel_has_an_outline():
    mask = np.zeros((4, 4), bool)
    mask[1, 2] = True
    assert outlines(mask) == [[2, 1]]


def test_color():
    assert css_color(7) == "#" + "".join(f"{value:02x}" for value in overlay.color(7))


def view_of(pixels, result=None):
    return View(None, False, False, 0, 0, None, pixels, result, (), None, 0, "")


@pytest.mark.parametrize(("size", "sent"), [((90, 160), (90, 160)), ((1500, 2560), (750, 1280))])
def test_jpeg(size, sent):
    pixels = np.full((*size, 3), (200, 90, 30), np.uint8)
    picture = cv2.imdecode(np.frombuffer(view_of(pixels).jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (*sent, 3)
    assert abs(picture[..., ::-1].astype(int) - (200, 90, 30)).max() <= 3
    state = view_of(pixels).state
    assert (state["height"], state["width"]) == size


def test_no_frame():
    assert view_of(None).jpeg == b""
    assert view_of(None).state["width"] == 0


def test_a_number_that_is_not_finite():
    """A browser refuses JSON with NaN in it and would stop updating."""
    ones = np.ones(1, np.float32)
    view = view_of(None, FrameResult(0, (1,), np.ones((1, 4, 4), np.float32), ones * np.nan, ones, (4, 4)))
    [shown] = json.loads(json.dumps(view.state, allow_nan=False))["objects"]
    assert (shown["state"], shown["iou"]) == ("visible", None)
