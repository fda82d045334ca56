"""Frames resized as the reference resizes them, value by value, and values that are refused as frames."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch.nn import functional

from sam2edge.errors import FrameError
from sam2edge.runtime.media.image_files import read_image
from sam2edge.runtime.model.resize import check_frame, resize


def reference(image: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Resize as transformers' image processor does: antialiased bilinear on uint8."""
    channels_first = torch.from_numpy(image).permute(2, 0, 1)[None]
    resized = functional.interpolate(channels_first, (size, size), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def check(image: npt.NDArray[np.uint8], size: int) -> None:
    """PyTorch rounds the weights too: values differ by 1 at most, or by 2 where a pixel is made of few."""
    resized = resize(image, size)
    assert (resized.shape, resized.dtype) == ((size, size, 3), np.uint8)
    difference = np.abs(resized.astype(int) - reference(image, size))
    assert difference.max() <= (1 if min(image.shape[:2]) >= size else 2)
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("size", [128, 512, 1024])
def test_photograph(shared_data: Path, size: int) -> None:
    check(read_image(shared_data / "truck.jpg"), size)


@pytest.mark.parametrize("size", [128, 256, 1024])
def test_video(bedroom: npt.NDArray[np.uint8], size: int) -> None:
    for frame in bedroom[::10]:
        check(frame, size)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        *[((97, 211), size) for size in (32, 100, 128, 333)],
        *[((540, 960), size) for size in (32, 100, 333)],
        *[((128, 128), size) for size in (32, 128, 333, 512)],
        *[((256, 256), size) for size in (128, 512)],
        ((480, 64), 128),
        ((16, 24), 32),
        ((300, 200), 128),
        ((333, 128), 128),
        ((128, 333), 333),
        ((1, 1), 32),
        ((1, 500), 100),
    ],
)
def test_noise(shape: tuple[int, int], size: int) -> None:
    check(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8), size)


@pytest.mark.parametrize("level", [0, 1, 127, 255])
def test_a_plain_image_stays_plain(level: int) -> None:
    assert (resize(np.full((270, 481, 3), level, np.uint8), 128) == level).all()


@pytest.mark.parametrize("size", [32, 128, 300])
@pytest.mark.parametrize("shape", [(97, 211), (540, 960), (128, 128), (32, 128)])
def test_float_mask(shape: tuple[int, int], size: int) -> None:
    mask = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    resized = resize(mask, size)
    double = torch.from_numpy(mask)[None, None].double()  # PyTorch's float32 weights are 3e-5 off when enlarging
    expected = functional.interpolate(double, (size, size), mode="bilinear", antialias=True)[0, 0].numpy()
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected, rtol=0, atol=1e-5)


def test_one_thread() -> None:
    """Other threads of BLAS would spin on the cores that the graphs need; here they take no processor time."""
    program = """
import time
import numpy as np
from sam2edge.runtime.model.resize import resize
frame = np.zeros((2160, 3840, 3), np.uint8)
resize(frame, 512)
whole, own = time.process_time(), time.thread_time()
for _ in range(5):
    resize(frame, 512)
print((time.process_time() - whole) / (time.thread_time() - own))
"""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.2


@pytest.mark.parametrize("size", [48, 64])
def test_views_and_the_callers_array(size: int) -> None:
    """BGR turned by [..., ::-1], a crop, a flipped or a read-only frame: the values count, and stay."""
    whole = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    whole.setflags(write=False)
    for view in (whole[..., ::-1], whole[:, 16:80], whole[::-1, ::-1], whole[::2, ::3], whole.transpose(1, 0, 2)):
        resized = resize(view, size)
        np.testing.assert_array_equal(resized, resize(view.copy(), size))
        assert not np.shares_memory(resized, whole)


def test_check_frame() -> None:
    frame = np.zeros((20, 30, 3), np.uint8)
    assert check_frame(frame) is frame
    assert check_frame(frame, (20, 30)) is frame


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        ([[[0, 0, 0]]], "must be a numpy array .* but got list"),
        (None, "must be a numpy array .* but got NoneType"),
        (Image.new("RGB", (30, 20)), r"but got Image; of an image of PIL, np\.asarray\(image\.convert"),
        (np.zeros((20, 30, 3), np.float32), "must be uint8 .* but got float32; scale its values to 0…255"),
        (np.zeros((20, 30, 3), bool), "must be uint8 .* but got bool"),
        (np.zeros((20, 30), np.uint8), r"must be \[H,W,3\] \(RGB\) but got shape \[20, 30\]"),
        (np.zeros((20, 30, 4), np.uint8), r"must be \[H,W,3\] \(RGB\) but got shape \[20, 30, 4\]"),
        (np.zeros((3, 20, 30), np.uint8), r"must be \[H,W,3\] \(RGB\) but got shape \[3, 20, 30\]"),
        (np.zeros((1, 20, 30, 3), np.uint8), r"but got shape \[1, 20, 30, 3\]"),
        (np.zeros((0, 30, 3), np.uint8), r"but got shape \[0, 30, 3\]"),
        (np.zeros((30, 20, 3), np.uint8), r"size changed from 30×20 to 20×30; .* reset\(\)"),
    ],
)
def test_check_frame_refuses(frame: object, words: str) -> None:
    with pytest.raises(FrameError, match=words):
        check_frame(frame, (20, 30))
