"""What a video file's container says of its length; the rest of the container is FFmpeg's business."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


def promised_seconds(path: Path, counted: float | None) -> float:
    """Return for how many seconds a file should have pictures, by its own account; 0 if it gives none.

    Args:
        path: MP4 or QuickTime, whose frame count includes what edit lists cut out; AVI; Matroska or WebM, whose
            duration may start before the first picture, so that only missing bytes count (as infinity).
        counted: The claimed number of frames at the claimed rate, in seconds.
    """
    with path.open("rb") as file:
        head = file.read(12)
        if head.startswith(_EBML):
            return math.inf if _lacks_bytes(file) else 0.0
        if head[4:8] in _FIRST_BOXES:
            return _movie_seconds(file) or counted or 0.0
        return counted or 0.0 if head.startswith(b"RIFF") else 0.0


def _movie_seconds(file: BinaryIO) -> float:
    """Return the duration in the header of an MP4 file, 0 if there is none, as in a fragmented one."""
    for name, start, size in _boxes(file, 0, math.inf):
        if name == b"moov":
            for inner, position, _ in _boxes(file, start, start + size):
                if inner == b"mvhd":
                    file.seek(position)
                    version = file.read(4)[:1]
                    times, length = (16, 8) if version == b"\1" else (8, 4)
                    file.seek(position + 4 + times)
                    scale, duration = (int.from_bytes(file.read(n), "big") for n in (4, length))
                    return duration / scale if scale and duration < 256**length - 1 else 0.0
    return 0.0


def _boxes(file: BinaryIO, position: int, end: float) -> Iterator[tuple[bytes, int, float]]:
    """Yield name, start and size of the content of each box."""
    while position + 8 <= end:
        file.seek(position)
        header = file.read(8)
        size, start = int.from_bytes(header[:4], "big"), position + 8
        if len(header) < 8 or size == 0:  # the end of the file, or a last box that reaches to it
            return
        if size == 1:
            size, start = int.from_bytes(file.read(8), "big"), position + 16
        if size < start - position:
            return
        yield header[4:], start, position + size - start
        position += size


def _lacks_bytes(file: BinaryIO) -> bool:
    """Return whether a Matroska file ends before its segment does."""
    file.seek(len(_EBML))
    length = _variable(file)
    file.seek(0 if length is None else length, 1)
    if file.read(4) != _SEGMENT or (size := _variable(file)) is None:
        return False
    start = file.tell()
    return start + size > file.seek(0, 2)


def _variable(file: BinaryIO) -> int | None:
    """Read an integer whose first bit set says how many bytes it has; None for the one that means unknown."""
    first = file.read(1)[:1]
    if not first or first == b"\0":
        return None
    more = 8 - first[0].bit_length()
    bits = 7 * (more + 1)
    value = int.from_bytes(first + file.read(more), "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value
