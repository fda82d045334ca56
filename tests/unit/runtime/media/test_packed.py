"""Packed masks: what is packed is what comes out, and their run lengths are pycocotools'."""

from __future__ import annotations

import cv2
import numpy as np
import pycocotools.mask
import pytest

from sam2edge.runtime.media import rle
from sam2edge.runtime.media.packed import PackedMask
from sam2edge.types import Bools


def blob(size: tuple[int, int], seed: int) -> Bools:
    """Return a mask with holes and islands, some of which touch the edges."""
    noise = np.random.default_rng(seed).normal(size=size)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.5) > 0.1)


MASKS = {
    "blobs": blob((37, 53), 0),
    "one pixel": np.eye(1, 7, 6, dtype=bool),
    "all": np.ones((5, 4), bool),
    "none": np.zeros((5, 4), bool),
    "no pixels": np.zeros((0, 4), bool),
    "a column": np.arange(12).reshape(3, 4) % 4 == 2,
    "a row": np.arange(12).reshape(3, 4) // 4 == 2,
    "checks": np.indices((8, 9)).sum(axis=0) % 2 == 0,
    "full columns": np.tile([False, True, True, False, True], (6, 1)),
    "turned": blob((20, 30), 1).T,
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_unpacked(mask: Bools) -> None:
    packed = PackedMask.pack(mask)
    assert np.array_equal(packed.unpack(), mask)
    assert np.array_equal(packed.inside(), mask[packed.place])
    assert (packed.area, packed.size) == (np.count_nonzero(mask), mask.shape)
    if mask.size:
        assert packed.bounds == cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
        runs = rle.encode(packed)
        assert runs == rle.encode(mask)
        expected = pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert (runs["size"], runs["counts"]) == (expected["size"], expected["counts"].decode())


def test_a_part_of_an_image() -> None:
    part, image = blob((20, 30), 2), np.zeros((40, 60), bool)
    image[7:27, 11:41] = part
    packed = PackedMask.pack(part, (11, 7), (40, 60))
    assert np.array_equal(packed.unpack(), image)
    assert rle.encode(packed) == rle.encode(image)
    assert PackedMask.pack(part & False, (11, 7), (40, 60)).box == (11, 7, 11, 7)


def test_shared_pixels() -> None:
    masks = [blob((40, 60), seed) for seed in range(3)]
    masks += [np.zeros((40, 60), bool), np.indices((40, 60))[1] > 55, np.indices((40, 60))[1] < 3]
    for one in masks:
        for other in masks:
            shared = PackedMask.pack(one).shared(PackedMask.pack(other))
            assert shared == np.count_nonzero(one & other)


def test_memory() -> None:
    """A large object of a photograph of 12 megapixels, which has 1.5 MB as bits."""
    disc = np.zeros((3000, 4000), np.uint8)
    cv2.circle(disc, (2000, 1500), 1400, 1, -1)
    assert PackedMask.pack(disc > 0).changes.nbytes < 25_000
