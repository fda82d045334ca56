"""Frames as word detectors take them: the square images of transformers' processors.

The processors are those on torchvision, transformers' default. OWLv2's works in floats: rounded to 8 bits, its result
would move scores of the bundled detector by 0.003. (Its variant on SciPy mirrors where it enlarges and repeats the
border here, and differs there by up to 76 levels.) OWL-ViT's works in 8 bits; one level is left. Normalisation is in
the detector's graph.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from sam2edge.bundle.words import WordsModel
from sam2edge.runtime.model.resize import cubic, resize
from sam2edge.types import Floats, Frame


def square_image(frame: Frame, model: WordsModel) -> Floats:
    """Return a frame, RGB uint8 [H,W,3], as the detector takes it: float32 [S,S,3] in 0…255."""
    size = model.image_size
    return _letterboxed(frame, size) if model.letterbox else resize(frame, size, cubic).astype(np.float32)


def square_size(size: tuple[int, int], model: WordsModel) -> Floats:
    """Return what brings boxes from fractions of the square to pixels of a frame of `size` (H,W): [4]."""
    height, width = (max(size), max(size)) if model.letterbox else size
    return np.array([width, height, width, height], np.float32)


def _letterboxed(frame: Frame, size: int) -> Floats:
    """Pad with black to a square, at the bottom or the right; blur if it shrinks; resize bilinearly.

    Of the square, only the part is computed that is not black. Its sides are multiples of what becomes whole pixels.
    """
    side = max(frame.shape[:2])
    sigma = max(side / size - 1, 0) / 2
    radius, unit = math.ceil(3 * sigma), side // math.gcd(side, size)
    # Twice the radius, since what is reflected at an edge that is not the square's own must be black.
    height, width = (min(-(-(length + 2 * radius + 1) // unit) * unit, side) for length in frame.shape[:2])
    rows, columns = frame.shape[:2]
    part = cv2.copyMakeBorder(frame, 0, height - rows, 0, width - columns, cv2.BORDER_CONSTANT)
    if radius:
        kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        kernel /= kernel.sum()
        pixels = cv2.sepFilter2D(part, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)
    else:
        pixels = part.astype(np.float32)
    shape = height * size // side, width * size // side
    square = np.zeros((size, size, 3), np.float32)
    square[: shape[0], : shape[1]] = cv2.resize(pixels, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return square
