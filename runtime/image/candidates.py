"""Masks that the automatic mask generator may keep, small enough in memory to hold thousands of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge.runtime.image.components import remove_small_regions
from sam2edge.runtime.image.crops import Box, Crop
from sam2edge.runtime.image.nms import nms

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Shape:
    """A mask within its box. As upstream's, the box ends with the mask's last column and row, and not after them."""

    box: Box
    area: int
    packed: npt.NDArray[np.uint8]  # the bits of the mask within its box

    @staticmethod
    def of(mask: Mask, offset: tuple[int, int] = (0, 0)) -> Shape:
        """The shape of `mask` (bool [h,w], contiguous), whose first pixel lies at `offset` (x, y) of the image."""
        left, top = offset
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8)) if mask.size else (0, 0, 0, 0)
        if not width:
            return Shape((left, top, left, top), 0, np.empty(0, np.uint8))
        inside = np.ascontiguousarray(mask[y : y + height, x : x + width])  # numpy counts and packs these quicker
        box = (left + x, top + y, left + x + width - 1, top + y + height - 1)
        return Shape(box, int(np.count_nonzero(inside)), np.packbits(inside))

    def mask(self, size: tuple[int, int]) -> Mask:
        """The mask as bool [H,W]."""
        mask = np.zeros(size, bool)
        if self.area:
            x0, y0, x1, y1 = self.box
            part = mask[y0 : y1 + 1, x0 : x1 + 1]
            part[:] = np.unpackbits(self.packed, count=part.size).reshape(part.shape)
        return mask


@dataclass(frozen=True)
class Candidate:
    """A mask that passed the filters, and where it came from. Coordinates are pixels of the image."""

    shape: Shape
    iou: float
    stability: float
    point: tuple[float, float]
    crop: Crop


def best(candidates: Sequence[Candidate], threshold: float) -> list[Candidate]:
    """Without duplicates: of two boxes that overlap by an IoU above `threshold` the higher predicted IoU stays."""
    return _select(candidates, [candidate.iou for candidate in candidates], threshold)


def of_smallest_crops(candidates: Sequence[Candidate], threshold: float) -> list[Candidate]:
    """Without duplicates: of two boxes that overlap by an IoU above `threshold` that of the smaller crop stays."""
    return _select(candidates, [1 / math.prod(candidate.crop.size) for candidate in candidates], threshold)


def without_small_regions(
    candidates: Sequence[Candidate], min_area: float, size: tuple[int, int], threshold: float
) -> list[Candidate]:
    """Candidates whose masks lost holes and islands below `min_area` pixels; of duplicates the unchanged one stays.

    size: (H,W) of the image. threshold: box IoU above which two are duplicates. Unchanged ones come first.
    """
    cleaned, unchanged = [], []
    for candidate in candidates:
        mask, changed = remove_small_regions(candidate.shape.mask(size), min_area)
        cleaned.append(dataclasses.replace(candidate, shape=Shape.of(mask)) if changed else candidate)
        unchanged.append(float(not changed))
    return _select(cleaned, unchanged, threshold)


def _select(candidates: Sequence[Candidate], scores: Sequence[float], threshold: float) -> list[Candidate]:
    boxes = [candidate.shape.box for candidate in candidates]
    return [candidates[i] for i in nms(boxes, scores, threshold)]
