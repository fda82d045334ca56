"""Network cameras."""

from __future__ import annotations

import re

import cv2

from sam2edge.errors import MediaError
from sam2edge.runtime.media.sources.capture import LiveCapture


class RtspSource(LiveCapture):
    """An RTSP stream, through OpenCV's FFmpeg; over TCP if the server offers it.

    url: rtsp://[user:password@]host[:port]/path; messages leave the password out. timeout: seconds to wait for the
    connection and for each frame; then the stream counts as lost.

    FFmpeg's other options come from the environment: OPENCV_FFMPEG_CAPTURE_OPTIONS="rtsp_transport;udp".

    Raises MediaError if the stream cannot be opened or gives no picture.
    """

    def __init__(self, url: str, *, timeout: float = 10.0) -> None:
        name = re.sub(r"//[^/]*@", "//…@", url)
        limit = round(timeout * 1000)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
        capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, limits)
        if not capture.isOpened():
            raise MediaError(f"{name}: cannot be opened; is the server up, and are path and password right?")
        super().__init__(name, capture, "is the camera behind it running?")
