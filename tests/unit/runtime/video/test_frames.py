"""Frames in any order: the right ones, few of them held, and a clear error for each kind of bad video."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sam2edge.errors import FrameError, InputError, MediaError
from sam2edge.runtime.media.image_files import write_image
from sam2edge.runtime.media.sources import VideoSource
from sam2edge.runtime.video import frames as frames_module
from sam2edge.runtime.video.frames import open_frames
from tests.helpers import CLIP, Frames, clip_frames
from tests.videos import damage_avi, write_avi


@pytest.fixture(scope="module")
def clip() -> Frames:
    frames = clip_frames(120)
    assert len({frame.tobytes() for frame in frames}) == 120
    return frames


@pytest.fixture
def few_held(monkeypatch: pytest.MonkeyPatch) -> int:
    """Ten frames of the clip may be held."""
    monkeypatch.setattr(frames_module, "_HELD_BYTES", 10 * 240 * 320 * 3)
    return 10


ORDERS = {
    "forward": list(range(120)),
    "backward": list(range(119, -1, -1)),
    "to and fro": [60, 61, 59, 119, 0, 118, 1, 60, 60, 54, 55, 56, 57, 58, 59, 60],
    "at random": np.random.default_rng(0).integers(0, 120, 60).tolist(),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_file_in_any_order(clip: Frames, few_held: int, order: list[int]) -> None:
    frames: Any = open_frames(CLIP)
    assert (frames.count, frames.size) == (120, (240, 320))
    for index in order:
        np.testing.assert_array_equal(frames.read(index), clip[index], err_msg=str(index))
        assert len(frames._held) <= few_held


def test_real_camera_footage(shared_data: Path) -> None:
    path = shared_data / "bedroom.mp4"
    with VideoSource(path) as source:
        expected = list(source)
    frames = open_frames(path)
    assert frames.count == len(expected)
    for index in (150, 149, 3, 199, 100, 99, 101):
        np.testing.assert_array_equal(frames.read(index), expected[index], err_msg=str(index))


def capture(monkeypatch: pytest.MonkeyPatch, **overrides: Any) -> dict[str, int]:
    """Replace methods of the capture that opens files; return how often frames were grabbed and files opened."""
    calls = {"grab": 0, "open": 0}
    real = cv2.VideoCapture

    class Capture:
        def __init__(self, path: str) -> None:
            self.real = real(path)
            calls["open"] += 1

        def __getattr__(self, name: str) -> Any:
            if name in overrides:
                return lambda *arguments: overrides[name](self.real, *arguments)
            return getattr(self.real, name)

        def grab(self) -> bool:
            calls["grab"] += 1
            return self.real.grab()

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    return calls


def test_going_backward_decodes_chunks(clip: Frames, few_held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = capture(monkeypatch)
    frames = open_frames(CLIP)
    frames.read(119)
    before = dict(calls)
    for index in range(118, -1, -1):
        frames.read(index)
    assert calls["open"] == before["open"]
    assert calls["grab"] - before["grab"] <= 119 + 2 * 119 // few_held


@pytest.mark.parametrize("off", [-30, -1, 1, 7])
def test_seeks_that_land_elsewhere(clip: Frames, monkeypatch: pytest.MonkeyPatch, off: int) -> None:
    capture(monkeypatch, set=lambda real, what, index: real.set(what, min(max(index + off, 0), 119)))
    monkeypatch.setattr(frames_module, "_NEAR", 5)
    frames = open_frames(CLIP)
    for index in (100, 40, 7, 3, 0, 64, 63):
        np.testing.assert_array_equal(frames.read(index), clip[index], err_msg=str(index))


def without_frame_70_after_a_seek() -> dict[str, Any]:
    """Return overrides whose time stamps jump over 70 after a seek, as if a damaged frame were left out."""
    sought = []

    def seek(real: Any, what: int, index: float) -> bool:
        sought.append(index)
        return bool(real.set(what, index))

    def get(real: Any, what: int) -> float:
        value = float(real.get(what))
        return value + 40 if what == cv2.CAP_PROP_POS_MSEC and sought and value >= 70 * 40 else value

    return {"set": seek, "get": get}


UNRELIABLE: dict[str, dict[str, Any]] = {
    "no time stamps": {"get": lambda real, what: 0.0 if what == cv2.CAP_PROP_POS_MSEC else real.get(what)},
    "seeks fail": {"set": lambda real, *_: bool(real.set(cv2.CAP_PROP_POS_FRAMES, 119) and real.grab())},
    "a frame is lost": without_frame_70_after_a_seek(),
}


@pytest.mark.parametrize("overrides", UNRELIABLE.values(), ids=UNRELIABLE)
def test_files_without_reliable_seeks(clip: Frames, monkeypatch: pytest.MonkeyPatch, overrides: dict[str, Any]) -> None:
    calls = capture(monkeypatch, **overrides)
    frames = open_frames(CLIP)
    for index in (100, 60, 75, 3):
        np.testing.assert_array_equal(frames.read(index), clip[index], err_msg=str(index))
    assert calls["open"] > 2


def test_a_file_that_changed_meanwhile(tmp_path: Path) -> None:
    path = Path(shutil.copy(CLIP, tmp_path / "clip.mp4"))
    frames = open_frames(path)
    writer = cv2.VideoWriter(str(tmp_path / "short.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (320, 240))
    for _ in range(5):
        writer.write(np.zeros((240, 320, 3), np.uint8))
    writer.release()
    frames.read(100)
    (tmp_path / "short.mp4").replace(path)
    frames._place_at = {}  # type: ignore[attr-defined]
    with pytest.raises(MediaError, match=r"clip\.mp4: frame 5 cannot be decoded, although it could before"):
        frames.read(20)


def test_damaged_pictures(tmp_path: Path) -> None:
    """They keep their numbers, and do not stand in the way of the others."""
    path = write_avi(tmp_path / "a.avi", range(0, 250, 25))
    damage_avi(path, 0, 4, 5)
    frames = open_frames(path)
    assert (frames.count, frames.size) == (10, (48, 64))
    for index in (9, 3, 6, 1, 7):
        assert frames.read(index).mean() == pytest.approx(25 * index, abs=3)
    for index in (0, 4, 5):
        with pytest.raises(MediaError, match=rf"a\.avi: frame {index} cannot be decoded: the file is damaged there"):
            frames.read(index)
    assert frames.read(8).mean() == pytest.approx(200, abs=3)


@pytest.mark.parametrize(
    "names",
    [
        ("00008.png", "00009.png", "00010.png", "00011.png"),
        ("8.PNG", "9.PNG", "10.PNG", "11.PNG"),
        ("008.jpg", "09.png", "10.JPEG", "000011.png"),
        ("frame_8.png", "frame_9.png", "frame_10.png", "frame_11.png"),
        ("IMG 8.bmp", "IMG 9.tiff", "IMG 10.tif", "IMG 11.PNG"),
    ],
)
def test_a_folder(clip: Frames, tmp_path: Path, names: tuple[str, ...]) -> None:
    """By number, not by name, and from any number on; formats may be mixed."""
    for name, frame in zip(names, clip, strict=False):
        write_image(tmp_path / name, frame)
    for name in ("notes.txt", f"._{names[0]}", "Thumbs.db", ".DS_Store"):
        (tmp_path / name).write_text("no frame")
    frames = open_frames(str(tmp_path))
    assert (frames.count, frames.size) == (4, (240, 320))
    for index in (3, 0, 2):
        difference = np.abs(frames.read(index).astype(int) - clip[index])
        assert difference.mean() < 3 if "j" in names[index].lower() else not difference.any()


def test_a_pattern_and_a_range(tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / f"{number}.png", np.full((4, 6), 1000 * number, np.uint16))
        (tmp_path / f"{number}.jpg").touch()
    frames = open_frames(tmp_path / "*.png", (0, 2000))
    assert [int(frames.read(index)[0, 0, 0]) for index in range(frames.count)] == [0, 128, 255]
    with pytest.raises(MediaError, match="is the same frame as"):
        open_frames(tmp_path)
    for video, value_range in ((CLIP, (0, 1)), (FRAME[None], (0, 1)), (tmp_path / "*.png", (1, 0))):
        with pytest.raises(InputError, match=r"value_range (is only for folders|must begin below its end)"):
            open_frames(video, value_range)


def test_home_directory(clip: Frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "folder" / "0.png", clip[0])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_frames("~/folder").count == 1


def test_in_memory(clip: Frames) -> None:
    for frames in (open_frames(clip), open_frames(list(clip)), open_frames(tuple(clip))):
        assert (frames.count, frames.size) == (120, (240, 320))
        assert np.shares_memory(frames.read(5), clip)
        np.testing.assert_array_equal(frames.read(5), clip[5])


FRAME = np.zeros((4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("video", "error", "words"),
    [
        (FRAME, FrameError, r"must be uint8 \[T,H,W,3\] but got uint8 \[4, 6, 3\]"),
        (FRAME[None].astype(np.float32), FrameError, r"must be uint8 \[T,H,W,3\] but got float32 \[1, 4, 6, 3\]"),
        (np.zeros((2, 4, 6, 1), np.uint8), FrameError, r"frame 0 must be \[H,W,3\] \(RGB\) but got shape \[4, 6, 1\]"),
        (FRAME[None][:0], FrameError, "the video has no frames"),
        ([], FrameError, "the video has no frames"),
        ([FRAME, FRAME[:, :2]], FrameError, "frame 1 is 2×4 but the first frame is 6×4"),
        ([FRAME, FRAME / 2], FrameError, "frame 1 must be uint8"),
        ([FRAME, None], FrameError, "frame 1 must be a numpy array .* but got NoneType"),
        (b"....ftyp", InputError, "must be a folder or pattern of images, a video file, .* but got bytes"),
        pytest.param(iter([FRAME]), InputError, "but got list_iterator", id="iterator"),
        (7, InputError, "but got int"),
        ("missing.mp4", MediaError, "missing.mp4: no such video file"),
        pytest.param(__file__, MediaError, "not a video that OpenCV can open", id="text"),
        pytest.param("x" * 300, MediaError, "xxx: cannot be read: File name too long", id="long name"),
    ],
    ids=str,
)
def test_videos_that_are_refused(video: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        open_frames(video)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "no images in this folder"),
        (["notes.txt", "._0.png"], "no images in this folder"),
        (["0.png", "cover.png"], r"cover\.png: has no number, so that its place among the other frames is unknown"),
        (["frame_1.png", "mask_1.png"], r"mask_1\.png: is the same frame as frame_1\.png"),
        (["1.png", "001.png"], r"is the same frame as .*1\.png, going by their names; remove it"),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, names: list[str], words: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(MediaError, match=words):
        open_frames(tmp_path)


def test_frames_that_cannot_be_read(clip: Frames, tmp_path: Path) -> None:
    """One of another size and a damaged one; the folder opens with its first frame."""
    write_image(tmp_path / "0.png", clip[0])
    write_image(tmp_path / "1.png", clip[0][:, ::2])
    (tmp_path / "2.png").write_bytes(b"no picture")
    frames = open_frames(tmp_path)
    with pytest.raises(FrameError, match=r"/1\.png is 160×240 but the first frame is 320×240"):
        frames.read(1)
    with pytest.raises(MediaError, match=r"2\.png: no image that OpenCV can read"):
        frames.read(2)
