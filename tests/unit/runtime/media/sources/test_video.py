"""Video files: what is read from good ones, and a clear error for each kind of bad one."""

import os

import cv2
import numpy as np
import pytest

from sam2edge.errors import MediaError
from sam2edge.runtime.media.sources import VideoSource

WIDTH, HEIGHT, FPS = 64, 48, 12.5
# Frame i is of one colour, RGB; a codec keeps flat colours to within a few grey levels.
COLOURS = np.array([(250, 10, 20), (10, 240, 20), (30, 20, 230), (200, 200, 10), (128, 128, 128)])


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "colours.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
    for colour in COLOURS:
        writer.write(np.full((HEIGHT, WIDTH, 3), colour[::-1], np.uint8))
    writer.release()
    return path


def test_frames_are_rgb_in_order(video):
    with VideoSource(video) as source:
        frames = list(source)
    assert [frame.shape for frame in frames] == [(HEIGHT, WIDTH, 3)] * len(COLOURS)
    assert all(frame.dtype == np.uint8 and frame.flags.c_contiguous for frame in frames)
    means = np.array([frame.mean(axis=(0, 1)) for frame in frames])
    assert np.abs(means - COLOURS).max() < 8


def test_frames_are_not_overwritten(video):
    with VideoSource(video) as source:
        first, *_ = frames = list(source)
    assert not any(np.shares_memory(first, frame) for frame in frames[1:])
    assert first[0, 0, 0] > 240


def test_numbers(video):
    with VideoSource(str(video)) as source:
        assert (source.path, source.width, source.height) == (video, WIDTH, HEIGHT)
        assert source.fps == pytest.approx(FPS)
        assert source.frame_count == len(COLOURS)


def test_unknown_numbers_are_none(video, monkeypatch):
    real = cv2.VideoCapture

    class Silent:
        """A capture that knows neither rate nor length, as of a stream."""

        def __init__(self, path):
            self.read, self.isOpened, self.release = (
                getattr(real(path), name) for name in ("read", "isOpened", "release")
            )

        def get(self, what):
            return {cv2.CAP_PROP_FPS: float("nan"), cv2.CAP_PROP_FRAME_COUNT: -1.0}.get(what, 0.0)

    monkeypatch.setattr(cv2, "VideoCapture", Silent)
    source = VideoSource(video)
    assert (source.fps, source.frame_count) == (None, None)


def test_read_once_and_in_parts(video):
    source = VideoSource(video)
    first = next(iter(source))
    rest = list(source)
    assert first[0, 0, 0] > 240
    assert len(rest) == len(COLOURS) - 1
    assert list(source) == []


def test_closed_source_ends(video):
    with VideoSource(video) as source:
        next(iter(source))
    source.close()
    assert list(source) == []


def test_name_like_an_address(video, monkeypatch):
    """As recorders name their files; FFmpeg would look for a protocol "2026-11-21T12"."""
    monkeypatch.chdir(video.parent)
    video.rename("2026-11-21T12:30.mp4")
    with VideoSource("2026-11-21T12:30.mp4") as source:
        assert (source.name, len(list(source))) == ("2026-11-21T12:30.mp4", source.frame_count)


def test_missing(tmp_path):
    with pytest.raises(MediaError, match=r"gone\.mp4: no such video file"):
        VideoSource(tmp_path / "gone.mp4")


def test_name_that_no_file_can_have(tmp_path):
    with pytest.raises(MediaError, match=r"x\.mp4: cannot be read: File name too long"):
        VideoSource(tmp_path / ("x" * 300 + "x.mp4"))


def test_may_not_be_read(video, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.R_OK)  # for root, too
    with pytest.raises(MediaError, match=r"\.mp4: cannot be read: Permission denied"):
        VideoSource(video)


def test_directory(tmp_path):
    with pytest.raises(MediaError, match="is a directory, expected a video file"):
        VideoSource(tmp_path)


def test_zero_bytes(tmp_path):
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(MediaError, match=r"empty\.mp4: the file is empty \(0 bytes\)"):
        VideoSource(tmp_path / "empty.mp4")


@pytest.mark.parametrize("name", ["notes.mp4", "notes.txt"])
def test_not_a_video(tmp_path, name):
    (tmp_path / name).write_text("no moving picture in here\n" * 100)
    with pytest.raises(MediaError, match=f"{name}: not a video that OpenCV can open"):
        VideoSource(tmp_path / name)


def test_cut_short(video):
    video.write_bytes(video.read_bytes()[:200])
    with pytest.raises(MediaError, match="or one cut short"):
        VideoSource(video)


def test_undecodable_first_frame(video):
    content = video.read_bytes()
    start = content.index(b"mdat") + 4
    end = content.index(b"moov") - 4
    video.write_bytes(content[:start] + b"\xaa" * (end - start) + content[end:])
    with pytest.raises(MediaError, match="its first frame cannot be decoded"):
        VideoSource(video)
