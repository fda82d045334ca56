"""`sam2edge verify` on a command line."""

import importlib.util
import json
import os
import shutil
import sys

import cv2
import numpy as np
import pytest

from sam2edge import cli
from sam2edge.calibration.measure import detections
from sam2edge.calibration.measure.clip import Clip
from tests.conftest import NANO, REPO

CLIP = REPO / "samples" / "clip.mp4"
MASKS = REPO / "samples" / "clip_masks.npz"


@pytest.fixture
def run(capsys):
    """Return a function that runs `sam2edge verify` over a few frames and gives (exit code, lines, stderr)."""

    def run(*arguments, frames=6):
        code = cli.main(["verify", *map(str, arguments), "--clip", str(CLIP), "--frames", str(frames)])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err

    return run


def test_against_pytorch(run, nano, tmp_path):
    code, lines, err = run(nano.path, "--against", NANO, "--truth", MASKS, "--report", tmp_path / "report")
    assert (code, err) == (0, "")
    assert lines[0].split() == ["PyTorch", "nano", "fp32"]
    cells = {line.split("  ")[0]: line.split()[-2:] for line in lines}
    assert cells["J&F"][0] == cells["J&F"][1]
    assert float(cells["J&F"][0]) > 80
    assert cells["closed loop, mean IoU"] == ["–", "1.0000"]
    assert cells["gate"] == ["–", "passed"]
    assert lines[-2] == "not measured: other precisions (give their bundles as --candidate)"
    assert lines[-1] == f"wrote {tmp_path / 'report' / 'report.json'}, {tmp_path / 'report' / 'report.html'}"
    data = json.loads((tmp_path / "report" / "report.json").read_text())
    assert (data["frames"], data["rows"][1]["gate"]["passed"]) == (6, True)


def test_a_failed_gate_exits_with_1(run, nano, half, broken):
    candidates = ("--candidate", half.path, "--candidate", broken.path)
    code, lines, err = run(nano.path, *candidates, "--box", "101,47,176,122", frames=12)
    assert (code, err) == (1, "")
    assert lines[0].split() == ["nano", "fp32", "half", "fp32", "broken", "fp32"]
    assert next(line for line in lines if line.startswith("gate")).split() == ["gate", "–", "passed", "FAILED"]
    assert not any(line.startswith("J&F") for line in lines)
    assert lines[-2] == "not measured: PyTorch (give --against SOURCE); J&F (give --truth)"
    assert lines[-1].startswith("broken fp32: mean IoU 0.")
    assert lines[-1].endswith("memory_attention differs most")
    assert run(nano.path, "--candidate", broken.path, "--box", "101,47,176,122", "--min-iou", 0, frames=3)[0] == 0


def test_a_range_that_is_too_wide(run, nano, nano_int8, wide_int8, monkeypatch):
    command = nano.path, "--candidate", nano_int8.path, "--candidate", wide_int8.path, "--box", "101,47,176,122"
    code, lines, _ = run(*command)
    assert code == 1
    assert [line.split()[-2:] for line in lines if line.startswith("gate")] == [["passed", "FAILED"]]
    assert lines[-1].startswith(
        "wide int8: mask_decoder: the INT8 range of /hypernetworks.0/activation/Relu_output_0 is "
    )
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name))
    code, lines, _ = run(*command)
    assert code == 0
    assert "ranges of INT8 graphs (onnx is not installed: pip install onnx)" in lines[-1]


def test_another_model(run, nano, pooled):
    """Its graphs take other inputs: that they were not compared one by one is said."""
    code, lines, _ = run(nano.path, "--candidate", pooled.path, "--box", "101,47,176,122", frames=3)
    assert code == 0
    assert "; single graphs of pooled fp32 (another model than nano fp32's)" in lines[-1]


def test_prompts_by_themselves(run, nano, half, tmp_path):
    assert run(nano.path, "--candidate", half.path, "--report", tmp_path, frames=2)[0] == 0
    assert json.loads((tmp_path / "report.json").read_text())["objects"] == [1, 2, 3]


def test_a_davis_data_set(nano, tmp_path, capsys):
    clip, masks = (tmp_path / folder / "480p" / "toys" for folder in ("JPEGImages", "Annotations"))
    clip.mkdir(parents=True)
    masks.mkdir(parents=True)
    labels = np.load(MASKS)["labels"]
    for number, frame in enumerate(Clip(CLIP, 4)):
        cv2.imwrite(str(clip / f"{number:05d}.jpg"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(masks / f"{number:05d}.png"), labels[number])
    assert cli.main(["verify", str(nano.path), "--clip", str(clip), "--truth", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    [score] = [line for line in lines if line.startswith("J&F")]
    assert float(score.split()[1]) > 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to compare"),
        (["--truth", "none"], "none: no such folder; give the one of this clip"),
        (["--truth", MASKS, "--min-iou", "97"], "--min-iou must be from 0 to 1 but is 97"),
        (["--truth", MASKS, "--box", "9:101,47,176,122"], "give prompts the ids of the true masks"),
        (["--truth", MASKS, "--box", "101,47,1176,122"], "reaches outside the 320×240 frame"),
        (["--truth", MASKS, "--candidate", "none"], "no such bundle directory"),
    ],
)
def test_errors(run, nano, arguments, message):
    code, lines, err = run(nano.path, *arguments, frames=3)
    assert (code, lines) == (2, [])
    assert message in err


def test_words(run, shapes, nano, tmp_path, monkeypatch):
    copy = shutil.copytree(shapes.path, tmp_path / "copy", copy_function=os.link)
    box = ["--box", "101,47,176,122", "--words", "red ball, blue block"]
    code, lines, err = run(shapes.path, "--candidate", copy, "--candidate", nano.path, *box, frames=2)
    assert (code, err) == (0, "")
    same = "1.000 of 4 detections kept, 0.000 new; error of boxes 0.000, of scores 0.000"
    assert lines[-1] == f"word detector of copy fp32: {same}"
    assert "words with nano fp32 (it has no or another word detector)" in lines[-2]
    monkeypatch.setattr(detections, "_matched", lambda first, second: [])
    code, lines, err = run(shapes.path, "--candidate", copy, *box, frames=2)
    assert (code, err) == (1, "")
    assert lines[-1].startswith("word detector of copy fp32: 0.000 of 4 detections are kept, below 0.95; the share of")


def test_words_without_a_detector(run, nano, half):
    code, _, err = run(nano.path, "--candidate", half.path, "--box", "101,47,176,122", "--words", "cup", frames=2)
    assert code == 2
    assert "has no word detector; add one with" in err


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_without_pytorch_its_row_is_left_out(run, nano, name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    code, lines, err = run(nano.path, "--against", NANO, "--truth", MASKS, frames=3)
    assert (code, err) == (0, "")
    assert lines[0].split() == ["nano", "fp32"]
    assert lines[-1].startswith(f'not measured: PyTorch ({name} is not installed: pip install "sam2edge[export]")')
