"""Grids and crops: values worked out from upstream's formulas."""

from __future__ import annotations

import numpy as np
import pytest

from sam2edge.errors import InputError
from sam2edge.runtime.image.crops import Crop, crops, point_grid


def test_point_grid() -> None:
    assert point_grid(1).tolist() == [[0.5, 0.5]]
    assert point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    grid = point_grid(32)
    assert grid.shape == (1024, 2)
    assert np.allclose(np.diff(grid[:32, 0]), 1 / 32)


def test_no_layers() -> None:
    assert crops((480, 640), 0, 0.3) == [Crop((0, 0, 640, 480), 0)]


def test_one_layer() -> None:
    """512/1500 of 480 pixels is 163; crops of (163 + 640) / 2 and (163 + 480) / 2, rounded up; column by column."""
    found = crops((480, 640), 1, 512 / 1500)
    assert [crop.box for crop in found] == [
        (0, 0, 640, 480),
        (0, 0, 402, 322),
        (0, 159, 402, 480),
        (239, 0, 640, 322),
        (239, 159, 640, 480),
    ]
    assert [crop.layer for crop in found] == [0, 1, 1, 1, 1]
    assert found[2].size == (321, 402)


def test_layers_cover_the_image() -> None:
    for size in ((480, 640), (333, 77)):
        found = crops(size, 3, 512 / 1500)
        assert [sum(crop.layer == layer for crop in found) for layer in range(4)] == [1, 4, 16, 64]
        for layer in range(4):
            covered = np.zeros(size, bool)
            for x0, y0, x1, y1 in (crop.box for crop in found if crop.layer == layer):
                covered[y0:y1, x0:x1] = True
            assert covered.all()


def test_image_too_small() -> None:
    with pytest.raises(InputError, match=r"crop_n_layers=3 cuts a 9×9 image into empty crops; take fewer"):
        crops((9, 9), 3, 0)


@pytest.mark.parametrize(
    ("box", "cut"),
    [
        ((60, 60, 200, 200), False),
        ((0, 0, 200, 200), False),  # ends with the image, not cut by the crop
        ((60, 60, 380, 200), True),
        ((60, 60, 379, 200), False),
        ((60, 60, 200, 420), True),
        ((60, 60, 200, 421), False),
    ],
)
def test_cut_by_a_crop(box: tuple[int, int, int, int], cut: bool) -> None:
    assert Crop((0, 0, 400, 400), 1).cuts(box, (1000, 1000)) is cut


def test_the_whole_image_cuts_nothing() -> None:
    assert not Crop((0, 0, 400, 300), 0).cuts((0, 0, 399, 299), (300, 400))
