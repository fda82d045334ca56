"""region_similarity and in_view against values computed by hand."""

import numpy as np
import pytest

from sam2edge.calibration.accuracy import in_view, region_similarity


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


def test_one_pair_of_masks_gives_a_scalar_array():
    similarity = region_similarity(masks("110")[0], masks("100")[0])
    assert similarity.shape == ()
    assert similarity == np.float32(0.5)


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
    with pytest.raises(ValueError, match="at least 1 but is 0"):
        in_view(true, pixels=0)
