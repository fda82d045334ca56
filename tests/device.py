"""Stand-ins for the devices in documented commands (cameras, a screen), and for a user who ends the commands."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.simulated import PATIENCE

ENOUGH = 3
"""Frames after which the user ends a command that would run forever."""


def plug_in_cameras(patch: pytest.MonkeyPatch, folder: Path, frame: np.ndarray) -> None:
    """Make every camera and stream show one frame, RGB uint8 [H,W,3], through OpenCV and gst-launch-1.0."""
    real, exists = cv2.VideoCapture, os.path.exists

    class Camera:
        def isOpened(self) -> bool:  # noqa: N802
            return True

        def get(self, what: int) -> float:
            return {cv2.CAP_PROP_FPS: 30.0}[what]

        def grab(self) -> bool:
            time.sleep(1 / 30)
            return True

        def retrieve(self) -> tuple[bool, np.ndarray]:
            return True, frame[..., ::-1].copy()

        def release(self) -> None:
            pass

    def open_capture(name: str, *how: object) -> object:
        return Camera() if name == "/dev/video0" or name.startswith("rtsp://") else real(name, *how)

    patch.setattr(cv2, "VideoCapture", open_capture)
    patch.setattr(os.path, "exists", lambda path: path == "/dev/video0" or exists(path))

    picture, program = folder / "frame.ppm", folder / "bin" / "gst-launch-1.0"
    cv2.imwrite(str(picture), frame[..., ::-1])
    program.parent.mkdir(exist_ok=True)
    # The last argument names the pipe for the pictures: fd=N.
    program.write_text(
        f"#!/bin/sh\nfor last; do :; done\nwhile cat {picture} >/dev/fd/${{last#fd=}}; do sleep 0.03; done\n"
    )
    program.chmod(0o755)
    patch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


def plug_in_screen(patch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Return the list of BGR pictures that are shown on the screen; the user presses q."""
    shown: list[np.ndarray] = []
    patch.setenv("DISPLAY", ":0")
    patch.setattr(cv2, "currentUIFramework", lambda: "QT5")
    patch.setattr(cv2, "namedWindow", lambda title, flags: None)
    patch.setattr(cv2, "imshow", lambda title, image: shown.append(image))
    patch.setattr(cv2, "waitKey", lambda delay: ord("q") if len(shown) >= ENOUGH else -1)
    patch.setattr(cv2, "getWindowProperty", lambda title, what: 1)
    patch.setattr(cv2, "destroyWindow", lambda title: None)
    return shown


@contextlib.contextmanager
def interrupting(enough: Callable[[], bool]) -> Iterator[None]:
    """Press Ctrl-C when `enough` returns true, or after a minute."""
    over = threading.Event()

    def watch() -> None:
        end = time.monotonic() + 3 * PATIENCE
        while not over.wait(0.05):
            if enough() or time.monotonic() > end:
                os.kill(os.getpid(), signal.SIGINT)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(PATIENCE)
