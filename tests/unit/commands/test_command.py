"""The command itself: usage, help, errors, signals, missing packages, and the verbs that print a little."""

import dataclasses
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sam2edge import cli
from sam2edge.bundle import GRAPHS, contract
from sam2edge.engines import environment
from sam2edge.engines.environment import Finding
from sam2edge.errors import GateError, InputError, PromptError
from tests.conftest import NANO, REPO
from tests.helpers import CLIP
from tests.unit.commands.conftest import MODEL, python, without
from tests.unit.test_words_bundle import write_words

# usage and help


def test_help_loads_nothing_heavy():
    done = python(
        "import sys\n"
        "from sam2edge.cli import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    print('loaded:', *sorted({'cv2', 'onnxruntime', 'torch', 'numpy'} & set(sys.modules)))"
    )
    assert done.returncode == 0
    assert done.stdout.startswith("usage: sam2edge [-h] [--version] VERB ...")
    assert all(re.search(rf"^    {verb}\s", done.stdout, re.MULTILINE) for verb in (*cli.VERBS, "help"))
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_version(run):
    assert run("--version") == (0, "sam2edge 0.1.0\n", "")


def test_help_of_a_verb(run):
    assert run("help", "track") == run("track", "--help")
    assert run("help") == run("--help")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: VERB"),
        (["fly"], "invalid choice: 'fly'"),
        (["track"], "the following arguments are required: BUNDLE, SOURCE"),
        (["track", "b", "v", "--backend", "magic"], "invalid choice: 'magic'"),
        (["track", "b", "v", "--back", "onnx"], "unrecognized arguments: --back onnx"),
        (["export", "a", "b", "--image", "512"], "unrecognized arguments: --image 512"),
        (["track", "b", "v", "--point", "5", "6", "1"], "unrecognized arguments: 1; coordinates are"),
        (["track", "b", "v", "--json", ""], "'' cannot be the path of a file"),
    ],
)
def test_wrong_usage(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    verb = f" {arguments[0]}" if arguments[:1] in (["track"], ["export"]) else ""
    assert err.startswith(f"usage: sam2edge{verb} ")
    assert err.splitlines()[-1].startswith(f"sam2edge{verb}: error: ")
    assert message in err.splitlines()[-1]


def test_the_page_of_the_command_line_is_current():
    page = REPO / "docs" / "reference" / "command-line.md"
    tool = runpy.run_path(str(REPO / "tools" / "command_line.py"))
    assert page.read_text() == tool["page"](), "run python tools/command_line.py"


# errors


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("memory_frames must be at least 1"), "--memory-frames must be at least 1"),
        (InputError("frame must be an integer"), "--frame must be an integer"),
        (InputError("min_mean_iou must be from 0 to 1"), "--min-iou must be from 0 to 1"),
        (InputError('install it, or use backend="onnx"'), "install it, or use --backend onnx"),
        (PromptError("it is empty; remove(object_id) ends the tracking of an object"), "it is empty"),
        (InputError("m.json: ValueError('memory_frames must be 1')"), "m.json: ValueError('memory_frames must be 1')"),
        (InputError("the frame must be RGB"), "the frame must be RGB"),
    ],
)
def test_errors_name_options(error_of, monkeypatch, tmp_path, error, said):
    def fail(word, **_):
        raise error

    monkeypatch.setattr("sam2edge.runtime.media.sources.open_source", fail)
    assert error_of("track", "bundle", "video", "--point", "1,1", "--json", tmp_path / "o.json") == said


def test_a_gate_that_refuses(run, monkeypatch):
    def probe():
        raise GateError("the gate failed")

    monkeypatch.setattr(environment, "probe", probe)
    assert run("doctor") == (1, "the gate failed\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("track", CLIP, "b"), "is a video; the bundle comes first: sam2edge track"),
        (("segment", CLIP, "b", "--auto", "-o", "o"), "is a video; the bundle comes first: sam2edge segment BUNDLE"),
        (("ui", CLIP), "is a video; the bundle comes first: sam2edge ui BUNDLE SOURCE"),
        (("inspect", CLIP), "is a video, not a bundle: give the directory that `sam2edge export` wrote"),
        (("inspect", NANO), f"is a checkpoint: export it first with `sam2edge export {NANO} OUT`, then give OUT"),
        (("export", CLIP, "o"), "is a video; the checkpoint comes first: sam2edge export SOURCE OUT"),
        (("export", "model", REPO / "docs"), "exists but is not a bundle (unexpected "),
        (("export", "model", CLIP / "o"), f"cannot be written: {CLIP} is a file, not a directory"),
        (("bench", "b", "--csv", REPO), "is a directory, expected the name of a file to write"),
        (("bench", "b", "--plots", CLIP), "is a file, not a directory"),
        (("calibrate", "b", "o", "--clip", "c", "--sensitivity", CLIP), "is a file, not a directory"),
        (
            ("calibrate", "b", "o", "--clip", "c", "--no-gate", "--min-iou", "1"),
            "--min-iou does nothing with --no-gate",
        ),
        (("build", "b", "-o", CLIP), "is a file, not a directory"),
        (("bench", "b", "--range", "0,9"), "--range does nothing without --clip"),
        (("build", "b", "--range=-1.5,9"), "--range does nothing without --clip"),
        (("inspect", "b", "--objects", "2"), "--objects does nothing without --device"),
        (("inspect", "b", "--parts", "2"), "--parts does nothing without --device"),
        (("inspect", "none"), "none: no such bundle directory"),
        (("export", "x" * 300, "o"), f"File name too long: '{'x' * 300}'"),
    ],
)
def test_what_is_refused_before_any_work(error_of, monkeypatch, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in error_of(*words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", ["5", "5,5", "9,1", "a,b", "0,1,2", "nan,1", "0,inf"])
def test_ranges_that_are_none(run, given):
    code, _, errors = run("track", "b", "folder", "--range", given)
    assert (code, f"expected two numbers LO,HI with LO below HI but got '{given}'" in errors) == (2, True)


def test_a_tilde_in_options(run, error_of, monkeypatch, tmp_path, write_bundle):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_bundle()
    assert run("inspect", "~/bundle")[0] == 0
    assert f"{tmp_path}: is a directory" in error_of("bench", "b", "--csv=~")


@pytest.mark.parametrize(
    ("module", "words", "message"),
    [
        # onnx alone is asked for: the extras would bring PyTorch, or to a Jetson another TensorRT than its own
        ("torch", ("export", "model", "out"), 'exporting needs torch: pip install "sam2edge[export]"'),
        ("onnx", ("build", "bundle"), "building needs onnx: pip install onnx"),
        ("onnx", ("calibrate", "bundle", "out", "--clip", "clip.mp4"), "calibrating needs onnx: pip install onnx"),
    ],
)
def test_missing_packages(tmp_path, module, words, message):
    done = without(module, *words, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"sam2edge: error: {message}\n")


# how it ends


def test_interrupted(run, monkeypatch):
    def probe():
        raise KeyboardInterrupt

    monkeypatch.setattr(environment, "probe", probe)
    assert run("doctor") == (130, "", "sam2edge: interrupted\n")


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


def test_terminated():
    done = subprocess.run([sys.executable, "-c", TERMINATED], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "sam2edge: interrupted\n")


def test_nobody_reads_the_output():
    command = f"{shlex.quote(sys.executable)} -m sam2edge doctor | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_a_locale_without_the_letters(write_bundle):
    command = [sys.executable, "-m", "sam2edge", "inspect", write_bundle().path]
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"image +uint8 +B \? \d+ \? \d+ \? 3\n", done.stdout)


# export, inspect, doctor

PARITY_TABLE = [
    "difference from PyTorch on: clip.mp4",
    "graph             output       max error  relative error",
    "image_encoder     high_res_0   1.2e-04    1.0e-06",
    "memory_attention  conditioned  2.5e-04    1.0e-06",
    "mask_decoder      mask         3.7e-04    1.0e-06",
    "memory_encoder    memory       4.9e-04    1.0e-06",
]

WORDS_TABLE = [
    "",
    "word detector  google/owl, OWLv2 B/16",
    "sha256         " + "ab" * 32,
    "licence        apache-2.0",
    "images         padded to 64×64",
    "boxes          16, one for each 16×16",
    "queries        32 numbers; texts of at most 16 tokens",
    "difference from PyTorch on: clip.mp4",
    "graph         output   max error  relative error",
    "text_encoder  queries  1.0e-06    1.0e-07",
    "detector      boxes    1.0e-06    1.0e-07",
]


def test_export_passes_its_arguments_and_prints_the_parity(run, monkeypatch, tmp_path, write_bundle):
    given, bundle = [], write_bundle()
    monkeypatch.chdir(tmp_path)  # where no `out` is
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def export(source, out, **options):
        options.pop("progress")("loading", 0.5)
        given.append((source, out, options))
        return bundle

    # In place of the package, whose import of torch takes seconds.
    package = SimpleNamespace(export=export, export_words=None, is_word_detector=lambda source: False)
    monkeypatch.setitem(sys.modules, "sam2edge.export", package)
    more = ("--image-size", 512, "--memory-pool", 2, "--variant", 1, "--clip", "clip.mp4", "--words", "owl")
    code, out, err = run("export", "facebook/sam2.1-hiera-tiny", "out", *more, "--words-size", 640)
    assert (code, err) == (0, "")
    options = {"image_size": 512, "memory_pool": 2, "variant": "1", "frames": "clip.mp4"}
    options |= {"words": "owl", "words_size": 640}
    assert given == [("facebook/sam2.1-hiera-tiny", Path("out"), options)]
    resized = f"frames are resized to {bundle.model.image_size}×{bundle.model.image_size}"
    assert out.splitlines() == [*PARITY_TABLE, resized, f"wrote {bundle.path}"]
    assert f"{resized}; the file does not say at which size" in run("export", "tuned.pt", "out")[1]
    given.pop()
    run("export", "model", "~/out")
    assert given[1] == (
        "model",
        tmp_path / "home" / "out",
        {"image_size": None, "memory_pool": 1, "variant": None, "frames": None, "words": None, "words_size": None},
    )


def test_export_of_a_word_detector(run, error_of, monkeypatch, tmp_path, write_bundle):
    given, bundle = [], write_bundle()
    write_words(bundle.path / "words")

    def export_words(source, out, **options):
        options.pop("progress")("loading", 0.5)
        given.append((source, out, options))
        return bundle

    package = SimpleNamespace(export=None, export_words=export_words, is_word_detector=lambda source: source == "owl")
    monkeypatch.setitem(sys.modules, "sam2edge.export", package)
    code, out, err = run("export", "owl", bundle.path, "--words-size", 640, "--clip", "clip.mp4")
    assert (code, err) == (0, "")
    assert given == [("owl", bundle.path, {"image_size": 640, "frames": "clip.mp4"})]
    assert out.splitlines() == [*WORDS_TABLE, f"wrote {bundle.path / 'words'}"]
    no_bundle = error_of("export", "owl", tmp_path / "out")
    assert "owl is a word detector, which is added to a bundle, but " in no_bundle
    assert f"`sam2edge export CHECKPOINT {tmp_path / 'out'} --words owl`" in no_bundle
    for option in (("--image-size", 640), ("--memory-pool", 2), ("--variant", 1), ("--words", "owl")):
        assert f"{option[0]} is an option for a SAM 2, but owl is" in error_of("export", "owl", bundle.path, *option)
    message = "--words-size does nothing without --words"
    assert error_of("export", "sam", bundle.path, "--words-size", 640) == message


def test_inspect_shows_the_word_detector(run, write_bundle):
    bundle = write_bundle()
    alone = run("inspect", bundle.path)[1]
    write_words(bundle.path / "words")
    code, out, err = run("inspect", bundle.path)
    assert (code, err) == (0, "")
    assert out.startswith(alone)
    lines = out.removeprefix(alone).splitlines()
    assert lines[1:4] == [
        "graph         file               MiB  precision",
        "text_encoder  text_encoder.onnx  0.0  fp32",
        "detector      detector.onnx      0.0  fp32",
    ]
    assert "  out  logits      float32  B × 16 × Q" in lines
    assert lines[-len(WORDS_TABLE) :] == WORDS_TABLE


def test_inspect(run, write_bundle):
    code, out, err = run("inspect", write_bundle().path)
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


def test_inspect_tells_that_memory_is_pooled(run, write_bundle):
    bundle = write_bundle(dataclasses.replace(MODEL, memory_pool=2))
    _, out, _ = run("inspect", bundle.path)
    assert "memory      6 frames, 16 pointers, pooled 2×2" in out.splitlines()
    assert "  in   memory       float32  N × T × 16 × 16" in out.splitlines()


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


@pytest.mark.parametrize(("module", "name"), [("numpy", "numpy"), ("cv2", "OpenCV"), ("onnxruntime", "ONNX Runtime")])
def test_doctor_names_what_tracking_lacks(module, name):
    done = without(module, "doctor")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert any(line.split()[0] == "missing" and name in line for line in done.stdout.splitlines())
    assert done.stdout.splitlines()[-1] == "This machine cannot track: see the lines above that are not ok."
