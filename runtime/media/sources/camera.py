"""USB cameras."""

from __future__ import annotations

import os
import sys

import cv2

from sam2edge.errors import MediaError
from sam2edge.runtime.media.sources.capture import LiveCapture

_BACKEND = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY


class CameraSource(LiveCapture):
    """A camera that the system knows, through V4L2 on Linux. No real one was tried, only a stand-in for OpenCV's class.

    device: its number, or its path such as "/dev/video0". size: (width, height) and fps to ask for; the camera takes
    the nearest that it has, and `width`, `height` and `fps` say what came of it.

    Raises MediaError for a camera that is not there, cannot be opened or gives no picture.
    """

    def __init__(self, device: int | str, *, size: tuple[int, int] | None = None, fps: float | None = None) -> None:
        path = f"/dev/video{device}" if isinstance(device, int) else device
        if _BACKEND == cv2.CAP_V4L2 and not os.path.exists(path):
            raise MediaError(f"{path}: no such camera; `ls /dev/video*` lists those that are connected")
        capture = cv2.VideoCapture(device, _BACKEND)
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
