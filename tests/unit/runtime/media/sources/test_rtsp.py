"""RTSP, from a real server on this machine."""

import os
import signal
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2edge.errors import MediaError
from sam2edge.runtime.media.grabber import Grabber, Reconnect
from sam2edge.runtime.media.sources import StreamSource

PYTHON = "/usr/bin/python3"
SERVER = Path(__file__).with_name("rtsp_server.py")
PACKAGES = "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-{base,good}"


class Server:
    """The server, in a process that can be stopped, killed and started again on the same port."""

    def __init__(self):
        self.port = 0
        self.start()

    def start(self):
        self.process = subprocess.Popen([PYTHON, SERVER, str(self.port)], stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    @property
    def url(self):
        return f"rtsp://127.0.0.1:{self.port}/ball"


@pytest.fixture
def server():
    imports = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst; Gst.init(None)"
    check = f"{imports}; assert Gst.ElementFactory.find('vp8enc') and Gst.ElementFactory.find('rtpvp8pay')"
    if not os.path.exists(PYTHON) or subprocess.run([PYTHON, "-c", check], capture_output=True).returncode:
        pytest.skip(f"there is no RTSP server: apt-get install {PACKAGES}")
    server = Server()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def quiet():
    """OpenCV warns about every stream that is lost."""
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    yield
    cv2.utils.logging.setLogLevel(before)


def is_ball(frame):
    """Return whether the frame shows videotestsrc's ball, a white disc on black."""
    return frame.shape == (120, 160, 3) and frame.max() > 200 and 100 < (frame[..., 0] > 128).sum() < 2500


def test_frames(server):
    with StreamSource(server.url) as source:
        assert (source.width, source.height, source.frame_count) == (160, 120, None)
        assert source.fps == pytest.approx(25)
        assert (source.live, source.name) == (True, server.url)
        frames = [frame for frame, _ in zip(source, range(10), strict=False)]
    assert all(frame.dtype == np.uint8 and is_ball(frame) for frame in frames)
    assert not np.array_equal(frames[0], frames[-1]), "the ball moves"
    assert list(source) == []


def test_server_that_is_killed_and_started_again(server):
    reports = []
    with Grabber(lambda: StreamSource(server.url), reconnect=Reconnect(first=0.1), report=reports.append) as grabber:
        for grabbed in grabber:
            assert is_ball(grabbed.pixels)
            if grabber.statistics.delivered == 10:
                server.kill()
                server.start()
            if grabber.statistics.reconnects and grabber.statistics.delivered > 20:
                break
    assert reports[0].startswith(f"{server.url}: lost (it gives no more frames); trying again in 0.1 s")
    assert reports[-1].startswith(f"{server.url}: back at attempt ")
    assert grabber.statistics.reconnects == 1


def test_server_that_stands_still(server):
    """The connection stays, but nothing comes: as when a cable is pulled."""
    reports = []
    with Grabber(
        lambda: StreamSource(server.url, timeout=3),
        reconnect=Reconnect(first=0.1),
        stall_timeout=2,
        report=reports.append,
    ) as grabber:
        for grabbed in grabber:
            assert is_ball(grabbed.pixels)
            if grabber.statistics.reconnects:
                break
            if grabber.statistics.delivered == 10:
                server.process.send_signal(signal.SIGSTOP)
                while grabber.read(timeout=0.5) is not None or not grabber.statistics.stalls:
                    pass
                server.process.send_signal(signal.SIGCONT)
        assert grabber.statistics.stalls >= 1
        assert f"{server.url}: lost (no frame for 2 s); trying again in 0.1 s" in reports
    server.process.send_signal(signal.SIGCONT)


def test_server_that_is_gone(server):
    server.kill()
    with pytest.raises(MediaError, match=f"{server.url}: cannot be opened; is the server up"):
        StreamSource(server.url, timeout=1)
    server.start()


def test_password_stays_out_of_messages():
    with pytest.raises(MediaError) as caught:
        StreamSource("rtsp://admin:secret@127.0.0.1:1/ball", timeout=1)
    assert str(caught.value).startswith("rtsp://…@127.0.0.1:1/ball: cannot be opened")
