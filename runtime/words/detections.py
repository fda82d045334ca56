"""What a detector of words returns for a frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sam2edge.errors import InputError
from sam2edge.types import Floats


@dataclass(frozen=True, eq=False)
class Detections:
    """K boxes on one frame, best score first; lists of numbers become arrays. InputError if their sizes differ.

    Attributes:
        boxes: float32 [K,4], x0 y0 x1 y1 in pixels of the frame, clipped to it.
        scores: float32 [K], from 0 to 1; they are no probabilities, and those of different words do not compare well.
        words: the word that found each box.
    """

    boxes: Floats
    scores: Floats
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("boxes", "scores"):
            try:
                values = np.asarray(getattr(self, name), np.float32)
            except (OverflowError, TypeError, ValueError) as error:
                raise InputError(f"the {name} of detections must be numbers") from error
            if not np.isfinite(values).all():
                raise InputError(f"the {name} of detections must be finite")
            object.__setattr__(self, name, values)
        object.__setattr__(self, "words", tuple(self.words))
        count = len(self.words)
        if not count:
            object.__setattr__(self, "boxes", self.boxes.reshape(-1, 4))
        if self.boxes.shape != (count, 4) or self.scores.shape != (count,):
            raise InputError(
                f"detections must be boxes [K,4], scores [K] and K words but got {list(self.boxes.shape)}, "
                f"{list(self.scores.shape)} and {count} words"
            )

    def within(self, size: tuple[int, int]) -> Detections:
        """Return those that cover a pixel of a frame of `size` (H,W), clipped to it."""
        height, width = size
        boxes = np.clip(self.boxes, 0, np.array([width, height, width, height], np.float32))
        kept = np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1))
        return Detections(boxes[kept], self.scores[kept], tuple(self.words[n] for n in kept))
