"""Video files, and folders of images as videos."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2

from sam2edge.errors import MediaError
from sam2edge.files import user_path
from sam2edge.runtime.media.image_files import ValueRange, check_range, find_frames, read_image
from sam2edge.runtime.media.sources.base import IteratedSource, known, timed
from sam2edge.types import Frame

# FFmpeg plays .txt and .nfo files as ANSI art; nobody wants to track in those.
_TEXT = cv2.VideoWriter.fourcc(*"ansi")


class VideoSource(IteratedSource[Frame]):
    """The frames of a video file, each a new contiguous RGB uint8 [H,W,3], turned as the file's orientation says.

    The first frame is decoded on opening: a file without a picture fails then and not in the middle of the work.
    `fps` and `frame_count` are what the file claims; some containers only estimate.

    Raises:
        MediaError: The file is missing, a directory, empty or not a video, or its first frame cannot be decoded.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = user_path(path)
        self.name = str(self.path)
        self._capture = open_capture(self.path)
        self.fps = known(self._capture.get(cv2.CAP_PROP_FPS))
        rest = self._read()
        first = next(rest, None)
        if first is None:
            self.close()
            raise MediaError(f"{self.path}: its first frame cannot be decoded: damaged, or a codec OpenCV lacks")
        self._frames = itertools.chain([first], rest)
        self.height, self.width = first[1].shape[:2]
        frames = known(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.frame_count = None if frames is None else int(frames)

    def close(self) -> None:
        """Release the file; iteration then ends. May be called again."""
        super().close()
        self._capture.release()

    def _read(self) -> Iterator[tuple[float | None, Frame]]:
        time: float | None = None
        while True:
            decoded, frame = self._capture.read()
            if not decoded:
                return
            time = _next_time(self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, time, self.fps)
            yield time, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


class ImageFolderSource(IteratedSource[Frame | MediaError]):
    """The images of a folder, or those that match a pattern, ordered by the numbers in their names.

    An image that cannot be read is a broken frame, not the end; `width` and `height` are those of the first that can.

    Args:
        path: The folder, or a pattern such as "run/*.png" (in quotes in a shell).
        fps: Frames per second, if known.
        value_range: The two values that become black and white, as for `read_image`.

    Raises:
        MediaError: There are no images, none of them can be read, or their names do not order them (`find_frames`).
    """

    def __init__(
        self, path: str | os.PathLike[str], *, fps: float | None = None, value_range: ValueRange | None = None
    ) -> None:
        self.name, self.fps = str(user_path(path)), fps
        files = find_frames(path)
        self.frame_count = len(files)
        rest = _read(files, None if value_range is None else check_range(value_range))
        start: list[Frame | MediaError] = []
        for image in rest:
            start.append(image)
            if not isinstance(image, MediaError):
                self.height, self.width = image.shape[:2]
                break
        else:
            raise MediaError(f"{self.name}: none of its {len(files)} images can be read; the first: {start[0]}")
        self._frames = timed(itertools.chain(start, rest), fps=fps)


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


def _next_time(stamp: float, previous: float | None, fps: float | None) -> float | None:
    """Return the time of a frame by its stamp, or by the rate where the file has no stamps or they go back."""
    if stamp > (-1 if previous is None else previous):
        return stamp
    return None if fps is None else 0.0 if previous is None else previous + 1 / fps


def _read(files: Sequence[Path], value_range: ValueRange | None) -> Iterator[Frame | MediaError]:
    for file in files:
        try:
            yield read_image(file, value_range)
        except MediaError as error:
            yield error
