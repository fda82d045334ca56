"""Video files, and folders of images as videos."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sam2edge.errors import MediaError
from sam2edge.files import user_path
from sam2edge.runtime.media.image_files import ValueRange, check_range, find_frames, read_image
from sam2edge.runtime.media.sources.base import IteratedSource, timed
from sam2edge.runtime.media.sources.video_file import VideoFile
from sam2edge.types import Frame

_FIRST = 2
"""Frames of a video that are decoded on opening; two tell that pictures are not converted."""


class VideoSource(IteratedSource[Frame | MediaError]):
    """The frames of a video file, each a new contiguous RGB uint8 [H,W,3], turned as the file's orientation says.

    A damaged frame is a broken frame, not the end. The first frames are decoded on opening: a file without a picture,
    or of a kind that OpenCV cannot decode, fails then and not in the middle of the work. `fps` and `frame_count` are
    what the file claims; some containers only estimate. After the last frame, `frame_count` is the true number, unless
    the file is cut short.

    Raises:
        MediaError: The file is missing, a directory, empty, not a video, interlaced, or has no picture.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = user_path(path)
        self.name = str(self.path)
        self._file = VideoFile(self.path)
        self.fps, self.frame_count = self._file.fps, self._file.frame_count
        rest = self._read()
        start: list[tuple[float | None, Frame | MediaError]] = []
        sizes: list[tuple[int, ...]] = []
        try:
            while len(sizes) < _FIRST and (item := next(rest, None)):
                start.append(item)
                if not isinstance(item[1], MediaError):
                    sizes.append(item[1].shape[:2])
            if not sizes:
                raise self._file.without_picture()
        except MediaError:
            self.close()
            raise
        self.height, self.width = sizes[0]
        self._frames = itertools.chain(start, rest)

    def close(self) -> None:
        """Release the file; iteration then ends. May be called again."""
        super().close()
        self._file.close()

    def _read(self) -> Iterator[tuple[float | None, Frame | MediaError]]:
        for there in self._file.pictures():
            frame = self._file.decode() if there else None
            damaged = f"{self.name}: damaged; the frame cannot be decoded"
            yield self._file.time, MediaError(damaged) if frame is None else frame
        self.frame_count = self._file.frame_count


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


def _read(files: Sequence[Path], value_range: ValueRange | None) -> Iterator[Frame | MediaError]:
    for file in files:
        try:
            yield read_image(file, value_range)
        except MediaError as error:
            yield error
