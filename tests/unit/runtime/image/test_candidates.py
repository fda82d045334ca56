"""Grids, crops and cleaned masks: against upstream's formulas and PyTorch."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sam2edge.runtime.image.candidates import (
    Candidate,
    Crop,
    image_crops,
    point_grid,
    without_small_components,
)
from sam2edge.runtime.image.components import remove_small_components
from sam2edge.runtime.media.packed import PackedMask


def test_point_grid() -> None:
    assert point_grid(1).tolist() == [[0.5, 0.5]]
    assert point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    grid = point_grid(32)
    assert grid.shape == (1024, 2)
    assert np.allclose(np.diff(grid[:32, 0]), 1 / 32)


def test_crops() -> None:
    """512/1500 of 480 pixels is 163: crops are (163 + 640) / 2 by (163 + 480) / 2, rounded up, column by column."""
    assert image_crops((480, 640), 0, 0.3) == [Crop((0, 0, 640, 480), 0)]
    crops = image_crops((480, 640), 1, 512 / 1500)
    assert [crop.box for crop in crops] == [
        (0, 0, 640, 480),
        (0, 0, 402, 322),
        (0, 159, 402, 480),
        (239, 0, 640, 322),
        (239, 159, 640, 480),
    ]
    assert [crop.layer for crop in crops] == [0, 1, 1, 1, 1]
    assert crops[2].size == (321, 402)


def test_every_layer_covers_the_image() -> None:
    for size in ((480, 640), (333, 77)):
        crops = image_crops(size, 3, 512 / 1500)
        assert [sum(crop.layer == layer for crop in crops) for layer in range(4)] == [1, 4, 16, 64]
        for layer in range(4):
            covered = np.zeros(size, bool)
            for x0, y0, x1, y1 in (crop.box for crop in crops if crop.layer == layer):
                covered[y0:y1, x0:x1] = True
            assert covered.all()


@pytest.mark.parametrize(
    ("box", "side", "cut"),
    [
        ((60, 60, 200, 200), 1000, False),
        ((0, 0, 200, 200), 1000, False),  # ends with the image, not cut by the crop
        ((60, 60, 380, 200), 1000, True),
        ((60, 60, 379, 200), 1000, False),
        ((60, 60, 200, 420), 1000, True),
        ((60, 60, 200, 421), 1000, False),
        ((0, 0, 399, 399), 400, False),  # the whole image cuts nothing
    ],
)
def test_cut_by_a_crop(box: tuple[int, int, int, int], side: int, cut: bool) -> None:
    assert Crop((0, 0, 400, 400), 1).cuts(box, (side, side)) is cut


@pytest.mark.parametrize("min_area", [1, 20, 60, 400, 5000])
def test_small_components_of_packed_masks(min_area: float) -> None:
    """As of whole masks, although only a mask's own part of the image is looked at: also at edges, and of any size."""
    rng = np.random.default_rng(int(min_area))
    crop = Crop((0, 0, 70, 50), 0)
    for reach in range(2, 50, 3):
        mask = np.zeros((50, 70), bool)
        x, y = rng.integers(0, 50 - reach // 2, 2)
        part = mask[y : y + reach, x : x + reach]
        part[:] = cv2.GaussianBlur(rng.normal(size=part.shape), (0, 0), 1.2) > rng.normal(0, 0.1)
        expected, changed = remove_small_components(mask, min_area)
        candidate = Candidate(PackedMask.pack(mask), 0.9, 1.0, (0, 0), crop)
        (cleaned,) = without_small_components([candidate], min_area, 0.5)
        assert np.array_equal(cleaned.mask.unpack(), expected)
        assert (cleaned is not candidate) == changed
