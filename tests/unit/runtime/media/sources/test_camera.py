"""Cameras, with a stand-in for OpenCV's class: the machines that run these tests have no camera."""

import cv2
import numpy as np
import pytest

from sam2edge.errors import MediaError
from sam2edge.runtime.media.sources import CameraSource

BLUE = np.full((20, 30, 3), (255, 10, 0), np.uint8)
"""As OpenCV gives it: BGR."""


@pytest.fixture
def device(tmp_path):
    """A path that exists."""
    path = tmp_path / "video0"
    path.touch()
    return str(path)


@pytest.fixture
def plug_in(monkeypatch):
    """Return a function that makes the camera give these frames (None: a broken one) and then disappear."""

    def plug_in(*frames, fps=30.0, opened=True):
        class Capture:
            def __init__(self, *arguments):
                self.arguments, self.requested, self.released = arguments, {}, False
                self.frames = list(frames)
                made.append(self)

            def isOpened(self):  # noqa: N802
                return opened

            def set(self, what, value):
                self.requested[what] = value

            def get(self, what):
                return {cv2.CAP_PROP_FPS: fps}[what]

            def grab(self):
                return bool(self.frames)

            def retrieve(self):
                frame = self.frames.pop(0)
                return frame is not None, frame

            def release(self):
                self.released = True

        made = []
        monkeypatch.setattr(cv2, "VideoCapture", Capture)
        return made

    return plug_in


def test_frames(device, plug_in):
    made = plug_in(BLUE, BLUE + 1)
    with CameraSource(device) as source:
        assert (source.width, source.height, source.fps, source.frame_count) == (30, 20, 30, None)
        assert (source.live, source.name) == (True, device)
        first, second = source
    assert first[0, 0].tolist() == [0, 10, 255]
    assert second[0, 0].tolist() == [1, 11, 0]
    assert made[0].arguments == (device, cv2.CAP_V4L2)
    assert made[0].requested == {}
    assert made[0].released
    assert list(source) == []


def test_requested_mode(device, plug_in):
    made = plug_in(BLUE)
    source = CameraSource(device, size=(640, 480), fps=15)
    assert made[0].requested == {
        cv2.CAP_PROP_FRAME_WIDTH: 640,
        cv2.CAP_PROP_FRAME_HEIGHT: 480,
        cv2.CAP_PROP_FPS: 15,
    }
    assert (source.width, source.height) == (30, 20), "what the camera gives counts"


def test_broken_frames_are_skipped_at_the_start_and_later_not_the_end(device, plug_in):
    plug_in(*[None] * 5, BLUE, None, BLUE)
    assert [type(item) for item in CameraSource(device)] == [np.ndarray, MediaError, np.ndarray]


@pytest.mark.parametrize("frames", [(), (None,) * 20])
def test_no_picture(device, plug_in, frames):
    made = plug_in(*frames)
    with pytest.raises(MediaError, match="video0: gives no picture; is another program using it"):
        CameraSource(device)
    assert made[0].released


@pytest.mark.parametrize("fps", [0.0, float("nan"), -1.0, 90000.0])
def test_unknown_rate(device, plug_in, fps):
    plug_in(BLUE, fps=fps)
    assert CameraSource(device).fps is None


def test_not_opened_or_not_there(device, plug_in):
    plug_in(opened=False)
    with pytest.raises(MediaError, match=r"video0: cannot be opened; is it a camera, .* in group video"):
        CameraSource(device)
    with pytest.raises(MediaError, match="/dev/video97: no such camera"):
        CameraSource(97)
