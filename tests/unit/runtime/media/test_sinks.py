"""What the sinks write, read back; and that nothing is lost or overwritten when something goes wrong."""

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from sam2edge.errors import FrameError, InputError, MediaError, ObjectIdError
from sam2edge.runtime.media import encoders, overlay, rle, sinks
from sam2edge.runtime.media.mask_files import read_masks
from sam2edge.runtime.media.sinks import CallbackSink, JsonSink, MaskSink, VideoSink, WindowSink
from sam2edge.runtime.media.sources import VideoSource
from sam2edge.runtime.model.result import FrameResult
from tests.helpers import box_mask, result_of
from tests.simulated import grey

HEIGHT, WIDTH = 48, 64
SIZE = (WIDTH, HEIGHT)
NOTHING = result_of({})
SINKS = {"out.mp4": lambda path: VideoSink(path, 25, SIZE), "tracks.json": JsonSink, "masks": MaskSink}

needs_dev_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full, a full disk, is Linux's")


# all sinks that write files


@pytest.mark.parametrize("name", ["out.mp4", "tracks.json"])
def test_without_a_frame_the_target_stays(tmp_path, name):
    for files in ([], [name]):
        for file in files:
            (tmp_path / file).write_bytes(b"earlier")
        sink = SINKS[name](tmp_path / name)
        sink.close()
        sink.close()
        assert os.listdir(tmp_path) == files
    assert (tmp_path / name).read_bytes() == b"earlier"


@pytest.mark.parametrize("name", ["out.mp4", "tracks.json"])
def test_an_error_in_the_block_keeps_what_was_written(tmp_path, name):
    def fail(sink):
        with sink:
            sink.write(grey(100), NOTHING)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail(SINKS[name](tmp_path / name))
    if name == "tracks.json":
        assert len((tmp_path / name).read_text().splitlines()) == 1
    else:
        with VideoSource(tmp_path / name) as source:
            assert source.frame_count == 1


@pytest.mark.parametrize(
    ("name", "closed", "directory"),
    [
        ("out.mp4", "the video is closed", r"out\.mp4: is a directory"),
        ("tracks.json", r"tracks\.json: cannot be written", "cannot be written: Is a directory"),
    ],
)
def test_closed_sink_and_directory_as_the_target(tmp_path, name, closed, directory):
    sink = SINKS[name](tmp_path / name)
    sink.close()
    with pytest.raises(MediaError, match=closed):
        sink.write(grey(1), NOTHING)
    (tmp_path / name).mkdir()
    with pytest.raises(MediaError, match=directory):
        SINKS[name](tmp_path / name)


@pytest.mark.parametrize("name", SINKS)
def test_directory_cannot_be_made(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(MediaError, match=r"file/sub.*: this directory cannot be made"):
        SINKS[name](tmp_path / "file" / "sub" / name)
    with pytest.raises(MediaError, match="file: this directory cannot be made"):
        MaskSink(tmp_path / "file")


def test_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, make in SINKS.items():
        with make(f"~/{name}") as sink:
            sink.write(grey(100), NOTHING)
    assert {path.name for path in tmp_path.iterdir()} == set(SINKS)


# videos


@pytest.fixture
def without_ffmpeg(monkeypatch):
    """The program ffmpeg is not installed."""
    monkeypatch.setattr(encoders, "_ffmpeg_has_h264", lambda: False)


CODES = {
    "H.264": ("avc1", "h264", "H264"),
    "MPEG-4": ("mp4v", "FMP4"),
    "motion JPEG": ("MJPG",),
    "VP8": ("VP80",),
}


@pytest.mark.parametrize(
    ("extension", "program"),
    [
        *((extension, True) for extension in (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".MP4")),
        *((extension, False) for extension in (".mp4", ".mov", ".mkv")),  # which would have H.264
    ],
)
def test_video_read_back(tmp_path, extension, program, request):
    if not program:
        request.getfixturevalue("without_ffmpeg")
    codec = {".avi": "motion JPEG", ".webm": "VP8"}.get(extension, "H.264" if encoders._ffmpeg_has_h264() else "MPEG-4")
    path = tmp_path / "new" / "folder" / f"out{extension}"
    frame = np.full((HEIGHT, WIDTH, 3), (220, 60, 20), np.uint8)
    result = result_of({1: box_mask(8, 20, 40, 44)})
    with VideoSink(path, 12.5, SIZE) as sink:
        for _ in range(4):
            sink.write(frame, result)
    assert sink.codec == codec
    code = int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode()
    assert code in CODES[codec]
    with VideoSource(path) as source:
        frames = list(source)
        assert source.fps == pytest.approx(12.5)
    assert len(frames) == 4
    expected = overlay.draw(frame, result)
    # In the parts of one colour; the codec smears edges.
    for part in (np.s_[24:40, 14:34], np.s_[20:44, 48:60]):
        means = frames[-1][part].mean(axis=(0, 1))
        assert np.abs(means - expected[part].mean(axis=(0, 1))).max() < 8
    assert os.listdir(path.parent) == [path.name]


def test_video_of_odd_sides_loses_a_column_and_a_row(tmp_path):
    with VideoSink(tmp_path / "odd.mp4", 25, (65, 49)) as sink:
        sink.write(grey(90, (49, 65)), result_of({}, size=(49, 65)))
    with VideoSource(tmp_path / "odd.mp4") as source:
        assert (source.width, source.height) == (64, 48)
        assert abs(next(iter(source)).mean() - 90) < 3


@pytest.mark.parametrize(
    ("times", "shown"),
    [
        ((0, 0.1, 0.2), (0, 1, 2)),
        ((5, 5.1, 5.4, 5.5), (0, 1, 1, 1, 2, 3)),  # from the first on; three frames are missing
        ((0, 0.04, 0.06, 0.14, 0.2), (0, 2, 4)),  # two come too soon after another
        ((None, None, 7, 7.3), (0, 1, 2, 2, 2, 3)),
        ((0, 1000, 1000.1), (0,) * 60 + (0, 1, 2)),  # a camera was away, for longer than a picture is held
    ],
)
def test_frames_stand_at_their_times(tmp_path, times, shown, without_ffmpeg, monkeypatch):
    monkeypatch.setattr(sinks, "_LONGEST_HOLD", 6)
    with VideoSink(tmp_path / "out.avi", 10, SIZE) as sink:
        for number, time in enumerate(times):
            sink.write(grey(50 * number), dataclasses.replace(NOTHING, time=time))
    with VideoSource(tmp_path / "out.avi") as source:
        assert [round(frame.mean() / 50) for frame in source] == list(shown)


def test_video_replaces_its_target_on_closing(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"earlier")
    sink = VideoSink(path, 25, SIZE)
    sink.write(grey(100), NOTHING)
    assert path.read_bytes() == b"earlier"
    sink.close()
    sink.close()
    with VideoSource(path) as source:
        assert source.frame_count == 1


def test_video_whose_name_looks_like_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with VideoSink("12:30.mp4", 25, SIZE) as sink:  # FFmpeg would take 12 for a protocol
        sink.write(grey(1), NOTHING)
    assert os.listdir() == ["12:30.mp4"]


def test_video_frame_of_another_size(tmp_path):
    message = r"must be \(64, 48\) \(width, height\) but got \(48, 64\)"
    with VideoSink(tmp_path / "out.mp4", 25, SIZE) as sink, pytest.raises(FrameError, match=message):
        sink.write(grey(0, (64, 48)), NOTHING)


@pytest.mark.parametrize(
    ("name", "fps", "size", "error", "message"),
    [
        *((name, 25, SIZE, MediaError, r"unknown extension .*; use one of \.avi, .*\.mp4") for name in ("a.gif", "a")),
        *(("a.mp4", fps, SIZE, InputError, "fps must be a number above 0") for fps in (0, -1, np.nan, np.inf)),
        ("a.mp4", 25, (1, 1), MediaError, "a video of 1×1 pixels cannot be written there"),
    ],
)
def test_video_that_cannot_be_made(tmp_path, name, fps, size, error, message):
    with pytest.raises(error, match=message):
        VideoSink(tmp_path / name, fps, size)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("fps", [200 / 3, 119.873, 1000 / 3])
def test_video_of_an_fps_with_many_digits(tmp_path, fps):
    with VideoSink(tmp_path / "out.mp4", fps, SIZE) as sink:
        sink.write(grey(0), NOTHING)
    with VideoSource(tmp_path / "out.mp4") as source:
        assert source.fps == pytest.approx(fps, rel=1e-3)


def fill(sink):
    random = np.random.default_rng(0)
    for index in range(40):
        sink.write(random.integers(0, 256, (240, 320, 3), np.uint8), FrameResult.empty(index, (240, 320)))
    sink.close()


@pytest.mark.parametrize(
    ("extension", "program"), [(".mp4", True), (".mkv", True), (".mp4", False), (".mkv", False), (".avi", False)]
)
def test_video_on_a_full_disk_is_an_error_and_leaves_the_target(tmp_path, extension, program, monkeypatch):
    """A limit on the size of files makes writes fail as a full disk does; it holds for this process and its children.

    Python ignores the signal that comes with it.
    """
    if program and not encoders._ffmpeg_has_h264():
        pytest.skip("the program ffmpeg is not installed, or has no H.264: apt-get install ffmpeg")
    path = tmp_path / f"out{extension}"
    path.write_bytes(b"earlier")
    monkeypatch.setattr(encoders, "_ffmpeg_has_h264", lambda: program)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limits[1]))
    try:
        sink = VideoSink(path, 25, (320, 240))
        with pytest.raises(MediaError) as raised:
            fill(sink)
        sink.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    message = f"{path}: could not be written completely; is the disk full?"
    assert path.read_bytes() == b"earlier"
    rest = [file for file in tmp_path.iterdir() if file != path]
    if extension == ".mp4":
        assert str(raised.value) == message
        assert rest == []
    else:
        assert str(raised.value) == f"{message} The part that was written is in {rest[0]}"
        assert 0 < len(list(VideoSource(rest[0]))) < 40


# label images


def test_label_values_are_ids(tmp_path):
    directory = tmp_path / "a" / "masks"
    first, second, over = box_mask(0, 0, 20, 20), box_mask(30, 5, 50, 40), box_mask(10, 10, 40, 44)
    with MaskSink(directory) as sink:
        sink.write(grey(0), result_of({7: first, 255: second}, index=0))
        sink.write(grey(0), result_of({}, index=1))
        sink.write(grey(0), result_of({9: first, 2: over}, index=2))
        sink.write(grey(0), result_of({7: first, 256: second}, index=123456))
    assert sorted(os.listdir(directory)) == ["00000.png", "00001.png", "00002.png", "123456.png"]
    for name, expected, dtype in (
        ("00000.png", 7 * first + 255 * second, np.uint8),
        ("00001.png", np.zeros((HEIGHT, WIDTH)), np.uint8),
        ("00002.png", np.where(over, 2, 9 * first), np.uint8),  # equal logits: the lower id
        ("123456.png", 7 * first + 256 * second, np.uint16),
    ):
        labels = cv2.imread(str(directory / name), cv2.IMREAD_UNCHANGED)
        assert labels.dtype == dtype
        assert np.array_equal(labels, expected)


def test_the_highest_logit_wins_whatever_the_order(tmp_path):
    """At the frame's size, as SAM 2's non-overlap constraint; an object that is not in view does not take part."""
    logits = np.random.default_rng(0).normal(0.5, 3, (4, 12, 16)).astype(np.float32)
    scores, ids = np.array([1, 2, -1, 3], np.float32), np.array([5, 2, 9, 300])
    resized = np.stack([cv2.resize(one, SIZE) for one in logits]) * (scores > 0)[:, None, None]
    expected = np.where(resized.max(axis=0) > 0, ids[resized.argmax(axis=0)], 0)
    for number, order in enumerate(([0, 1, 2, 3], [3, 1, 0, 2])):
        with MaskSink(tmp_path / str(number)) as sink:
            of_order = (tuple(ids[order].tolist()), logits[order], scores[order], scores[order])
            sink.write(grey(0), FrameResult(0, *of_order, (HEIGHT, WIDTH)))
        labels = cv2.imread(str(tmp_path / str(number) / "00000.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(labels, expected)
        for object_id, mask in read_masks(tmp_path / str(number) / "00000.png").items():
            assert np.array_equal(mask, expected == object_id)


@pytest.mark.parametrize("object_id", [0, -1, 65536])
def test_id_that_cannot_be_a_label(tmp_path, object_id):
    message = f"object id {object_id} cannot be a pixel's value"
    with MaskSink(tmp_path) as sink, pytest.raises(ObjectIdError, match=message):
        sink.write(grey(0), result_of({object_id: box_mask(0, 0, 5, 5)}))


def test_directory_with_label_images_is_refused(tmp_path):
    (tmp_path / "00007.png").write_bytes(b"annotation")
    with pytest.raises(MediaError, match="holds PNG files already"):
        MaskSink(tmp_path)
    assert (tmp_path / "00007.png").read_bytes() == b"annotation"


def test_directory_of_label_images_is_gone(tmp_path):
    sink = MaskSink(tmp_path / "masks")
    (tmp_path / "masks").rmdir()
    with pytest.raises(MediaError, match=r"00000\.png: cannot be written"):
        sink.write(grey(0), NOTHING)


@needs_dev_full
def test_label_image_on_a_full_disk(tmp_path):
    sink = MaskSink(tmp_path)
    (tmp_path / "00000.png").symlink_to("/dev/full")
    with pytest.raises(MediaError, match=r"00000\.png: cannot be written: No space left"):
        sink.write(grey(0), NOTHING)
    assert os.listdir(tmp_path) == []


# JSON


def test_json_lines(tmp_path):
    path = tmp_path / "new" / "tracks.json"
    mask, absent = box_mask(10, 5, 30, 45), box_mask(0, 0, 0, 0)
    with JsonSink(path) as sink:
        sink.write(grey(0), result_of({}, index=0))
        sink.write(grey(0), dataclasses.replace(result_of({4: mask, 300: absent}, index=1), time=0.1234567))
    names = ("id", "segmentation", "bbox", "iou", "object_score", "stability", "visible", "state")
    objects = [
        (4, rle.encode(mask), [10, 5, 20, 40], 0.5, 3.25, 1.0, True, "visible"),
        (300, rle.encode(absent), [0, 0, 0, 0], 0.75, -1.5, 0.0, False, "occluded"),
    ]
    tracked = [dict(zip(names, values, strict=True)) for values in objects]
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"frame_index": 0, "time": None, "size": [HEIGHT, WIDTH], "objects": []},
        {"frame_index": 1, "time": 0.123457, "size": [HEIGHT, WIDTH], "objects": tracked},
    ]
    assert os.listdir(path.parent) == ["tracks.json"]


def test_json_has_null_for_numbers_that_are_not_finite(tmp_path):
    result = result_of({1: box_mask(10, 5, 30, 45), 2: box_mask(10, 5, 30, 45)})
    result.ious[0], result.object_scores[1] = np.nan, np.inf
    with JsonSink(tmp_path / "tracks.json") as sink:
        sink.write(grey(0), result)
    first, second = json.loads((tmp_path / "tracks.json").read_text(), parse_constant=pytest.fail)["objects"]
    assert (first["iou"], first["object_score"]) == (None, 3.25)
    assert (second["iou"], second["object_score"], second["visible"]) == (0.75, None, True)


def test_json_has_the_words(tmp_path):
    result = result_of({1: box_mask(10, 5, 30, 45), 2: box_mask(10, 5, 30, 45)})
    with JsonSink(tmp_path / "tracks.json") as sink:
        sink.write(grey(0), dataclasses.replace(result, words=("tasse à café", "")))
    assert [tracked["word"] for tracked in json.loads((tmp_path / "tracks.json").read_text())["objects"]] == [
        "tasse à café",
        "",
    ]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_coco_tools_read_the_json(tmp_path):
    mask = np.random.default_rng(5).random((HEIGHT, WIDTH)) < 0.2
    mask[:3] = mask[:, :2] = False
    with JsonSink(tmp_path / "tracks.json") as sink:
        sink.write(grey(0), result_of({1: mask}))
    written = json.loads((tmp_path / "tracks.json").read_text())["objects"][0]
    assert np.array_equal(coco.decode(written["segmentation"]), mask)
    assert coco.toBbox(written["segmentation"]).tolist() == written["bbox"]


def test_json_lines_can_be_followed(tmp_path):
    path = tmp_path / "tracks.json"
    path.write_text("an earlier run's, longer than what comes now" * 100)
    with JsonSink(path) as sink:
        assert path.read_text().startswith("an earlier run's")
        for index in range(3):
            sink.write(grey(0), result_of({}, index))
            lines = path.read_text().splitlines()
            assert [json.loads(line)["frame_index"] for line in lines] == list(range(index + 1))


def test_json_lines_of_a_killed_process_stay(tmp_path):
    script = f"""
import os, signal
import numpy as np
from sam2edge import FrameResult, JsonSink
sink = JsonSink({str(tmp_path / "tracks.json")!r})
for index in range(3):
    sink.write(np.zeros((48, 64, 3), np.uint8), FrameResult.empty(index, (48, 64)))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    lines = (tmp_path / "tracks.json").read_text().splitlines()
    assert [json.loads(line)["frame_index"] for line in lines] == [0, 1, 2]


@needs_dev_full
def test_json_on_a_full_disk():
    sink = JsonSink("/dev/full")
    with pytest.raises(MediaError, match=r"/dev/full: cannot be written: .*No space left"):
        sink.write(grey(0), NOTHING)
    with pytest.raises(MediaError, match="/dev/full: its last line cannot be written: No space left"):
        sink.close()


# functions and windows


def test_callback_sink():
    calls = []
    frame = grey(3)
    with CallbackSink(lambda *given: calls.append(given)) as sink:
        sink.write(frame, NOTHING)
    assert calls == [(frame, NOTHING)]
    assert not sink.closed_by_user


@pytest.mark.parametrize("framework", ["", "NONE", "GTK3", "QT5"])
def test_no_windows_or_no_screen(monkeypatch, framework):
    """OpenCV before 4.10, here with NONE and GTK3, names its windows only among what it was built with."""
    text = f"  Disabled:                    world\n\n  GUI:                           {framework}\n    GTK+: NO\n"
    if framework in ("", "QT5"):
        monkeypatch.setattr(cv2, "currentUIFramework", lambda: framework)
    else:
        monkeypatch.delattr(cv2, "currentUIFramework", raising=False)
        monkeypatch.setattr(cv2, "getBuildInformation", lambda: text)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    message = "no screen to show a window on: neither DISPLAY nor WAYLAND_DISPLAY"
    if framework in ("", "NONE"):
        message = "no windows: pip uninstall -y opencv-python-headless && pip install opencv-python"
    with pytest.raises(MediaError, match=message):
        WindowSink()


def test_window_shows_the_overlay(monkeypatch):
    """With stand-ins for OpenCV's functions."""
    shown, keys, visible = [], [-1, ord("x"), ord("q")], [1]
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "QT5")
    monkeypatch.setattr(cv2, "namedWindow", lambda title, flags: None)
    monkeypatch.setattr(cv2, "imshow", lambda title, image: shown.append((title, image)))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: keys.pop(0) if keys else -1)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda title, what: visible[0])
    monkeypatch.setattr(cv2, "destroyWindow", lambda title: visible.clear() or visible.append(-1))
    result = result_of({1: box_mask(8, 20, 40, 44)})
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


def test_real_window():
    if not (cv2.currentUIFramework() and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))):
        pytest.skip("there is no screen, or OpenCV has no windows: pip install opencv-python, run under xvfb-run")
    with WindowSink() as sink:
        for _ in range(3):
            sink.write(grey(90), result_of({1: box_mask(8, 20, 40, 44)}))
        assert not sink.closed_by_user
    sink.close()
