"""An overlay video."""

from __future__ import annotations

import math
import os
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge.errors import FrameError, InputError, MediaError
from sam2edge.files import user_path
from sam2edge.runtime.media import overlay
from sam2edge.runtime.media.sinks.base import Sink, make_directory
from sam2edge.runtime.media.sources import VideoSource
from sam2edge.runtime.model.result import FrameResult

_CODECS = {".avi": "MJPG", ".m4v": "mp4v", ".mkv": "mp4v", ".mov": "mp4v", ".mp4": "mp4v"}


class VideoSink(Sink):
    """Writes the frames with the masks drawn on them as a video.

    path: the file; missing directories are made. fps: frames a second, above 0. size: (width, height) of the
    frames.

    The video grows under a temporary name beside its own, which it gets on closing. If no frame was written
    or the process is killed, what lay at `path` before stays. The extension decides the codec: MPEG-4 in
    .mp4, .m4v, .mov and .mkv, motion JPEG in .avi. Both want even sides: an odd frame loses its last column
    or row.

    Raises MediaError for an extension it does not know or a file it cannot write, InputError for a wrong fps.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float, size: tuple[int, int]) -> None:
        self.path = user_path(path)
        codec = _CODECS.get(self.path.suffix.lower())
        if codec is None:
            raise MediaError(f"{self.path}: unknown extension for a video; use one of {', '.join(_CODECS)}")
        if not (math.isfinite(fps) and fps > 0):
            raise InputError(f"fps must be a number above 0 but is {fps}")
        self._size = size
        self._frames = 0
        self._file = _Replacement(self.path)
        # OpenCV writes 66.667 as 66667 / 1000, but MPEG-4 has no numerator above 65535.
        fps = round(fps, max(0, int(math.log10(65535 / fps))))
        self._writer = cv2.VideoWriter(str(self._file.temporary), cv2.VideoWriter.fourcc(*codec), fps, size)
        if not self._writer.isOpened():
            self._file.discard()
            raise MediaError(
                f"{self.path}: a video of {size[0]}×{size[1]} pixels cannot be written there; is the "
                "directory writable, and are both sides at least 2?"
            )

    def write(self, frame: npt.NDArray[np.uint8], result: FrameResult) -> None:
        """Write one frame with its masks.

        Raises FrameError for a frame of another size (OpenCV would drop it without a word) and MediaError
        after `close`.
        """
        if not self._writer.isOpened():
            raise MediaError(f"{self.path}: the video is closed")
        if frame.shape[1::-1] != self._size:
            raise FrameError(f"frames must be {self._size} (width, height) but got {frame.shape[1::-1]}")
        self._writer.write(cv2.cvtColor(overlay.draw(frame, result), cv2.COLOR_RGB2BGR))
        self._frames += 1

    def close(self) -> None:
        """Finish the video and give it its name. May be called again.

        Raises MediaError if it is not complete: OpenCV says nothing of a full disk while writing.
        """
        if not self._writer.isOpened():
            return
        self._writer.release()
        if not self._frames:
            self._file.discard()
            return
        message = f"{self.path}: could not be written completely; is the disk full?"
        try:
            with VideoSource(self._file.temporary) as video:
                finished = video.frame_count is not None
        except MediaError as error:
            self._file.discard()
            raise MediaError(message) from error
        if not finished:  # .mkv and .avi play up to where the disk was full
            raise MediaError(f"{message} What there is of it is in {self._file.temporary}")
        self._file.publish()


class _Replacement:
    """A file that grows under a temporary name in the directory of the one it will replace."""

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise MediaError(f"{path}: is a directory, expected the name of a file to write")
        make_directory(path.parent)
        # The extension stays: OpenCV takes the container from it. The process's number keeps two runs apart.
        # Absolute, since FFmpeg takes what stands before a colon for a protocol.
        self._path = path.absolute()
        self.temporary = self._path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")

    def publish(self) -> None:
        self.temporary.replace(self._path)

    def discard(self) -> None:
        self.temporary.unlink(missing_ok=True)
