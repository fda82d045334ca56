"""Frames become the squares that transformers' image processors make of them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional

from sam2edge.bundle.words import WordsModel
from sam2edge.runtime.words.pixels import square_image, square_size

Image = npt.NDArray[np.uint8]


def model(size: int, *, letterbox: bool) -> WordsModel:
    return WordsModel(size, 8, 4, 16, 99, 97, 98, 0, letterbox=letterbox, objectness=letterbox)


def owlv2(image: Image, size: int) -> npt.NDArray[np.float64]:
    """What Owlv2ImageProcessor calls torchvision for: pad, gaussian_blur, resize without antialiasing."""
    height, width = image.shape[:2]
    side = max(height, width)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[:, None].double()
    pixels = functional.pad(pixels, (0, side - width, 0, side - height))
    if (sigma := (side / size - 1) / 2) > 0:
        radius = math.ceil(3 * sigma)
        weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).double() / sigma) ** 2)
        weights /= weights.sum()
        pixels = functional.pad(pixels, (radius,) * 4, mode="reflect")
        pixels = functional.conv2d(pixels, (weights[:, None] * weights)[None, None])
    resized = functional.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)
    return resized[:, 0].permute(1, 2, 0).numpy()


def owlvit(image: Image, size: int) -> Image:
    """What OwlViTImageProcessor calls torchvision for: resize, which calls this."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    resized = functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


SIZES = [
    *[((240, 320), size) for size in (64, 200, 319, 320, 333)],
    *[((320, 180), size) for size in (64, 256, 400)],
    *[((128, 128), size) for size in (100, 128, 200)],
    *[((127, 128), 96), ((300, 20), 96), ((20, 300), 96), ((5, 3), 64), ((1, 1), 32), ((1, 100), 32)],
]


def picture(shape: tuple[int, int]) -> Image:
    """Return noise over areas of black and white, on which sharp filters overshoot."""
    random = np.random.default_rng(sum(shape))
    noise = random.integers(0, 256, (*shape, 3), np.uint8)
    areas = np.kron(random.integers(0, 3, (9, 9)), np.ones((40, 40), int))[: shape[0], : shape[1], None]
    return np.where(areas == 0, 0, np.where(areas == 1, 255, noise)).astype(np.uint8)


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_owlv2(shape: tuple[int, int], size: int) -> None:
    image = picture(shape)
    square = square_image(image, model(size, letterbox=True))
    assert (square.dtype, square.shape) == (np.float32, (size, size, 3))
    assert np.abs(square - owlv2(image, size)).max() < 0.01


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_owlvit_differs_by_one_level(shape: tuple[int, int], size: int) -> None:
    """PyTorch rounds the weights too: by 2 where a pixel is made of many."""
    image = picture(shape)
    square = square_image(image, model(size, letterbox=False))
    assert (square.dtype, square.shape) == (np.float32, (size, size, 3))
    difference = np.abs(square - owlvit(image, size))
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.02
    assert (difference > 1).mean() < 0.001


def test_square_size() -> None:
    assert square_size((240, 320), model(64, letterbox=True)).tolist() == [320] * 4
    assert square_size((240, 320), model(64, letterbox=False)).tolist() == [320, 240, 320, 240]
