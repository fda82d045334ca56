"""A window on the screen."""

from __future__ import annotations

import os
import re
import sys

import cv2

from sam2edge.errors import MediaError
from sam2edge.runtime.media import overlay
from sam2edge.runtime.media.sinks.base import Sink
from sam2edge.runtime.model.result import FrameResult
from sam2edge.types import Frame


class WindowSink(Sink):
    """Shows the frames with the masks drawn on them. Use it in the main thread.

    Attributes:
        closed_by_user: Whether the user pressed q in the window or closed it; nothing is shown from then on.

    Raises:
        MediaError: This OpenCV has no windows, or there is no screen.
    """

    def __init__(self, title: str = "sam2edge") -> None:
        if not _has_windows():
            raise MediaError(
                "this OpenCV has no windows: pip uninstall -y opencv-python-headless && pip install opencv-python"
            )
        # Without a screen, Qt would abort the process.
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise MediaError("no screen to show a window on: neither DISPLAY nor WAYLAND_DISPLAY is set")
        self._title = title
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Show one frame with its masks."""
        if self.closed_by_user:
            return
        cv2.imshow(self._title, cv2.cvtColor(overlay.draw(frame, result), cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(1)  # also draws
        self.closed_by_user = key == ord("q") or not self._is_open()

    def close(self) -> None:
        """Close the window. May be called again."""
        if self._is_open():
            cv2.destroyWindow(self._title)

    def _is_open(self) -> bool:
        try:
            return bool(cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1)
        except cv2.error:  # raised by Qt once the last window is closed
            return False


def _has_windows() -> bool:
    if hasattr(cv2, "currentUIFramework"):
        return bool(cv2.currentUIFramework())
    # OpenCV before 4.10
    return not re.search(r"^ *GUI: +NONE *$", cv2.getBuildInformation(), re.MULTILINE)
