"""Finding, reading and writing image files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge.errors import MediaError
from sam2edge.files import IMAGE_SUFFIXES, replacing_file, user_path


def find_images(names: Iterable[str | os.PathLike[str]]) -> tuple[list[Path], list[str]]:
    """Expand files, folders and glob patterns into images.

    A folder stands for the images directly in it, ordered by name; ** in a pattern matches any depth of folders. A file
    that is named need not have the suffix of an image.

    Returns:
        The images, each once, and a message for every name that stands for none.
    """
    images: dict[Path, None] = {}
    problems = []
    for path in map(user_path, names):
        try:
            matches, problem = _expand(path)
        except OSError as error:  # a folder without permission to enter, a name that no file can have
            matches, problem = [], f"{path}: cannot be read: {error.strerror}"
        images.update(dict.fromkeys(matches))
        problems += [] if matches else [problem]
    return list(images), problems


def read_image(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """Return an image as RGB uint8 [H,W,3], turned as its EXIF says, without alpha; MediaError if that fails."""
    path = user_path(path)
    try:
        if not len(encoded := np.fromfile(path, np.uint8)):
            raise MediaError(f"{path}: no image that OpenCV can read: the file is empty")
        pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}") from error
    except cv2.error as error:  # more pixels than OpenCV takes
        raise MediaError(f"{path}: no image that OpenCV can read: {error.err or 'damaged'}") from error
    if pixels is None:
        raise MediaError(f"{path}: no image that OpenCV can read: another kind of file, or one cut short")
    image: npt.NDArray[np.uint8] = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return image


def write_image(path: str | os.PathLike[str], pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> None:
    """Write RGB [H,W,3] or grey [H,W] in the format of the suffix, and make its folder; MediaError if that fails."""
    path = user_path(path)
    encoded = cv2.imencode(path.suffix, pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1]
    try:
        with replacing_file(path) as new:
            new.write_bytes(encoded.tobytes())  # numpy's tofile does not notice a full disk
    except OSError as error:
        raise MediaError(f"{path}: cannot be written: {error.strerror or error}") from error


def _expand(path: Path) -> tuple[list[Path], str]:
    """Return the images that a path stands for, and a message in case there are none."""
    if path.is_dir():
        images = sorted(file for file in path.iterdir() if _is_image(file))
        return images, f"{path}: no images in this folder (they end with {', '.join(IMAGE_SUFFIXES)})"
    if path.exists():
        return [path], ""
    if glob.has_magic(str(path)):
        images = [match for match in map(Path, sorted(glob.glob(str(path), recursive=True))) if _is_image(match)]
        return images, f"{path}: no image matches this pattern"
    return [], f"{path}: no such image or folder"


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
