"""Bring low-resolution mask logits to the image's size, only where there is something to see.

Upsampling all candidates of an image in full would take longer than the model on small devices. Bilinear values lie
between those they are made of, so nothing above a level can appear away from the low-resolution pixels above it: only
their neighbourhood is resized, and the result is the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Span = tuple[int, int]


@dataclass(frozen=True)
class Patch:
    """Logits float32 [h,w] of the part of an image whose upper left pixel is `x`, `y`."""

    x: int
    y: int
    logits: Floats


def patches(logits: Floats, size: tuple[int, int], level: float) -> Iterator[Patch]:
    """For each mask the part of its logits, resized to `size` (H,W), outside which all are ≤ `level`.

    logits: float32 [N,h,w]. Bilinear, without antialiasing, as torch.nn.functional.interpolate(align_corners=False).
    A mask that is nowhere above `level` gives any part. Values on the rim of a patch that are not above `level` may
    differ from those of the whole image.
    """
    above = logits > np.float32(level)
    for mask, in_row, in_column in zip(logits, above.any(axis=2), above.any(axis=1), strict=True):
        rows, columns = np.flatnonzero(in_row), np.flatnonzero(in_column)
        if not len(rows):
            rows = columns = np.zeros(1, np.intp)
        (top, bottom), (y0, y1) = _aligned(rows, len(mask), size[0])
        (left, right), (x0, x1) = _aligned(columns, mask.shape[1], size[1])
        part = mask[top:bottom, left:right]
        yield Patch(x0, y0, cv2.resize(part, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR))


def _aligned(used: npt.NDArray[np.intp], low: int, high: int) -> tuple[Span, Span]:
    """The span around `used`, and the same of `high` pixels, so that both begin and end between two pixels.

    One pixel more on each side, because a pixel colours its neighbours' side up to their centres.
    """
    step = low // math.gcd(low, high)
    first = max(int(used[0]) - 1, 0) // step
    last = -(-min(int(used[-1]) + 2, low) // step)
    scaled = high * step // low
    return (first * step, last * step), (first * scaled, last * scaled)
