"""J, F and J&F of predicted masks, as DAVIS 2017 defines them.

Decisions of the official evaluation (davisvideochallenge/davis2017-evaluation, metrics.py and evaluation.py) kept here:

- The boundary is the set of pixels that differ from their neighbour to the right, below, or diagonally below to the
  right; the image's edge does not count. It is matched within ceil(0.008 · diagonal) pixels, by dilation with a disk.
- Two empty masks agree: J = F = 1. If only one is empty, J = F = 0. (A mask that fills the image has no boundary.)
- The first frame, whose mask is given, and the last one are left out (`davis_mean`).
- Scores are averaged over each object's frames, then over objects, whose masks may overlap here.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge.types import Bools, Floats

BOUNDARY_TOLERANCE = 0.008
"""Largest distance between matching boundary pixels, relative to the image's diagonal (DAVIS 2017)."""


def region_similarity(predicted: Bools, true: Bools) -> Floats:
    """Return the Jaccard index J (intersection over union) of masks bool [..., H, W]: float32 [...].

    Source: Pont-Tuset et al., "The 2017 DAVIS Challenge on Video Object Segmentation", section 3.
    """
    _check_pair(predicted, true)
    both = np.count_nonzero(predicted & true, axis=(-2, -1))
    either = np.count_nonzero(predicted | true, axis=(-2, -1))
    return np.where(either == 0, 1.0, both / np.maximum(either, 1)).astype(np.float32)


def contour_accuracy(predicted: Bools, true: Bools) -> Floats:
    """Return the boundary F-measure F of masks bool [..., H, W]: float32 [...].

    It is the harmonic mean of the precision and recall of boundary pixels; 1 where neither mask has a boundary, 0 where
    only one has.

    Source: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", section
    3.2, as in db_eval_boundary of davis2017-evaluation.
    """
    _check_pair(predicted, true)
    radius = math.ceil(BOUNDARY_TOLERANCE * math.hypot(*true.shape[-2:]))
    steps = np.arange(-radius, radius + 1)
    disk = (steps[:, None] ** 2 + steps**2 <= radius**2).astype(np.uint8)
    result = np.empty(true.shape[:-2], np.float32)
    for index in np.ndindex(result.shape):
        result[index] = _boundary_f(_boundary(predicted[index]), _boundary(true[index]), disk)
    return result


def davis_mean(values: Floats) -> Floats:
    """Return the mean of J or F over a clip's frames without the first and the last: [T, ...] → [...]."""
    if len(values) < 3:
        raise ValueError(f"DAVIS leaves the first and the last frame out: needs at least 3 but got {len(values)}")
    mean: Floats = values[1:-1].mean(axis=0)
    return mean


def in_view(true: Bools, pixels: int = 16) -> Bools:
    """Return which true masks bool [..., H, W] show enough pixels of their object to score it: bool [...].

    Means over frames leave the others out: an absent object scores 1 for an empty mask and 0 for one stray pixel, and
    either would weigh as much as a frame that shows all of it.
    """
    _check("true", true)
    return np.asarray(np.count_nonzero(true, axis=(-2, -1)) >= pixels)


def _boundary(mask: Bools) -> Bools:
    """Return the pixels [H,W] that differ from a neighbour to the right or below (David Martin's seg2bmap)."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")  # a pixel does not differ from what lies outside
    right, below, diagonal = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    boundary: Bools = (mask ^ right) | (mask ^ below) | (mask ^ diagonal)
    return boundary


def _boundary_f(predicted: Bools, true: Bools, disk: npt.NDArray[np.uint8]) -> float:
    count, true_count = np.count_nonzero(predicted), np.count_nonzero(true)
    if not count or not true_count:
        return float(count == true_count)
    near_true = cv2.dilate(true.view(np.uint8), disk).view(np.bool_)
    near_predicted = cv2.dilate(predicted.view(np.uint8), disk).view(np.bool_)
    precision = np.count_nonzero(predicted & near_true) / count
    recall = np.count_nonzero(true & near_predicted) / true_count
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _check_pair(predicted: Bools, true: Bools) -> None:
    _check("predicted", predicted)
    _check("true", true)
    if predicted.shape != true.shape:
        raise ValueError(f"predicted and true must have one shape but are {predicted.shape} and {true.shape}")


def _check(name: str, masks: Bools) -> None:
    # A mask of 0 and 255 would pass through & and | as bits and silently give a wrong count.
    if masks.dtype != np.bool_ or masks.ndim < 2:
        raise ValueError(f"{name} must be bool [..., H, W] but is {masks.dtype} {list(masks.shape)}")
