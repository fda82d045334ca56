"""`sam2edge track`: its arguments, outputs, sources that fail, progress and interruption."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2edge.errors import BackendError, PromptError
from sam2edge.runtime.backends.onnx import OnnxBackend
from sam2edge.runtime.media import sinks, sources
from sam2edge.runtime.media.sinks import CallbackSink
from sam2edge.runtime.media.sources import VideoSource
from sam2edge.runtime.video import tracker as tracker_module
from tests.conftest import REPO
from tests.simulated import PATIENCE, Simulated, failing, grey, opening
from tests.unit.commands.fake_tracker import HEIGHT, WIDTH, FakeTracker
from tests.videos import damage_avi, ffmpeg, moving, write_avi

FRAMES = 6
POINT = ("--point", "1,1")


@pytest.fixture
def tracker(monkeypatch):
    """The class of the tracker that the command makes; `made` is the last one."""

    class Tracker(FakeTracker):
        made = None

    monkeypatch.setattr(tracker_module, "VideoTracker", Tracker)
    return Tracker


def numbered(i):
    """A frame that the fake tracker takes for number i."""
    return grey(20 * i + 40, (HEIGHT, WIDTH))


@pytest.fixture
def video(tmp_path):
    return write_avi(tmp_path / "in.avi", range(40, 40 + 20 * FRAMES, 20))


@pytest.fixture
def out(tmp_path):
    """Where the JSON goes."""
    return tmp_path / "o.json"


def indices(out):
    return [json.loads(line)["frame_index"] for line in out.read_text().splitlines()]


# arguments and outputs


@pytest.mark.parametrize(
    ("options", "knobs"),
    [
        ((), {"min_confidence": 0, "memory_frames": None, "memory_stride": 1, "track_every": 1}),
        (
            ("--min-confidence=0.7", "--memory-frames=3", "--memory-stride=2", "--track-every=4"),
            {"min_confidence": 0.7, "memory_frames": 3, "memory_stride": 2, "track_every": 4},
        ),
    ],
)
def test_outputs(run, tracker, video, tmp_path, options, knobs):
    outputs = tmp_path / "o.mp4", tmp_path / "masks", tmp_path / "o.json"
    arguments = ("--point", "5:1,1", "-o", outputs[0], "--masks", outputs[1], "--json", outputs[2])
    code, printed, err = run("track", "some/bundle", video, *arguments, "--backend", "onnx", *options)
    note = f"sam2edge: {outputs[0]}: MPEG-4, which browsers do not play; install ffmpeg for H.264, or write .webm\n"
    assert (code, err) == (0, "" if shutil.which("ffmpeg") else note)
    assert printed.startswith(f"{FRAMES} frames, ")
    assert printed.endswith(" frames/s with reading and writing: " + ", ".join(map(str, outputs)) + "\n")
    assert tracker.made.arguments == (Path("some/bundle"), "onnx", 1)
    assert (tracker.made.knobs, tracker.made.closed) == (knobs, True)
    with VideoSource(outputs[0]) as source:
        assert source.fps == pytest.approx(10)
        assert len(list(source)) == FRAMES
    masks = [cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in sorted(outputs[1].iterdir())]
    assert np.array_equal(masks, np.full((FRAMES, HEIGHT, WIDTH), 5))
    lines = [json.loads(line) for line in outputs[2].read_text().splitlines()]
    assert [line["frame_index"] for line in lines] == list(range(FRAMES))
    assert [line["time"] for line in lines] == pytest.approx(np.arange(FRAMES) / 10)
    assert all([thing["id"] for thing in line["objects"]] == [5] for line in lines)


def test_overlay_of_a_video_whose_rate_changes(run, tracker, tmp_path):
    """It lasts as long as the video did, and every frame stands at its time, as fine as the video's steps."""
    uneven = ("-vf", "select='lt(n,5)+eq(n,9)+gt(n,19)',scale=64:48", "-vsync", "vfr", "-c:v", "mpeg4", "-q:v", "2")
    path = ffmpeg(tmp_path / "in.mp4", *moving(10), *uneven)
    assert run("track", "b", path, *POINT, "-o", tmp_path / "o.avi")[0] == 0
    with VideoSource(path) as source:
        shown = [(frame, source.time) for frame in source]
    with VideoSource(tmp_path / "o.avi") as overlay:
        assert overlay.fps == pytest.approx(25)
        frames = list(overlay)
    assert len(frames) == 24 == round(25 * shown[-1][1]) + 1
    changes = [number for number in range(1, 24) if np.abs(frames[number] - frames[number - 1].astype(int)).mean() > 1]
    assert changes == [round(25 * time) for _, time in shown[1:]]


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_prompted_frame(run, tracker, video, out, mode):
    prompt = ("--box", "1,1,9,9", "--frame", 2, "--mode", mode)
    assert run("track", "b", video, *prompt, "--json", out)[0] == 0
    # The frames before are not tracked: there is nothing to track, and encoding them would take its time.
    assert tracker.made.calls == [
        ("track", 2),
        ("prompt", 1, {"box": (1, 1, 9, 9)}),
        *(("track", index) for index in range(3, FRAMES)),
    ]
    assert indices(out) == list(range(FRAMES))
    assert [len(json.loads(line)["objects"]) for line in out.read_text().splitlines()] == [0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_prompts_on_several_frames(run, tracker, video, out, mode):
    """Objects join and are corrected on their frames; one that never comes is an error, and the others are kept."""
    prompts = ("--box", "4:1,1,9,9@3", "--point", "2,2", "--point", "4:3,3,0@4")
    late = ("--point", "9:5,5@7", "--point", "4:6,6@8")
    code, printed, err = run("track", "b", video, *prompts, *late, "--mode", mode, "--frame", 1, "--json", out)
    assert tracker.made.calls == [
        ("track", 1),
        ("prompt", 1, {"points": ((2, 2),), "labels": (1,)}),
        ("track", 2),
        ("track", 3),
        ("prompt", 4, {"box": (1, 1, 9, 9)}),
        ("track", 4),
        ("prompt", 4, {"points": ((3, 3),), "labels": (0,)}),
        ("track", 5),
    ]
    assert tracker.made.arguments[2] == 3
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [[thing["id"] for thing in line["objects"]] for line in lines] == [[], [1], [1], [1, 4], [1, 4], [1, 4]]
    message = "--point 9:5,5@7: frame 7 never came, the video ends with frame 5; prompts without effect: 2 of 5"
    assert (code, printed, err) == (2, "", f"sam2edge: error: {message}\n")


def test_an_object_that_is_removed(run, tracker, video, out, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"object": 1, "box": [1, 1, 9, 9]}\n{"object": 1, "frame": 3, "remove": true}')
    assert run("track", "b", video, "--point", "2:2,2", "--prompts", tmp_path / "p.jsonl", "--json", out)[0] == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [len(line["objects"]) for line in lines] == [2, 2, 2, 1, 1, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "{video} --json {out}",
            "nothing to track: give --point x,y or --box x0,y0,x1,y1 or --mask file.png, or --words",
        ),
        ("{video} --point 1,1", "nothing to write: give -o out.mp4 or --masks DIR or --json FILE"),
        ("{video} --point 1,1 --frame=-1 --json {out}", "--frame -1: frames are counted from 0"),
        ("{video} --point 1 --json {out}", "--point 1: expected 2 or 3 numbers with commas between"),
        ("{video} --point 1,1,5 --json {out}", "--point 1,1,5: unknown label 5; 1 is the object, 0 the background"),
        ("{video} --point 1,1 --frame 1 --frame 2 --json {out}", "--frame is for all prompts; give each its own"),
        (
            "{video} --point 1,1 --frame 6 --json {out}",
            "--point 1,1: frame 6 never came, the video ends with frame 5; prompts without effect: 1 of 1",
        ),
        ("{video} --point 1,1 -o {mp4} --json {mp4}", "-o, --masks and --json must not write to the same place"),
        ("{video} --point 1,1 -o {video}", "{video}: is the video that is read; write to another file"),
        ("{video} --point 1,1 -o {folder}", "{folder}: is a directory, expected the name of a file to write"),
        ("{video} --point 1,1 --masks {video}/m", "{video}/m: cannot be written: {video} is a file, not a directory"),
        ("{video} --point 1,1 -o {folder}/o.gif", "{folder}/o.gif: unknown extension"),
        (
            "{video} --mask {small} --json {out}",
            "--mask {small}: a mask must be of the frame's size [48, 64] but is [10, 20]",
        ),
        (
            "{video} --mask 1:{mask} --point 1:3,3 --json {out}",
            "--mask 1:{mask} --point 1:3,3: a mask cannot be combined with points or a box; give one or the other",
        ),
        ("gone.mp4 --point 1,1 --json {out}", "gone.mp4: no such video file"),
        ("{empty} --point 1,1 --json {out}", "{empty}: the file is empty (0 bytes)"),
        ("{folder}/b --point 1,1 --json {out}", "{folder}/b is a checkpoint, not a video"),
    ],
)
def test_what_is_refused(error_of, tracker, video, out, tmp_path, words, message):
    files = {"video": video, "out": out, "mp4": tmp_path / "o.mp4", "folder": tmp_path, "empty": tmp_path / "empty.mp4"}
    files |= {"mask": tmp_path / "mask.png", "small": tmp_path / "small.png"}
    files["empty"].touch()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "model.pt").touch()
    cv2.imwrite(str(files["mask"]), np.ones((HEIGHT, WIDTH), np.uint8))
    cv2.imwrite(str(files["small"]), np.ones((10, 20), np.uint8))
    before = video.read_bytes()
    arguments = [word.format(**files) for word in words.split()]
    assert error_of("track", "bundle", *arguments).startswith(message.format(**files))
    assert video.read_bytes() == before
    assert not files["mp4"].exists()


def test_threads(run, error_of, tracker, video, tmp_path):
    words = ("track", "some/bundle", video, *POINT, "--json", tmp_path / "o.json", "--threads")
    assert run(*words, 2)[0] == 0
    assert isinstance(tracker.made.arguments[1], OnnxBackend)
    assert tracker.made.arguments[1]._threads == 2
    assert error_of(*words, 0) == "--threads must be an integer of at least 1 but got 0"
    assert error_of(*words, 2, "--backend", "tensorrt").startswith(
        "--threads must be left out for the backend tensorrt"
    )


def test_no_bundle_leaves_earlier_outputs(error_of, video, tmp_path):
    (tmp_path / "o.webm").write_bytes(b"earlier")
    (tmp_path / "o.json").write_text("earlier")
    arguments = (*POINT, "-o", tmp_path / "o.webm", "--json", tmp_path / "o.json")
    assert "no such bundle" in error_of("track", tmp_path / "no-bundle", video, *arguments)
    assert (tmp_path / "o.webm").read_bytes() == b"earlier"
    assert (tmp_path / "o.json").read_text() == "earlier"
    assert sorted(os.listdir(tmp_path)) == ["in.avi", "o.json", "o.webm"]


def test_error_while_tracking_keeps_what_was_written(error_of, tracker, video, tmp_path):
    def track(self, frame):
        if self.frames == 3:
            raise BackendError("the device is gone")
        return FakeTracker.track(self, frame)

    tracker.track = track
    assert error_of("track", "b", video, *POINT, "-o", tmp_path / "o.webm") == "the device is gone"
    with VideoSource(tmp_path / "o.webm") as source:
        assert len(list(source)) == 3


def test_error_of_a_prompt(error_of, tracker, video, tmp_path):
    """One that a later frame will have is found before anything is tracked; one that needs the model names the file."""
    arguments = ("track", "b", video, "-o", tmp_path / "o.webm", "--box", "1,1,9,9")
    message = "--point 100,1@5: point [100.0, 1.0] lies outside the 64×48 frame"
    assert error_of(*arguments, "--point", "100,1@5") == message
    assert tracker.made is None

    def prompt(self, object_id, **given):
        raise PromptError("the mask is too small")

    tracker.prompt = prompt
    cv2.imwrite(str(tmp_path / "mask.png"), np.ones((HEIGHT, WIDTH), np.uint8))
    message = f"--mask {tmp_path / 'mask.png'}: the mask is too small"
    assert error_of(*arguments[:-2], "--mask", tmp_path / "mask.png") == message
    assert not (tmp_path / "o.webm").exists()


# sources that are no files, and files that are broken


@pytest.fixture
def play(monkeypatch):
    """Return a function that sets the sources that are opened one after the other."""

    def play(*played):
        open_next = opening(*played)
        monkeypatch.setattr(sources, "open_source", lambda word, **_: open_next())

    return play


def test_folder_of_images(run, tracker, tmp_path, out):
    (tmp_path / "images").mkdir()
    for i in range(11):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), numbered(i))
    (tmp_path / "images" / "2.png").write_bytes(b"broken")
    code, printed, err = run("track", "b", tmp_path / "images", *POINT, "--json", out)
    assert code == 0
    assert printed.startswith("10 of 11 frames, ")
    assert printed.endswith(f" frames/s with reading and writing, broken 1: {out}\n")
    [line] = err.splitlines()
    assert line.startswith(f"sam2edge: {tmp_path / 'images'}: frame 2 is skipped: {tmp_path / 'images' / '2.png'}: no")
    assert indices(out) == [0, 1, *range(3, 11)]
    assert [call[1] for call in tracker.made.calls if call[0] == "track"] == indices(out)


def test_video_with_damaged_frames(run, tracker, video, out):
    """It is tracked to its end, and the last line says how many frames were lost."""
    damage_avi(video, 2, 3)
    code, printed, err = run("track", "b", video, *POINT, "--json", out)
    assert code == 0
    assert printed.startswith(f"{FRAMES - 2} of {FRAMES} frames, ")
    assert printed.endswith(f" frames/s with reading and writing, broken 2: {out}\n")
    assert err == f"sam2edge: {video}: frame 2 is skipped: damaged; the frame cannot be decoded\n"
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["frame_index"], line["time"]) for line in lines] == [(0, 0), (1, 0.1), (4, 0.4), (5, 0.5)]


def test_camera_that_is_lost(run, tracker, out, play):
    play(
        Simulated(numbered(0), numbered(1), failing(OSError("unplugged"))),
        Simulated(numbered(2), None, numbered(3), failing(TypeError("a mistake"))),
    )
    with pytest.raises(TypeError, match="a mistake"):
        run("track", "b", "0", *POINT, "--policy", "every", "--json", out)
    assert indices(out) == [0, 1, 2, 4]


def test_faults_of_the_camera_are_reported(run, tracker, out, play):
    enough = threading.Event()
    play(Simulated(numbered(0)), Simulated(numbered(1), None, numbered(2), enough))

    def stop_after_three(self, frame):
        if self.frames == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return FakeTracker.track(self, frame)

    tracker.track = stop_after_three
    code, printed, err = run("track", "b", "0", *POINT, "--policy", "every", "--json", out)
    enough.set()
    assert (code, printed) == (130, "")
    assert err.splitlines() == [
        "sam2edge: camera: lost (it gives no more frames); trying again in 0.5 s",
        "sam2edge: camera: back at attempt 1",
        "sam2edge: camera: frame 2 is skipped: a frame must be a numpy array uint8 [H,W,3] (RGB) but got NoneType",
        f"sam2edge: interrupted after 3 frames, broken 1, reconnects 1, which are kept in {out}",
    ]


def test_latest_frames(run, tracker, out, play):
    done = threading.Event()
    play(Simulated(*map(numbered, range(9)), done.set, live=False))

    def wait(self, frame):
        assert done.wait(PATIENCE)
        return FakeTracker.track(self, frame)

    tracker.track = wait
    code, printed, _ = run("track", "b", "0", *POINT, "--policy", "latest", "--json", out)
    assert code == 0
    assert indices(out)[-1] == 8
    assert printed.startswith(f"{len(indices(out))} frames, ")
    assert f"with reading and writing, dropped {9 - len(indices(out))}: " in printed


def test_prompted_frame_that_was_dropped(run, tracker, out, play):
    play(Simulated(numbered(0), None, None, numbered(3), numbered(4), live=False))
    code, _, err = run("track", "b", "0", *POINT, "--frame", 2, "--json", out)
    assert code == 0
    assert "sam2edge: --point 1,1: frame 2 was lost or dropped; prompted on frame 3\n" in err
    assert [call[:2] for call in tracker.made.calls] == [("track", 3), ("prompt", 1), ("track", 4)]


def test_window_without_a_screen(error_of, tracker, video, out):
    if cv2.currentUIFramework():
        pytest.skip("this OpenCV has windows")
    message = error_of("track", "b", video, *POINT, "--window", "--json", out)
    assert message.startswith("this OpenCV has no windows: pip uninstall")
    assert not out.exists()


def test_window_that_is_closed(run, tracker, video, monkeypatch):
    class Window(CallbackSink):
        def __init__(self):
            super().__init__(self.show)
            self.shown = 0

        def show(self, frame, result):
            self.shown += 1
            self.closed_by_user = self.shown == 3

    monkeypatch.setattr(sinks, "WindowSink", Window)
    code, printed, err = run("track", "b", video, *POINT, "--window")
    assert (code, err) == (0, "")
    assert printed.startswith(f"3 of {FRAMES} frames, ")
    assert printed.endswith(" frames/s with reading and writing: shown\n")


# progress and interruption

SLOW = """
import sys
from sam2edge import cli
from sam2edge.runtime.video import tracker
from tests.unit.commands.fake_tracker import SlowTracker
tracker.VideoTracker = SlowTracker
sys.exit(cli.main(sys.argv[1:]))
"""
STALLED = """
import threading
from sam2edge.runtime.media import sources
from tests.unit.commands.test_track import Simulated, numbered
sources.open_source = lambda word, **_: Simulated(*map(numbered, range(5)), threading.Event())
"""


def command(*arguments, before=""):
    """A process that tracks slowly."""
    return [sys.executable, "-c", before + SLOW, "track", "bundle", *map(str, arguments)]


def interrupted(words, number):
    """Run a command, send it a signal at the fifth frame, and return its exit code and what it printed."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPO) as process:
        assert process.stdout.readline() == "five\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def test_interrupted_while_the_camera_stalls(out):
    """The reader is stuck; the command ends all the same."""
    words = command("0", *POINT, "--policy", "every", "--json", out, before=STALLED)
    expected = f"sam2edge: interrupted after 5 frames, which are kept in {out}\n"
    assert interrupted(words, signal.SIGINT) == (130, "closed\n", expected)
    assert indices(out) == list(range(5))


def test_terminated_run_leaves_whole_files(tmp_path, out):
    video = write_avi(tmp_path / "long.avi", [0] * 2000)  # longer than any test waits for it
    outputs = tmp_path / "o.mp4", tmp_path / "masks", out
    words = command(video, *POINT, "-o", outputs[0], "--masks", outputs[1], "--json", out)
    code, printed, err = interrupted(words, signal.SIGTERM)
    with VideoSource(tmp_path / "o.mp4") as source:
        frames = len(list(source))
    assert 5 <= frames < 1000
    kept = ", ".join(map(str, outputs))
    assert (code, printed) == (130, "closed\n")
    last = err.splitlines()[-1]  # without ffmpeg, there is one about MPEG-4 before it
    assert last == f"sam2edge: interrupted after {frames} frames, which are kept in {kept}"
    assert indices(out) == list(range(frames))
    assert len(os.listdir(tmp_path / "masks")) == frames
    assert sorted(os.listdir(tmp_path)) == ["long.avi", "masks", "o.json", "o.mp4"]


def test_signals_are_as_before_afterwards(run, tracker, video, out):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert run("track", "b", video, *POINT, "--json", out)[0] == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_progress_on_a_terminal(video, out):
    terminal, stderr = pty.openpty()
    words = command(video, *POINT, "--json", out)
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=stderr, check=True, cwd=REPO)
    os.close(stderr)
    shown = os.read(terminal, 100_000).decode().split("\r\x1b[K")
    os.close(terminal)
    assert shown[0] == ""
    assert [line.split(" frames, ")[0] for line in shown[1:-1]] == [f"{i}/{FRAMES}" for i in range(1, FRAMES + 1)]
    assert all(line.endswith(" frames/s") for line in shown[1:-1])
    assert shown[-1] == "", "the line is wiped at the end"
    assert done.stdout.decode().splitlines()[-1].startswith(f"{FRAMES} frames, ")
