"""The samples run, and the demo keeps its bars."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pycocotools.mask
import pytest
from pycocotools.coco import COCO

from sam2edge import (
    Bundle,
    CallbackSink,
    Grabber,
    MediaError,
    Reconnect,
    VideoSource,
    VideoTracker,
    WordDetector,
    cli,
)
from sam2edge.bench import cases, worker
from sam2edge.bench.cases import Measured, run_case
from sam2edge.bundle import GRAPHS
from sam2edge.runtime.media import rle
from tests.conftest import NANO, REPO
from tests.helpers import clip_frames, iou, true_masks, write_samples
from tests.simulated import Simulated, failing, opening

BALL, BLOCK = "101,47,176,122", "220,18,305,103"
FRAMES = 10
"""How many of the clip's frames most samples get: the memory bank of 7 is full, and has forgotten."""


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of samples with a short clip."""
    folder = tmp_path_factory.mktemp("short") / "samples"
    write_samples(folder, FRAMES)
    return folder


@contextlib.contextmanager
def beside(folder: Path) -> Iterator[None]:
    """Let samples import each other from their folder, as programs do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield
        for name, module in list(sys.modules.items()):
            if Path(getattr(module, "__file__", None) or "").parent == folder:
                del sys.modules[name]


def run(script: str | Path, *arguments: Path | str) -> str:
    """Run a sample as a program, in this process; return what it prints."""
    file, printed = REPO / "samples" / script, io.StringIO()
    with beside(file.parent), pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [str(file), *map(str, arguments)])
        try:
            runpy.run_path(str(file), run_name="__main__")
        except SystemExit as ended:
            failure = ended.code
        else:
            failure = None
    assert not failure, failure
    return printed.getvalue()


def load(script: str, folder: Path = REPO / "samples") -> ModuleType:
    """Return a sample as a module."""
    spec = importlib.util.spec_from_file_location(script, folder / f"{script}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with beside(folder):
        spec.loader.exec_module(module)
    return module


def assert_rows(output: str, patterns: list[str]) -> None:
    """Check that the output has a row for each pattern, in their order."""
    rows = output.splitlines()
    assert len(rows) == len(patterns), output
    for row, pattern in zip(rows, patterns, strict=True):
        assert re.fullmatch(pattern, row), row


def mean_iou(output: str) -> float:
    (score,) = re.findall(r"mean IoU over all \d+ objects in view: ([\d.]+)", output)
    return float(score)


SPEEDS = {
    "predict_speed.py": (
        ("IMAGE", "1"),
        [rf"{masks}: decoder [\d.]+ ms, predict [\d.]+ × that" for masks in ("three masks", "one mask")],
    ),
    "objects_speed.py": (
        ("2", "1"),
        [
            r"2 objects: one tracker [\d.]+ ms a frame, 2 trackers [\d.]+ ms, [\d.]+ ×",
            r"IoU of the two ways' masks: at least 1\.0000",
        ],
    ),
    "stream_speed.py": (
        ("25", "1"),
        [
            rf"{source}, {mode}: [\d.]+ frames/s, delay p50 \d+ ms, p99 \d+ ms, dropped {dropped} of {FRAMES}"
            for source, dropped in (("file", "0"), ("camera of 25 fps", r"\d+"))
            for mode in ("latency", "throughput")
        ],
    ),
}


@pytest.mark.parametrize("script", SPEEDS)
def test_speed(nano: Bundle, short: Path, noise: Path, script: str) -> None:
    arguments, rows = SPEEDS[script]
    assert_rows(run(short / script, nano.path, *(noise if word == "IMAGE" else word for word in arguments)), rows)


def test_mask_generator_speed(
    nano: Bundle, noise: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With 8 points per side in place of 32."""
    module = load("mask_generator_speed")
    monkeypatch.setattr(module, "SIDE", 8)
    module.main(nano.path, noise, 1)
    variants = ("defaults", "half of the candidates pass")
    rows = [rf"{name}: \d+ masks" for name in variants]
    rows += [rf"{name}: [\d.]+ s, [\d.]+ × the bare runs" for name in ("bare runs", *variants)]
    assert_rows(capsys.readouterr().out, rows)


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """An image of noise."""
    cv2.imwrite(str(tmp_path / "noise.png"), np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    return tmp_path / "noise.png"


def test_demo_with_pooled_memory(pooled: Bundle, short: Path, tmp_path: Path) -> None:
    assert mean_iou(run(short / "demo.py", pooled.path, tmp_path)) >= 0.9


def test_demo(shapes: Bundle, tmp_path: Path) -> None:
    """By words, each toy is found and followed with one id."""
    printed = run("demo.py", shapes.path, tmp_path)
    assert mean_iou(printed) == pytest.approx(0.8532, abs=0.003)
    found = re.findall(r'^"([\w ]+)": mean IoU ([\d.]+), ids \[(\d+)\]$', printed, re.MULTILINE)
    assert [word for word, _, _ in found] == ["red ball", "blue block", "yellow star"]
    assert all(float(score) >= bar for (_, score, _), bar in zip(found, (0.85, 0.85, 0.6), strict=True)), printed
    with VideoSource(tmp_path / "overlay.mp4") as overlay:
        assert (overlay.width, overlay.height, len(list(overlay))) == (320, 240, 120)
    for strip in ("strip.png", "words.png"):
        assert cv2.imread(str(tmp_path / strip)).shape == (2 * 240, 4 * 320, 3)


def test_words_of_what_is_not_there(shapes: Bundle) -> None:
    """Alone, each finds nothing in nearly all frames, although its colour or its shape is there."""
    frames = clip_frames(120)[::4]
    with WordDetector(shapes) as detector:
        for word in ("red star", "green block", "a dog"):
            words = detector.words([word])
            quiet = sum(not detector.detect(frame, words, threshold=0.3).words for frame in frames)
            assert quiet >= 29, word


def test_demo_is_as_good_as_pytorch(
    nano: Bundle, short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = mean_iou(run(short / "demo.py", nano.path, tmp_path))
    load("score_pytorch", short).main(NANO)
    assert abs(ours - mean_iou(capsys.readouterr().out)) <= 0.001


def test_knob_costs(nano: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints a row per setting; here two settings and one clip."""
    knobs = load("knob_costs")
    monkeypatch.setattr(knobs.make_clip, "FRAMES", 90)
    monkeypatch.setattr(knobs, "SETTINGS", [{"track_every": 4}, {"track_every": 12}])
    monkeypatch.setattr(knobs, "CORRECTED", [])
    knobs.main(nano.path, 1)
    _, _, often, seldom = (line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines())
    assert [often[0], seldom[0]] == ["track_every=4", "track_every=12"]
    assert float(seldom[1]) < float(often[1]) < 1
    assert float(seldom[-1]) < 0.7 * float(often[-1])


def tracks(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two frames of the clip, and a file that is not an image."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, frame in enumerate(clip_frames(2)):
        cv2.imwrite(str(folder / f"{number}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    (folder / "2.png").write_text("no image")
    return folder


def test_readme_lists_every_sample() -> None:
    """The samples to start from, which its first table lists, are short."""
    folder = REPO / "samples"
    tables = (folder / "README.md").read_text().split("measures itself")
    start, others = (re.findall(r"^\| \[([\w.]+)\]", table, re.MULTILINE) for table in tables)
    assert {*start, *others} == {file.name for suffix in ("py", "sh") for file in folder.glob(f"*.{suffix}")}
    assert [name for name in start if len((folder / name).read_text().splitlines()) >= 60] == []


def test_segment_image(nano: Bundle, photos: Path, tmp_path: Path) -> None:
    cut_out = tmp_path / "ball.png"
    run("segment_image.py", nano.path, photos / "0.png", cut_out, "--point", "138,84", "--background", "20,20")
    pixels = cv2.imread(str(cut_out), cv2.IMREAD_UNCHANGED)
    assert iou(pixels[..., 3] == 255, true_masks(1)[0]) > 0.9
    assert (pixels[..., :3] == cv2.imread(str(photos / "0.png"))).all()
    with pytest.raises(AssertionError, match=r"none.ball\.png: cannot be written"):
        run("segment_image.py", nano.path, photos / "0.png", tmp_path / "none" / "ball.png", "--point", "138,84")


def test_track_video(nano: Bundle, short: Path, tmp_path: Path) -> None:
    printed = run("track_video.py", nano.path, short / "clip.mp4", tmp_path, BALL, BLOCK)
    assert printed == "".join(f"object {number}: seen on {FRAMES} of {FRAMES} frames\n" for number in (1, 2))
    with open(tmp_path / "tracks.csv", newline="") as file:
        rows = {(int(row["frame"]), int(row["object"])): row for row in csv.DictReader(file)}
    for frame in (0, FRAMES - 1):
        ys, xs = np.nonzero(true_masks(1)[frame])
        centre = float(rows[frame, 1]["x"]), float(rows[frame, 1]["y"])
        assert centre == pytest.approx((xs.mean(), ys.mean()), abs=5)
    with VideoSource(tmp_path / "tracked.mp4") as video:
        assert len(list(video)) == FRAMES


def test_camera_from_a_file(nano: Bundle, short: Path, tmp_path: Path) -> None:
    file = tmp_path / "tracks.jsonl"
    printed = run("camera.py", nano.path, "--source", short / "clip.mp4", "--box", BALL, "--json", file)
    assert printed.startswith(f"Statistics(delivered={FRAMES}, dropped=0,")
    assert all(line["objects"][0]["visible"] for line in tracks(file))


def test_camera_that_vanishes(nano: Bundle) -> None:
    """The same object is followed when the camera is back, and the user is not asked for a box again."""
    frames = clip_frames(6)
    before = Simulated(*frames[:3], failing(MediaError("unplugged")), size=(240, 320))
    after = Simulated(*frames[3:], failing(MediaError("unplugged")), size=(240, 320))
    asked, results = [], []
    sink = CallbackSink(lambda frame, result: results.append(result))
    reconnect = Reconnect(0, attempts=1)
    with (
        VideoTracker(nano) as tracker,
        Grabber(opening(before, after), "every", reconnect=reconnect) as grabber,
        pytest.raises(MediaError, match="gave up after 1 attempts"),
    ):
        load("camera").follow(grabber, tracker, lambda frame: asked.append(1) or (101, 47, 176, 122), [sink])
    assert len(asked) == 1
    assert grabber.statistics.reconnects == 1
    assert min(iou(results[t].masks[0], true_masks(1)[t]) for t in range(6)) > 0.8


def test_camera_asks_again_for_a_lost_object(nano: Bundle) -> None:
    (frame,) = clip_frames(1)
    without_ball = np.where(true_masks(1)[0][..., None], np.uint8(90), frame)
    answers = {0: (101, 47, 176, 122), 5: None, 6: (220, 18, 305, 103)}  # None: the user drew nothing
    asked, masks = [], []

    def choose(_frame: object) -> object:
        asked.append(len(masks))
        return answers[len(masks)]

    sink = CallbackSink(lambda frame, result: masks.append(result.masks))
    source = Simulated(frame, *[np.full_like(frame, 90)] * 5, without_ball, live=False, size=(240, 320))
    with VideoTracker(nano, max_objects=1, lost_after=5) as tracker, Grabber(lambda: source) as grabber:
        load("camera").follow(grabber, tracker, choose, [sink])
    assert asked == [0, 5, 6]
    assert iou(masks[-1][0], true_masks(2)[0]) > 0.8


def test_camera_box_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = load("camera")
    monkeypatch.setattr(cv2, "destroyWindow", lambda title: None)
    for drawn, box in (((10, 20, 30, 40), (10, 20, 40, 60)), ((0, 0, 0, 0), None)):
        monkeypatch.setattr(cv2, "selectROI", lambda title, frame, drawn=drawn: drawn)
        assert camera.draw_box(np.zeros((100, 100, 3), np.uint8)) == box


def test_detector_boxes(nano: Bundle, short: Path, tmp_path: Path) -> None:
    file = tmp_path / "tracks.jsonl"
    clip = short / "clip.mp4"
    printed = run("detector_boxes.py", nano.path, clip, file).splitlines()
    assert [line.split(" (")[0] for line in printed] == [f"frame 0: object {n}" for n in (1, 2, 3)]
    masks = [rle.decode(tracked["segmentation"]) for tracked in tracks(file)[8]["objects"]]
    for true in (1, 2, 3):
        assert max(iou(mask, true_masks(true)[8]) for mask in masks) > 0.7
    # Boxes of another detector.
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"5": [[101, 47, 178, 124]], "8": [[101, 47, 180, 126], [205, 20, 305, 110]]}))
    printed = run("detector_boxes.py", nano.path, clip, file, boxes).splitlines()
    assert [line.split(" (")[0] for line in printed[:2]] == ["frame 5: object 1", "frame 8: object 2"]


def test_robot(
    nano: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within 5 mm of where the disc was drawn, on every frame."""
    robot = load("robot")
    monkeypatch.setattr(robot.make_clip, "FRAMES", FRAMES)
    robot.main(nano.path, tmp_path / "recording.npz")
    *_, last = capsys.readouterr().out.splitlines()
    worst = re.fullmatch(rf"{FRAMES} of {FRAMES} frames, error [\d.]+ mm, at most ([\d.]+) mm", last)
    assert worst is not None
    assert float(worst[1]) < 5


def test_robot_without_depth() -> None:
    centroid = load("robot").centroid
    mask, depth = np.zeros((60, 80), bool), np.full((60, 80), 2000, np.uint16)
    mask[20:41, 30:51] = True
    assert centroid(mask, np.zeros_like(depth), (100, 100, 40, 30)) is None
    assert centroid(mask, depth, (100, 100, 40, 30)) == pytest.approx((0, 0, 2))
    assert centroid(mask, depth, (100, 50, 50, 20)) == pytest.approx((-0.2, 0.4, 2))


def message(frame: np.ndarray, encoding: str, padding: int = 0) -> SimpleNamespace:
    """A sensor_msgs/Image."""
    height, width, _ = frame.shape
    rows = np.pad((frame if encoding == "rgb8" else frame[..., ::-1]).reshape(height, -1), ((0, 0), (0, padding)))
    size = {"height": height, "width": width, "step": 3 * width + padding}
    return SimpleNamespace(encoding=encoding, header="header", data=rows.tobytes(), **size)


def test_ros2_node(nano: Bundle) -> None:
    with VideoTracker(nano, max_objects=1) as tracker:
        node = load("ros2_node").MaskNode(tracker)
        frames = clip_frames(3)
        before = node.on_image(message(frames[0], "rgb8"))
        assert not any(before["data"])
        node.on_box(SimpleNamespace(x_offset=101, y_offset=47, width=75, height=75))
        node.on_image(message(frames[1], "bgr8", padding=4))
        ball = node.on_image(message(frames[2], "rgb8"))
        node.on_box(SimpleNamespace(x_offset=220, y_offset=18, width=85, height=85))
        block = node.on_image(message(frames[2], "rgb8"))
    assert {**ball, "data": b""} == {
        "header": "header", "height": 240, "width": 320, "encoding": "mono8", "step": 320, "data": b""
    }  # fmt: skip
    for fields, true in ((ball, 1), (block, 2)):
        assert iou(np.frombuffer(fields["data"], np.uint8).reshape(240, 320) == 255, true_masks(true)[2]) > 0.8


def test_ros2_images() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    for encoding, padding in (("rgb8", 0), ("bgr8", 0), ("rgb8", 5)):
        pixels = load("ros2_node").to_rgb(message(frame, encoding, padding))
        assert np.array_equal(pixels, frame)
        assert pixels.flags.c_contiguous


def test_two_cameras(nano: Bundle, short: Path, tmp_path: Path) -> None:
    clip = short / "clip.mp4"
    printed = run("two_cameras.py", nano.path, tmp_path, f"{clip}={BALL}", f"{clip}={BLOCK}")
    assert re.fullmatch(rf"({re.escape(str(clip))}: [\d.]+ frames a second\n){{2}}", printed)
    for number, true in enumerate((1, 2)):
        lines = tracks(tmp_path / f"{number}.jsonl")
        assert len(lines) == FRAMES
        assert iou(rle.decode(lines[8]["objects"][0]["segmentation"]), true_masks(true)[8]) > 0.8


def test_label_folder(shapes: Bundle, photos: Path, tmp_path: Path) -> None:
    (photos / "2.png").unlink()
    printed = run("label_folder.py", shapes.path, photos, tmp_path / "out", "blue block, red ball")
    assert printed.endswith("2 images: 2 × red ball, 2 × blue block\n")
    data = COCO(str(tmp_path / "out" / "coco.json"))  # checks and indexes it
    assert [image["file_name"] for image in data.loadImgs(data.getImgIds())] == ["0.png", "1.png"]
    for category, toy in ((1, 2), (2, 1)):
        for number in (1, 2):
            (label,) = data.loadAnns(data.getAnnIds(imgIds=number, catIds=category))
            assert label["bbox"] == pycocotools.mask.toBbox(label["segmentation"]).tolist()
            assert 0.3 < label["score"] <= 1
            assert iou(rle.decode(label["segmentation"]), true_masks(toy)[number - 1]) > 0.8


def test_orin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU it goes as far as a checked INT8 bundle; run again, where there is one, it only builds."""
    write_samples(tmp_path / "samples", 8)
    clip = tmp_path / "samples" / "clip.mp4"
    out, command, verbs = tmp_path / "orin", tmp_path / "bin" / "sam2edge", tmp_path / "verbs"
    environment = {**os.environ, "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}
    command.parent.mkdir()

    def run_script(program: str) -> str:
        """Run the script with a command that only notes its arguments, and `program`."""
        command.write_text(f'#!/bin/sh\necho "$@" >> {verbs}\n{program}\n')
        command.chmod(0o755)
        script = [str(REPO / "samples" / "orin.sh"), str(REPO / "samples" / "nano"), str(clip), BALL, str(out)]
        done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    clipped = f"--profile jetson --clip {clip} --box {BALL} --frames 20"
    builds = [
        f"build {out}/fp32 --precision fp16 {clipped}",
        f"build {out}/int8 --precision int8 --fp32 {out}/fp32 {clipped}",
    ]
    printed = run_script(f"mkdir -p {out}")
    assert all(f"sam2edge {build}" in printed for build in builds)
    *commands, last = [line.split() for line in verbs.read_text().splitlines()]
    assert [verb for verb, *_ in commands] == ["export", "calibrate", "verify"]
    assert last == ["doctor"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for arguments in commands:
        assert cli.main(arguments) == 0, arguments
    assert {graph.precision for graph in Bundle.open(out / "int8").manifest.graphs.values()} == {"int8"}
    assert (out / "report" / "report.html").stat().st_size > 0
    verbs.unlink()
    run_script("echo 'ok       GPU 0          Orin, compute capability 8.7, 8 multiprocessors, 7.4 GiB'")
    assert verbs.read_text().splitlines() == ["doctor", *builds]
    for words in builds:
        cli.parse(words.split())


def test_gpu_speed_on_the_cpu(nano: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows in this process, nearly without a warm-up; tests/unit/bench measures in fresh ones."""
    monkeypatch.setattr(worker, "WARM_UP", 2)
    monkeypatch.setattr(cases, "run_case", lambda case, python: worker.measure(case))
    table = tmp_path / "rows.csv"
    few = ("--backend", "onnx", "--objects", "1", "--frames", "3", "--long", "5", "--source", NANO)
    printed = run("gpu_speed.py", nano.path, *few, "--csv", table)
    times = r"median [\d.]+ ms, p99 [\d.]+, first \d+"
    graphs = ", ".join(rf"{graph} [\d.]+ ms" for graph in (*GRAPHS, "rest"))
    bundle = re.escape(str(nano.path))
    expected = [
        rf"{bundle} \(custom\), track, 1 objects: {times}; host [\d.]+ ms(; GPU memory \d+ MiB, .*)?",
        rf"{bundle} \(custom\), stages, 1 objects: {graphs}",
        rf"PyTorch eager, 1 objects: {times}; [\d.]+ × ours \(bar: at least 4\)",
        rf"{bundle}, memory over 5 frames: grows by -?[\d.]+ MiB, host and GPU \(bar 8: \w+\)",
    ]
    assert_rows(printed, expected)
    assert len(table.read_text().splitlines()) == 1 + len(expected)


def test_gpu_speed_of_pytorch_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before there are engines; with the bars of the card that is there."""
    script, found = load("gpu_speed"), []
    monkeypatch.setattr(script, "run_case", lambda case, python: found.append(case) or Measured(9, 9, 9, 9, 9, 9))
    alone = {"bundles": [], "source": "m", "compile": True, "python": "", "image_size": 1024, "clip": script.CLIP}
    rows = {"objects": [1, 8], "frames": 3, "rows": script.ROWS, "pytorch": None, "csv": tmp_path / "rows.csv"}
    with pytest.raises(SystemExit, match="False"):
        script.main(SimpleNamespace(**alone, **rows))
    assert [(case.backend, case.objects, case.image_size) for case in found] == [
        ("eager", 1, 1024), ("eager", 8, 1024), ("compile", 1, 1024), ("compile", 8, 1024)
    ]  # fmt: skip
    assert script.read_pytorch(tmp_path / "rows.csv") == {(case.backend, case.objects): 9 for case in found}
    assert script.read_pytorch(tmp_path / "of a run that failed.csv") == {}
    for card, bar in (("NVIDIA H100 80GB HBM3", 5.2), ("NVIDIA H200", 4.5)):
        monkeypatch.setattr(script.gpus, "find_gpu", lambda name=card: SimpleNamespace(name=name))
        assert script.bar_ms("tiny", 1) == bar


def test_gpu_speed_with_another_python(
    nano: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PyTorch's rows run in it, ours do not; a row that fails does not stop the others."""
    script = load("gpu_speed")
    measured = Measured(1, 1, 1, 1, 1, 1, growth=0, host=1)
    monkeypatch.setattr(script, "run_case", lambda case, python: run_case(case, python=python) if python else measured)
    called = tmp_path / "called"
    other = tmp_path / "other python"
    other.write_text(f'#!/bin/sh\necho "$@" > "{called}"\necho no torch here >&2\nexit 3\n')
    other.chmod(0o755)
    table = tmp_path / "rows.csv"
    few = {"backend": "onnx", "objects": [1], "frames": 3, "long": 5, "csv": table, "clip": script.CLIP}
    before = tmp_path / "before.csv"
    before.write_text("kind,backend,objects,median\npytorch,eager,1,9\npytorch,eager,8,20\ntrack,onnx,1,2\n")
    few |= {"rows": script.ROWS, "pytorch": before}
    with pytest.raises(SystemExit, match="True"):
        script.main(
            SimpleNamespace(bundles=[str(nano.path)], source=str(NANO), compile=False, python=f"'{other}'", **few)
        )
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 4
    assert rows[0].endswith("; host 1.00 ms; PyTorch eager takes 9.00 ms, 9.00 × ours (bar: at least 4)")
    assert re.fullmatch(r"PyTorch eager, 1 objects: the row PyTorch, .* failed: no torch here", rows[2])
    assert "grows by" in rows[3]
    assert called.read_text().startswith("-m sam2edge.bench.worker ")
    assert len(table.read_text().splitlines()) == 1 + 3


def test_gpu_speed_says_what_is_missing(nano: Bundle) -> None:
    command = [sys.executable, REPO / "samples" / "gpu_speed.py", nano.path, "--source", "m", "--compile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    missing, heading, *rows = done.stderr.splitlines()
    assert done.returncode == 1
    assert missing.startswith("the backend tensorrt does not run here: ")
    assert heading == "Rows that would be printed:"
    assert rows == [
        *(f"  {nano.path} (custom), track, {n} objects" for n in (1, 4, 8)),
        f"  {nano.path} (custom), stages, 1 objects",
        *(f"  PyTorch {mode}, {n} objects" for mode in ("eager", "compile") for n in (1, 4, 8)),
        f"  {nano.path}, memory over 2000 frames",
    ]
