"""Whether a mask and a box, or two masks, belong to one object."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sam2edge.runtime.model.result import FrameResult
from sam2edge.types import Bools, Floats

_AGREES = 0.5
"""IoU of a detection's box and a mask's, from which on the detection is of the mask's object."""
_INSIDE, _FILLED = 0.8, 0.25
"""Or the object is partly hidden: so much of the mask is in the box, of which it fills so much."""

_PART = 0.7
"""So much of a mask that is a part of another one is within that."""


@dataclass(frozen=True, eq=False)
class Shape:
    """A mask without what surrounds it: bool [h,w], of `area` pixels, and where it is: float32 x0 y0 x1 y1."""

    box: Floats
    mask: Bools
    area: int

    def agrees(self, box: Floats) -> float:
        """Return how well a detection's box fits this object, from 0 to 1; 0 if it is of another one."""
        overlap = box_iou(self.box, box)
        if overlap >= _AGREES:
            return overlap
        inside = np.count_nonzero(self._cut(box))
        is_hidden = inside >= _INSIDE * self.area and inside >= _FILLED * float(np.prod(box[2:] - box[:2]))
        return _AGREES * inside / self.area if is_hidden else 0.0

    def shared(self, other: Shape) -> int:
        """Return how many pixels both have."""
        both = np.concatenate((np.maximum(self.box[:2], other.box[:2]), np.minimum(self.box[2:], other.box[2:])))
        return int(np.count_nonzero(self._cut(both) & other._cut(both)))

    def iou(self, other: Shape) -> float:
        """Return the IoU of the two masks."""
        shared = self.shared(other)
        return shared / (self.area + other.area - shared)

    def is_part(self, other: Shape) -> bool:
        """Tell whether this mask is the same as another one or a part of it."""
        return self.shared(other) > _PART * self.area

    def _cut(self, box: Floats) -> Bools:
        x0, y0, x1, y1 = np.maximum(np.rint(box - np.tile(self.box[:2], 2)), 0).astype(int).tolist()
        return self.mask[y0:y1, x0:x1]


def visible_shapes(result: FrameResult) -> dict[int, Shape]:
    """Return the shape of each object that is in view, by its id."""
    shapes = {}
    for n, x, y, logits in result.patches():
        mask = logits > 0
        left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
        if width:
            mask = mask[top : top + height, left : left + width]
            box = np.array([x + left, y + top, x + left + width, y + top + height], np.float32)
            shapes[result.object_ids[n]] = Shape(box, mask, int(np.count_nonzero(mask)))
    return shapes


def box_iou(one: Floats, other: Floats) -> float:
    """Return the IoU of two boxes x0 y0 x1 y1 that have an area."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    return shared / (float(np.prod(one[2:] - one[:2])) + float(np.prod(other[2:] - other[:2])) - shared)
