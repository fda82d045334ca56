"""Finding, reading and writing image files."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge.checks import number
from sam2edge.errors import InputError, MediaError
from sam2edge.files import IMAGE_SUFFIXES, is_hidden, replacing_file, user_path

ValueRange = tuple[float, float]
_WIDE = 1 << 15
"""16-bit values that span this much use their range; values of 10 or 12 bits, or of a thermal camera, do not."""
_TO_RGB = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}


def find_images(
    names: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> tuple[list[Path], list[str]]:
    """Expand a file, folder or glob pattern, or several, into images.

    A folder stands for the images directly in it, ordered by the numbers in their names (2 before 10); ** in a pattern
    matches any depth of folders. Hidden files are left out. A file that is named need not have the suffix of an image.

    Returns:
        The images, each once, and a message for every name that stands for none.
    """
    images: dict[Path, None] = {}
    problems = []
    for path in map(user_path, [names] if isinstance(names, (str, os.PathLike)) else names):
        try:
            matches, problem = _expand(path)
        except OSError as error:  # a folder without permission to enter, a name that no file can have
            matches, problem = [], f"{path}: cannot be read: {error.strerror}"
        images.update(dict.fromkeys(matches))
        problems += [] if matches else [problem]
    return list(images), problems


def find_frames(path: str | os.PathLike[str]) -> list[Path]:
    """Return the images of a folder, or those that match a pattern, as the frames of a video: what `find_images` finds.

    Raises:
        MediaError: There are none, or their order is in doubt: two of a folder have the same numbers in their names
            (1.jpg beside 01.png, frame_1.jpg beside mask_1.png), or some have no number.
    """
    files, problems = find_images(path)
    if problems:
        raise MediaError(problems[0])
    advice = "remove it, or give a pattern such as 'folder/*.jpg'"
    named: dict[tuple[Path, object], Path] = {}
    for file in files:
        numbers = tuple(map(int, re.findall(r"\d+", file.stem)))
        if (other := named.setdefault((file.parent, numbers or file.stem), file)) is not file:
            raise MediaError(f"{file}: is the same frame as {other.name}, going by their names; {advice}")
    without = [file for file in files if not re.search(r"\d", file.stem)]
    if 0 < len(without) < len(files):
        raise MediaError(f"{without[0]}: has no number, so that its place among the other frames is unknown; {advice}")
    return files


def natural(path: Path) -> list[str | int]:
    """Return a sort key that puts frame2 before frame10: the parts of odd index are numbers."""
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def stands_for_images(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a folder, or a pattern rather than a file."""
    path = user_path(path)
    return os.path.isdir(path) or (glob.has_magic(str(path)) and not os.path.exists(path))


def is_image(path: Path) -> bool:
    """Return whether a path is a file that has the suffix of an image and is not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path) and path.is_file()


def read_image(path: str | os.PathLike[str], value_range: ValueRange | None = None) -> npt.NDArray[np.uint8]:
    """Return an image as RGB uint8 [H,W,3], turned as its EXIF says, without alpha.

    Args:
        path: The file.
        value_range: The two values that become 0 and 255; others are scaled with them and clipped. Images of more than
            8 bits need it, for a scale that is chosen for each frame would change from one to the next. Only 16-bit
            images whose values span half of 0…65535 or more may go without, and are scaled from all of that.

    Raises:
        MediaError: The file cannot be read, is not an image that OpenCV knows, or needs a range.
    """
    path = user_path(path)
    try:
        encoded = np.fromfile(path, np.uint8)
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}") from error
    return decode_image(encoded, path, value_range)


def decode_image(
    encoded: npt.NDArray[np.uint8], path: Path | str, value_range: ValueRange | None = None
) -> npt.NDArray[np.uint8]:
    """Return an image from the bytes of its file, as `read_image` does; `path` is what errors call it."""
    pixels = _decoded(path, encoded)
    grey_or_colour = _TO_RGB.get(1 if pixels.ndim == 2 else pixels.shape[2])
    if grey_or_colour is None:
        raise MediaError(f"{path}: has {pixels.shape[2]} channels, but only images with 1, 3 or 4 can be shown")
    if value_range is None:
        if pixels.dtype == np.uint8:
            low, high = 0.0, 255.0
        else:
            low, high = _default_range(path, pixels)
    else:
        low, high = check_range(value_range)
    image: npt.NDArray[np.uint8] = cv2.cvtColor(_scaled(pixels, low, high), grey_or_colour)
    return image


def check_range(value_range: object) -> ValueRange:
    """Return the range as two numbers; InputError if it is anything else or upside down."""
    if not isinstance(value_range, (tuple, list)) or len(value_range) != 2:
        raise InputError(f"value_range must be the two values that become black and white but got {value_range!r}")
    low, high = (number("value_range", value) for value in value_range)
    if low >= high:
        raise InputError(f"value_range must begin below its end but got {low:g} to {high:g}")
    return low, high


def write_image(path: str | os.PathLike[str], pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> None:
    """Write RGB [H,W,3] or grey [H,W] in the format of the suffix, and make its folder; MediaError if that fails."""
    path = user_path(path)
    encoded = cv2.imencode(path.suffix, pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1]
    try:
        with replacing_file(path) as new:
            new.write_bytes(encoded.tobytes())  # numpy's tofile does not notice a full disk
    except OSError as error:
        raise MediaError(f"{path}: cannot be written: {error.strerror or error}") from error


def _decoded(path: Path | str, encoded: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Return what OpenCV decodes: of any depth and number of channels, blue first."""
    if not len(encoded):
        raise MediaError(f"{path}: no image that OpenCV can read: the file is empty")
    container = encoded[4:8].tobytes() == b"ftyp"  # AVIF and HEIC, which state how many bits their values have
    deep = 0 if container else cv2.IMREAD_ANYDEPTH
    try:
        pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR | deep)
        if pixels is None:  # of a grey TIFF of floating-point numbers OpenCV makes no colours
            pixels = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:  # more pixels than OpenCV takes
        raise MediaError(f"{path}: no image that OpenCV can read: {error.err or 'damaged'}") from error
    if pixels is None or not _is_whole(encoded):
        why = "another kind of file, or one cut short"
        if container:
            why = "HEIC or AVIF (save it as JPEG or PNG), or a video (use `sam2edge track`)"
        raise MediaError(f"{path}: no image that OpenCV can read: {why}")
    decoded: npt.NDArray[Any] = pixels
    return decoded


def _is_whole(encoded: npt.NDArray[np.uint8]) -> bool:
    """Return False for a JPEG that was cut short, of which OpenCV before 4.12 returns the rest as grey."""
    data, at = encoded.tobytes() if encoded[:2].tobytes() == b"\xff\xd8" else b"", 2
    while data[at : at + 1] == b"\xff" and at + 1 < len(data):
        if data[at + 1] == 0xDA:  # the picture begins; a thumbnail before it has an end of its own
            return data.find(b"\xff\xd9", at) >= 0
        filled = data[at + 1] == 0xFF
        at += 1 if filled else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return True


def _default_range(path: Path | str, pixels: npt.NDArray[Any]) -> ValueRange:
    """Return the range of 16-bit values that use it; MediaError for all others, of which nothing says what is white."""
    finite = pixels[np.isfinite(pixels)] if pixels.dtype.kind == "f" else pixels
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if pixels.dtype == np.uint16 and high - low >= _WIDE:
        return 0, 65535
    kind = {"f": "floating-point numbers"}.get(pixels.dtype.kind, f"{8 * pixels.dtype.itemsize}-bit numbers")
    raise MediaError(
        f"{path}: its pixels are {kind} from {low:g} to {high:g}, and nothing says which of them are black and white; "
        "give one range for all images: --range LO,HI, or in Python value_range=(LO, HI)"
    )


def _scaled(pixels: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Return pixels in 8 bits, `low` as 0 and `high` as 255; what is not a number becomes 0."""
    if pixels.dtype == np.uint8 and (low, high) == (0, 255):
        return pixels
    values = pixels
    if table := pixels.dtype in (np.uint8, np.uint16):  # quicker than arithmetic with every pixel
        values = np.arange(np.iinfo(pixels.dtype).max + 1, dtype=np.float64)
    shown = np.nan_to_num(np.clip((values - low) * (255 / (high - low)), 0, 255), nan=0)
    scaled: npt.NDArray[np.uint8] = shown.round().astype(np.uint8)
    return scaled[pixels] if table else scaled


def _expand(path: Path) -> tuple[list[Path], str]:
    """Return the images that a path stands for, and a message in case there are none."""
    if path.is_dir():
        images = sorted(filter(is_image, path.iterdir()), key=natural)
        return images, f"{path}: no images in this folder (they end with {', '.join(IMAGE_SUFFIXES)})"
    if path.exists():
        return [path], ""
    if glob.has_magic(str(path)):
        images = sorted(filter(is_image, map(Path, glob.glob(str(path), recursive=True))), key=natural)
        return images, f"{path}: no image matches this pattern"
    return [], f"{path}: no such image or folder"
