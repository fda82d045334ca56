"""The frames of a whole video in any order, read when they are asked for.

However long the video is, only a few decoded frames of it are held.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sam2edge.errors import FrameError, InputError, MediaError
from sam2edge.files import user_path
from sam2edge.runtime.media.image_files import ValueRange, check_range, find_frames, read_image, stands_for_images
from sam2edge.runtime.media.sources.video_file import VideoFile
from sam2edge.runtime.model.resize import check_frame
from sam2edge.types import Frame

_HELD_BYTES = 64 << 20
"""Size of the decoded frames of a video file that are held for going backward; at least four are."""
_NEAR = 64
"""Frames up to this far ahead are decoded one by one; for later ones a seek is quicker."""
_FIRST = 2
"""Frames that are decoded on opening; two tell that pictures are not converted."""


class Frames(ABC):
    """The `count` frames of a video, all of one `size` (H,W), which is that of frame number `first`."""

    def __init__(self, count: int, first: int = 0) -> None:
        self.count = count
        self.size: tuple[int, int] = self._read(first).shape[:2]

    def read(self, index: int) -> Frame:
        """Return a frame, RGB uint8 [H,W,3], which must not be written to; raise MediaError or FrameError."""
        frame = self._read(index)
        if frame.shape[:2] != self.size:
            (height, width), (first_height, first_width) = frame.shape[:2], self.size
            raise FrameError(
                f"{self._name(index)} is {width}×{height} but the first frame is {first_width}×{first_height}; "
                "all must be of one size"
            )
        return frame

    @abstractmethod
    def _read(self, index: int) -> Frame:
        """Return a frame of any size."""

    def _name(self, index: int) -> str:
        """Return what messages call a frame."""
        return f"frame {index}"


def open_frames(video: object, value_range: ValueRange | None = None) -> Frames:
    """Open the frames of a folder, of a video file, or in memory; VideoPredictor.init_state describes them."""
    images = isinstance(video, (str, os.PathLike)) and stands_for_images(video)
    if value_range is not None:
        value_range = check_range(value_range)
        if not images:
            raise InputError("value_range is only for folders and patterns of images")
    if isinstance(video, (str, os.PathLike)):
        path = user_path(video)
        try:
            return _Images(path, value_range) if images else _VideoFile(path)
        except OSError as error:  # a folder without access, or a name that no file can have
            raise MediaError(f"{path}: cannot be read: {error.strerror}") from error
    if isinstance(video, np.ndarray) and (video.ndim != 4 or video.dtype != np.uint8):
        raise FrameError(f"frames in an array must be uint8 [T,H,W,3] but got {video.dtype} {list(video.shape)}")
    if isinstance(video, (bytes, bytearray)) or not isinstance(video, (np.ndarray, Sequence)):
        raise InputError(
            "video_path must be a folder or pattern of images, a video file, an array uint8 [T,H,W,3] or a list of "
            f"arrays uint8 [H,W,3] but got {type(video).__name__}"
        )
    return _InMemory(video)


class _InMemory(Frames):
    def __init__(self, frames: Sequence[object] | npt.NDArray[np.uint8]) -> None:
        if not len(frames):
            raise FrameError("the video has no frames")
        self._frames = frames
        super().__init__(len(frames))
        if isinstance(frames, (list, tuple)):  # others may load a frame when it is asked for
            for index in range(self.count):
                self.read(index)

    def _read(self, index: int) -> Frame:
        return check_frame(self._frames[index], what=f"frame {index}")


class _Images(Frames):
    """The images of a folder, or those that match a pattern."""

    def __init__(self, path: Path, value_range: ValueRange | None) -> None:
        self._files, self._range = find_frames(path), value_range
        super().__init__(len(self._files))

    def _read(self, index: int) -> Frame:
        return read_image(self._files[index], self._range)

    def _name(self, index: int) -> str:
        return str(self._files[index])


class _VideoFile(Frames):
    """A video file, decoded once to number its pictures, then where it is read.

    A place counts the pictures that can be decoded, an index all of them. OpenCV's seeks land elsewhere in some files,
    so the time stamp after a seek tells which picture it found. A file without distinct time stamps, or in which
    pictures are missing after a seek, is decoded from its start instead.
    """

    def __init__(self, path: Path) -> None:
        self._file = VideoFile(path)
        stamps, self._indices, count = [], [], 0
        for there in self._file.pictures():
            if there:
                stamps.append(self._file.stamp)
                self._indices.append(count)
                if len(stamps) <= _FIRST:
                    self._file.decode()
            count += 1
        self._place_of = {index: place for place, index in enumerate(self._indices)}
        distinct = len({*stamps}) == len(stamps)
        self._place_at = {stamp: place for place, stamp in enumerate(stamps)} if distinct else {}
        self._held: dict[int, Frame] = {}
        self._room = 1
        self._restart()
        super().__init__(count, first=self._indices[0])
        height, width = self.size
        self._room = max(4, _HELD_BYTES // (3 * height * width))

    def _read(self, index: int) -> Frame:
        place = self._place_of.get(index)
        if place is None:
            raise MediaError(f"{self._file.path}: frame {index} cannot be decoded: the file is damaged there")
        if place not in self._held:
            backward = place <= self._at
            for wanted in range(max(place - self._room + 1, 0) if backward else place, place + 1):
                self._held[wanted] = self._decode(wanted)
                if len(self._held) > self._room:
                    del self._held[next(iter(self._held))]
        return self._held[place]

    def _decode(self, place: int) -> Frame:
        if self._place_at and not self._at < place <= self._at + _NEAR:
            self._seek(place)
        if not self._step_to(place):
            self._place_at = {}  # seeks in this file cannot be trusted
            self._restart()
            self._step_to(place)
        picture = self._file.decode() if self._at == place else None
        if picture is None:
            index = self._indices[place]
            raise MediaError(f"{self._file.path}: frame {index} cannot be decoded, although it could before")
        return picture

    def _seek(self, place: int) -> None:
        """Go to a picture up to `place`, which a seek may overshoot, or before the first."""
        for back in (0, _NEAR):
            self._file.seek(self._indices[max(place - back, 0)])
            if self._file.grab():
                landed = self._place_at.get(self._file.stamp)
                if landed is not None and landed <= place:
                    self._at = landed
                    return
        self._restart()

    def _step_to(self, place: int) -> bool:
        """Go forward to a picture; return False if that cannot be done."""
        if place < self._at:
            self._restart()
        while self._at < place:
            if not self._file.grab():
                return False
            self._at += 1
            if self._place_at and self._place_at.get(self._file.stamp) != self._at:
                return False
        return True

    def _restart(self) -> None:
        self._file.restart()
        self._at = -1
