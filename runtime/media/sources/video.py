"""Video files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2

from sam2edge.errors import MediaError
from sam2edge.files import user_path
from sam2edge.runtime.media.sources.base import Frame, Source, known

# FFmpeg plays .txt and .nfo files as ANSI art; nobody wants to track in those.
_TEXT = cv2.VideoWriter.fourcc(*"ansi")


class VideoSource(Source):
    """A video file as RGB frames, read once from start to end.

    Iterating gives each frame as a new contiguous uint8 [H,W,3]. The first one is decoded on opening: a file
    that gives no picture fails there and not in the middle of the work.

    path: the file. width, height: of the first frame, in pixels, turned as the file's orientation says. fps:
    frames a second, None if the file does not say. frame_count: how many frames it claims to hold, None if it
    does not say; some containers only estimate.

    Raises MediaError for a file that is missing, a directory, empty or no video, or whose first frame cannot
    be decoded.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = user_path(path)
        self.name = str(self.path)
        self._capture = open_capture(self.path)
        first = self._decode()
        if first is None:
            self.close()
            raise MediaError(f"{self.path}: its first frame cannot be decoded: damaged, or a codec OpenCV lacks")
        self._first: Frame | None = first
        self.height, self.width = first.shape[:2]
        self.fps = known(self._capture.get(cv2.CAP_PROP_FPS))
        frames = known(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.frame_count = None if frames is None else int(frames)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames that were not read yet."""
        while (frame := self._next()) is not None:
            yield frame

    def close(self) -> None:
        """Release the file; iterating then ends. May be called again."""
        self._first = None
        self._capture.release()

    def _next(self) -> Frame | None:
        if self._first is None:
            return self._decode()
        first, self._first = self._first, None
        return first

    def _decode(self) -> Frame | None:
        decoded, frame = self._capture.read()
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if decoded else None


def open_capture(path: Path) -> cv2.VideoCapture:
    """OpenCV's reader of a video file, before the first frame. Raises MediaError for what cannot be opened."""
    # OpenCV reports all of these alike, as a capture that is not open.
    try:
        if path.is_dir():
            raise MediaError(f"{path}: is a directory, expected a video file")
        if not path.exists():
            raise MediaError(f"{path}: no such video file")
        if path.is_file() and path.stat().st_size == 0:
            raise MediaError(f"{path}: the file is empty (0 bytes), so there is no video in it")
    except OSError as error:  # in a folder that may not be entered, a name that no file can have
        raise MediaError(f"{path}: cannot be read: {error.strerror}") from error
    if not os.access(path, os.R_OK):
        raise MediaError(f"{path}: cannot be read: Permission denied")
    capture = cv2.VideoCapture(str(path.absolute()))  # to FFmpeg, a relative 12:30.mp4 is of protocol "12"
    if not capture.isOpened() or capture.get(cv2.CAP_PROP_FOURCC) == _TEXT:
        raise MediaError(f"{path}: not a video that OpenCV can open: another kind of file, or one cut short")
    return capture
