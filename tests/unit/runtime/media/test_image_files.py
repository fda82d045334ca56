"""Finding, reading and writing image files."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from sam2edge.errors import InputError, MediaError
from sam2edge.files import PathKind, path_kind
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
    assert find_images([folder / "in"]) == find_images(folder / "in") == find_images(str(folder / "in")) == ([a, b], [])
    assert find_images([folder / "in" / "*"]) == ([a, b], [])
    assert find_images([f"{folder}/**/*.webp"]) == ([c], [])
    assert find_images([notes, b, folder / "in", b]) == ([notes, b, a], [])
    # A file whose name looks like a pattern is a file.
    odd = folder / "in" / "[1].png"
    odd.write_bytes(b"")
    assert find_images([odd]) == ([odd], [])


def test_images_are_ordered_by_their_numbers(folder: Path) -> None:
    """And hidden files are none, as those that macOS leaves beside images on foreign disks."""
    names = ["img2.png", "img10.png", "img100.JPEG"]
    for name in [*names, "._img2.png", ".img3.png"]:
        (folder / "empty" / name).touch()
    expected = ([folder / "empty" / name for name in names], [])
    assert find_images([folder / "empty"]) == expected
    assert find_images([folder / "empty" / "*"]) == expected
    assert path_kind(folder / "empty") is PathKind.IMAGE_FOLDER
    for name in names:
        (folder / "empty" / name).unlink()
    assert path_kind(folder / "empty") is PathKind.OTHER


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


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_10_and_12_bits_need_a_range(tmp_path: Path, suffix: str, channels: int) -> None:
    """They would be black, with 4 or 16 levels of grey."""
    values = np.arange(20 * 20, dtype=np.uint16).reshape(20, 20) * 10
    cv2.imwrite(path := str(tmp_path / f"x{suffix}"), np.dstack([values] * channels))
    with pytest.raises(MediaError, match=rf"x{suffix}: its pixels are 16-bit numbers from 0 to 3990, and nothing says"):
        read_image(path)
    grey = read_image(path, value_range=(0, 4095))[..., 1]
    assert np.array_equal(grey, (values * (255 / 4095)).round())
    cut = read_image(path, value_range=(1000, 2000))[..., 2]
    assert np.array_equal(cut, np.clip((values - 1000.0) * 0.255, 0, 255).round())


def test_floating_point_needs_a_range(tmp_path: Path) -> None:
    celsius = np.linspace(-10, 45.5, 20 * 20, dtype=np.float32).reshape(20, 20)
    celsius[3, 4], celsius[5, 6] = np.nan, np.inf
    cv2.imwrite(path := str(tmp_path / "x.tiff"), celsius)
    with pytest.raises(MediaError, match=r"its pixels are floating-point numbers from -10 to 45\.5, and nothing says"):
        read_image(path)
    image = read_image(path, value_range=(0, 40))
    assert image.shape == (20, 20, 3)
    assert (image[3, 4].tolist(), image[5, 6].tolist(), image[0, 0].tolist()) == ([0] * 3, [255] * 3, [0] * 3)
    assert image[9, 0, 0] == round(float(celsius[9, 0]) * 255 / 40)


def test_a_range_stretches_8_bits_too(tmp_path: Path) -> None:
    write_image(tmp_path / "x.png", PIXELS)
    assert np.array_equal(read_image(tmp_path / "x.png", (0, 255)), PIXELS)
    stretched = np.clip((PIXELS - 50.0) * (255 / 100), 0, 255).round()
    assert np.array_equal(read_image(tmp_path / "x.png", (50, 150)), stretched)


@pytest.mark.parametrize("value_range", [(1, 1), (2, 1), (0,), "0,1", (0, np.nan), (0, "1")])
def test_ranges_that_are_refused(tmp_path: Path, value_range: Any) -> None:
    write_image(tmp_path / "x.png", PIXELS)
    with pytest.raises(InputError, match="value_range must be"):
        read_image(tmp_path / "x.png", value_range)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_turned_as_exif_says(tmp_path: Path, orientation: int, mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = cv2.resize(PIXELS, (40, 24), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(smooth).convert(mode).save(path := tmp_path / "x.jpg", exif=exif, quality=95)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB")).astype(int)
    read = read_image(path)
    assert read.shape == expected.shape
    assert np.abs(read - expected).mean() < 2


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_picture(tmp_path: Path, kind: str) -> None:
    pictures = [Image.new("RGB", (20, 12), colour) for colour in ("red", "lime")]
    pictures[0].save(tmp_path / "x", kind, save_all=True, append_images=pictures[1:], lossless=True)
    try:
        image = read_image(tmp_path / "x")
    except MediaError:
        if kind == "GIF":
            pytest.skip("OpenCV before 4.11 reads no GIF")
        raise
    assert image[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_narrow_images(tmp_path: Path, size: tuple[int, int]) -> None:
    write_image(tmp_path / "x.png", np.full((*size, 3), 7, np.uint8))
    assert np.array_equal(read_image(tmp_path / "x.png"), np.full((*size, 3), 7))


def crc(chunk: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(chunk))


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    whole = cv2.imencode(".png", PIXELS)[1].tobytes()
    (tmp_path / "header.png").write_bytes(whole[:20])
    large = struct.pack(">II", 1 << 20, 1 << 20)
    (tmp_path / "large.png").write_bytes(whole[:16] + large + whole[24:29] + crc(b"IHDR" + large + whole[24:29]))
    (tmp_path / "none.png").write_bytes(whole[:16] + bytes(8) + whole[24:29] + crc(b"IHDR" + bytes(8) + whole[24:29]))
    for suffix in (".png", ".jpg", ".webp", ".tif", ".bmp"):
        encoded = cv2.imencode(suffix, np.tile(PIXELS, (9, 9, 1)))[1].tobytes()
        (tmp_path / f"cut{suffix}").write_bytes(encoded[: len(encoded) * 2 // 3])
    cut = [file.name for file in tmp_path.glob("cut.*")]
    for name in ("empty.png", "text.png", "header.png", "large.png", "none.png", *cut):
        with pytest.raises(MediaError, match=rf"{name}: no image that OpenCV can read"):
            read_image(tmp_path / name)
    with pytest.raises(MediaError, match=r"empty.png: .*: the file is empty"):
        read_image(tmp_path / "empty.png")
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(MediaError, match=r"x\.heic: .* HEIC or AVIF \(save it as JPEG or PNG\), or a video"):
        read_image(tmp_path / "x.heic")
    with pytest.raises(MediaError, match=r"gone.png: cannot be read: No such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(MediaError, match=r"cannot be read: Is a directory"):
        read_image(tmp_path)


def test_a_jpeg_cut_short_in_older_versions_of_opencv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They return what there is, and grey for the rest."""
    encoded = cv2.imencode(".jpg", PIXELS)[1].tobytes()
    thumbnail = b"\xff\xe1" + struct.pack(">H", len(encoded) + 2) + encoded
    monkeypatch.setattr(cv2, "imdecode", lambda *_: PIXELS)
    with_thumbnail, filled = encoded[:2] + thumbnail + encoded[2:], encoded[:2] + b"\xff" + encoded[2:]
    for whole in (encoded, encoded + b"a film", with_thumbnail, filled):
        (tmp_path / "x.jpg").write_bytes(whole)
        assert read_image(tmp_path / "x.jpg").shape == PIXELS.shape
    for cut in (encoded[:-2], encoded[: len(encoded) * 2 // 3], with_thumbnail[:-50]):
        (tmp_path / "x.jpg").write_bytes(cut)
        with pytest.raises(MediaError, match=r"x\.jpg: .* cut short"):
            read_image(tmp_path / "x.jpg")


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
