"""`sam2edge segment` with the bundled model on frames of the bundled clip."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sam2edge import Bundle, ImagePredictor, cli
from sam2edge.errors import BackendError
from sam2edge.runtime.media import rle
from sam2edge.runtime.media.image_files import read_image
from tests.conftest import NANO

Run = Callable[..., tuple[int, str, str]]

BOX = ("--box", "101,47,176,122")  # the disc of the clip's first frame
POINT = ("--point", "262,60")  # its square
JSON = ("--json", "out/masks.jsonl")
LOW = ("--auto", "--points-per-side", "8", "--pred-iou-thresh", "0.6", "--stability-score-thresh", "0.6")


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    """BGR."""
    capture = cv2.VideoCapture(str(NANO.parent / "clip.mp4"))
    return [capture.read()[1] for _ in range(2)]


@pytest.fixture
def folder(tmp_path: Path, frames: list[np.ndarray]) -> Path:
    """A folder with a.png, b.jpg and something else."""
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), frames[0])
    cv2.imwrite(str(tmp_path / "in" / "b.jpg"), frames[1])
    (tmp_path / "in" / "notes.txt").write_text("no image")
    return tmp_path / "in"


@pytest.fixture
def run(nano: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs `sam2edge segment` and gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.main(["segment", str(nano.path), *map(str, arguments), "-o", str(tmp_path / "out")])
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return run


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "masks.jsonl").read_text().splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_images_of_more_than_8_bits(run: Run, folder: Path, frames: list[np.ndarray], tmp_path: Path) -> None:
    cv2.imwrite(str(folder / "a.png"), frames[0].astype(np.uint16) * 16)
    code, printed, errors = run(folder / "a.png", *BOX, *JSON)
    assert (code, printed) == (2, f"0 of 1 images, 0 masks: {tmp_path / 'out'}\n")
    assert "a.png: its pixels are 16-bit numbers from" in errors
    assert "give one range for all images: --range LO,HI" in errors
    assert run(folder / "a.png", *BOX, *JSON, "--range", "0,4080")[0] == 0
    (deep,) = records(tmp_path / "out")
    cv2.imwrite(str(folder / "a.png"), frames[0])
    assert run(folder / "a.png", *BOX, *JSON)[0] == 0
    assert records(tmp_path / "out") == [deep]


def test_prompts_apply_to_every_image(run: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, printed, errors = run(folder, *BOX, *POINT, *JSON, "--labels")
    assert (code, printed, errors) == (0, f"2 of 2 images, 4 masks: {out}\n", "")
    assert names(out) == ["a.labels.png", "a.png", "b.jpg", "b.labels.png", "masks.jsonl"]
    for name, line in zip(("a.png", "b.jpg"), records(out), strict=True):
        assert line["image"] == str(folder / name)
        assert line["overlay"] == str(out / name)
        assert line["size"] == [240, 320]
        assert [one["id"] for one in line["objects"]] == [1, 2]
        labels = cv2.imread(str(out / f"{name[0]}.labels.png"), cv2.IMREAD_UNCHANGED)
        for one in line["objects"]:
            mask = rle.decode(one["segmentation"])
            assert one["area"] == mask.sum() > 2000
            assert one["bbox"] == list(cv2.boundingRect(mask.astype(np.uint8)))
            assert 0.5 < one["predicted_iou"] <= 1
            assert 0.5 < one["stability_score"] <= 1
            assert np.array_equal(labels == one["id"], mask)
        assert read_image(out / name).shape == (240, 320, 3)
        changed = np.abs(read_image(out / name).astype(int) - read_image(folder / name)).max(axis=2) > 30
        assert changed[labels > 0].mean() > 0.9
        assert changed[labels == 0].mean() < 0.1


def test_masks_are_the_predictors(run: Run, nano: Bundle, folder: Path, tmp_path: Path) -> None:
    """A single click is the best of three masks; points and a box with the same id are one prompt."""
    several = ("--box", "7:101,47,176,122", "--point", "7:140,80", "--point", "7:10,10,0")
    run(folder / "a.png", *POINT, *several, *JSON)
    [line] = records(tmp_path / "out")
    with ImagePredictor(nano) as predictor:
        predictor.set_image(read_image(folder / "a.png"))
        three, ious, _ = predictor.predict(np.array([[262, 60]]), np.array([1]))
        one, [iou], _ = predictor.predict(
            np.array([[140, 80], [10, 10]]), np.array([1, 0]), np.array([101, 47, 176, 122]), multimask_output=False
        )
    assert [found["id"] for found in line["objects"]] == [1, 7]
    click, several = line["objects"]
    assert np.array_equal(rle.decode(click["segmentation"]), three[ious.argmax()] > 0)
    assert click["predicted_iou"] == pytest.approx(ious.max(), abs=1e-5)
    assert np.array_equal(rle.decode(several["segmentation"]), one[0] > 0)
    assert several["predicted_iou"] == pytest.approx(iou, abs=1e-5)


def test_mask_prompt(run: Run, folder: Path, tmp_path: Path) -> None:
    mask = np.zeros((240, 320), np.uint8)
    cv2.circle(mask, (138, 84), 38, 255, -1)
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    code, _, _ = run(folder / "a.png", "--mask", f"1:{tmp_path / 'mask.png'}", "--point", "1:138,84", *JSON)
    assert code == 0
    [line] = records(tmp_path / "out")
    found = rle.decode(line["objects"][0]["segmentation"])
    assert (found & (mask > 0)).sum() / (found | (mask > 0)).sum() > 0.6


def test_labels_do_not_depend_on_the_order_and_are_masks_again(run: Run, folder: Path, tmp_path: Path) -> None:
    """Where the masks overlap, the highest logit wins; `segment --mask` takes the label image as an object for each."""
    boxes = ("--box", "1:101,47,176,122", "--box", "2:90,40,150,122")
    labels = []
    for order in (boxes, (*boxes[2:], *boxes[:2])):
        run(folder / "a.png", *order, *JSON, "--labels")
        labels.append(cv2.imread(str(tmp_path / "out" / "a.labels.png"), cv2.IMREAD_UNCHANGED))
    masks = [rle.decode(one["segmentation"]) for one in records(tmp_path / "out")[0]["objects"]]
    assert (masks[0] & masks[1]).any()
    np.testing.assert_array_equal(*labels)
    assert set(np.unique(labels[0])) == {0, 1, 2}
    (tmp_path / "out" / "a.labels.png").rename(tmp_path / "labels.png")
    assert run(folder / "a.png", "--mask", "labels.png", *JSON)[0] == 0
    assert [one["id"] for one in records(tmp_path / "out")[0]["objects"]] == [1, 2]


@pytest.mark.parametrize(("name", "words"), [("empty", "the mask is empty"), ("small", "the mask is too small")])
def test_masks_of_nothing_are_named(run: Run, folder: Path, tmp_path: Path, name: str, words: str) -> None:
    mask = np.zeros((240, 320), np.uint8)
    mask[100:104, 100:104] = 255 * (name == "small")
    cv2.imwrite(str(tmp_path / f"{name}.png"), mask)
    code, _, errors = run(folder / "a.png", "--mask", f"{name}.png")
    assert code == 2
    assert f"{name}.png: {words}" in errors


def test_everything(run: Run, folder: Path, tmp_path: Path) -> None:
    code, printed, errors = run(f"{folder}/*.png", *LOW, *JSON, "--labels")
    [line] = records(tmp_path / "out")
    count = len(line["objects"])
    assert count >= 3
    assert (code, printed, errors) == (0, f"1 of 1 images, {count} masks: {tmp_path / 'out'}\n", "")
    assert [one["id"] for one in line["objects"]] == list(range(1, count + 1))
    ious = [one["predicted_iou"] for one in line["objects"]]
    assert ious == sorted(ious, reverse=True)
    assert min(ious) > 0.6
    labels = cv2.imread(str(tmp_path / "out" / "a.labels.png"), cv2.IMREAD_UNCHANGED)
    smallest = min(line["objects"], key=lambda one: one["area"])
    assert np.array_equal(labels == smallest["id"], rle.decode(smallest["segmentation"])), "small ones on top"


def test_one_bad_image_does_not_stop_the_rest(run: Run, folder: Path, tmp_path: Path) -> None:
    (folder / "aa.png").write_text("no image")
    cv2.imwrite(str(folder / "small.png"), np.zeros((20, 20, 3), np.uint8))
    code, printed, errors = run(folder, "gone.png", *POINT, *JSON)
    out = tmp_path / "out"
    assert code == 2
    assert printed == f"2 of 4 images, 2 masks: {out}\n"
    lines = [line for line in errors.splitlines() if line.startswith("sam2edge: error: ")]
    assert len(lines) == 3
    assert lines[0] == "sam2edge: error: gone.png: no such image or folder"
    assert lines[1].startswith(f"sam2edge: error: {folder / 'aa.png'}: no image that OpenCV can read")
    assert lines[2].startswith(f"sam2edge: error: {folder / 'small.png'}: --point 262,60: point")
    assert names(out) == ["a.png", "b.jpg", "masks.jsonl"]
    assert len(records(out)) == 2


def test_equal_names_get_numbers(run: Run, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("a.png", "a.bmp"):
        cv2.imwrite(str(other / name), cv2.imread(str(folder / "a.png")))
    assert run(folder / "a.png", other, *POINT)[0] == 0
    assert names(tmp_path / "out") == ["a-2.png", "a-3.png", "a.png"]


def test_label_images_do_not_overwrite_each_other(run: Run, folder: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(folder / "a.jpg"), np.zeros((240, 320, 3), np.uint8))
    cv2.imwrite(str(folder / "a.labels.png"), cv2.imread(str(folder / "a.png")))
    assert run(folder, *POINT, "--labels", *JSON)[0] == 0
    for line in records(tmp_path / "out"):
        labels = cv2.imread(str(Path(line["overlay"]).with_suffix(".labels.png")), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(labels == 1, rle.decode(line["objects"][0]["segmentation"]))
    assert len(names(tmp_path / "out")) == 9


def test_everything_in_a_picture_without_anything(run: Run, folder: Path) -> None:
    cv2.imwrite(str(folder / "a.png"), np.zeros((240, 320, 3), np.uint8))
    code, printed, _ = run(folder / "a.png", "--auto", "--points-per-side", "2", "--pred-iou-thresh", "1")
    assert code == 0
    assert printed.endswith("\nno mask passed the filters; lower --pred-iou-thresh or --stability-score-thresh\n")


def test_inputs_are_never_overwritten(run: Run, folder: Path, tmp_path: Path) -> None:
    image = folder / "a.png"
    before = image.read_bytes()
    assert run(image, *POINT, "--json", image) == refused(f"{image}: is an image that is read; write to another place")
    (tmp_path / "out").symlink_to(folder)
    message = f"{tmp_path / 'out' / 'a.png'}: is an image that is read; write to another place"
    assert run(image, *POINT) == refused(message)
    assert image.read_bytes() == before


def refused(message: str) -> tuple[int, str, str]:
    return 2, "", f"sam2edge: error: {message}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (),
            "nothing to segment: give --point x,y or --box x0,y0,x1,y1 or --mask file.png, or --words 'red cup', or "
            "--auto",
        ),
        (
            (*POINT, "--auto"),
            "--auto finds everything and takes no --point, --box, --mask or --words; give one or the other",
        ),
        (("--point", "1"), "--point 1: expected 2 or 3 numbers with commas between"),
        ((*POINT, "--points-per-side", "4"), "--points-per-side does nothing without --auto"),
        (("--auto", "--points-per-side", "0"), "--points-per-side must be an integer of at least 1 but got 0"),
        (("--auto", "--pred-iou-thresh", "2"), "--pred-iou-thresh must be a finite number from 0 to 1 but got 2.0"),
        (("--mask", "gone.png"), "gone.png: no such mask file"),
    ],
)
def test_wrong_usage(run: Run, folder: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    assert run(folder, *arguments) == refused(message)
    assert not (tmp_path / "out").exists()


def test_mask_of_another_size(run: Run, folder: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "mask.png"), np.full((20, 30), 255, np.uint8))
    code, _, errors = run(folder / "a.png", "--mask", tmp_path / "mask.png")
    assert code == 2
    message = f"{folder / 'a.png'}: --mask {tmp_path / 'mask.png'}: a mask must be of the frame's size [240, 320]"
    assert errors.startswith(f"sam2edge: error: {message}")


def test_no_images(run: Run, tmp_path: Path) -> None:
    code, printed, errors = run(tmp_path / "gone.png", *POINT)
    assert (code, printed) == (2, f"0 of 0 images, 0 masks: {tmp_path / 'out'}\n")
    assert errors == f"sam2edge: error: {tmp_path / 'gone.png'}: no such image or folder\n"


def test_a_failing_backend_stops(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise BackendError("the engine failed")

    monkeypatch.setattr(ImagePredictor, "set_image", fail)
    assert run(folder, *POINT) == refused("the engine failed")


def test_outputs_that_cannot_be_written(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    out = tmp_path / "out"
    assert run(folder / "a.png", *POINT) == refused(f"{out}: cannot be written: {out} is a file, not a directory")
    message = f"{folder}: is a directory, expected the name of a file to write"
    assert run(folder / "a.png", *POINT, "--json", folder) == refused(message)


def test_progress_on_a_terminal(nano: Bundle, folder: Path, tmp_path: Path) -> None:
    terminal, stderr = pty.openpty()
    command = [sys.executable, "-m", "sam2edge", "segment", nano.path, folder, "-o", tmp_path / "out", *LOW]
    subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=stderr, check=True)
    os.close(stderr)
    shown = os.read(terminal, 100_000).decode().split("\r\x1b[K")
    os.close(terminal)
    assert shown == [
        "",
        "1/2 images, a.png",
        "1/2 images, a.png, 64/64 points",
        "2/2 images, b.jpg",
        "2/2 images, b.jpg, 64/64 points",
        "",
    ]
