"""What the sinks write, read back; that nothing is lost or overwritten when something goes wrong."""

import json
import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from sam2edge.errors import FrameError, InputError, MediaError, ObjectIdError
from sam2edge.runtime.media import overlay, rle
from sam2edge.runtime.media.sinks import CallbackSink, JsonSink, MaskSink, VideoSink, WindowSink
from sam2edge.runtime.media.sources import VideoSource
from sam2edge.runtime.model.result import FrameResult

HEIGHT, WIDTH = 48, 64
SIZE = (WIDTH, HEIGHT)


def box(x0, y0, x1, y1):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def result_of(masks, index=0):
    """Return a result with these masks {object id: bool [H,W]}; an empty mask is an absent object."""
    stack = np.array([*masks.values()]).reshape(-1, HEIGHT, WIDTH)
    logits = np.where(stack, 5, -5).astype(np.float32)
    scores = np.where(stack.any(axis=(1, 2)), 3.25, -1.5).astype(np.float32)
    ious = np.linspace(0.5, 0.75, len(masks), dtype=np.float32)
    return FrameResult(index, tuple(masks), logits, ious, scores, (HEIGHT, WIDTH))


NOTHING = result_of({})


def grey(value):
    return np.full((HEIGHT, WIDTH, 3), value, np.uint8)


class TestVideoSink:
    @pytest.mark.parametrize("extension", [".mp4", ".m4v", ".mov", ".mkv", ".avi", ".MP4"])
    def test_read_back(self, tmp_path, extension):
        path = tmp_path / f"out{extension}"
        frame = np.full((HEIGHT, WIDTH, 3), (220, 60, 20), np.uint8)
        result = result_of({1: box(8, 20, 40, 44)})
        with VideoSink(path, 12.5, SIZE) as sink:
            for _ in range(4):
                sink.write(frame, result)
        with VideoSource(path) as source:
            frames = list(source)
            assert source.fps == pytest.approx(12.5)
        assert len(frames) == 4
        expected = overlay.draw(frame, result)
        # In the parts of one colour; at edges the codec smears.
        for part in (np.s_[24:40, 14:34], np.s_[20:44, 48:60]):
            means = frames[-1][part].mean(axis=(0, 1))
            assert np.abs(means - expected[part].mean(axis=(0, 1))).max() < 8
        assert os.listdir(tmp_path) == [path.name]

    def test_odd_sides_lose_a_column_and_a_row(self, tmp_path):
        path = tmp_path / "odd.mp4"
        result = FrameResult(0, (), *(np.zeros((0, 1, 1), np.float32),) * 3, (49, 65))
        with VideoSink(path, 25, (65, 49)) as sink:
            sink.write(np.full((49, 65, 3), 90, np.uint8), result)
        with VideoSource(path) as source:
            assert (source.width, source.height) == (64, 48)
            assert abs(next(iter(source)).mean() - 90) < 3

    def test_target_changes_only_on_closing(self, tmp_path):
        path = tmp_path / "out.mp4"
        path.write_bytes(b"earlier")
        sink = VideoSink(path, 25, SIZE)
        sink.write(grey(100), NOTHING)
        assert path.read_bytes() == b"earlier"
        sink.close()
        sink.close()
        with VideoSource(path) as source:
            assert source.frame_count == 1

    def test_no_frame_leaves_the_target(self, tmp_path):
        path = tmp_path / "out.mp4"
        path.write_bytes(b"earlier")
        VideoSink(path, 25, SIZE).close()
        assert path.read_bytes() == b"earlier"
        assert os.listdir(tmp_path) == ["out.mp4"]

    def test_error_in_the_block_keeps_the_frames(self, tmp_path):
        def fail(sink):
            with sink:
                sink.write(grey(100), NOTHING)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fail(VideoSink(tmp_path / "out.mp4", 25, SIZE))
        with VideoSource(tmp_path / "out.mp4") as source:
            assert source.frame_count == 1

    def test_directories_are_made(self, tmp_path):
        with VideoSink(tmp_path / "a" / "b" / "out.mp4", 25, SIZE) as sink:
            sink.write(grey(1), NOTHING)
        assert (tmp_path / "a" / "b" / "out.mp4").is_file()

    def test_name_like_an_address(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with VideoSink("12:30.mp4", 25, SIZE) as sink:  # to FFmpeg of protocol "12"
            sink.write(grey(1), NOTHING)
        assert os.listdir() == ["12:30.mp4"]

    def test_wrong_frame_size(self, tmp_path):
        message = r"must be \(64, 48\) \(width, height\) but got \(48, 64\)"
        with VideoSink(tmp_path / "out.mp4", 25, SIZE) as sink, pytest.raises(FrameError, match=message):
            sink.write(np.zeros((64, 48, 3), np.uint8), NOTHING)

    def test_write_after_close(self, tmp_path):
        sink = VideoSink(tmp_path / "out.mp4", 25, SIZE)
        sink.close()
        with pytest.raises(MediaError, match="the video is closed"):
            sink.write(grey(1), NOTHING)

    @pytest.mark.parametrize("name", ["out.gif", "out", "out.txt"])
    def test_unknown_extension(self, tmp_path, name):
        with pytest.raises(MediaError, match=r"unknown extension for a video; use one of \.avi, .*\.mp4"):
            VideoSink(tmp_path / name, 25, SIZE)
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
    def test_wrong_fps(self, tmp_path, fps):
        with pytest.raises(InputError, match="fps must be a number above 0 but is"):
            VideoSink(tmp_path / "out.mp4", fps, SIZE)

    @pytest.mark.parametrize("fps", [200 / 3, 119.873, 1000 / 3])
    def test_fps_of_many_digits(self, tmp_path, fps):
        with VideoSink(tmp_path / "out.mp4", fps, SIZE) as sink:
            sink.write(grey(0), NOTHING)
        with VideoSource(tmp_path / "out.mp4") as source:
            assert source.fps == pytest.approx(fps, rel=1e-3)

    def test_target_is_a_directory(self, tmp_path):
        (tmp_path / "out.mp4").mkdir()
        with pytest.raises(MediaError, match=r"out\.mp4: is a directory"):
            VideoSink(tmp_path / "out.mp4", 25, SIZE)

    def test_directory_cannot_be_made(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(MediaError, match="this directory cannot be made"):
            VideoSink(tmp_path / "file" / "sub" / "out.mp4", 25, SIZE)

    def test_video_that_cannot_be_opened(self, tmp_path):
        with pytest.raises(MediaError, match=r"a video of 1×1 pixels cannot be written there"):
            VideoSink(tmp_path / "out.mp4", 25, (1, 1))
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("extension", [".mp4", ".mkv", ".avi"])
    def test_full_disk_is_an_error_and_leaves_the_target(self, tmp_path, extension):
        # A limit on the size of files fails writes as a full disk does; it holds for a process.
        path = tmp_path / f"out{extension}"
        path.write_bytes(b"earlier")
        script = f"""
import resource, signal
import numpy as np
from sam2edge.errors import MediaError
from sam2edge.runtime.model.result import FrameResult
from sam2edge.runtime.media.sinks import VideoSink
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
none = np.zeros((0, 1, 1), np.float32)
result = FrameResult(0, (), none, none, none, (240, 320))
random = np.random.default_rng(0)
sink = VideoSink({str(path)!r}, 25, (320, 240))
for _ in range(20):
    sink.write(random.integers(0, 256, (240, 320, 3), np.uint8), result)
try:
    sink.close()
except MediaError as error:
    print(error)
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        message = f"{path}: could not be written completely; is the disk full?"
        assert path.read_bytes() == b"earlier"
        rest = [file for file in tmp_path.iterdir() if file != path]
        if extension == ".mp4":
            assert done.stdout == message + "\n"
            assert rest == []
        else:
            assert done.stdout == f"{message} The part that was written is in {rest[0]}\n"
            assert 0 < len(list(VideoSource(rest[0]))) < 20


class TestMaskSink:
    def read(self, path):
        return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)

    def test_values_are_ids(self, tmp_path):
        directory = tmp_path / "a" / "masks"
        first, second = box(0, 0, 20, 20), box(30, 5, 50, 40)
        with MaskSink(directory) as sink:
            sink.write(grey(0), result_of({7: first, 255: second}, index=0))
            sink.write(grey(0), result_of({}, index=1))
            sink.write(grey(0), result_of({7: first, 256: second}, index=123456))
        assert sorted(os.listdir(directory)) == ["00000.png", "00001.png", "123456.png"]
        labels = self.read(directory / "00000.png")
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, 7 * first + 255 * second)
        assert np.array_equal(self.read(directory / "00001.png"), np.zeros((HEIGHT, WIDTH), np.uint8))
        wide = self.read(directory / "123456.png")
        assert wide.dtype == np.uint16
        assert np.array_equal(wide, 7 * first + 256 * second)

    def test_later_object_lies_on_top(self, tmp_path):
        lower, upper = box(0, 0, 40, 40), box(20, 20, 60, 44)
        with MaskSink(tmp_path) as sink:
            sink.write(grey(0), result_of({9: lower, 2: upper}))
        assert np.array_equal(self.read(tmp_path / "00000.png"), np.where(upper, 2, 9 * lower))

    @pytest.mark.parametrize("object_id", [0, -1, 65536])
    def test_id_that_is_no_label(self, tmp_path, object_id):
        message = f"object id {object_id} cannot be a pixel's value"
        with MaskSink(tmp_path) as sink, pytest.raises(ObjectIdError, match=message):
            sink.write(grey(0), result_of({object_id: box(0, 0, 5, 5)}))

    def test_directory_with_masks_is_refused(self, tmp_path):
        (tmp_path / "00007.png").write_bytes(b"annotation")
        with pytest.raises(MediaError, match="holds PNG files already"):
            MaskSink(tmp_path)
        assert (tmp_path / "00007.png").read_bytes() == b"annotation"

    def test_directory_is_a_file(self, tmp_path):
        (tmp_path / "masks").touch()
        with pytest.raises(MediaError, match="masks: this directory cannot be made"):
            MaskSink(tmp_path / "masks")

    def test_directory_is_gone(self, tmp_path):
        sink = MaskSink(tmp_path / "masks")
        (tmp_path / "masks").rmdir()
        with pytest.raises(MediaError, match=r"00000\.png: cannot be written"):
            sink.write(grey(0), NOTHING)

    def test_full_disk(self, tmp_path):
        if not os.path.exists("/dev/full"):
            pytest.skip("/dev/full, a disk that is full, is Linux's")
        sink = MaskSink(tmp_path)
        (tmp_path / "00000.png").symlink_to("/dev/full")
        with pytest.raises(MediaError, match=r"00000\.png: cannot be written: No space left"):
            sink.write(grey(0), NOTHING)
        assert os.listdir(tmp_path) == []


class TestJsonSink:
    def test_lines(self, tmp_path):
        path = tmp_path / "new" / "tracks.json"
        mask, absent = box(10, 5, 30, 45), box(0, 0, 0, 0)
        with JsonSink(path) as sink:
            sink.write(grey(0), result_of({}, index=0))
            sink.write(grey(0), result_of({4: mask, 300: absent}, index=1))
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert lines[0] == {"frame_index": 0, "size": [HEIGHT, WIDTH], "objects": []}
        assert lines[1] == {
            "frame_index": 1,
            "size": [HEIGHT, WIDTH],
            "objects": [
                {
                    "id": 4,
                    "segmentation": rle.encode(mask),
                    "bbox": [10, 5, 20, 40],
                    "iou": 0.5,
                    "object_score": 3.25,
                    "stability": 1.0,
                    "visible": True,
                    "state": "visible",
                },
                {
                    "id": 300,
                    "segmentation": rle.encode(absent),
                    "bbox": [0, 0, 0, 0],
                    "iou": 0.75,
                    "object_score": -1.5,
                    "stability": 0.0,
                    "visible": False,
                    "state": "occluded",
                },
            ],
        }
        assert os.listdir(path.parent) == ["tracks.json"]

    def test_numbers_that_are_not_finite(self, tmp_path):
        result = result_of({1: box(10, 5, 30, 45), 2: box(10, 5, 30, 45)})
        result.ious[0], result.object_scores[1] = np.nan, np.inf
        with JsonSink(tmp_path / "tracks.json") as sink:
            sink.write(grey(0), result)
        one, other = json.loads((tmp_path / "tracks.json").read_text(), parse_constant=pytest.fail)["objects"]
        assert (one["iou"], one["object_score"]) == (None, 3.25)
        assert (other["iou"], other["object_score"], other["visible"]) == (0.75, None, True)

    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
    def test_coco_tools_read_it(self, tmp_path):
        mask = np.random.default_rng(5).random((HEIGHT, WIDTH)) < 0.2
        mask[:3] = mask[:, :2] = False
        with JsonSink(tmp_path / "tracks.json") as sink:
            sink.write(grey(0), result_of({1: mask}))
        written = json.loads((tmp_path / "tracks.json").read_text())["objects"][0]
        assert np.array_equal(coco.decode(written["segmentation"]), mask)
        assert coco.toBbox(written["segmentation"]).tolist() == written["bbox"]

    def test_error_in_the_block_keeps_the_lines(self, tmp_path):
        def fail(sink):
            with sink:
                sink.write(grey(0), NOTHING)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fail(JsonSink(tmp_path / "tracks.json"))
        assert len((tmp_path / "tracks.json").read_text().splitlines()) == 1

    def test_no_frame_leaves_the_target(self, tmp_path):
        (tmp_path / "tracks.json").write_text("earlier")
        sink = JsonSink(tmp_path / "tracks.json")
        sink.close()
        sink.close()
        assert (tmp_path / "tracks.json").read_text() == "earlier"
        assert os.listdir(tmp_path) == ["tracks.json"]

    def test_lines_can_be_followed(self, tmp_path):
        path = tmp_path / "tracks.json"
        path.write_text("an earlier run's, longer than what comes now" * 100)
        with JsonSink(path) as sink:
            assert path.read_text().startswith("an earlier run's")
            for index in range(3):
                sink.write(grey(0), result_of({}, index))
                lines = path.read_text().splitlines()
                assert [json.loads(line)["frame_index"] for line in lines] == list(range(index + 1))

    def test_lines_of_a_killed_process_stay(self, tmp_path):
        script = f"""
import os, signal
import numpy as np
from sam2edge.runtime.model.result import FrameResult
from sam2edge.runtime.media.sinks import JsonSink
none = np.zeros((0, 1, 1), np.float32)
sink = JsonSink({str(tmp_path / "tracks.json")!r})
for index in range(3):
    sink.write(np.zeros((48, 64, 3), np.uint8), FrameResult(index, (), none, none, none, (48, 64)))
os.kill(os.getpid(), signal.SIGKILL)
"""
        assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
        lines = (tmp_path / "tracks.json").read_text().splitlines()
        assert [json.loads(line)["frame_index"] for line in lines] == [0, 1, 2]

    def test_new_file_without_a_line_is_removed(self, tmp_path):
        JsonSink(tmp_path / "tracks.json").close()
        assert os.listdir(tmp_path) == []

    def test_full_disk(self):
        if not os.path.exists("/dev/full"):
            pytest.skip("/dev/full, a disk that is full, is Linux's")
        sink = JsonSink("/dev/full")
        with pytest.raises(MediaError, match=r"/dev/full: cannot be written: .*No space left"):
            sink.write(grey(0), NOTHING)
        with pytest.raises(MediaError, match="/dev/full: its last line cannot be written: No space left"):
            sink.close()

    def test_write_after_close(self, tmp_path):
        sink = JsonSink(tmp_path / "tracks.json")
        sink.close()
        with pytest.raises(MediaError, match=r"tracks\.json: cannot be written"):
            sink.write(grey(0), NOTHING)

    def test_target_is_a_directory(self, tmp_path):
        with pytest.raises(MediaError, match="cannot be written: Is a directory"):
            JsonSink(tmp_path)


def test_callback_sink():
    got = []
    frame = grey(3)
    with CallbackSink(lambda *given: got.append(given)) as sink:
        sink.write(frame, NOTHING)
    assert got == [(frame, NOTHING)]
    assert not sink.closed_by_user


def test_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with VideoSink("~/out.mp4", 25, SIZE) as video, MaskSink("~/masks") as masks, JsonSink("~/out.jsonl") as lines:
        for sink in (video, masks, lines):
            sink.write(grey(100), NOTHING)
    assert {path.name for path in tmp_path.iterdir()} == {"out.mp4", "masks", "out.jsonl"}


class TestWindowSink:
    def test_opencv_without_windows(self):
        if cv2.currentUIFramework():
            pytest.skip("this OpenCV has windows")
        message = "no windows: pip uninstall -y opencv-python-headless && pip install opencv-python"
        with pytest.raises(MediaError, match=message):
            WindowSink()

    @pytest.mark.parametrize(("gui", "message"), [("NONE", "no windows"), ("GTK3", "no screen")])
    def test_opencv_that_does_not_name_its_windows(self, monkeypatch, gui, message):
        """As before 4.10: what it was built with tells."""
        text = f"  Disabled:                    world\n\n  GUI:                           {gui}\n    GTK+: NO\n"
        monkeypatch.delattr(cv2, "currentUIFramework", raising=False)
        monkeypatch.setattr(cv2, "getBuildInformation", lambda: text)
        monkeypatch.setattr(sys, "platform", "linux")
        for name in ("DISPLAY", "WAYLAND_DISPLAY"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(MediaError, match=message):
            WindowSink()

    def test_no_screen(self, monkeypatch):
        monkeypatch.setattr(cv2, "currentUIFramework", lambda: "QT5")
        monkeypatch.setattr(sys, "platform", "linux")
        for name in ("DISPLAY", "WAYLAND_DISPLAY"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(MediaError, match="no screen to show a window on: neither DISPLAY nor WAYLAND_DISPLAY"):
            WindowSink()

    def test_what_is_shown(self, monkeypatch):
        """With stand-ins for OpenCV's functions."""
        shown, keys, visible = [], [-1, ord("x"), ord("q")], [1]
        monkeypatch.setenv("DISPLAY", ":0")
        monkeypatch.setattr(cv2, "currentUIFramework", lambda: "QT5")
        monkeypatch.setattr(cv2, "namedWindow", lambda title, flags: None)
        monkeypatch.setattr(cv2, "imshow", lambda title, image: shown.append((title, image)))
        monkeypatch.setattr(cv2, "waitKey", lambda delay: keys.pop(0) if keys else -1)
        monkeypatch.setattr(cv2, "getWindowProperty", lambda title, what: visible[0])
        monkeypatch.setattr(cv2, "destroyWindow", lambda title: visible.clear() or visible.append(-1))
        result = result_of({1: box(8, 20, 40, 44)})
        with WindowSink("tracks") as sink:
            closed = []
            for _ in range(4):
                sink.write(grey(90), result)
                closed.append(sink.closed_by_user)
        assert closed == [False, False, True, True]
        assert [title for title, _ in shown] == ["tracks"] * 3
        assert np.array_equal(shown[0][1], overlay.draw(grey(90), result)[..., ::-1])
        assert visible == [-1]

        visible[0] = 1
        with WindowSink("tracks") as sink:
            visible[0] = -1  # closed by its button
            sink.write(grey(90), result)
            assert sink.closed_by_user

    def test_real_window(self):
        if not (cv2.currentUIFramework() and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))):
            pytest.skip("there is no screen, or OpenCV has no windows: pip install opencv-python, run under xvfb-run")
        with WindowSink() as sink:
            for _ in range(3):
                sink.write(grey(90), result_of({1: box(8, 20, 40, 44)}))
            assert not sink.closed_by_user
        sink.close()
