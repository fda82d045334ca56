"""Parts of logits are resized as the whole would be."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from sam2edge.runtime.model.logits import patches
from sam2edge.types import Floats


def blobs(count: int, side: int) -> Floats:
    """Return smooth logits: each mask is smaller than the one before, and the last is nowhere above -3."""
    rng = np.random.default_rng(side)
    maps = [cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), side / 10) for _ in range(count)]
    levels = np.linspace(0.2, 1.02, count)
    scaled = [5 * (m / m.max() - level) for m, level in zip(maps, levels, strict=True)]
    return np.stack(scaled).astype(np.float32) - 2.95


@pytest.mark.parametrize("size", [(1301, 1601), (1030, 1499), (20, 60001)])
def test_patches_of_large_images_whose_sides_have_no_divisor_in_common_with_the_masks(size: tuple[int, int]) -> None:
    """Little more is resized than the mask; of one with no divisor in common, all of it used to be."""
    logits = blobs(6, 64)
    logits[5, 60:, 60:] = 5  # at a corner
    for mask, (x, y, patch) in zip(logits, patches(logits, size, -3.0), strict=True):
        full = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_LINEAR)
        placed = np.full(size, -4, np.float32)
        placed[y : y + patch.shape[0], x : x + patch.shape[1]] = patch
        seen = (full > -3.0 + 1e-4) | (placed > -3.0 + 1e-4)
        assert np.abs(placed - full)[seen].max() < 1e-4
        rows, columns = (np.flatnonzero((full > -3.0).any(axis=axis)) for axis in (1, 0))
        needed = (np.ptp(rows) + 3 * size[0] / 64) * (np.ptp(columns) + 3 * size[1] / 64)
        assert patch.size <= max(4 * needed, 1 << 20)


@pytest.mark.parametrize("size", [(768, 1024), (427, 640), (100, 77), (300, 257), (32, 32), (20, 50)])
@pytest.mark.parametrize("side", [32, 64])
def test_patches_are_what_upsampling_in_full_gives(size: tuple[int, int], side: int) -> None:
    logits = blobs(6, side)
    level = -3.0
    full = torch.nn.functional.interpolate(torch.from_numpy(logits)[None], size, mode="bilinear", align_corners=False)
    smaller = 0
    for expected, (x, y, patch) in zip(full[0].numpy(), patches(logits, size, level), strict=True):
        height, width = patch.shape
        placed = np.full(size, level - 1, np.float32)
        placed[y : y + height, x : x + width] = patch
        seen = (expected > level + 1e-4) | (placed > level + 1e-4)
        assert np.abs(placed - expected)[seen].max(initial=0) < 1e-4
        smaller += patch.size < expected.size
    assert smaller >= (1 if size == (768, 1024) else 0)
