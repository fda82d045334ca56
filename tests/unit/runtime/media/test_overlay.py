"""Overlays: what is coloured, what is left alone, and which colour."""

import dataclasses
import itertools

import numpy as np
import pytest

from sam2edge.runtime.media import overlay
from sam2edge.runtime.media.packed import PackedMask
from tests.helpers import box_mask, result_of

SHAPE = HEIGHT, WIDTH = 120, 160
OPACITY = 0.4
BLACK = np.zeros((HEIGHT, WIDTH, 3), np.uint8)


def box(*corners):
    return box_mask(*corners, size=SHAPE)


def drawn_on(frame, masks):
    """Draw masks {object id: bool [H,W]} on a frame of 120×160."""
    return overlay.draw(frame, result_of(masks, size=SHAPE))


def assert_has_colour(line, colour):
    # OpenCV lets a little of the ground through a line of one pixel; a mere tint lets 60 % of it through.
    assert np.abs(line.astype(int) - colour).max() <= 30


@pytest.fixture
def frame():
    return np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def test_fill_is_tinted_the_contour_has_the_colour_and_the_rest_is_the_frame(frame):
    mask = box(40, 50, 100, 90)
    before = frame.copy()
    drawn = drawn_on(frame, {3: mask})
    inner = np.s_[54:86, 44:96]
    expected = (1 - OPACITY) * frame[inner] + OPACITY * np.array(overlay.color(3))
    assert np.abs(drawn[inner] - expected).max() <= 0.51
    # Around the mask only the contour's edge and the label above it may differ.
    outside = ~box(38, 0, 102, 92)
    assert np.array_equal(drawn[outside], frame[outside])
    assert np.array_equal(frame, before)
    assert drawn.dtype == np.uint8
    for edge in (drawn[60:80, 40], drawn[60:80, 99], drawn[89, 50:90]):
        assert_has_colour(edge, overlay.color(3))


def test_hole_stays_clear_and_gets_a_contour(frame):
    mask = box(20, 30, 140, 110) & ~box(60, 50, 100, 90)
    drawn = drawn_on(frame, {1: mask})
    hole = np.s_[53:87, 63:97]
    assert np.array_equal(drawn[hole], frame[hole])
    assert_has_colour(drawn[60:80, 100], overlay.color(1))


def test_label_stands_on_the_mask():
    drawn = drawn_on(BLACK, {1: box(40, 50, 100, 90)})
    above = drawn[:49]
    ys, xs = np.nonzero(above.any(axis=2))
    assert ys.max() == 48
    assert 38 <= xs.min() <= 40
    assert xs.max() < 70
    plate = (above == overlay.color(1)).all(axis=2)
    assert plate.sum() > 50
    assert not plate[ys.min() : ys.max(), xs.min() : xs.max()].all(), "no digit on the plate"


def test_labels_tell_ids_apart():
    mask = box(40, 50, 100, 90)
    # Any two ids give different plates, also when the colour is put aside.
    plates = [(drawn_on(BLACK, {i: mask})[:49] == overlay.color(i)).all(axis=2) for i in (1, 2, 12)]
    assert all(not np.array_equal(a, b) for a, b in itertools.combinations(plates, 2))


def test_label_has_the_word():
    result = result_of({1: box(20, 50, 40, 90), 2: box(90, 50, 110, 90)}, size=SHAPE)
    drawn = overlay.draw(BLACK, dataclasses.replace(result, words=("cup", "")))
    widths = [(drawn[:49] == overlay.color(i)).all(axis=2).any(axis=0).sum() for i in (1, 2)]
    assert widths[0] > 2.5 * widths[1]


@pytest.mark.parametrize("mask", [box(0, 0, 8, 8), box(152, 0, 160, 8), box(0, 112, 8, 120), box(159, 119, 160, 120)])
def test_label_at_the_border_stays_inside(mask):
    plates = [(drawn_on(BLACK, {8: shown}) == overlay.color(8)).all(axis=2) for shown in (mask, box(40, 50, 100, 90))]
    # As large as one in the middle: nothing of it is cut off.
    assert plates[0].sum() >= plates[1][:49].sum()


def test_later_object_is_drawn_over_the_earlier(frame):
    mask = box(40, 50, 100, 90)
    drawn = drawn_on(frame, {1: mask, 2: mask})
    assert_has_colour(drawn[60:80, 40], overlay.color(2))


@pytest.mark.parametrize("masks", [{}, {1: np.zeros((HEIGHT, WIDTH), bool)}])
def test_nothing_to_draw(frame, masks):
    drawn = drawn_on(frame, masks)
    assert np.array_equal(drawn, frame)
    assert not np.shares_memory(drawn, frame)


def test_tiny_frame():
    drawn = overlay.draw(np.zeros((4, 4, 3), np.uint8), result_of({123456: np.ones((4, 4), bool)}, size=(4, 4)))
    assert drawn.shape == (4, 4, 3)
    assert drawn.any()


def test_colours_are_fixed_and_distinct():
    assert overlay.color(1) == (214, 255, 38)
    colours = np.array([overlay.color(i) for i in range(1, 13)])
    distances = [np.abs(a - b).max() for a, b in itertools.combinations(colours, 2)]
    assert min(distances) > 30
    neighbours = np.abs(np.diff(colours, axis=0)).max(axis=1)
    assert neighbours.min() > 150


def test_ids_that_never_end_do_not_fill_the_memory(frame):
    for first in range(1, 3000, 10):
        drawn_on(frame, {first + n: box(8 * n, 8, 8 * n + 8, 16) for n in range(10)})
    assert max(overlay.color.cache_info().currsize, overlay._tint.cache_info().currsize) <= 256


def test_everything_shows_what_is_nested(frame):
    outer, inner = box(20, 20, 140, 100), box(60, 40, 90, 70)
    for masks in ([inner, outer], [outer, inner]):
        drawn = overlay.draw_everything(frame, [PackedMask.pack(mask) for mask in masks])
        for mask, part in ((inner, np.s_[45:65, 65:85]), (outer, np.s_[76:94, 26:134])):
            number = next(i for i, one in enumerate(masks, 1) if one is mask)
            expected = (1 - OPACITY) * frame[part] + OPACITY * np.array(overlay.color(number))
            assert np.abs(drawn[part] - expected).max() <= 1
        assert np.array_equal(drawn[:18], frame[:18])
        assert drawn.dtype == np.uint8


def test_nothing_in_everything(frame):
    drawn = overlay.draw_everything(frame, [])
    assert np.array_equal(drawn, frame)
    assert drawn is not frame
    assert np.array_equal(overlay.draw_everything(frame, [PackedMask.pack(np.zeros((HEIGHT, WIDTH), bool))]), frame)


def test_small_on_top():
    boxes = [box(0, 0, 5, 5), box(0, 0, 9, 9), box(0, 0, 2, 2), box(3, 3, 8, 8)]
    assert overlay.small_on_top([PackedMask.pack(mask) for mask in boxes]) == [1, 0, 3, 2]
