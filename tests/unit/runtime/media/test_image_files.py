"""Finding, reading and writing image files."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2edge.errors import MediaError
from sam2edge.runtime.media.image_files import find_images, read_image, write_image

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for name in ("b.png", "a.JPG", "deeper/c.webp", "notes.txt"):
        (tmp_path / "in" / name).write_bytes(b"")
    return tmp_path


def test_files_folders_and_patterns(folder: Path) -> None:
    a, b, c, notes = (folder / "in" / name for name in ("a.JPG", "b.png", "deeper/c.webp", "notes.txt"))
    assert find_images([folder / "in"]) == ([a, b], [])
    assert find_images([folder / "in" / "*"]) == ([a, b], [])
    assert find_images([f"{folder}/**/*.webp"]) == ([c], [])
    assert find_images([notes, b, folder / "in", b]) == ([notes, b, a], [])
    # A file whose name looks like a pattern is a file.
    odd = folder / "in" / "[1].png"
    odd.write_bytes(b"")
    assert find_images([odd]) == ([odd], [])


def test_home_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    write_image("~/~.png", PIXELS)
    assert find_images(["~/*.png"]) == ([folder / "~.png"], [])
    assert np.array_equal(read_image("~/~.png"), PIXELS)


def test_what_is_not_there(folder: Path) -> None:
    names = [folder / "empty", "x" * 300, folder / "in" / "b.png", folder / "gone.png", folder / "*.gif"]
    images, problems = find_images(names)
    assert images == [folder / "in" / "b.png"]
    assert problems == [
        f"{folder / 'empty'}: no images in this folder (they end with .bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp)",
        f"{'x' * 300}: cannot be read: File name too long",
        f"{folder / 'gone.png'}: no such image or folder",
        f"{folder / '*.gif'}: no image matches this pattern",
    ]


def test_write_and_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ä b.png"
    write_image(path, PIXELS)
    assert np.array_equal(read_image(path), PIXELS)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    write_image(path, PIXELS[..., 0].astype(np.uint16) * 256)
    assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), PIXELS[..., 0].astype(np.uint16) * 256)


@pytest.mark.parametrize("channels", ["grey", "alpha", "16 bits"])
def test_other_pixels(tmp_path: Path, channels: str) -> None:
    pixels = {
        "grey": PIXELS[..., 0],
        "alpha": np.dstack([PIXELS, np.zeros(PIXELS.shape[:2], np.uint8)]),
        "16 bits": PIXELS.astype(np.uint16) * 257,
    }[channels]
    cv2.imwrite(str(tmp_path / "x.png"), pixels)
    read = read_image(tmp_path / "x.png")
    assert read.dtype == np.uint8
    assert np.array_equal(read, np.dstack([PIXELS[..., 0]] * 3) if channels == "grey" else PIXELS[..., ::-1])


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    whole = cv2.imencode(".png", PIXELS)[1].tobytes()
    (tmp_path / "header.png").write_bytes(whole[:20])
    for name in ("empty.png", "text.png", "header.png"):
        with pytest.raises(MediaError, match=rf"{name}: no image that OpenCV can read"):
            read_image(tmp_path / name)
    with pytest.raises(MediaError, match=r"empty.png: .*: the file is empty"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(MediaError, match=r"gone.png: cannot be read: No such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(MediaError, match=r"cannot be read: Is a directory"):
        read_image(tmp_path)


def test_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MediaError, match=r"a.png: cannot be written: "):
        write_image(tmp_path / "file" / "a.png", PIXELS)


def test_full_disk(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("/dev/full, a disk that is full, is Linux's")
    (tmp_path / f".a.{os.getpid()}.png").symlink_to("/dev/full")
    with pytest.raises(MediaError, match=r"a.png: cannot be written: No space left"):
        write_image(tmp_path / "a.png", PIXELS)
    assert list(tmp_path.iterdir()) == []
