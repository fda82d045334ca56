"""Paths that a user gives and what they hold, files and directories that are replaced whole, hashes."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from urllib.parse import unquote

from sam2edge.errors import InputError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_VIDEO_SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")
_FILE = "file://"
_CHECKPOINT_SUFFIXES = (".pt", ".pth", ".safetensors")
_HOMELESS = "there is no home directory (HOME is not set, and the system does not know this user)"


def finite(value: float) -> float | None:
    """Return the value, or None if it is not finite: JSON has neither NaN nor infinities."""
    return value if math.isfinite(value) else None


def is_file_address(text: str) -> bool:
    """Tell whether a path is written as file://…, as file managers and browsers do."""
    return text.lower().startswith(_FILE)


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that a user gave, with a leading `~` or `~user` expanded; `./~` is a file of that name.

    What file managers and browsers call it, as file:///a%20b.mp4, is a path too.

    Raises:
        InputError: `path` is not a path, is empty, or needs a home directory where there is none.
    """
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if isinstance(text, str) and is_file_address(text):
        host, slash, rest = text[len(_FILE) :].partition("/")
        if host not in ("", "localhost"):
            raise InputError(f"{text}: is on another computer ({host}); a path here is file:///…")
        text = slash + unquote(rest)
    if not isinstance(text, str):
        raise InputError(f"expected a path but got {type(path).__name__}")
    if not text or "\0" in text:
        raise InputError(f"{text!r} cannot be the path of a file")
    expanded = Path(os.path.expanduser(text))
    if expanded.parts[:1] == ("~",) and not text.startswith("."):  # else a folder would be made that is called ~
        raise InputError(f"{text}: {_HOMELESS}; set HOME, or give the whole path")
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
    suffixes = {file.suffix.lower() for file in folder.iterdir() if not is_hidden(file)}
    if suffixes.intersection(_CHECKPOINT_SUFFIXES):
        return PathKind.CHECKPOINT
    return PathKind.IMAGE_FOLDER if suffixes.intersection(IMAGE_SUFFIXES) else PathKind.OTHER


def is_hidden(path: Path) -> bool:
    """Return whether a file is hidden, as `._0.jpg` is, which macOS leaves beside 0.jpg and which is not a picture."""
    return path.name.startswith(".")


def cache_directory() -> Path:
    """Return $XDG_CACHE_HOME/sam2edge, or ~/.cache/sam2edge without that variable; InputError if there is no ~."""
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "sam2edge"
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        raise InputError(f"{_HOMELESS} in which to keep a cache; set XDG_CACHE_HOME to a directory for it")
    return Path(home) / ".cache" / "sam2edge"


def sha256(*files: Path) -> str:
    """Return the hex digest of the content of files, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def check_output_file(path: Path) -> None:
    """Raise an InputError if no file can be written at `path`; its folder need not exist yet."""
    if path.is_dir():
        raise InputError(f"{path}: is a directory, expected the name of a file to write")
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(f"{path}: cannot be written: Permission denied")
    check_output_directory(path.absolute().parent)


def check_output_directory(path: Path) -> None:
    """Raise an InputError if `path` is not a directory in which files can be written, and cannot be made one."""
    existing = next(place for place in (path.absolute(), *path.absolute().parents) if os.path.lexists(place))
    if not existing.is_dir():
        raise InputError(f"{path}: cannot be written: {existing} is a file, not a directory")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot be written: Permission denied in {existing}")


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path`; the file written there takes its place if the block ends without an error.

    The folder is made if need be. The suffix stays the same, since some writers take the format from it.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")  # two processes may write the same file
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)  # half a file would only help to keep a full disk full


def link(source: str | os.PathLike[str], to: str | os.PathLike[str]) -> None:
    """Give a file a second name, or copy it where the file system has no such thing or is another one."""
    try:
        os.link(source, to)
    except OSError:
        shutil.copyfile(source, to)


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8, which appears whole or not at all; its folder is made if need be."""
    with replacing_file(path) as new:
        new.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """Yield a new directory beside `path`, which takes its place if the block ends without an error."""
    path = path.resolve()  # a link keeps pointing where it did, and "." has a parent
    path.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        new.chmod(0o755)  # mkdtemp's 0700 would keep other users out
        yield new
        old = new.with_name(new.name + ".old")
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
