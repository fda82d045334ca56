"""Boxes, x0 y0 x1 y1: how much two overlap, and which of several that overlap to keep."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sam2edge.types import Floats


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
        apart = ~(overlaps(rest[0], rest[1:]).astype(np.float64) > threshold)
        order, rest = order[1:][apart], rest[1:][apart]
    return np.array(kept, np.intp)


def overlaps(box: Floats, others: Floats) -> Floats:
    """Return the IoU of one box [4] with others [N,4]; NaN where neither has an area."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    inter = np.prod(np.maximum(high - low, 0), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - inter
    with np.errstate(invalid="ignore"):
        iou: Floats = inter / union
    return iou
