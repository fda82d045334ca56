"""Encoders of video files, and which of them is used for what."""

from __future__ import annotations

import functools
import math
import shutil
import subprocess
from abc import abstractmethod
from pathlib import Path

import cv2
import numpy as np

from sam2edge.closeable import Closeable
from sam2edge.errors import MediaError
from sam2edge.types import Frame

MPEG4 = "MPEG-4"
_CONTAINERS = {".m4v": "mp4", ".mkv": "matroska", ".mov": "mov", ".mp4": "mp4"}
_OPENCV = {".avi": ("motion JPEG", "MJPG"), ".webm": ("VP8", "VP80"), **dict.fromkeys(_CONTAINERS, (MPEG4, "mp4v"))}
"""Codec by extension, with the code by which OpenCV knows it. Its VP9 takes five times as long as VP8."""
EXTENSIONS = tuple(_OPENCV)


class Encoder(Closeable):
    """Writes frames of one size, at a constant rate, into a file.

    Attributes:
        codec: What the frames become, for people.
    """

    codec: str

    @abstractmethod
    def write(self, frame: Frame) -> None:
        """Add a frame, RGB uint8 [H,W,3]; raise MediaError if it is certain that it cannot be written."""


def open_encoder(path: Path, fps: float, size: tuple[int, int]) -> Encoder:
    """Open the best encoder for a path's extension: H.264 where the program ffmpeg has it, otherwise OpenCV's.

    Args:
        path: Absolute, since FFmpeg takes what stands before a colon for a protocol.
        fps: Frames per second.
        size: Width and height.

    Raises:
        MediaError: There is none for the extension, or the file cannot be made.
    """
    extension = path.suffix.lower()
    if extension in _CONTAINERS and min(size) > 1 and _ffmpeg_has_h264():
        return _Ffmpeg(path, fps, size, _CONTAINERS[extension])
    return _OpenCV(path, fps, size, *_OPENCV[extension])


class _OpenCV(Encoder):
    def __init__(self, path: Path, fps: float, size: tuple[int, int], codec: str, code: str) -> None:
        self.codec = codec
        # OpenCV writes 66.667 as 66667 / 1000, but MPEG-4 has no numerator above 65535.
        fps = round(fps, max(0, int(math.log10(65535 / fps))))
        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), fps, size)
        if not self._writer.isOpened():
            raise MediaError("cannot be opened")

    def write(self, frame: Frame) -> None:
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        self._writer.release()


class _Ffmpeg(Encoder):
    """H.264 by the program ffmpeg, which gets the frames through a pipe, and finishes the file if this process dies."""

    codec = "H.264"

    def __init__(self, path: Path, fps: float, size: tuple[int, int], container: str) -> None:
        self._width, self._height = (side // 2 * 2 for side in size)
        frames = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{self._width}x{self._height}"]
        # Without looking ahead, which takes memory and threads that the tracker needs.
        coding = ["-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency", "-pix_fmt", "yuv420p"]
        given = [*frames, "-framerate", f"{fps:.6f}", "-i", "pipe:0"]
        self._process = subprocess.Popen(
            ["ffmpeg", "-loglevel", "quiet", *given, *coding, "-f", container, "-y", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C must reach this process only, which then ends the video
        )

    def write(self, frame: Frame) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(frame[: self._height, : self._width]).data)
            self._process.stdin.flush()
        except OSError as error:
            raise MediaError("ffmpeg ended early") from error

    def close(self) -> None:
        self._process.communicate()


@functools.cache
def _ffmpeg_has_h264() -> bool:
    if shutil.which("ffmpeg") is None:
        return False
    return b" libx264 " in subprocess.run(["ffmpeg", "-hide_banner", "-encoders"], capture_output=True).stdout
