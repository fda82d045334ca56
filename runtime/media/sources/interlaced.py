"""Interlaced pictures, which OpenCV from 4.13 on does not convert: it says that it did and leaves its memory as it was.

So one picture follows another unchanged, which also happens where nothing moves. What tells the two apart is a message
that FFmpeg writes to the standard error; a process of its own reads the place again, since no other's can be read.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import cv2

from sam2edge.errors import MediaError
from sam2edge.types import Frame

_MESSAGE = b"Cannot convert interlaced to progressive"
_PROGRAM = """
import json, sys, cv2
where, start = json.load(sys.stdin)
capture = cv2.VideoCapture(where, cv2.CAP_FFMPEG)
if start:
    capture.set(cv2.CAP_PROP_POS_MSEC, start)
for _ in range(25):
    capture.read()
"""
_BEFORE = 500
"""Milliseconds before the place in question from which it is read, since a seek may go too far."""
_PATIENCE = 8
_SAMPLE = 32, 8
"""Distances of the rows and columns whose pixels tell most pictures apart."""


class InterlacedGuard:
    """Looks at every picture of a video, and raises a MediaError once it is sure that they are not converted.

    Args:
        name: What messages call the video.
        where: Its path or address, for FFmpeg.
    """

    def __init__(self, name: str, where: str) -> None:
        self._name, self._where = name, where
        self._last: Frame | None = None
        self._pairs = 0
        self._interlaced = False

    def check(self, picture: Frame, time: float | None = None) -> None:
        """Check a picture, shown at `time` seconds, against the one before."""
        last, self._last = self._last, picture
        if last is not None and not self._interlaced and _equal(last, picture):
            self._pairs += 1
            # More and more seldom: where nothing moves there are many, and what comes later may be interlaced.
            if self._pairs.bit_count() == 1:
                self._interlaced = _is_interlaced(self._where, max(0, 1000 * (time or 0) - _BEFORE))
        if self._interlaced:
            raise MediaError(
                f"{self._name}: interlaced, which OpenCV {cv2.__version__} does not decode; deinterlace it (ffmpeg "
                "-i IN -vf yadif OUT.mp4, or 'gst:… ! decodebin ! deinterlace'), or install an OpenCV below 4.13"
            )


def _equal(first: Frame, second: Frame) -> bool:
    rows, columns = _SAMPLE
    if first.shape != second.shape or (first[::rows, ::columns] != second[::rows, ::columns]).any():
        return False
    return bool((first == second).all())


def _is_interlaced(where: str, start: float) -> bool:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV_FFMPEG_")}
    environment |= {name: os.environ[name] for name in ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] if name in os.environ}
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # no process to be had, or a stream for one reader
        done = subprocess.run(
            [sys.executable or "python3", "-c", _PROGRAM],
            input=json.dumps([where, start]).encode(),  # not as an argument: an address may hold a password
            capture_output=True,
            timeout=_PATIENCE,
            env=environment,
        )
        return _MESSAGE in done.stderr
    return False
