"""What may be called detections, and what of them is within a frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sam2edge.errors import InputError
from sam2edge.runtime.words.detections import Detections


def test_lists_become_arrays() -> None:
    found = Detections([[0, 1, 2, 3]], [1], ["cup"])  # type: ignore[arg-type]
    assert (found.boxes.dtype, found.boxes.shape, found.scores.dtype) == (np.float32, (1, 4), np.float32)
    assert found.words == ("cup",)
    assert Detections([], [], ()).boxes.shape == (0, 4)  # type: ignore[arg-type]


def test_within_a_frame() -> None:
    """Clipped, and without what has no pixel there."""
    boxes = [[-5, 2, 10, 60], [63.5, 0, 80, 9], [5, 5, 5, 9], [70, 2, 90, 9], [62, 46, 64, 48]]
    found = Detections(boxes, np.arange(5) / 10, tuple("abcde")).within((48, 64))  # type: ignore[arg-type]
    assert found.boxes.tolist() == [[0, 2, 10, 48], [62, 46, 64, 48]]
    assert (found.scores.tolist(), found.words) == ([0, np.float32(0.4)], ("a", "e"))


@pytest.mark.parametrize(
    ("boxes", "scores", "words", "message"),
    [
        (
            [[0, 1, 2]],
            [1],
            ["cup"],
            r"must be boxes \[K,4\], scores \[K\] and K words but got \[1, 3\]",
        ),
        ([[0, 1, 2, 3]], [1, 2], ["cup"], r"but got \[1, 4\], \[2\] and 1 words"),
        ([[0, 1, 2, 3]], [1], [], r"\[1, 4\], \[1\] and 0 words"),
        ([[0, 1, 2, np.nan]], [1], ["cup"], "the boxes of detections must be finite"),
        ([[0, 1, 2, 3]], ["high"], ["cup"], "the scores of detections must be numbers"),
        ([[0, 1], [2]], [1], ["cup"], "the boxes of detections must be numbers"),
    ],
)
def test_no_detections(boxes: Any, scores: Any, words: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Detections(boxes, scores, words)
