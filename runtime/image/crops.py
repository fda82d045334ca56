"""Point grids and crops of the automatic mask generator (upstream: sam2/utils/amg.py)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sam2edge.errors import InputError

_EDGE = 20
"""Pixels from a crop's edge within which a mask's side counts as cut off by it."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Crop:
    """A part of the image: x0, y0, x1, y1 in pixels, the last two exclusive, and its layer (0: the whole image)."""

    box: Box
    layer: int

    @property
    def size(self) -> tuple[int, int]:
        """(H,W)."""
        x0, y0, x1, y1 = self.box
        return y1 - y0, x1 - x0

    def cuts(self, box: Box, image_size: tuple[int, int]) -> bool:
        """Whether a side of `box` (pixels of the image) lies at an edge of the crop that is none of the image."""
        height, width = image_size
        edges = zip(box, self.box, (0, 0, width, height), strict=True)
        return any(abs(side - crop) <= _EDGE < abs(side - image) for side, crop, image in edges)


def point_grid(side: int) -> npt.NDArray[np.float64]:
    """`side` × `side` points at the centres of equal cells of the unit square: [side²,2] x, y, row by row."""
    centres = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(centres, centres)
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def crops(image_size: tuple[int, int], layers: int, overlap_ratio: float) -> list[Crop]:
    """The whole image, then for layer i = 1, 2, … its 4^i overlapping crops, column by column.

    image_size: (H,W). overlap_ratio: of the image's shorter side, for layer 1; half of it for each further layer.
    Raises InputError when the image has not enough pixels for so many crops.
    """
    height, width = image_size
    found = [Crop((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / count))
        columns, rows = (_spans(length, count, overlap) for length in (width, height))
        if any(first >= last for first, last in (*columns, *rows)):
            raise InputError(f"crop_n_layers={layers} cuts a {width}×{height} image into empty crops; take fewer")
        found += [Crop((x0, y0, x1, y1), layer) for x0, x1 in columns for y0, y1 in rows]
    return found


def _spans(length: int, count: int, overlap: int) -> list[tuple[int, int]]:
    span = math.ceil((overlap * (count - 1) + length) / count)
    return [(i * (span - overlap), min(i * (span - overlap) + span, length)) for i in range(count)]
