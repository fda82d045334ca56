"""Low-resolution mask logits: their limits, their size, and how stable a mask is."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge import checks
from sam2edge.errors import InputError
from sam2edge.types import Floats

ABSENT_LOGIT = -1024.0
"""Logits of an object that is not in view (sam2_base.py, NO_OBJ_SCORE)."""
LOGIT_LIMIT = 32.0
"""Upstream clamps the logits that are fed back into the decoder to ± this."""
_LARGE, _MUCH = 1 << 20, 2
"""OpenCV resizes some pixels more than needed several times faster than numpy those that are needed."""


def upsample(logits: Floats, size: tuple[int, int]) -> Floats:
    """Return logits float32 [...,h,w] resized bilinearly to an image's size (H,W): float32 [...,H,W], a new array.

    The result is that of torch.nn.functional.interpolate(mode="bilinear", align_corners=False).
    """
    height, width = size
    out = np.empty((*logits.shape[:-2], height, width), np.float32)
    for index in np.ndindex(logits.shape[:-2]):
        cv2.resize(logits[index], (width, height), dst=out[index], interpolation=cv2.INTER_LINEAR)
    return out


def patches(logits: Floats, size: tuple[int, int], level: float) -> Iterator[tuple[int, int, Floats]]:
    """Resize logits float32 [N,h,w] to `size` (H,W), but of each mask only the part outside which all are ≤ `level`.

    An object covers little of its image, and the candidates of the mask generator would take longer than the model to
    resize in full. Bilinear values lie between those that they are made of, so nothing above `level` can appear away
    from the low-resolution pixels above it: only their neighbourhood is resized, and the result is the same as with
    torch.nn.functional.interpolate(align_corners=False). Only values at the edge of a part that are not above `level`
    may differ.

    Yields:
        x, y of the part's upper left pixel, and its logits; of a mask that is nowhere above `level`, an arbitrary part.
    """
    above = logits > np.float32(level)
    for mask, in_row, in_column in zip(logits, above.any(axis=2), above.any(axis=1), strict=True):
        rows, columns = np.flatnonzero(in_row), np.flatnonzero(in_column)
        if not len(rows):
            rows = columns = np.zeros(1, np.intp)
        (top, bottom), (y0, y1) = _aligned(rows, len(mask), size[0])
        (left, right), (x0, x1) = _aligned(columns, mask.shape[1], size[1])
        down, across = _reach(rows, len(mask), size[0]), _reach(columns, mask.shape[1], size[1])
        if (y1 - y0) * (x1 - x0) > max(_MUCH * len(down) * len(across), _LARGE):
            yield across.start, down.start, _resized_part(mask, size, down, across)
        else:
            part = mask[top:bottom, left:right]
            yield x0, y0, cv2.resize(part, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)


def has_pixels(logits: Floats, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Tell which masks have a pixel at `size` (H,W), where the resized logits float32 [N,h,w] are > 0: bool [N].

    Four positive logits in a square have a pixel between them unless the mask is made smaller, so that only masks of a
    few scattered logits are resized for it.
    """
    above = logits > 0
    found = np.zeros(len(logits), bool)
    if size[0] >= logits.shape[1] and size[1] >= logits.shape[2]:
        rows = above[:, 1:] & above[:, :-1]
        found[:] = (rows[:, :, 1:] & rows[:, :, :-1]).any(axis=(1, 2))
    unsure = np.flatnonzero(above.any(axis=(1, 2)) & ~found)
    found[unsure] = [bool((patch > 0).any()) for _, _, patch in patches(logits[unsure], size, 0)]
    return found


def stability_score(logits: npt.ArrayLike, threshold: float = 0.0, offset: float = 1.0) -> Floats:
    """Return how little each mask depends on the threshold: the IoU of the masks at threshold ± offset.

    SAM 2's amg.py, calculate_stability_score, whose mask generator keeps masks from 0.95 on. Upstream takes it from
    logits at the image's size; on low-resolution logits it is nearly the same and much cheaper.

    Args:
        logits: [...,H,W].
        threshold: logits above it are the mask.
        offset: half the distance between the two thresholds that are compared.

    Returns:
        float32 [...], from 0 to 1. It is 0 where even the lower threshold leaves nothing (upstream: nan).

    Raises:
        InputError: for logits or numbers that are invalid.
    """
    try:
        values = np.asarray(logits, np.float32)
    except (OverflowError, TypeError, ValueError) as error:
        raise InputError(f"logits must be numbers but got {type(logits).__name__}") from error
    if values.ndim < 2:
        raise InputError(f"logits must be [...,H,W] but got shape {list(values.shape)}")
    checks.number("threshold", threshold)
    checks.number("offset", offset, 0)
    inner, outer = _areas(values > threshold + offset), _areas(values > threshold - offset)
    return cast(Floats, (inner / np.maximum(outer, 1)).astype(np.float32))


def _areas(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Count the pixels of masks [...,H,W] one by one, which numpy does several times faster than over axes."""
    *leading, height, width = masks.shape
    flat = masks.reshape(math.prod(leading), height * width)
    return np.array([np.count_nonzero(mask) for mask in flat], np.int64).reshape(masks.shape[:-2])


def _aligned(used: npt.NDArray[np.intp], low: int, high: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the span around `used` of `low` pixels, and the same of `high`: both begin and end between two pixels.

    They reach one low-resolution pixel further on each side, since a pixel affects values up to its neighbour's centre.
    """
    step = low // math.gcd(low, high)
    first = max(int(used[0]) - 1, 0) // step
    last = -(-min(int(used[-1]) + 2, low) // step)
    scaled = high * step // low
    return (first * step, last * step), (first * scaled, last * scaled)


def _reach(used: npt.NDArray[np.intp], low: int, high: int) -> range:
    """Return those of `high` pixels that the `used` ones of `low` affect."""
    before, _ = _taps(low, high)
    first, end = (int(n) for n in np.searchsorted(before, (used[0] - 1, used[-1] + 1)))
    first = min(first, high - 1)  # where a mask is made smaller, some of its pixels affect none
    return range(first, max(end, first + 1))


def _resized_part(mask: Floats, size: tuple[int, int], rows: range, columns: range) -> Floats:
    """Return these rows and columns of a mask [h,w] that is resized to `size`, to within rounding what OpenCV makes.

    OpenCV resizes only whole arrays, whose parts begin between two pixels of both sizes only where these have a divisor
    in common; 4001 and 256 have none.
    """
    before, weight = (taps[columns.start : columns.stop] for taps in _taps(mask.shape[1], size[1]))
    above, share = (taps[rows.start : rows.stop] for taps in _taps(len(mask), size[0]))
    lines = mask[np.minimum(np.arange(above[0], above[-1] + 2), len(mask) - 1)]
    after = np.minimum(before + 1, mask.shape[1] - 1)
    lines = lines[:, before] * (1 - weight) + lines[:, after] * weight
    part = np.empty((len(rows), len(columns)), np.float32)
    starts = np.searchsorted(above, np.arange(above[0], above[-1] + 2))
    for n, (start, stop) in enumerate(itertools.pairwise(starts)):  # the rows between two of the mask's lines
        np.matmul(np.stack([1 - share[start:stop], share[start:stop]], axis=1), lines[n : n + 2], out=part[start:stop])
    return part


@functools.lru_cache(maxsize=16)
def _taps(low: int, high: int) -> tuple[npt.NDArray[np.intp], Floats]:
    """Return which of `low` pixels is before each of `high`, [high], and the weight of the one after that, [high]."""
    places = np.clip((np.arange(high) + 0.5) * (low / high) - 0.5, 0, low - 1)
    before = places.astype(np.intp)
    return before, (places - before).astype(np.float32)
