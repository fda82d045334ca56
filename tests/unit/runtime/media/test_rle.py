"""COCO run lengths, byte for byte against pycocotools."""

import numpy as np
import pytest
from pycocotools import mask as coco

from sam2edge.errors import InputError
from sam2edge.runtime.media import rle


def reference(mask):
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}


def disc(height, width):
    y, x = np.mgrid[:height, :width]
    return (y - height / 2) ** 2 + (x - width / 3) ** 2 < (height / 4) ** 2


MASKS = {
    "empty": np.zeros((5, 7), bool),
    "full": np.ones((5, 7), bool),
    "one pixel, first": np.eye(1, 35, 0, dtype=bool).reshape(5, 7),
    "one pixel, last": np.eye(1, 35, 34, dtype=bool).reshape(5, 7),
    "row": np.eye(9)[4:5].astype(bool),
    "column": np.eye(9)[:, 4:5].astype(bool),
    "1x1": np.ones((1, 1), bool),
    "disc": disc(240, 320),
    "large, runs of five groups": disc(2160, 3840),
    "large and empty": np.zeros((2160, 3840), bool),
    "checkers": np.indices((33, 20)).sum(axis=0) % 2 == 0,
    "not contiguous": disc(200, 200)[::3, ::2],
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_same_bytes_as_pycocotools_and_back(mask):
    encoded = rle.encode(mask)
    assert encoded == reference(mask)
    for counts in (encoded["counts"], encoded["counts"].encode("ascii")):  # pycocotools' own are bytes
        decoded = rle.decode({**encoded, "counts": counts})
        assert decoded.dtype == np.bool_
        assert np.array_equal(decoded, mask)
    assert rle.area(encoded) == np.count_nonzero(mask)
    runs = rle.encode_uncompressed(mask)
    assert runs["size"] == list(mask.shape)
    assert sum(runs["counts"]) == mask.size
    assert coco.frPyObjects(runs, *mask.shape)["counts"].decode("ascii") == encoded["counts"]


@pytest.mark.parametrize("density", [0.001, 0.03, 0.5, 0.97])
def test_random_masks(density):
    random = np.random.default_rng(7)
    for _ in range(100):
        mask = random.random(random.integers(1, 90, 2)) < density
        encoded = rle.encode(mask)
        assert encoded == reference(mask)
        assert np.array_equal(rle.decode(encoded), mask)


@pytest.mark.parametrize("counts", ["", "P", "0Q", "\x1f\x1f", "ÿ", "é5", "p000", "51", "ooooooooo0", "N=0"])
def test_broken_strings_are_refused(counts):
    with pytest.raises(InputError, match="run"):
        rle.decode({"size": [5, 7], "counts": counts})


@pytest.mark.parametrize("mask", [np.zeros((2, 3), np.uint8), np.zeros((1, 2, 3), bool)])
def test_only_bool_masks_of_two_dimensions(mask):
    with pytest.raises(InputError, match=r"must be bool \[H,W\] but is"):
        rle.encode(mask)
