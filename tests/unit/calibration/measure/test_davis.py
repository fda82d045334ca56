"""J, F and in_view against values computed by hand."""

import numpy as np
import pytest

from sam2edge.calibration.measure.davis import contour_accuracy, davis_mean, in_view, region_similarity


def masks(*rows: str) -> np.ndarray:
    """One mask [1, W] from each row of 0 and 1: bool [N, 1, W]."""
    return np.array([[[cell == "1" for cell in row]] for row in rows])


def test_region_similarity_is_intersection_over_union():
    predicted = masks("1100", "1111", "1100", "1000", "0000", "0000")
    true = masks("0110", "0011", "1100", "0001", "1110", "0000")
    # 1 of 3, 2 of 4, 2 of 2, 0 of 2, 0 of 3, and both empty.
    np.testing.assert_allclose(region_similarity(predicted, true), [1 / 3, 0.5, 1, 0, 0, 1], rtol=1e-6)


def test_region_similarity_keeps_leading_axes_and_is_symmetric():
    rng = np.random.default_rng(0)
    predicted, true = rng.random((2, 3, 4, 5, 6)) < 0.5
    similarity = region_similarity(predicted, true)
    assert similarity.shape == (3, 4)
    assert similarity.dtype == np.float32
    union = (predicted[2, 1] | true[2, 1]).sum()
    assert similarity[2, 1] == np.float32((predicted[2, 1] & true[2, 1]).sum() / union)
    np.testing.assert_array_equal(similarity, region_similarity(true, predicted))
    pair = region_similarity(predicted[2, 1], true[2, 1])
    assert (pair.shape, pair.dtype, pair) == ((), np.float32, similarity[2, 1])


@pytest.mark.parametrize(
    ("predicted", "true", "message"),
    [
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), bool), r"predicted must be .* but is uint8 \[4, 4\]"),
        (np.zeros((4, 4), bool), np.zeros(4, bool), r"true must be bool .* but is bool \[4\]"),
        (np.zeros((4, 4), bool), np.zeros((1, 4, 4), bool), r"one shape but are \(4, 4\) and \(1, 4, 4\)"),
    ],
)
def test_region_similarity_refuses_what_it_cannot_compare(predicted, true, message):
    with pytest.raises(ValueError, match=message):
        region_similarity(predicted, true)


def test_in_view_counts_pixels():
    true = np.zeros((3, 8, 8), bool)
    true[1, 0, :7] = true[2, 0, :8] = True
    assert in_view(true, pixels=8).tolist() == [False, False, True]
    assert in_view(true, pixels=1).tolist() == [False, True, True]
    assert in_view(true).tolist() == [False, False, False]


def square(y, x, side=20, size=(100, 100)):
    """A square whose boundary is a ring of 4·side pixels, in an image where 2 pixels match: ceil(0.008·√2·100)."""
    mask = np.zeros(size, bool)
    mask[y : y + side, x : x + side] = True
    return mask


def disk(radius, size=(480, 854)):
    """In an image where 8 pixels match: ceil(0.008·979.6)."""
    y, x = np.ogrid[: size[0], : size[1]]
    return (y - 240) ** 2 + (x - 427) ** 2 <= radius**2


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        (square(40, 40), square(40, 40), 1),
        (square(40, 40), square(40, 42), 1),  # as far as it may be
        # One further: of its ring of 80 the two sides match only at their ends (2 pixels each, beside the other's
        # horizontal sides) and of the two horizontal ones of 21 one pixel does not.
        (square(40, 40), square(40, 43), (2 * 20 + 4) / 80),
        (square(40, 40), square(40, 70), 0),
        (square(35, 35, 30), square(40, 40), 0),  # IoU is 0.44, but the contours are 5 apart
        (disk(100), disk(107), 1),
        (disk(100), disk(110), 0),
        # A square and two of its size, one in the same place: precision 1/2, recall 1.
        (square(40, 10) | square(40, 70), square(40, 10), 2 / 3),
        # Along the edge of the image is no boundary: 20 + 19 pixels on two sides. Precision 1, recall 39/119.
        (square(0, 0), square(0, 0) | square(40, 40), 2 * 39 / (39 + 119)),
        (np.zeros((9, 9), bool), np.zeros((9, 9), bool), 1),
        (square(40, 40), np.zeros((100, 100), bool), 0),
        (np.zeros((100, 100), bool), square(40, 40), 0),
        (np.zeros((100, 100), bool), np.ones((100, 100), bool), 1),  # neither has a boundary; J says 0
    ],
)
def test_contour_accuracy(predicted, true, expected):
    accuracy = contour_accuracy(predicted, true)
    assert (accuracy.shape, accuracy.dtype) == ((), np.float32)
    assert accuracy == pytest.approx(expected, abs=1e-6)
    assert contour_accuracy(true, predicted) == pytest.approx(expected, abs=1e-6)


def test_contour_accuracy_keeps_leading_axes_and_refuses_other_shapes():
    true = np.stack([square(40, 40)] * 6).reshape(2, 3, 100, 100)
    predicted = true.copy()
    predicted[1, 2] = False
    assert contour_accuracy(predicted, true).tolist() == [[1, 1, 1], [1, 1, 0]]
    with pytest.raises(ValueError, match="one shape"):
        contour_accuracy(predicted[0], true)


def test_davis_mean_leaves_the_first_and_the_last_frame_out():
    values = np.array([[1, 0], [0.5, 0.25], [0.25, 0.75], [9, 9]], np.float32)
    assert davis_mean(values).tolist() == [0.375, 0.5]
    with pytest.raises(ValueError, match="at least 3 but got 2"):
        davis_mean(values[:2])
