"""What a detector of words returns for a frame."""

from __future__ import annotations

from dataclasses import dataclass

from sam2edge.types import Floats


@dataclass(frozen=True, eq=False)
class Detections:
    """K boxes on one frame, best score first.

    Attributes:
        boxes: float32 [K,4], x0 y0 x1 y1 in pixels of the frame, clipped to it.
        scores: float32 [K], from 0 to 1; they are no probabilities, and those of different words do not compare well.
        words: the word that found each box.
    """

    boxes: Floats
    scores: Floats
    words: tuple[str, ...]
