"""The automatic mask generator's candidates: where to look for masks, and which of those found to keep.

The geometry is upstream's (sam2/utils/amg.py). Masks are packed, so that memory holds thousands of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sam2edge.errors import InputError
from sam2edge.runtime.image.components import remove_small_components
from sam2edge.runtime.media.packed import Box, PackedMask
from sam2edge.runtime.model.boxes import nms
from sam2edge.types import Bools

Span = tuple[int, int]

_EDGE = 20
"""Pixels from a crop's edge within which a mask's side counts as cut off by it."""


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
        """Return whether a side of `box` (pixels of the image) lies at an edge of the crop but not of the image."""
        height, width = image_size
        edges = zip(box, self.box, (0, 0, width, height), strict=True)
        return any(abs(side - crop) <= _EDGE < abs(side - image) for side, crop, image in edges)


@dataclass(frozen=True)
class Candidate:
    """A mask that passed the filters, and where it came from. Coordinates are pixels of the image."""

    mask: PackedMask
    iou: float
    stability: float
    point: tuple[float, float]
    crop: Crop


def point_grid(side: int) -> npt.NDArray[np.float64]:
    """Return `side` × `side` points at the centres of equal cells of the unit square: [side²,2] x, y, row by row."""
    centres = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(centres, centres)
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def image_crops(image_size: tuple[int, int], layers: int, overlap_ratio: float) -> list[Crop]:
    """Return the whole image (H,W), then for layer i = 1, 2, … its 4^i overlapping crops, column by column.

    `overlap_ratio` is of the image's shorter side in layer 1, and halves with each further layer. An InputError says
    that the image is too small for that many crops.
    """
    height, width = image_size
    crops = [Crop((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / count))
        columns, rows = (_spans(length, count, overlap) for length in (width, height))
        if any(first >= last for first, last in (*columns, *rows)):
            raise InputError(f"crop_n_layers={layers} cuts a {width}×{height} image into empty crops; take fewer")
        crops += [Crop((x0, y0, x1, y1), layer) for x0, x1 in columns for y0, y1 in rows]
    return crops


def without_duplicates(candidates: Sequence[Candidate], scores: Sequence[float], threshold: float) -> list[Candidate]:
    """Keep the higher score of any two candidates whose boxes overlap by an IoU above `threshold`; best score first."""
    boxes = [candidate.mask.box for candidate in candidates]
    return [candidates[i] for i in nms(boxes, scores, threshold)]


def without_small_components(candidates: Sequence[Candidate], min_area: float, threshold: float) -> list[Candidate]:
    """Remove holes and islands below `min_area` pixels from the masks, then duplicates.

    Of duplicates, whose boxes overlap by an IoU above `threshold`, an unchanged one stays; unchanged ones come first.
    """
    cleaned, unchanged = [], []
    for candidate in candidates:
        mask, offset = _surrounded(candidate.mask, min_area)
        mask, changed = remove_small_components(mask, min_area)
        packed = PackedMask.pack(mask, offset, candidate.mask.size)
        cleaned.append(dataclasses.replace(candidate, mask=packed) if changed else candidate)
        unchanged.append(float(not changed))
    return without_duplicates(cleaned, unchanged, threshold)


def _surrounded(mask: PackedMask, min_area: float) -> tuple[Bools, tuple[int, int]]:
    """Return a mask with so much around it that holes can be told from what surrounds it, and that part's x, y.

    On each side, there is a strip of `min_area` pixels or more, or all that the image has there: what surrounds the
    mask is too large for a hole exactly if it is in the whole image.
    """
    x, y, width, height = mask.bounds
    across, down = (math.ceil(min_area / max(side, 1)) + 1 for side in (height, width))
    left, top = max(x - across, 0), max(y - down, 0)
    right, bottom = min(x + width + across, mask.size[1]), min(y + height + down, mask.size[0])
    part = np.zeros((bottom - top, right - left), bool)
    part[y - top : y - top + height, x - left : x - left + width] = mask.inside()
    return part, (left, top)


def _spans(length: int, count: int, overlap: int) -> list[Span]:
    span = math.ceil((overlap * (count - 1) + length) / count)
    return [(i * (span - overlap), min(i * (span - overlap) + span, length)) for i in range(count)]
