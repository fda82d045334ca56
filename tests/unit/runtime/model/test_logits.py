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
