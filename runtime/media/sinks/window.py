"""A window on the screen."""

from __future__ import annotations

import os
import re
import sys

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge.errors import MediaError
from sam2edge.runtime.media import overlay
from sam2edge.runtime.media.sinks.base import Sink
from sam2edge.runtime.model.result import FrameResult


class WindowSink(Sink):
    """Shows the frames with the masks drawn on them. To be used in the main thread.

    closed_by_user: whether q was pressed in the window or it was closed; nothing is shown from then on.

    Raises MediaError if this OpenCV has no windows, or if there is no screen.
    """

    def __init__(self, title: str = "sam2edge") -> None:
        if not _has_windows():
            raise MediaError(
                "this OpenCV has no windows: pip uninstall -y opencv-python-headless && pip install opencv-python"
            )
        # Without a screen Qt would end the process.
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise MediaError("no screen to show a window on: neither DISPLAY nor WAYLAND_DISPLAY is set")
        self._title = title
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)

    def write(self, frame: npt.NDArray[np.uint8], result: FrameResult) -> None:
        """Show one frame with its masks."""
        if self.closed_by_user:
            return
        cv2.imshow(self._title, cv2.cvtColor(overlay.draw(frame, result), cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(1)  # draws, too
        self.closed_by_user = key == ord("q") or not self._is_there()

    def close(self) -> None:
        """Close the window. May be called again."""
        if self._is_there():
            cv2.destroyWindow(self._title)

    def _is_there(self) -> bool:
        try:
            return bool(cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1)
        except cv2.error:  # Qt, after the program's last window was closed
            return False


def _has_windows() -> bool:
    if hasattr(cv2, "currentUIFramework"):
        return bool(cv2.currentUIFramework())
    # OpenCV before 4.10
    return not re.search(r"^ *GUI: +NONE *$", cv2.getBuildInformation(), re.MULTILINE)
