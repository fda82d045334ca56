"""What open_source opens, and frames from arrays."""

import time
from pathlib import Path

import numpy as np
import pytest

from sam2edge.errors import FrameError, InputError, MediaError
from sam2edge.runtime.media import sources
from sam2edge.runtime.media.image_files import write_image
from sam2edge.runtime.media.sources import ArraySource, ImageFolderSource, VideoSource, csi_pipeline, open_source
from tests.conftest import REPO
from tests.simulated import grey


@pytest.fixture
def opened(monkeypatch):
    """A list of what is opened, in place of cameras and streams."""
    calls = []
    for name in ("CameraSource", "GStreamerSource", "StreamSource"):
        monkeypatch.setattr(sources, name, lambda *given, name=name, **options: calls.append((name, given, options)))
    return calls


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("0", ("CameraSource", (0,), {})),
        ("12", ("CameraSource", (12,), {})),
        ("/dev/video3", ("CameraSource", ("/dev/video3",), {})),
        ("csi:1", ("GStreamerSource", (csi_pipeline(1),), {"fps": 30})),
        ("rtsp://user:word@host/path", ("StreamSource", ("rtsp://user:word@host/path",), {})),
        ("rtsps://host", ("StreamSource", ("rtsps://host",), {})),
        ("http://user:word@host:81/video?x=1", ("StreamSource", ("http://user:word@host:81/video?x=1",), {})),
        ("HTTPS://host/a.m3u8", ("StreamSource", ("HTTPS://host/a.m3u8",), {})),
        ("udp://@:5000", ("StreamSource", ("udp://@:5000",), {})),
        ("gst:videotestsrc ! identity", ("GStreamerSource", ("videotestsrc ! identity",), {})),
        ("gst:souphttpsrc location=http://host/a", ("GStreamerSource", ("souphttpsrc location=http://host/a",), {})),
    ],
)
def test_live(opened, word, expected):
    open_source(word)
    assert opened == [expected]


def test_files(tmp_path, monkeypatch):
    write_image(tmp_path / "a.png", grey(0))
    monkeypatch.chdir(tmp_path)
    clip = tmp_path / "0"
    clip.symlink_to(REPO / "samples" / "clip.mp4")
    for word, kind in ((".", ImageFolderSource), ("*.png", ImageFolderSource), ("./0", VideoSource)):
        with open_source(word) as source:
            assert type(source) is kind
    # A file whose name looks like a pattern is a file.
    clip.rename(tmp_path / "clip[1].mp4")
    with open_source("clip[1].mp4") as source:
        assert type(source) is VideoSource
    # As a file manager or browser copies it.
    for word in (f"file://{tmp_path}/clip%5B1%5D.mp4", f"FILE://localhost{tmp_path}/clip[1].mp4"):
        with open_source(word) as source:
            assert type(source) is VideoSource


def test_home_directory(tmp_path, monkeypatch):
    write_image(tmp_path / "a.png", grey(0))
    (tmp_path / "clip.mp4").symlink_to(REPO / "samples" / "clip.mp4")
    monkeypatch.setenv("HOME", str(tmp_path))
    for word, kind in (("~", ImageFolderSource), ("~/*.png", ImageFolderSource), (Path("~/clip.mp4"), VideoSource)):
        with open_source(word) as source:
            assert type(source) is kind
    (tmp_path / "~").symlink_to(tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    with open_source("./~") as source:
        assert type(source) is VideoSource


def test_what_is_not_a_video(nano):
    with pytest.raises(InputError, match=r"ftp://host/a\.mp4: not one of rtsp://, .*, file://; try gst:PIPELINE"):
        open_source("ftp://host/a.mp4")
    with pytest.raises(InputError, match=r"file://server/a\.mp4: is on another computer \(server\); a path"):
        open_source("file://server/a.mp4")
    with pytest.raises(InputError, match=r"samples/nano is a checkpoint, not a video: give a video file, a folder"):
        open_source(REPO / "samples" / "nano")
    with pytest.raises(InputError, match=r" is a bundle, not a video"):
        open_source(nano.path)


def test_csi_pipeline():
    assert csi_pipeline(1, 640, 480, 60) == (
        "nvarguscamerasrc sensor-id=1 ! 'video/x-raw(memory:NVMM),width=640,height=480,framerate=60/1' "
        "! nvvidconv ! video/x-raw,format=BGRx"
    )


def test_list_of_frames():
    source = ArraySource([grey(i, (20, 30)) for i in range(3)], fps=5, name="mine")
    assert (source.name, source.live, source.fps, source.frame_count) == ("mine", False, 5, 3)
    assert (source.width, source.height) == (30, 20)
    assert [(int(frame[0, 0, 0]), source.time) for frame in source] == [(0, 0), (1, 0.2), (2, 0.4)]
    assert list(source) == []


def test_times_of_frames_from_an_iterable():
    assert [source.time for source in [ArraySource([grey(0)])] for _ in source] == [None]
    begin = time.monotonic()
    live = ArraySource((time.sleep(0.02) or grey(i) for i in range(3)), live=True, fps=5)
    times = [live.time for _ in live]
    assert times[0] < 0.02 < times[1] < times[2] < time.monotonic() - begin


def test_generator_of_frames_is_read_lazily():
    read = []

    def frames():
        for i in range(3):
            read.append(i)
            yield grey(i)

    source = ArraySource(frames(), live=True)
    assert (source.live, source.frame_count, read) == (True, None, [0])
    assert next(iter(source))[0, 0, 0] == 0
    assert next(iter(source))[0, 0, 0] == 1
    assert read == [0, 1]
    source.close()
    assert list(source) == []


def test_what_is_not_a_frame():
    with pytest.raises(MediaError, match="mine: there are no frames"):
        ArraySource([], name="mine")
    with pytest.raises(FrameError, match="must be uint8"):
        ArraySource([np.zeros((4, 4, 3))])
