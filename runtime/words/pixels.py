"""Frames as word detectors take them: the square images of transformers' processors, in 8 bits.

The processors are those on torchvision, transformers' default. OWLv2's works in floats, and rounding its result costs
half a level. (Its variant on SciPy mirrors where it enlarges and repeats the border here, and differs there by up to 76
levels.) OWL-ViT's works in 8 bits; one level is left. Normalisation is in the detector's graph.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge.bundle.words import WordsModel
from sam2edge.runtime.model.resize import cubic, resize
from sam2edge.types import Floats, Frame


def square_image(frame: Frame, model: WordsModel) -> Frame:
    """Return a frame, RGB uint8 [H,W,3], as the detector takes it: uint8 [S,S,3]."""
    return _letterboxed(frame, model.image_size) if model.letterbox else resize(frame, model.image_size, cubic)


def square_size(size: tuple[int, int], model: WordsModel) -> Floats:
    """Return what brings boxes from fractions of the square to pixels of a frame of `size` (H,W): [4]."""
    height, width = (max(size), max(size)) if model.letterbox else size
    return np.array([width, height, width, height], np.float32)


def _letterboxed(frame: Frame, size: int) -> Frame:
    """Pad with black to a square, at the bottom or the right; blur if it shrinks; resize bilinearly; round once."""
    side = max(frame.shape[:2])
    pixels = frame if side <= size else _blurred(frame, (side / size - 1) / 2)
    square = _padded(pixels.astype(np.float32, copy=False), side, side)
    resized = cv2.resize(square, (size, size), interpolation=cv2.INTER_LINEAR)
    rounded: Frame = np.rint(resized).astype(np.uint8)
    return rounded


def _blurred(frame: Frame, sigma: float) -> Floats:
    """Return a frame that is padded to a square, as far as anything of it is left there after the blur."""
    radius, side = math.ceil(3 * sigma), max(frame.shape[:2])
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    # Twice the radius: what is reflected at an edge that is not the square's own must be black.
    height, width = (min(length + 2 * radius, side) for length in frame.shape[:2])
    blurred: Floats = cv2.sepFilter2D(
        _padded(frame, height, width), cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REFLECT_101
    )
    return blurred


def _padded(pixels: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[Any]:
    rows, columns = pixels.shape[:2]
    padded: npt.NDArray[Any] = cv2.copyMakeBorder(pixels, 0, height - rows, 0, width - columns, cv2.BORDER_CONSTANT)
    return padded
