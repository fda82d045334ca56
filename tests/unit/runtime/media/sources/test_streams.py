"""Streams over HTTP and UDP, from servers on this machine."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice, pairwise
from pathlib import Path

import cv2
import pytest

from sam2edge.errors import MediaError
from sam2edge.runtime.media.sources import open_source
from tests.simulated import grey
from tests.videos import write_avi


class Camera(BaseHTTPRequestHandler):
    """Motion JPEG at /stream until the reader goes, as network cameras send it, and a file at /a.avi."""

    file = b""

    def do_GET(self) -> None:
        if self.path == "/a.avi":
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.file)))
            self.end_headers()
            self.wfile.write(self.file)
        elif self.path.startswith("/stream"):
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for number in range(1000):
                jpeg = cv2.imencode(".jpg", grey(10 * (number % 20)))[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
                try:
                    self.wfile.write(head + jpeg + b"\r\n")
                except OSError:
                    return
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where the camera is, without http://."""
    Camera.file = write_avi(tmp_path / "a.avi", range(0, 250, 25)).read_bytes()
    with ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_motion_jpeg(address: str) -> None:
    with open_source(f"http://user:word@{address}/stream?key=secret") as source:
        assert (source.live, source.frame_count, source.width, source.height) == (True, None, 64, 48)
        assert source.name == f"http://…@{address}/stream?…", "without user, password and keys"
        values, times = zip(*((frame.mean(), source.time) for frame in islice(source, 10)), strict=True)
    assert {round((b - a) / 10) for a, b in pairwise(values)} <= {1, -19}
    assert sorted(times) == list(times)


def test_file_from_a_server_ends(address: str) -> None:
    with open_source(f"http://{address}/a.avi") as source:
        assert (source.live, source.frame_count) == (False, 10)
        assert [round(frame.mean() / 25) for frame in source] == list(range(10))
        assert source.time == pytest.approx(0.9)


def test_address_without_a_stream(address: str) -> None:
    with pytest.raises(MediaError, match=rf"^http://{address}/gone: cannot be opened; is the server up"):
        open_source(f"http://{address}/gone")


def test_udp() -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed: apt-get install ffmpeg")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pattern = ["-re", "-f", "lavfi", "-i", "testsrc2=size=128x96:rate=25", "-c:v", "mpeg2video", "-g", "5"]
    command = ["ffmpeg", "-nostdin", "-loglevel", "quiet", *pattern, "-f", "mpegts", f"udp://127.0.0.1:{port}"]
    with subprocess.Popen(command) as sender:
        try:
            with open_source(f"udp://127.0.0.1:{port}") as source:
                assert source.live
                assert [frame.shape for frame in islice(source, 3)] == [(96, 128, 3)] * 3
        finally:
            sender.kill()
