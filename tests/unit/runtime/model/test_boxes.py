"""Box suppression, against a plain loop and OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from sam2edge.runtime.model.boxes import nms

Boxes = npt.NDArray[np.float64]


def random_boxes(seed: int, count: int, *, least: int) -> tuple[Boxes, Boxes]:
    """Return overlapping boxes with integer corners, and scores of which some are equal."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 60, (count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(least, 60, (count, 2))], axis=1).astype(float)
    return boxes, rng.integers(1, 50, count) / 50


def nms_in_a_loop(boxes: Boxes, scores: Boxes, threshold: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        for j in kept:
            across, down = np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2])
            shared = max(across, 0) * max(down, 0)
            union = np.prod(boxes[i, 2:] - boxes[i, :2]) + np.prod(boxes[j, 2:] - boxes[j, :2]) - shared
            if union and shared / union > threshold:
                break
        else:
            kept.append(i)
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("least", [0, 1, 30])
def test_nms_as_in_a_loop(threshold: float, least: int) -> None:
    for seed in range(5):
        boxes, scores = random_boxes(seed, 100, least=least)
        assert nms(boxes, scores, threshold).tolist() == nms_in_a_loop(boxes, scores, threshold)


def test_nms_at_the_threshold_and_of_no_boxes() -> None:
    assert nms([[0, 0, 2, 1], [0, 0, 1, 1]], [0.9, 0.8], 0.5).tolist() == [0, 1]
    assert nms([[0, 0, 2, 1], [0, 0, 1, 1]], [0.9, 0.8], 0.49).tolist() == [0]
    kept = nms([], [], 0.5)
    assert kept.shape == (0,)
    assert kept.dtype == np.intp


def test_nms_of_opencv_agrees_only_on_boxes_with_area() -> None:
    """Why cv2.dnn.NMSBoxes is not used; once this fails, it can be."""

    def opencv(boxes: Boxes, scores: Boxes) -> list[int]:
        sized = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        return list(np.ravel(cv2.dnn.NMSBoxes(sized.tolist(), scores.tolist(), 0.0, 0.5)))

    boxes, scores = random_boxes(0, 100, least=1)
    assert nms(boxes, scores, 0.5).tolist() == opencv(boxes, scores)
    lines = np.array([[1, 1, 1, 6], [9, 50, 9, 55.0]])
    assert nms(lines, [0.9, 0.8], 0.5).tolist() == [0, 1]
    assert opencv(lines, np.array([0.9, 0.8])) == [0]
    assert opencv(boxes[:1], np.zeros(1)) == []
