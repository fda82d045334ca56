"""A video file read with OpenCV, which does not say which pictures are lost, nor whether the file is cut short."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path

import cv2

from sam2edge.errors import MediaError
from sam2edge.runtime.media.sources.base import known, known_rate
from sam2edge.runtime.media.sources.container import promised_seconds
from sam2edge.runtime.media.sources.interlaced import InterlacedGuard
from sam2edge.types import Frame

# FFmpeg plays .txt and .nfo files as ANSI art; nobody wants to track in those.
_TEXT = cv2.VideoWriter.fourcc(*"ansi")
_MOST_LOST = 1000
"""Failures in a row after which a file has ended; at a true end OpenCV needs less than 0.1 s for them."""
_EXAMINED = 100
_EVEN = 0.7
"""Part of the claimed distance between two pictures above which a shorter one is a matter of rounding."""
_FASTEST = 60.0


class VideoFile:
    """The pictures of a video file, one after the other; the numbers and times of those that are lost stay free.

    A failure of OpenCV's `grab` in the middle of a file is a damaged picture. It may come some pictures too early, and
    others that depend on the damaged one may be left out without a word. So the time stamps say which are lost, as long
    as the pictures come at the file's rate; otherwise there is one for each failure.

    Attributes:
        fps: Frames per second, as the file claims; None if unknown.
        frame_count: Number of pictures, as the file claims; None if unknown. At the end of `pictures` it becomes the
            true number, lost ones included, unless the file broke off.
        time: When the picture is shown, in seconds since the file's start; None if unknown.

    Raises:
        MediaError: The file is missing, a directory, empty or not a video.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.restart()
        self.fps = known_rate(self._capture)
        frames = known(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.frame_count = None if frames is None else int(frames)
        self.time: float | None = None
        self._failures = 0
        self._guard = InterlacedGuard(str(path), str(path.absolute())) if path.is_file() else None

    @property
    def stamp(self) -> int:
        """The picture's own time stamp in microseconds, which some files lack."""
        return round(1000 * self._capture.get(cv2.CAP_PROP_POS_MSEC))

    def pictures(self) -> Iterator[bool]:
        """Read all pictures from the start on: True if there is one to `decode`, False if it is lost.

        Raises:
            MediaError: Not one can be decoded.
        """
        period = 1 / self.fps if self.fps else 0.0
        steady, pending, count, longest, time = bool(period), 0, 0, 0.0, -period
        while self.grab():
            pending += self._failures
            stamp = self.stamp / 1e6
            stamped = stamp > time
            step = stamp - time if stamped else period
            missing = round(step / period) - 1 if steady and stamped else -1
            if not count and not pending:  # a file may start late
                missing = 0
            most = min(_MOST_LOST, (self.frame_count or math.inf) - count - 1)
            if missing < 0 or (missing and not pending) or missing > most:
                steady, missing, pending = False, pending, 0
            pending = max(pending - missing, 0)
            for lost in range(1, missing + 1):
                self.time = time + step * lost / (missing + 1)
                yield False
            if count:
                longest = max(longest, step / (missing + 1))
            time += step
            count += missing + 1
            self.time = time if stamped or period else None
            yield True
        if not count:
            raise self.without_picture()
        if self.frame_count is not None:
            pending = max(min(pending, self.frame_count - count), 0)
        for lost in range(1, pending + 1):
            self.time = time + period * lost
            yield False
        self._settle(count + pending, time + period * pending + 2 * longest)

    def grab(self) -> bool:
        """Go to the next picture that can be decoded; return False at the end."""
        self._failures = 0
        while not self._capture.grab():
            self._failures += 1
            if self._failures > _MOST_LOST:
                return False
        return True

    def decode(self) -> Frame | None:
        """Return the picture, a new contiguous RGB uint8 [H,W,3], or None if that fails, too.

        Raises:
            MediaError: OpenCV cannot decode this kind of file.
        """
        decoded, picture = self._capture.retrieve()
        if not decoded or picture is None:
            return None
        if self._guard is not None:
            self._guard.check(picture, self.stamp / 1e6)
        frame: Frame = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        return frame

    def seek(self, number: int) -> None:
        """Go before a picture, or to where OpenCV takes it to be."""
        self._capture.set(cv2.CAP_PROP_POS_FRAMES, number)

    def restart(self) -> None:
        """Go before the first picture."""
        self._capture = open_capture(self.path)

    def close(self) -> None:
        """Release the file."""
        self._capture.release()

    def without_picture(self) -> MediaError:
        """Return the error of a file in which no picture can be decoded."""
        return MediaError(f"{self.path}: no picture in it can be decoded: damaged, or a codec OpenCV lacks")

    def _settle(self, count: int, end: float) -> None:
        """Replace the claimed number of pictures, which is wrong for changing rates and edit lists, by the true one."""
        claimed = self.frame_count or 0
        if count < claimed and self.path.is_file():
            counted = claimed / self.fps if self.fps else None
            if end < promised_seconds(self.path, counted):
                return
        self.frame_count = count


def finest_rate(path: Path) -> float | None:
    """Return a rate, in frames per second, at which each of a file's first pictures has a frame of its own.

    It is the one that the file claims, where that is fine enough, and 60 at most; None if there are no times.
    """
    file = VideoFile(path)
    times = [file.time or 0.0 for _ in itertools.islice(file.pictures(), _EXAMINED)]
    file.close()
    finest = min((later - time for time, later in itertools.pairwise(times) if later > time), default=math.inf)
    if file.fps and finest * file.fps > _EVEN:
        return file.fps
    return min(round(1 / finest, 3), _FASTEST) or None


def open_capture(path: Path) -> cv2.VideoCapture:
    """Return OpenCV's reader of a video file, before the first frame; raise MediaError for what cannot be opened."""
    # OpenCV itself reports all of these the same way, as a capture that is not open.
    try:
        if path.is_dir():
            raise MediaError(f"{path}: is a directory, expected a video file")
        if not path.exists():
            raise MediaError(f"{path}: no such video file")
        if path.is_file() and path.stat().st_size == 0:
            raise MediaError(f"{path}: the file is empty (0 bytes), so there is no video in it")
    except OSError as error:  # a folder without permission to enter, a name that no file can have
        raise MediaError(f"{path}: cannot be read: {error.strerror}") from error
    if not os.access(path, os.R_OK):
        raise MediaError(f"{path}: cannot be read: Permission denied")
    capture = cv2.VideoCapture(str(path.absolute()))  # FFmpeg takes a relative 12:30.mp4 for an address of protocol 12
    if not capture.isOpened() or capture.get(cv2.CAP_PROP_FOURCC) == _TEXT:
        raise MediaError(f"{path}: not a video that OpenCV can open: another kind of file, or one cut short")
    return capture
