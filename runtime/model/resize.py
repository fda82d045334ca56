"""Resize frames to the model's square as SAM 2's image processor does: bilinear with antialiasing, in 8 bits.

OpenCV has no antialiased bilinear filter (INTER_LINEAR aliases when shrinking, INTER_AREA is a box), so the triangle
filter is applied here as a banded matrix, one axis after the other. So is the bicubic one of OWL-ViT. Normalisation is
in the encoder graph.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge.bundle.engines import RESIZE_WINDOWS
from sam2edge.errors import FrameError, MediaError

_BLOCK = 4
"""Output rows that share one dense piece of the banded filter matrix; a larger piece would be mostly zeros."""
_PRODUCT = 1 << 18
"""OpenBLAS computes a product of up to so many multiplications in one thread. Its other threads would spin on the cores
that the graphs need, and hold up the product whenever another process displaced one of them."""

Pixels = TypeVar("Pixels", np.uint8, np.float32)
Kernel = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


def check_frame(frame: object, size: tuple[int, int] | None = None, what: str = "a frame") -> npt.NDArray[np.uint8]:
    """Return a frame uint8 [H,W,3], of `size` (H,W) if given; raise FrameError about `what` for anything else."""
    if isinstance(frame, MediaError):  # what a source yields in place of a broken frame
        raise frame
    if not isinstance(frame, np.ndarray):
        pil = '; of an image of PIL, np.asarray(image.convert("RGB"))' if hasattr(frame, "convert") else ""
        raise FrameError(f"{what} must be a numpy array uint8 [H,W,3] (RGB) but got {type(frame).__name__}{pil}")
    if frame.dtype != np.uint8:
        raise FrameError(
            f"{what} must be uint8 (0…255) but got {frame.dtype}; scale its values to 0…255, then astype(np.uint8)"
        )
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise FrameError(f"{what} must be [H,W,3] (RGB) but got shape {list(frame.shape)}{_advice(frame.shape)}")
    if size is not None and frame.shape[:2] != size:
        raise FrameError(
            f"frame size changed from {size[1]}×{size[0]} to {frame.shape[1]}×{frame.shape[0]}; "
            "resize the frames, or reset() and prompt again"
        )
    return frame


def _advice(shape: tuple[int, ...]) -> str:
    """Return what makes RGB [H,W,3] of an array of another shape, as the end of a message."""
    if 0 in shape or len(shape) not in (2, 3):
        return ""
    if len(shape) == 2 or shape[2] == 1:
        return "; of grey, cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB) makes it"
    if shape[2] == 4:
        return "; of RGBA, cv2.cvtColor(frame, cv2.COLOR_RGBA2RGB) makes it"
    return "; if the channels come first, frame.transpose(1, 2, 0) makes it" if shape[0] == 3 else ""


def fit(frame: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return a frame [H,W,3] for an object that takes only frames of `size` (H,W): resized if it is of another."""
    if frame.shape[:2] == size:
        return frame
    shrinks = frame.shape[0] > size[0]
    fitted: npt.NDArray[np.uint8] = cv2.resize(
        frame, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return fitted


def triangle(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the weights of pixels by their distance from where they are sampled: those of bilinear filters."""
    return np.clip(1.0 - distance, 0.0, None)


def cubic(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the weights of bicubic filters, as `triangle`: Keys' with a = -0.5, as in Pillow and PyTorch."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))


def resize(pixels: npt.NDArray[Pixels], size: int, kernel: Kernel = triangle) -> npt.NDArray[Pixels]:
    """Resize [H,W] or [H,W,3] to [size,size,…], with antialiasing; uint8 is rounded after each axis.

    The result is that of torch.nn.functional.interpolate(antialias=True), bilinear or bicubic, which transformers'
    image processors call: width first, then height.
    """
    across = cv2.transpose(_filter_rows(cv2.transpose(pixels), size, kernel))
    return _filter_rows(across, size, kernel)


def _filter_rows(pixels: npt.NDArray[Pixels], size: int, kernel: Kernel) -> npt.NDArray[Pixels]:
    if len(pixels) == size:
        return pixels
    flat = pixels.reshape(len(pixels), -1)
    out = np.empty((size, flat.shape[1]), pixels.dtype)
    for start, first, weights in _bands(len(pixels), size, kernel):
        used = flat[first : first + weights.shape[1]].astype(np.float32)
        width = max(_PRODUCT // weights.size, 1)
        for left in range(0, used.shape[1], width):
            rows = weights @ used[:, left : left + width]
            if pixels.dtype == np.uint8:
                if kernel is cubic:  # which overshoots
                    rows = np.clip(rows, 0, 255)
                rows += 0.5  # the cast truncates: ties go up, as in PyTorch's fixed point (np.rint: to even)
            out[start : start + len(weights), left : left + width] = rows
    return out.reshape(size, *pixels.shape[1:])


def filter_weights(source: int, target: int, kernel: Kernel = triangle) -> npt.NDArray[np.float32]:
    """Return the filter from `source` rows to `target` as a matrix [target,source]."""
    scale = source / target
    centres = (np.arange(target) + 0.5) * scale
    distance = np.abs(np.arange(source) + 0.5 - centres[:, None]) / max(scale, 1.0)
    weights = kernel(distance)
    normalised: npt.NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return normalised


def window_size(source: int, target: int) -> int:
    """Return how many of `source` rows a block of `target // RESIZE_WINDOWS` rows needs at most."""
    reach = 2 * max(source / target, 1.0)
    return min(source, math.ceil(source / RESIZE_WINDOWS + reach) + 1)


def filter_inputs(size: tuple[int, int], target: int) -> dict[str, npt.NDArray[np.int32] | npt.NDArray[np.float32]]:
    """Return the filter for frames of a size (H,W) as the graph of engines/resize.py takes it, by input."""
    inputs: dict[str, npt.NDArray[np.int32] | npt.NDArray[np.float32]] = {}
    for name, length in zip(("rows", "columns"), size, strict=True):
        inputs[f"used_{name}"], inputs[name] = filter_windows(length, target)
    return inputs


def filter_windows(source: int, target: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Return the filter from `source` rows to `target`, a multiple of RESIZE_WINDOWS, as dense blocks.

    Returns:
        The rows that each block reads, int32 [16,K], and its weights float32 [16,target/16,K], with K from
        `window_size`.
    """
    blocks = filter_weights(source, target).reshape(RESIZE_WINDOWS, -1, source)
    size = window_size(source, target)
    first = np.minimum(blocks.any(axis=1).argmax(axis=1), source - size)
    used = (first[:, None] + np.arange(size)).astype(np.int32)
    return used, np.take_along_axis(blocks, used[:, None, :].astype(np.intp), axis=2)


@functools.lru_cache(maxsize=8)
def _bands(source: int, target: int, kernel: Kernel) -> tuple[tuple[int, int, npt.NDArray[np.float32]], ...]:
    """Return the filter in blocks: first output row, first input row, weights."""
    weights = filter_weights(source, target, kernel)
    bands = []
    for start in range(0, target, _BLOCK):
        block = weights[start : start + _BLOCK]
        used = np.flatnonzero(block.any(axis=0))
        first, last = int(used[0]), int(used[-1]) + 1
        bands.append((start, first, np.ascontiguousarray(block[:, first:last])))
    return tuple(bands)
