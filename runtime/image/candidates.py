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
from sam2edge.types import Bools, Floats

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


def nms(boxes: npt.ArrayLike, scores: npt.ArrayLike, threshold: float) -> npt.NDArray[np.intp]:
    """Return the indices of the boxes that non-maximum suppression keeps, best score first; ties keep their order.

    This is torchvision's `nms` (ops/cpu/nms_kernel.cpp), which would bring PyTorch, in its float32 arithmetic.
    cv2.dnn.NMSBoxes agrees for boxes with an area and scores above 0. But it calls two boxes without an area identical
    (masks one pixel wide have such boxes), drops boxes whose score is 0 (cleaned masks have that score) and rounds the
    threshold to float32. Boxes are [N,4] x0, y0, x1, y1; one goes if its IoU with a better one is above `threshold`.
    """
    order = np.argsort(-np.asarray(scores, np.float32), kind="stable")
    rest = np.asarray(boxes, np.float32).reshape(-1, 4)[order]
    kept = []
    while len(order):
        kept.append(order[0])
        # Compared in float64: the threshold must not be rounded to the IoU's precision.
        apart = ~(_iou(rest[0], rest[1:]).astype(np.float64) > threshold)
        order, rest = order[1:][apart], rest[1:][apart]
    return np.array(kept, np.intp)


def _iou(box: Floats, others: Floats) -> Floats:
    """Return the IoU of one box with others; NaN where neither has an area."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    inter = np.prod(np.maximum(high - low, 0), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - inter
    with np.errstate(invalid="ignore"):
        iou: Floats = inter / union
    return iou


def _spans(length: int, count: int, overlap: int) -> list[Span]:
    span = math.ceil((overlap * (count - 1) + length) / count)
    return [(i * (span - overlap), min(i * (span - overlap) + span, length)) for i in range(count)]
