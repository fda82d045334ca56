"""Images of PIL, whose mode and EXIF say what their pixels are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam2edge.errors import FrameError, MediaError
from sam2edge.runtime.image.pixels import rgb_pixels
from sam2edge.runtime.media.image_files import read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_of_pil_by_its_mode(mode: str) -> None:
    """HSV and YCbCr have three channels, as RGB, and would otherwise be taken for it."""
    through = {"PA": "P", "LA": "L"}.get(mode, "RGB")
    image = Image.fromarray(PIXELS).convert(through).convert(mode)
    pixels = rgb_pixels(image)
    assert (pixels.dtype, pixels.shape) == (np.uint8, PIXELS.shape)
    assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_of_pil_with_more_than_8_bits(mode: str) -> None:
    with pytest.raises(FrameError, match=rf"of PIL's mode {mode} has more than 8 bits, .* read_image\(path, value_"):
        rgb_pixels(Image.new(mode, (9, 9), 700))


@pytest.mark.parametrize("orientation", range(10))
def test_turned_as_the_file_is(tmp_path: Path, orientation: int) -> None:
    """The command reads files, a program often images of PIL; prompts and masks must be of the same picture."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(path := tmp_path / "x.jpg", exif=exif, quality=95)
    expected, pixels = read_image(path), rgb_pixels(Image.open(path))
    assert pixels.shape == expected.shape
    assert pixels.flags.c_contiguous
    assert np.abs(pixels.astype(int) - expected).mean() < 2


def test_an_error_in_place_of_an_image() -> None:
    with pytest.raises(MediaError, match="gone"):
        rgb_pixels(MediaError("gone"))


@pytest.mark.parametrize(
    ("image", "advice"),
    [
        (PIXELS[..., 0], r"shape \[12, 20\]; of grey, cv2.cvtColor\(frame, cv2.COLOR_GRAY2RGB\) makes it"),
        (PIXELS[..., :1], r"shape \[12, 20, 1\]; of grey, cv2.cvtColor\(frame, cv2.COLOR_GRAY2RGB\) makes it"),
        (np.dstack([PIXELS, PIXELS[..., 0]]), r"\[12, 20, 4\]; of RGBA, cv2.cvtColor\(frame, cv2.COLOR_RGBA2RGB\)"),
        (PIXELS.transpose(2, 0, 1), r"\[3, 12, 20\]; if the channels come first, frame.transpose\(1, 2, 0\) makes it"),
        (PIXELS[None], r"\[1, 12, 20, 3\]$"),
    ],
)
def test_arrays_must_be_rgb(image: Any, advice: str) -> None:
    with pytest.raises(FrameError, match=advice):
        rgb_pixels(image)
