"""The samples run, and the demo keeps its bars."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from sam2edge import Bundle
from sam2edge.runtime.sources import VideoSource
from tests.conftest import REPO


def run(script: str, *arguments: Path | str) -> str:
    command = [sys.executable, str(REPO / "samples" / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def mean_iou(output: str) -> float:
    (found,) = re.findall(r"mean IoU over all \d+ objects in view: ([\d.]+)", output)
    return float(found)


def test_mask_generator_speed(nano: Bundle, tmp_path: Path) -> None:
    image = tmp_path / "noise.png"
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    printed = run("mask_generator_speed.py", nano.path, image, "1")
    rows = re.findall(r"^(.*): [\d.]+ s, [\d.]+ × the bare runs$", printed, re.MULTILINE)
    assert rows == ["bare runs", "defaults", "half of the candidates pass"]


def test_predict_speed(nano: Bundle, tmp_path: Path) -> None:
    image = tmp_path / "noise.png"
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    printed = run("predict_speed.py", nano.path, image, "1")
    rows = re.findall(r"^(.*): decoder [\d.]+ ms, predict [\d.]+ × that$", printed, re.MULTILINE)
    assert rows == ["three masks", "one mask"]


def test_objects_speed(nano: Bundle) -> None:
    speed, agreement = run("objects_speed.py", nano.path, "3", "1").splitlines()
    assert re.fullmatch(r"3 objects: one tracker [\d.]+ ms a frame, 3 trackers [\d.]+ ms, [\d.]+ ×", speed)
    assert agreement == "IoU of the two ways' masks: at least 1.0000"


def test_stream_speed(nano: Bundle) -> None:
    rows = run("stream_speed.py", nano.path, "60", "1").splitlines()
    assert [row.split(":")[0] for row in rows] == [
        f"{source}, {mode}" for source in ("file", "camera of 60 fps") for mode in ("latency", "throughput")
    ]
    assert all(re.search(r"frames/s, delay p50 \d+ ms, p99 \d+ ms, dropped \d+ of 120$", row) for row in rows)
    assert [row.split("dropped ")[1] for row in rows[:2]] == ["0 of 120"] * 2


def test_demo_with_pooled_memory(pooled: Bundle, tmp_path: Path) -> None:
    assert mean_iou(run("demo.py", pooled.path, tmp_path)) >= 0.75


def test_demo_is_as_good_as_pytorch(nano: Bundle, tmp_path: Path) -> None:
    ours = mean_iou(run("demo.py", nano.path, tmp_path))
    assert ours >= 0.75
    assert abs(ours - mean_iou(run("score_pytorch.py"))) <= 0.01
    with VideoSource(tmp_path / "overlay.mp4") as overlay:
        assert (overlay.width, overlay.height, len(list(overlay))) == (320, 240, 120)
    assert cv2.imread(str(tmp_path / "strip.png")).shape == (2 * 240, 4 * 320, 3)
