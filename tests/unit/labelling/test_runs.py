"""Runs of `sam2edge label` with a real model, against `track`: good and bad videos together, and split ones."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from sam2edge import cli
from sam2edge.labelling.processes import thread_variables

FRAMES = 8
SCORES = ("iou", "object_score", "stability")
BOXES = [[10, 10, 40, 40], [70, 20, 100, 50], [30, 60, 60, 90]]
BAD = {
    "gone.avi": "no such file or folder",
    "text.avi": "not a video",
    "damaged.avi": "not a video",
    "outside.avi": "outside",
    "mask.avi": "text.png",
}


def write_clip(path, seed):
    """Write three squares on noise, which move."""
    noise = np.random.default_rng(seed).integers(0, 60, (96, 128, 3), np.uint8)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (128, 96))
    for number in range(FRAMES):
        frame = noise.copy()
        for channel, (x0, y0, x1, y1) in enumerate(BOXES):
            frame[y0 + number : y1 + number, x0 + number : x1 + number, channel] = 255
        writer.write(frame)
    writer.release()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with good videos a and b, bad ones, and a file of prompts for all of them."""
    folder = tmp_path_factory.mktemp("videos")
    for seed, name in enumerate(("a.avi", "b.avi", "outside.avi", "mask.avi", "damaged.avi")):
        write_clip(folder / name, seed)
    content = (folder / "damaged.avi").read_bytes()
    (folder / "damaged.avi").write_bytes(content[:300] + bytes(len(content) - 300))
    for name in ("text.avi", "text.png"):
        (folder / name).write_text("Hello, world!\n" * 20)
    lines = [
        {"source": name, "object": number, "box": box, "frame": 3 * (number == 2)}
        for name in ("a.avi", "b.avi")
        for number, box in enumerate(BOXES, 1)
    ]
    lines += [{"source": "a.avi", "object": 1, "remove": True, "frame": 5}]
    lines += [{"source": name, "box": BOXES[0]} for name in ("gone.avi", "text.avi", "damaged.avi")]
    lines += [{"source": "outside.avi", "box": [500, 500, 600, 600]}, {"source": "mask.avi", "mask": "text.png"}]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


TRACK = """
import sys
from sam2edge import cli

bundle, *words = sys.argv[1:]
for name in ("a.avi", "b.avi"):
    assert cli.main(["track", bundle, name, *words, "--json", name + ".jsonl"]) == 0
"""


def label(nano, folder, out, *words):
    return cli.main(list(map(str, ["label", nano.path, *words, "-o", out, "--prompts", folder / "prompts.jsonl"])))


def by_name(folder):
    """The files of a folder, by what they are of."""
    return {file.stem.rpartition("-")[0] + ".avi": file for file in folder.iterdir()}


@pytest.fixture(scope="module")
def tracked(nano, folder):
    """What `track` writes of the good videos."""
    words = [nano.path, "--prompts", folder / "prompts.jsonl", "--threads", "1"]
    # In a process of its own, since the order in which numpy's library sums depends on its threads.
    subprocess.run(
        [sys.executable, "-c", TRACK, *words], env={**os.environ, **thread_variables(1)}, cwd=folder, check=True
    )
    return {name: (folder / f"{name}.jsonl").read_text() for name in ("a.avi", "b.avi")}


def test_good_and_bad(nano, folder, tracked, capsys, tmp_path):
    """With two workers the labels are those of a single tracker; five bad videos are named, everywhere."""
    assert label(nano, folder, tmp_path, "--workers", 2, "--threads", 1) == 1
    assert {name: file.read_text() for name, file in by_name(tmp_path / "labels").items()} == tracked
    reasons = {name: json.loads(file.read_text())["reason"] for name, file in by_name(tmp_path / "failed").items()}
    assert sorted(reasons) == sorted(BAD)
    printed = capsys.readouterr()
    for name, words in BAD.items():
        assert words in reasons[name]
        assert f"{folder / name}: " in printed.err
    assert "2 of 7 items" in printed.out


def test_split_objects(nano, folder, tracked, tmp_path):
    """Three workers with an object each find the same masks; scores differ by rounding."""
    assert label(nano, folder, tmp_path, folder / "a.avi", "--split-objects", 3, "--workers", 2, "--threads", 1) == 0
    [file] = (tmp_path / "labels").iterdir()
    split, whole = ([json.loads(line) for line in text.splitlines()] for text in (file.read_text(), tracked["a.avi"]))
    scores = [[[each.pop(name) for each in one["objects"] for name in SCORES] for one in run] for run in (split, whole)]
    assert split == whole
    assert [len(one["objects"]) for one in whole] == [2, 2, 2, 3, 3, 2, 2, 2]
    for ours, theirs in zip(*scores, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert [os.listdir(tmp_path / "items")] == [[f"{file.stem}.json"]]
