"""Small holes and islands of drawn masks."""

from __future__ import annotations

import numpy as np

from sam2edge.runtime.image.components import fill_small_components, remove_small_components


def drawn() -> np.ndarray:
    """Return a square of 20×20 with holes of 2×2 and 4×4, and islands of 3×3 and 1×1."""
    mask = np.zeros((40, 40), bool)
    mask[2:22, 2:22] = True
    mask[5:7, 5:7] = False
    mask[10:14, 10:14] = False
    mask[30:33, 30:33] = True
    mask[37, 37] = True
    return mask


def test_holes_and_islands() -> None:
    mask, expected = drawn(), drawn()
    expected[5:7, 5:7] = True
    expected[37, 37] = False
    cleaned, changed = remove_small_components(mask, 5)
    assert changed
    assert cleaned.dtype == np.bool_
    assert np.array_equal(cleaned, expected)
    same, changed = remove_small_components(mask, 1)
    assert not changed
    assert same is mask


def test_the_largest_island_stays() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:5, 2:5] = True
    mask[10, 10] = True
    cleaned, changed = remove_small_components(mask, 100)
    assert changed
    assert cleaned.sum() == 9


def test_corners_touch() -> None:
    mask = np.zeros((20, 20), bool)
    mask[0:3, 0:3] = mask[3:6, 3:6] = True
    assert not remove_small_components(mask, 18)[1]


def test_empty_and_full() -> None:
    for mask in (np.zeros((9, 9), bool), np.ones((9, 9), bool)):
        cleaned, changed = remove_small_components(mask, 50)
        assert not changed
        assert np.array_equal(cleaned, mask)


def test_logits_of_small_holes_and_islands_are_filled_and_cleared() -> None:
    logits = np.full((1, 2, 16, 16), -3.0, np.float32)
    logits[..., 2:12, 2:12] = 4
    logits[0, 0, 5, 5:7] = -1  # a hole of two pixels
    logits[0, 0, 14, 3:6] = 2  # an island of three
    for hole, sprinkle in ((0, 0), (1, 2), (2, 2), (1.9, 3), (2, 3)):
        expected = logits.copy()
        if hole >= 2:
            expected[0, 0, 5, 5:7] = 10.5
        if sprinkle >= 3:
            expected[0, 0, 14, 3:6] = -9.5
        np.testing.assert_array_equal(fill_small_components(logits, 0.5, hole, sprinkle), expected)
