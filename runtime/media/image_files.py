"""Images in files: find, read and write them."""

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
    """The images that files, folders and glob patterns stand for, each once, and what is wrong with the others.

    A folder stands for the images in it, by name, and not in its folders; in a pattern ** is any depth of folders.
    A file that is named need not look like an image.
    """
    found: dict[Path, None] = {}
    wrong = []
    for given in names:
        name = str(user_path(given))
        try:
            images, problem = _stands_for(name)
        except OSError as error:  # a folder that may not be entered, a name that no file can have
            images, problem = [], f"{name}: cannot be read: {error.strerror}"
        found.update(dict.fromkeys(images))
        wrong += [] if images else [problem]
    return list(found), wrong


def read_image(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """An image as RGB uint8 [H,W,3], turned as its EXIF says, without alpha. Raises MediaError."""
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
    """Write RGB [H,W,3] or grey [H,W] in the format of the suffix; missing folders are made. Raises MediaError."""
    path = user_path(path)
    encoded = cv2.imencode(path.suffix, pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1]
    try:
        with replacing_file(path) as new:
            new.write_bytes(encoded.tobytes())  # numpy's tofile does not notice a full disk
    except OSError as error:
        raise MediaError(f"{path}: cannot be written: {error.strerror or error}") from error


def _stands_for(name: str) -> tuple[list[Path], str]:
    """The images of one name, and what is wrong if there are none."""
    path = Path(name)
    if path.is_dir():
        images = sorted(file for file in path.iterdir() if _is_image(file))
        return images, f"{name}: no images in this folder (they end with {', '.join(IMAGE_SUFFIXES)})"
    if path.exists():
        return [path], ""
    if glob.has_magic(name):
        images = [Path(match) for match in sorted(glob.glob(name, recursive=True)) if _is_image(Path(match))]
        return images, f"{name}: no image matches this pattern"
    return [], f"{name}: no such image or folder"


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
