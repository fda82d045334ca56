"""Cameras and network streams that OpenCV opens."""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Iterator

import cv2

from sam2edge.errors import MediaError
from sam2edge.runtime.media.sources.base import IteratedSource, known, known_rate, timed
from sam2edge.runtime.media.sources.interlaced import InterlacedGuard
from sam2edge.types import Frame

_CAMERA_BACKEND = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
_WARM_UP = 10  # broken frames to skip on opening: some USB cameras start with a few


class _Capture(IteratedSource[Frame | MediaError]):
    """A source that reads an opened cv2.VideoCapture; `advice` says what to do if it gives no picture."""

    live = True

    def __init__(self, name: str, capture: cv2.VideoCapture, advice: str, guard: InterlacedGuard | None = None) -> None:
        self.name = name
        self._capture, self._guard = capture, guard
        rest = self._read()
        first = next((frame for frame in itertools.islice(rest, _WARM_UP) if not isinstance(frame, MediaError)), None)
        if first is None:
            self.close()
            raise MediaError(f"{name}: gives no picture; {advice}")
        self.height, self.width = first.shape[:2]
        self.fps = known_rate(capture)
        self._frames = timed(itertools.chain([first], rest), live=self.live, fps=self.fps)

    def close(self) -> None:
        """Release the camera or stream; iteration then ends. May be called again."""
        super().close()
        self._capture.release()

    def _read(self) -> Iterator[Frame | MediaError]:
        # Not read(), whose result is the same for a broken frame and for a camera that is gone.
        while self._capture.grab():
            decoded, frame = self._capture.retrieve()
            if decoded and self._guard is not None:
                self._guard.check(frame)
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if decoded else MediaError(f"{self.name}: a broken frame")


class CameraSource(_Capture):
    """A camera of this machine, through V4L2 on Linux. Tested with a stand-in for OpenCV's class, not with a camera.

    Args:
        device: Its number, or its path such as "/dev/video0".
        size: Width and height to ask for. The camera takes its nearest mode; `width`, `height` and `fps` say which.
        fps: Frames per second to ask for.

    Raises:
        MediaError: The camera is not there, cannot be opened or gives no picture.
    """

    def __init__(self, device: int | str, *, size: tuple[int, int] | None = None, fps: float | None = None) -> None:
        path = f"/dev/video{device}" if isinstance(device, int) else device
        if _CAMERA_BACKEND == cv2.CAP_V4L2 and not os.path.exists(path):
            raise MediaError(f"{path}: no such camera; `ls /dev/video*` lists those that are connected")
        capture = cv2.VideoCapture(device, _CAMERA_BACKEND)
        if not capture.isOpened():
            raise MediaError(
                f"{path}: cannot be opened; is it a camera, is no other program using it, and are you in group video?"
            )
        if size is not None:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        if fps is not None:
            capture.set(cv2.CAP_PROP_FPS, fps)
        super().__init__(path, capture, "is another program using it?")


class StreamSource(_Capture):
    """A stream from the network, through OpenCV's FFmpeg; RTSP over TCP if the server offers it.

    A web address behind which is a whole file, of known length, is read as a file, which ends. FFmpeg takes other
    options from the environment: OPENCV_FFMPEG_CAPTURE_OPTIONS="rtsp_transport;udp".

    Args:
        url: rtsp://, rtsps://, http://, https:// or udp://, as in rtsp://[user:password@]host[:port]/path; messages
            leave out user, password and what follows a question mark.
        timeout: Seconds to wait for the connection and for each frame before the stream counts as lost.

    Raises:
        MediaError: The stream cannot be opened or gives no picture.
    """

    def __init__(self, url: str, *, timeout: float = 10.0) -> None:
        name = re.sub(r"\?.+", "?…", re.sub(r"//[^/]+@", "//…@", url))
        limit = round(timeout * 1000)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
        capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, limits)
        if not capture.isOpened():
            raise MediaError(f"{name}: cannot be opened; is the server up, and are path and password right?")
        count = known(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if url.lower().startswith("http") else None
        self.frame_count = None if count is None else int(count)
        self.live = count is None
        advice = "is the camera behind it running?"
        if url.lower().startswith("http"):
            advice += " An MP4 file needs a server that seeks, or its index in front (ffmpeg -movflags faststart)"
        super().__init__(name, capture, advice, InterlacedGuard(name, url))
