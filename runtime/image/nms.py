"""Non-maximum suppression of boxes, as torchvision's `nms` and `batched_nms` with one category do it.

torchvision is not on the device. cv2.dnn.NMSBoxes gives the same for boxes with an area and scores above 0. But it
calls two boxes without area identical (masks one pixel wide have such boxes: upstream's end with the last column),
drops boxes whose score is 0 (masks that were cleaned have that) and rounds the threshold to float32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def nms(boxes: npt.ArrayLike, scores: npt.ArrayLike, threshold: float) -> npt.NDArray[np.intp]:
    """Indices of the boxes that stay, best score first; equal scores keep their order.

    boxes: [N,4] x0, y0, x1, y1; scores: [N]. A box goes if its IoU with a better one that stays is above `threshold`.
    All arithmetic is in float32, as torchvision's is (ops/cpu/nms_kernel.cpp).
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


def _iou(box: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """IoU of one box with others; NaN where neither has an area."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    inter = np.prod(np.maximum(high - low, 0), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - inter
    with np.errstate(invalid="ignore"):
        iou: npt.NDArray[np.float32] = inter / union
    return iou
