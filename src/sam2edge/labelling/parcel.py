"""A bundle on its way to other machines: its files in pieces, which each machine puts together once.

A machine keeps what it got in its cache, under a name that follows from the content, so that the next run finds it.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2edge.bundle.engines import CACHE_SUFFIX, RTX, TENSORRT, build_command, engine_directories
from sam2edge.bundle.words import WORDS
from sam2edge.errors import BackendError
from sam2edge.files import cache_directory, replacing_directory

PIECE = 16 << 20
"""Bytes: what a process holds at most of a bundle that it sends or gets."""


@dataclass(frozen=True)
class Parcel:
    """The files of a bundle, in pieces that whoever carries them understands.

    Attributes:
        key: Hex digest of the files' names and contents.
        bundle: Name of the bundle's directory.
        files: Each file's path, relative to the directory in which the bundle is, with its pieces.
    """

    key: str
    bundle: str
    files: tuple[tuple[str, tuple[Any, ...]], ...]

    @property
    def directory(self) -> Path:
        """Where a machine keeps it: the bundle, and beside it its engines."""
        return cache_directory() / "bundles" / self.key


def pack(bundle: Path, backend: str, words: bool, put: Callable[[bytes], Any]) -> Parcel:
    """Give the files that a worker needs to `put`, piece by piece; what it returns stands for the piece.

    Args:
        bundle: Its directory.
        backend: For TensorRT's, the engines that would be used here travel, too; BackendError if there are none.
        words: Whether the word detector travels, which is large.
        put: Takes a piece.
    """
    bundle, digest, files = bundle.resolve(), hashlib.sha256(), []
    for file in _files(bundle, backend, words):
        name, pieces = file.relative_to(bundle.parent).as_posix(), []
        digest.update(f"{name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while piece := stream.read(PIECE):
                digest.update(piece)
                pieces.append(put(piece))
        files.append((name, tuple(pieces)))
    return Parcel(digest.hexdigest(), bundle.name, tuple(files))


def unpack(parcel: Parcel, get: Callable[[Any], bytes]) -> Path:
    """Return the bundle's directory on this machine; the first process that asks puts the files there."""
    parcel.directory.parent.mkdir(parents=True, exist_ok=True)
    with parcel.directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not parcel.directory.exists():
            with replacing_directory(parcel.directory) as new:
                for name, pieces in parcel.files:
                    (new / name).parent.mkdir(parents=True, exist_ok=True)
                    with (new / name).open("wb") as stream:
                        for piece in pieces:
                            stream.write(get(piece))
    return parcel.directory / parcel.bundle


def _files(bundle: Path, backend: str, words: bool) -> Iterator[Path]:
    directories, skipped = [bundle], None if words else WORDS
    if backend in (TENSORRT, RTX):
        engines = engine_directories(bundle, backend)[:1]
        if not engines:
            raise BackendError(f"{bundle}: has no engines; build them with `{build_command(bundle, backend)}`")
        directories += engines
    for directory in directories:
        for file in sorted(directory.rglob("*")):
            top = file.relative_to(directory).parts[0]
            if file.is_file() and not (top.startswith(".") or top == skipped or file.suffix == CACHE_SUFFIX):
                yield file
