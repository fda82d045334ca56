"""The command line: what it makes of its arguments, what it prints, and how it ends.

Tracking itself is tested elsewhere; here a fake tracker records what it is given.
"""

import dataclasses
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from sam2edge import cli
from sam2edge.bundle import GRAPHS, Graph, Manifest, Model, Parity, Source, contract, write_manifest
from sam2edge.engines import environment
from sam2edge.engines.environment import Finding
from sam2edge.errors import BackendError, PromptError
from sam2edge.files import sha256
from sam2edge.runtime.media import sinks, sources
from sam2edge.runtime.media.sinks import CallbackSink
from sam2edge.runtime.media.sources import VideoSource
from sam2edge.runtime.model.result import FrameResult
from sam2edge.runtime.video import tracker as tracker_module
from tests.conftest import REPO
from tests.simulated import PATIENCE, Simulated, failing, grey, opening

WIDTH, HEIGHT, FRAMES = 64, 48, 6


class FakeTracker:
    """Gives each object a mask of all pixels, and keeps what it was called with."""

    made = ()

    def __init__(self, bundle, backend="auto", *, max_objects=16, **knobs):
        self.arguments, self.knobs = (bundle, backend, max_objects), knobs
        self.calls, self.ids, self.frames, self.closed = [], (), 0, False
        type(self).made = (*self.made, self)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.closed = True

    @property
    def frame_index(self):
        return self.frames - 1

    def looks_at(self, frame_index):
        return True

    def encode(self, frame):
        return frame

    def track(self, frame):
        self.frames += 1
        self.calls.append(("track", round((frame.mean() - 40) / 20)))
        return self.result()

    def prompt(self, object_id, **given):
        self.calls.append(("prompt", object_id, {name: value for name, value in given.items() if value is not None}))
        if object_id not in self.ids:
            self.ids += (object_id,)
        return self.result()

    def result(self):
        count = len(self.ids)
        logits, ones = np.ones((count, HEIGHT, WIDTH), np.float32), np.ones(count, np.float32)
        return FrameResult(self.frames - 1, self.ids, logits, ones, ones, (HEIGHT, WIDTH))


@pytest.fixture
def tracker(monkeypatch):
    """Return a function that gives the fake tracker that the command made."""

    class Tracker(FakeTracker):
        pass

    monkeypatch.setattr(tracker_module, "VideoTracker", Tracker)

    def made():
        [one] = Tracker.made
        return one

    return made


@pytest.fixture
def video(tmp_path):
    """Frame i is grey of value 20·i + 40."""
    path = tmp_path / "in.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    for i in range(FRAMES):
        writer.write(np.full((HEIGHT, WIDTH, 3), 20 * i + 40, np.uint8))
    writer.release()
    return path


@pytest.fixture
def run(capsys):
    """Return a function that runs a command line and gives (exit code, stdout, stderr)."""

    def run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def error_of(run, *arguments):
    """Return the one line of an error."""
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    [line] = err.splitlines()
    assert line.startswith("sam2edge: error: ")
    return line.removeprefix("sam2edge: error: ")


def python(script, *arguments):
    return subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True)


# the command itself


def test_help_loads_nothing_heavy():
    done = python(
        "import sys\n"
        "from sam2edge.cli import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    print('loaded:', *sorted({'cv2', 'onnxruntime', 'torch', 'numpy'} & set(sys.modules)))"
    )
    assert done.returncode == 0
    assert done.stdout.startswith("usage: sam2edge [-h] VERB ...")
    for verb in ("export", "build", "calibrate", "inspect", "track", "segment", "ui", "verify", "bench", "doctor"):
        assert re.search(rf"^    {verb}\s", done.stdout, re.MULTILINE)
    assert done.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize("arguments", [[], ["fly"], ["track"], ["track", "b", "v", "--backend", "magic"]])
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: sam2edge")


# export


def test_export_passes_its_arguments_and_prints_the_parity(run, monkeypatch, bundle):
    given = []

    def export(source, out, **options):
        options.pop("progress")("loading", 0.5)
        given.append((source, out, options))
        return bundle

    # In place of the package, whose import of torch takes seconds.
    monkeypatch.setitem(sys.modules, "sam2edge.export", SimpleNamespace(export=export))
    code, out, err = run(
        *("export", "facebook/sam2.1-hiera-tiny", "out"),
        *("--image-size", 512, "--memory-pool", 2, "--frames", "clip.mp4"),
    )
    assert (code, err) == (0, "")
    options = {"image_size": 512, "memory_pool": 2, "frames": "clip.mp4"}
    assert given == [("facebook/sam2.1-hiera-tiny", Path("out"), options)]
    assert out.splitlines() == [*PARITY_TABLE, f"wrote {bundle.path}"]
    run("export", "model", "out")
    assert given[1] == ("model", Path("out"), {"image_size": None, "memory_pool": 1, "frames": None})


def test_export_without_torch():
    done = python(
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from sam2edge.cli import main\n"
        "sys.exit(main(['export', 'model', 'out']))"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'sam2edge: error: exporting needs torch: pip install "sam2edge[export]"\n'


@pytest.mark.parametrize(
    ("words", "what"), [("build bundle", "building"), ("calibrate bundle out --clips clip.mp4", "calibrating")]
)
def test_without_onnx(words, what):
    """It alone is asked for: the extras would bring PyTorch, or to a Jetson another TensorRT than its own."""
    done = python(
        f"import sys\nsys.modules['onnx'] = None\nfrom sam2edge.cli import main\nsys.exit(main({words.split()}))"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"sam2edge: error: {what} needs onnx: pip install onnx\n"


# inspect

MODEL = Model(128, 32, 16, 6, 16, 0, 1, True, ((0.25,) * 4,) * 4, 0.5, (0.0,) * 32)


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "bundle", MODEL)


def write_bundle(directory, model):
    """Write a bundle whose graphs are a few bytes that nobody opens."""
    from sam2edge.bundle import Bundle

    directory.mkdir()
    graphs = {}
    for i, (name, (inputs, outputs)) in enumerate(contract(model).items()):
        file = directory / f"{name}.onnx"
        file.write_bytes(bytes([i]) * (i + 1) * 2**19)
        parity = {outputs[0].name: Parity(0.00012345 * (i + 1), 1e-6)}
        graphs[name] = Graph(file.name, sha256(file), file.stat().st_size, "fp32", inputs, outputs, parity)
    source = Source("some/model", "ab" * 32, "2.1", "tiny")
    write_manifest(directory, Manifest(source, model, graphs, "clip.mp4"))
    return Bundle.open(directory)


PARITY_TABLE = [
    "difference from PyTorch on: clip.mp4",
    "graph             output       max error  relative error",
    "image_encoder     high_res_0   1.2e-04    1.0e-06",
    "memory_attention  conditioned  2.5e-04    1.0e-06",
    "mask_decoder      mask         3.7e-04    1.0e-06",
    "memory_encoder    memory       4.9e-04    1.0e-06",
]


def test_inspect(run, bundle):
    code, out, err = run("inspect", bundle.path)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[:12] == [
        "source      some/model, SAM 2.1 tiny",
        "sha256      " + "ab" * 32,
        "image size  128",
        "dimensions  32, memory 16",
        "memory      6 frames, 16 pointers",
        "multimask   0 to 1 points, tracking",
        "",
        "graph             file                   MiB  precision",
        "image_encoder     image_encoder.onnx     0.5  fp32",
        "memory_attention  memory_attention.onnx  1.0  fp32",
        "mask_decoder      mask_decoder.onnx      1.5  fp32",
        "memory_encoder    memory_encoder.onnx    2.0  fp32",
    ]
    attention = lines.index("memory_attention")
    assert lines[attention + 1 : attention + 4] == [
        "  in   features     float32  1 × 32 × 8 × 8",
        "  in   memory       float32  N × T × 64 × 16",
        "  in   memory_age   int32    N × T",
    ]
    specs = sum(len(inputs) + len(outputs) for inputs, outputs in contract(MODEL).values())
    assert sum(line.startswith(("  in ", "  out")) for line in lines) == specs
    assert [line for line in lines if line in GRAPHS] == list(GRAPHS)
    assert lines[-6:] == PARITY_TABLE


def test_inspect_says_that_memory_is_pooled(run, tmp_path):
    bundle = write_bundle(tmp_path / "bundle", dataclasses.replace(MODEL, memory_pool=2))
    _, out, _ = run("inspect", bundle.path)
    assert "memory      6 frames, 16 pointers, pooled 2×2" in out.splitlines()
    assert "  in   memory       float32  N × T × 16 × 16" in out.splitlines()


def test_inspect_of_no_bundle(run, tmp_path):
    assert "no such bundle directory" in error_of(run, "inspect", tmp_path / "none")


# track: prompts


def prompts_of(run, tracker, video, *arguments):
    code, _, err = run("track", "bundle", video, *arguments, "--json", video.with_name("out.json"))
    assert (code, err) == (0, "")
    return [call[1:] for call in tracker().calls if call[0] == "prompt"]


def test_objects_without_id_are_numbered_in_the_order_given(run, tracker, video):
    assert prompts_of(run, tracker, video, "--point", "1,2", "--box", "3,4,5,6", "--point", "7.5,8,0") == [
        (1, {"points": [(1, 2)], "labels": [1]}),
        (2, {"box": (3, 4, 5, 6)}),
        (3, {"points": [(7.5, 8)], "labels": [0]}),
    ]


def test_objects_without_id_take_the_ids_that_are_free(run, tracker, video):
    given = prompts_of(run, tracker, video, "--point", "1,2", "--point", "3,4", "--point", "1:5,6", "--point", "3:7,8")
    assert [(object_id, prompt["points"]) for object_id, prompt in given] == [
        (2, [(1, 2)]),
        (4, [(3, 4)]),
        (1, [(5, 6)]),
        (3, [(7, 8)]),
    ]


def test_points_and_a_box_with_one_id_are_one_prompt(run, tracker, video):
    arguments = ("--point", "7:1,2", "--point", "9:3,3", "--box", "7:0,0,9,9", "--point", "7:5,6,0")
    assert prompts_of(run, tracker, video, *arguments) == [
        (7, {"points": [(1, 2), (5, 6)], "labels": [1, 0], "box": (0, 0, 9, 9)}),
        (9, {"points": [(3, 3)], "labels": [1]}),
    ]


@pytest.mark.parametrize("kind", ["grey", "palette-like colours", "opaque alpha", "16 bits"])
def test_mask_file(run, tracker, video, tmp_path, kind):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:20, 30:50] = True
    pixels = {
        "grey": mask * np.uint8(1),
        "palette-like colours": mask[..., None] * np.array([0, 0, 128], np.uint8),
        "opaque alpha": np.dstack([mask * np.uint8(9)] * 3 + [np.full(mask.shape, 255, np.uint8)]),
        "16 bits": mask * np.uint16(3),
    }[kind]
    file = tmp_path / "mask.png"
    cv2.imwrite(str(file), pixels)
    [(object_id, given)] = prompts_of(run, tracker, video, "--mask", f"4:{file}")
    assert object_id == 4
    assert list(given) == ["mask"]
    assert given["mask"].dtype == np.bool_
    assert np.array_equal(given["mask"], mask)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to track: give --point x,y or --box x0,y0,x1,y1 or --mask file.png"),
        (["--point", "1"], "--point 1: expected 2 or 3 numbers with commas between"),
        (["--point", "1,2,1,4"], "--point 1,2,1,4: expected 2 or 3 numbers with commas between"),
        (["--point", "a,b"], "--point a,b: expected 2 or 3 numbers with commas between"),
        (["--point", "x:1,2"], "--point x:1,2: expected 2 or 3 numbers with commas between"),
        (["--point", "1,2,0.5"], "--point 1,2,0.5: the label must be 1 (on the object) or 0 (not on it)"),
        (["--point", "1,2,nan"], "--point 1,2,nan: the label must be 1 (on the object) or 0 (not on it)"),
        (["--box", "3:1,2,3"], "--box 3:1,2,3: expected 4 numbers with commas between"),
        (["--point", "0:1,2"], "--point 0:1,2: object ids start at 1"),
        (
            ["--box", "2:0,0,4,4", "--box", "2:1,1,5,5"],
            "--box 2:1,1,5,5: duplicate box for object 2; give other objects other IDs",
        ),
        (["--mask", "gone.png"], "gone.png: no such mask file"),
    ],
)
def test_wrong_prompts(run, video, tracker, arguments, message):
    assert error_of(run, "track", "bundle", video, *arguments, "--json", video.with_name("o.json")) == message


@pytest.fixture
def mask_file(tmp_path):
    path = tmp_path / "mask.png"
    cv2.imwrite(str(path), np.ones((HEIGHT, WIDTH), np.uint8))
    return path


def test_second_mask_for_an_object(run, video, mask_file):
    arguments = ("--mask", f"1:{mask_file}", "--mask", f"1:{mask_file}")
    message = error_of(run, "track", "bundle", video, *arguments, "-o", video.with_name("o.mp4"))
    assert message.startswith(f"--mask 1:{mask_file}: duplicate mask for object 1")


@pytest.mark.parametrize("other", [("--point", "1:3,3"), ("--box", "1:3,3,9,9")])
@pytest.mark.parametrize("first", [True, False])
def test_mask_beside_points_or_a_box(run, video, mask_file, other, first):
    mask = ("--mask", f"1:{mask_file}")
    arguments = mask + other if first else other + mask
    message = error_of(run, "track", "bundle", video, *arguments, "-o", video.with_name("o.mp4"))
    assert message.endswith("object 1 has a mask and points or a box too; give one or the other")


def test_mask_of_another_size(run, video, tmp_path):
    cv2.imwrite(str(tmp_path / "small.png"), np.ones((10, 20), np.uint8))
    message = error_of(run, "track", "bundle", video, "--mask", tmp_path / "small.png", "-o", video.with_name("o.mp4"))
    assert message == f"{tmp_path / 'small.png'}: the mask is 20×10 but the frames are 64×48"


def test_mask_that_is_no_image(run, video, tmp_path):
    (tmp_path / "text.png").write_text("text")
    message = error_of(run, "track", "bundle", video, "--mask", tmp_path / "text.png", "-o", video.with_name("o.mp4"))
    assert message == f"{tmp_path / 'text.png'}: no image that OpenCV can read"


# track: frames and outputs


def test_outputs(run, tracker, video, tmp_path):
    outputs = tmp_path / "o.mp4", tmp_path / "masks", tmp_path / "o.json"
    arguments = ("--point", "5:1,1", "-o", outputs[0], "--masks", outputs[1], "--json", outputs[2])
    code, out, err = run("track", "some/bundle", video, *arguments, "--backend", "onnx")
    assert (code, err) == (0, "")
    assert out.startswith(f"{FRAMES} frames, ")
    assert out.endswith(" frames/s with reading and writing: " + ", ".join(map(str, outputs)) + "\n")
    assert tracker().arguments == (Path("some/bundle"), "onnx", 1)
    assert tracker().closed
    with VideoSource(outputs[0]) as source:
        assert source.fps == pytest.approx(10)
        assert len(list(source)) == FRAMES
    masks = [cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in sorted(outputs[1].iterdir())]
    assert np.array_equal(masks, np.full((FRAMES, HEIGHT, WIDTH), 5))
    lines = [json.loads(line) for line in outputs[2].read_text().splitlines()]
    assert [line["frame_index"] for line in lines] == list(range(FRAMES))
    assert all([thing["id"] for thing in line["objects"]] == [5] for line in lines)


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
def test_knobs(run, tracker, video, tmp_path, options, knobs):
    assert run("track", "b", video, "--point", "1,1", "--json", tmp_path / "o.json", *options)[0] == 0
    assert tracker().knobs == knobs


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_prompted_frame(run, tracker, video, tmp_path, mode):
    prompt = ("--box", "1,1,9,9", "--frame", 2, "--mode", mode)
    code, _, _ = run("track", "b", video, *prompt, "--json", tmp_path / "o.json")
    assert code == 0
    # The frames before are not tracked: there is nothing to track, and encoding them would take its time.
    assert tracker().calls == [
        ("track", 2),
        ("prompt", 1, {"box": (1, 1, 9, 9)}),
        *(("track", index) for index in range(3, FRAMES)),
    ]
    lines = [json.loads(line) for line in (tmp_path / "o.json").read_text().splitlines()]
    assert [line["frame_index"] for line in lines] == list(range(FRAMES))
    assert [len(line["objects"]) for line in lines] == [0, 0, 1, 1, 1, 1]


def test_prompted_frame_beyond_the_end(run, tracker, video, tmp_path):
    message = error_of(run, "track", "b", video, "--point", "1,1", "--frame", FRAMES, "--json", tmp_path / "o.json")
    assert message == f"--frame {FRAMES}: nothing was prompted, the video ends with frame {FRAMES - 1}"


def test_negative_frame(run, video, tmp_path):
    message = error_of(run, "track", "b", video, "--point", "1,1", "--frame=-1", "--json", tmp_path / "o.json")
    assert message == "--frame -1: frames are counted from 0"


def test_no_output(run, video):
    message = error_of(run, "track", "b", video, "--point", "1,1")
    assert message == "nothing to write: give -o out.mp4 or --masks DIR or --json FILE"


def test_outputs_over_each_other(run, video):
    out = video.with_name("o.mp4")
    message = error_of(run, "track", "b", video, "--point", "1,1", "-o", out, "--json", out)
    assert message == "-o, --masks and --json must not write to the same place"
    assert not out.exists()


def test_output_over_the_input(run, video):
    before = video.read_bytes()
    message = error_of(run, "track", "b", video, "--point", "1,1", "-o", video)
    assert message == f"{video}: is the video that is read; write to another file"
    assert video.read_bytes() == before


@pytest.mark.parametrize(("content", "message"), [(None, "no such video file"), (b"", "empty (0 bytes)")])
def test_bad_video(run, tmp_path, content, message):
    path = tmp_path / "v.mp4"
    if content is not None:
        path.write_bytes(content)
    assert message in error_of(run, "track", "b", path, "--point", "1,1", "-o", tmp_path / "o.mp4")


def test_bad_output_is_said_before_the_bundle_is_loaded(run, video, tmp_path):
    message = error_of(run, "track", tmp_path / "no-bundle", video, "--point", "1,1", "-o", tmp_path / "o.gif")
    assert "unknown extension" in message


def test_no_bundle_leaves_earlier_outputs(run, video, tmp_path):
    (tmp_path / "o.mp4").write_bytes(b"earlier")
    (tmp_path / "o.json").write_text("earlier")
    arguments = ("--point", "1,1", "-o", tmp_path / "o.mp4", "--json", tmp_path / "o.json")
    assert "no such bundle" in error_of(run, "track", tmp_path / "no-bundle", video, *arguments)
    assert (tmp_path / "o.mp4").read_bytes() == b"earlier"
    assert (tmp_path / "o.json").read_text() == "earlier"
    assert sorted(os.listdir(tmp_path)) == ["in.avi", "o.json", "o.mp4"]


def test_error_while_tracking_keeps_what_was_written(run, tracker, video, tmp_path, monkeypatch):
    def track(self, frame):
        if self.frames == 3:
            raise BackendError("the device is gone")
        return FakeTracker.track(self, frame)

    monkeypatch.setattr(tracker_module.VideoTracker, "track", track)
    message = error_of(run, "track", "b", video, "--point", "1,1", "-o", tmp_path / "o.mp4")
    assert message == "the device is gone"
    with VideoSource(tmp_path / "o.mp4") as source:
        assert len(list(source)) == 3


def test_error_of_a_prompt(run, tracker, video, tmp_path, monkeypatch):
    def prompt(self, object_id, **given):
        raise PromptError(f"point {given['points'][0]} lies outside")

    monkeypatch.setattr(tracker_module.VideoTracker, "prompt", prompt)
    message = error_of(run, "track", "b", video, "--point", "100,1", "-o", tmp_path / "o.mp4")
    assert message == "point (100.0, 1.0) lies outside"
    assert not (tmp_path / "o.mp4").exists()


# track: sources that are no files


@pytest.fixture
def play(monkeypatch):
    """Return a function that says what the sources are that are opened one after the other."""

    def play(*played):
        open_next = opening(*played)
        monkeypatch.setattr(sources, "open_source", lambda word: open_next())

    return play


def value(i):
    """A frame that the fake tracker takes for number i."""
    return grey(20 * i + 40, (HEIGHT, WIDTH))


def test_folder_of_images(run, tracker, tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(11):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), value(i))
    (tmp_path / "images" / "2.png").write_bytes(b"broken")
    code, out, err = run("track", "b", tmp_path / "images", "--point", "1,1", "--json", tmp_path / "o.json")
    assert code == 0
    assert out.startswith("10 of 11 frames, ")
    assert out.endswith(f" frames/s with reading and writing, broken 1: {tmp_path / 'o.json'}\n")
    [line] = err.splitlines()
    assert line.startswith(f"sam2edge: {tmp_path / 'images'}: frame 2 is skipped: {tmp_path / 'images' / '2.png'}: no")
    indices = [json.loads(line)["frame_index"] for line in (tmp_path / "o.json").read_text().splitlines()]
    assert indices == [0, 1, *range(3, 11)]
    assert [call[1] for call in tracker().calls if call[0] == "track"] == indices


def test_camera_that_is_lost(run, tracker, tmp_path, play):
    play(
        Simulated(value(0), value(1), failing(OSError("unplugged"))),
        Simulated(value(2), None, value(3), failing(TypeError("a mistake"))),
    )
    arguments = ("--point", "1,1", "--policy", "every", "--json", tmp_path / "o.json")
    with pytest.raises(TypeError, match="a mistake"):
        run("track", "b", "0", *arguments)
    lines = (tmp_path / "o.json").read_text().splitlines()
    assert [json.loads(line)["frame_index"] for line in lines] == [0, 1, 2, 4]


def test_what_befell_the_camera_is_told(run, tracker, tmp_path, play):
    enough = threading.Event()
    play(Simulated(value(0)), Simulated(value(1), None, value(2), enough))

    def stop_after_three(self, frame):
        if self.frames == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return FakeTracker.track(self, frame)

    tracker_module.VideoTracker.track = stop_after_three
    code, out, err = run("track", "b", "0", "--point", "1,1", "--policy", "every", "--json", tmp_path / "o.json")
    enough.set()
    assert (code, out) == (130, "")
    assert err.splitlines() == [
        "sam2edge: camera: lost (it gives no more frames); trying again in 0.5 s",
        "sam2edge: camera: back at attempt 1",
        "sam2edge: camera: frame 2 is skipped: a frame must be a numpy array uint8 [H,W,3] (RGB) but got NoneType",
        f"sam2edge: interrupted after 3 frames, broken 1, reconnects 1, which are kept in {tmp_path / 'o.json'}",
    ]


def test_latest_frames(run, tracker, tmp_path, play):
    done = threading.Event()
    play(Simulated(*map(value, range(9)), done.set, live=False))

    def wait(self, frame):
        assert done.wait(PATIENCE)
        return FakeTracker.track(self, frame)

    tracker_module.VideoTracker.track = wait
    code, out, _ = run("track", "b", "0", "--point", "1,1", "--policy", "latest", "--json", tmp_path / "o.json")
    lines = [json.loads(line) for line in (tmp_path / "o.json").read_text().splitlines()]
    assert code == 0
    assert lines[-1]["frame_index"] == 8
    assert out.startswith(f"{len(lines)} frames, ")
    assert f"with reading and writing, dropped {9 - len(lines)}: " in out


def test_prompted_frame_that_was_dropped(run, tracker, tmp_path, play):
    play(Simulated(value(0), None, None, value(3), value(4), live=False))
    assert run("track", "b", "0", "--point", "1,1", "--frame", 2, "--json", tmp_path / "o.json")[0] == 0
    assert [call[:2] for call in tracker().calls] == [("track", 3), ("prompt", 1), ("track", 4)]


def test_window_without_a_screen(run, tracker, video, tmp_path):
    if cv2.currentUIFramework():
        pytest.skip("this OpenCV has windows")
    message = error_of(run, "track", "b", video, "--point", "1,1", "--window", "--json", tmp_path / "o.json")
    assert message.startswith("this OpenCV has no windows: pip uninstall")
    assert not (tmp_path / "o.json").exists()


def test_window_that_is_closed(run, tracker, video, monkeypatch):
    class Window(CallbackSink):
        def __init__(self):
            super().__init__(self.show)
            self.shown = 0

        def show(self, frame, result):
            self.shown += 1
            self.closed_by_user = self.shown == 3

    monkeypatch.setattr(sinks, "WindowSink", Window)
    code, out, err = run("track", "b", video, "--point", "1,1", "--window")
    assert (code, err) == (0, "")
    assert out.startswith(f"3 of {FRAMES} frames, ")
    assert out.endswith(" frames/s with reading and writing: shown\n")


def test_interrupted_while_the_camera_stalls(tmp_path):
    """The reader is stuck; the command ends all the same."""
    stalled = f"""
import threading
from sam2edge.runtime.media import sources
from tests.simulated import Simulated, grey
frames = [grey(i, ({HEIGHT}, {WIDTH})) for i in range(5)]
sources.open_source = lambda word: Simulated(*frames, threading.Event())
"""
    arguments = ("track", "bundle", "0", "--point", "1,1", "--policy", "every", "--json", tmp_path / "o.json")
    command = [sys.executable, "-c", stalled + SLOW, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPO) as process:
        assert process.stdout.readline() == "five\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (130, "closed\n")
    assert err == f"sam2edge: interrupted after 5 frames, which are kept in {tmp_path / 'o.json'}\n"
    assert len((tmp_path / "o.json").read_text().splitlines()) == 5


# track: progress and interruption

# A tracker that takes 20 ms a frame and says on stdout when it is at the fifth.
SLOW = f"""
import sys, time
import numpy as np
from sam2edge import cli
from sam2edge.runtime.video import tracker as tracker_module
from sam2edge.runtime.model.result import FrameResult

class Tracker:
    frames = 0
    def __init__(self, *args, **options): pass
    def __enter__(self): return self
    def __exit__(self, *error): print("closed", flush=True)
    def prompt(self, object_id, **given): return self.result()
    def track(self, frame):
        self.frames += 1
        if self.frames == 5: print("five", flush=True)
        time.sleep(0.02)
        return self.result()
    def result(self):
        ones, size = np.ones(1, np.float32), ({HEIGHT}, {WIDTH})
        return FrameResult(self.frames - 1, (1,), np.ones((1, 8, 8), np.float32), ones, ones, size)

tracker_module.VideoTracker = Tracker
sys.exit(cli.main(sys.argv[1:]))
"""


def slow_command(video, directory):
    outputs = ("-o", directory / "o.mp4", "--masks", directory / "masks", "--json", directory / "o.json")
    arguments = ("track", "bundle", video, "--point", "1,1", *outputs)
    return [sys.executable, "-c", SLOW, *map(str, arguments)]


@pytest.fixture
def long_video(tmp_path):
    """Longer than any test waits for it."""
    path = tmp_path / "long.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    for _ in range(2000):
        writer.write(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_whole_files(long_video, tmp_path, number):
    process = subprocess.Popen(
        slow_command(long_video, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "five\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == "closed\n"
    with VideoSource(tmp_path / "o.mp4") as source:
        frames = len(list(source))
    assert 5 <= frames < 1000
    kept = f"{tmp_path / 'o.mp4'}, {tmp_path / 'masks'}, {tmp_path / 'o.json'}"
    assert err == f"sam2edge: interrupted after {frames} frames, which are kept in {kept}\n"
    lines = (tmp_path / "o.json").read_text().splitlines()
    assert [json.loads(line)["frame_index"] for line in lines] == list(range(frames))
    assert len(os.listdir(tmp_path / "masks")) == frames
    assert sorted(os.listdir(tmp_path)) == ["long.avi", "masks", "o.json", "o.mp4"]


def test_interrupted_elsewhere(run, monkeypatch):
    def probe():
        raise KeyboardInterrupt

    monkeypatch.setattr(environment, "probe", probe)
    assert run("doctor") == (130, "", "sam2edge: interrupted\n")


def test_a_name_that_no_file_can_have(run, tmp_path):
    assert error_of(run, "export", "x" * 300, tmp_path / "out").endswith(f"File name too long: '{'x' * 300}'")


TERMINATED = """
import os, signal, subprocess, sys
from sam2edge import cli
from sam2edge.engines import environment
def probe():
    os.kill(os.getpid(), signal.SIGTERM)
    subprocess.run(["sleep", "60"])
environment.probe = probe
sys.exit(cli.main(["doctor"]))
"""


def test_terminated_elsewhere():
    done = subprocess.run([sys.executable, "-c", TERMINATED], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "sam2edge: interrupted\n")


def test_a_locale_without_the_letters(bundle):
    command = [sys.executable, "-m", "sam2edge.cli", "inspect", bundle.path]
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"image +uint8 +B \? \d+ \? \d+ \? 3\n", done.stdout)


def test_nobody_reads_the_output():
    command = f"{shlex.quote(sys.executable)} -m sam2edge.cli doctor | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_signals_are_as_before_afterwards(run, tracker, video, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert run("track", "b", video, "--point", "1,1", "--json", tmp_path / "o.json")[0] == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_progress_on_a_terminal(video, tmp_path):
    terminal, stderr = pty.openpty()
    done = subprocess.run(slow_command(video, tmp_path), stdout=subprocess.PIPE, stderr=stderr, check=True)
    os.close(stderr)
    written = os.read(terminal, 100_000).decode()
    os.close(terminal)
    shown = written.split("\r\x1b[K")
    assert shown[0] == ""
    assert [line.split(" frames, ")[0] for line in shown[1:-1]] == [f"{i}/{FRAMES}" for i in range(1, FRAMES + 1)]
    assert all(line.endswith(" frames/s") for line in shown[1:-1])
    assert shown[-1] == "", "the line is wiped at the end"
    assert done.stdout.decode().splitlines()[-1].startswith(f"{FRAMES} frames, ")


# doctor


def test_doctor_prints_findings(run, monkeypatch):
    findings = [
        Finding("numpy", "ok", "2.4"),
        Finding("OpenCV", "ok", "4.8"),
        Finding("ONNX Runtime", "ok", "1.20, providers CPU"),
        Finding("NVIDIA driver", "problem", "cuInit failed", "run nvidia-smi"),
    ]
    monkeypatch.setattr(environment, "probe", lambda: findings)
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "ok       numpy          2.4",
        "ok       OpenCV         4.8",
        "ok       ONNX Runtime   1.20, providers CPU",
        "problem  NVIDIA driver  cuInit failed",
        "                        run nvidia-smi",
        "",
        "This machine can track.",
    ]


@pytest.mark.parametrize("module", ["numpy", "cv2", "onnxruntime"])
def test_doctor_says_what_tracking_lacks(module):
    done = python(
        f"import sys\nsys.modules[{module!r}] = None\nfrom sam2edge.cli import main\nsys.exit(main(['doctor']))"
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    name = {"numpy": "numpy", "cv2": "OpenCV", "onnxruntime": "ONNX Runtime"}[module]
    assert any(line.split()[0] == "missing" and name in line for line in done.stdout.splitlines())
    assert done.stdout.splitlines()[-1] == "This machine cannot track: see the lines above that are not ok."


@pytest.mark.parametrize("verb", ["track", "segment", "ui", "verify"])
def test_all_backends_are_offered(verb, capsys):
    with pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    assert "{auto,onnx,onnx-cuda,tensorrt}" in capsys.readouterr().out
