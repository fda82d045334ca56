"""Paths that a user gives, what they hold, and values that go into files."""

from __future__ import annotations

import math
import os
from enum import Enum
from pathlib import Path

from sam2edge.errors import InputError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_VIDEO_SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")
_CHECKPOINT_SUFFIXES = (".pt", ".pth", ".safetensors")


def finite(value: float) -> float | None:
    """Return the value, or None if it is not finite: JSON has neither NaN nor infinities."""
    return value if math.isfinite(value) else None


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that a user gave, with a leading `~` or `~user` expanded; `./~` is a file of that name.

    Raises:
        InputError: `path` is not a path, or is empty.

    """
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(text, str):
        raise InputError(f"expected a path but got {type(path).__name__}")
    if not text or "\0" in text:
        raise InputError(f"{text!r} cannot be the path of a file")
    expanded = Path(os.path.expanduser(text))
    # pathlib drops the "./" of "./~x"; an absolute path is not expanded if it comes here a second time.
    return expanded.absolute() if str(expanded).startswith("~") else expanded


class PathKind(Enum):
    """What a path holds, in the words of error messages."""

    NOTHING = "nothing"
    BUNDLE = "a bundle"
    CHECKPOINT = "a checkpoint"
    VIDEO = "a video"
    IMAGE = "an image"
    IMAGE_FOLDER = "a folder of images"
    OTHER = "something else"


_SUFFIXES = {
    **dict.fromkeys(_CHECKPOINT_SUFFIXES, PathKind.CHECKPOINT),
    **dict.fromkeys(_VIDEO_SUFFIXES, PathKind.VIDEO),
    **dict.fromkeys(IMAGE_SUFFIXES, PathKind.IMAGE),
}
_SIGNATURES = (
    (8, b'{"', PathKind.CHECKPOINT),  # safetensors: the length of a JSON object, then the object
    (4, b"ftyp", PathKind.VIDEO),  # MP4 and QuickTime
    (8, b"AVI ", PathKind.VIDEO),
    (0, b"\x1aE\xdf\xa3", PathKind.VIDEO),  # Matroska and WebM
    (0, b"\x89PNG", PathKind.IMAGE),
    (0, b"\xff\xd8\xff", PathKind.IMAGE),  # JPEG
    (8, b"WEBP", PathKind.IMAGE),
)


def path_kind(path: str | os.PathLike[str]) -> PathKind:
    """Return what a path holds: folders go by their files, files by their suffix or else their first bytes.

    Nothing is verified: a damaged bundle is still a bundle. What cannot be read is OTHER.
    """
    place = user_path(path)
    try:
        if place.is_dir():
            return _folder_kind(place)
        if not place.is_file():
            return PathKind.OTHER if place.exists() else PathKind.NOTHING
        if kind := _SUFFIXES.get(place.suffix.lower()):
            return kind
        with place.open("rb") as file:
            head = file.read(16)
    except OSError:
        return PathKind.OTHER
    return next((kind for at, magic, kind in _SIGNATURES if head.startswith(magic, at)), PathKind.OTHER)


def _folder_kind(folder: Path) -> PathKind:
    for name, mark, kind in (
        ("manifest.json", b'"sam2edge-bundle"', PathKind.BUNDLE),
        ("config.json", b'"model_type"', PathKind.CHECKPOINT),
    ):
        if (folder / name).is_file() and mark in (folder / name).read_bytes():
            return kind
    suffixes = {file.suffix.lower() for file in folder.iterdir()}
    if suffixes.intersection(_CHECKPOINT_SUFFIXES):
        return PathKind.CHECKPOINT
    return PathKind.IMAGE_FOLDER if suffixes.intersection(IMAGE_SUFFIXES) else PathKind.OTHER
