"""Images that a program passes, as RGB pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from sam2edge.errors import FrameError, Sam2EdgeError
from sam2edge.runtime.model.resize import check_frame

Pixels = npt.NDArray[np.uint8]

_ORIENTATION = 0x0112
_TURNED: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels),
}
"""What makes an upright image of one with EXIF's orientation."""


def rgb_pixels(image: object) -> Pixels:
    """Return an image as uint8 [H,W,3]; raise FrameError, or the error that stands in its place.

    An array must be RGB. An image of PIL becomes what `read_image` returns for its file: converted by its mode, without
    alpha, and turned as its EXIF says.
    """
    if isinstance(image, Sam2EdgeError):
        raise image
    if not isinstance(image, np.ndarray):
        try:
            if all(hasattr(image, name) for name in ("mode", "convert", "getexif")):  # PIL is not imported for this
                image = _of_pil(image)
            elif hasattr(image, "__array_interface__") or hasattr(image, "__array__"):
                image = np.asarray(image)
        except FrameError:
            raise
        except Exception as error:  # a foreign image class may raise anything, often because it reads its file only now
            raise FrameError(f"an image cannot be converted to an array: {error}") from error
    return check_frame(image, what="an image")


def _of_pil(image: Any) -> Pixels:
    mode = str(image.mode)
    if mode in ("I", "F") or mode.startswith("I;"):
        raise FrameError(
            f"an image of PIL's mode {mode} has more than 8 bits, and nothing says which values are black and white; "
            "read its file with read_image(path, value_range=(LO, HI))"
        )
    pixels: Pixels = np.asarray(image.convert("RGB"))
    turned = _TURNED.get(image.getexif().get(_ORIENTATION))
    return np.ascontiguousarray(turned(pixels)) if turned else pixels
