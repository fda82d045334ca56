"""Paths that a user gives, and what they hold."""

import contextlib
import json
import os
import pwd
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2edge.bundle import FORMAT, MANIFEST
from sam2edge.errors import InputError
from sam2edge.files import (
    PathKind,
    cache_directory,
    check_output_directory,
    check_output_file,
    path_kind,
    replacing_file,
    user_path,
    write_text,
)
from tests.conftest import REPO


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home directory, and another directory to work in."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def test_a_tilde_is_the_home_directory(home):
    assert user_path("~") == home
    assert user_path("~/clip.mp4") == user_path(Path("~/clip.mp4")) == home / "clip.mp4"
    assert user_path("a/~") == Path("a/~")


def test_without_a_home_directory(tmp_path, monkeypatch):
    """As in a container that runs as a user whom the system does not know."""

    def unknown(user):
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(InputError, match=r"there is no home directory .* set XDG_CACHE_HOME to a directory for it"):
        cache_directory()
    for path in ("~", "~/clip.mp4"):
        with pytest.raises(InputError, match=f"{path}: there is no home directory .* give the whole path"):
            user_path(path)
    assert user_path("./~") == Path.cwd() / "~"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "sam2edge"


@pytest.mark.parametrize("name", ["~", "~/clip.mp4", "~x"])
def test_a_name_that_begins_with_a_tilde(home, name):
    path = user_path(f"./{name}")
    assert path == user_path(path) == home.parent / "work" / name


@pytest.mark.parametrize("given", [None, 0, b"clip.mp4", ["clip.mp4"], "", "a\0b"])
def test_refuses_what_is_no_path(given):
    with pytest.raises(InputError, match=r"expected a path but got|cannot be the path of a file"):
        user_path(given)


def test_what_paths_hold(home):
    samples = REPO / "samples"
    (home / MANIFEST).write_text(json.dumps({"format": FORMAT}))
    assert path_kind("~") is PathKind.BUNDLE
    (home / MANIFEST).unlink()
    assert path_kind(samples / "nano") is PathKind.CHECKPOINT
    assert path_kind(samples / "clip.mp4") is PathKind.VIDEO
    assert path_kind("~") is PathKind.OTHER
    assert path_kind("~/gone.mp4") is PathKind.NOTHING
    (home / "MODEL.PT").write_bytes(b"")
    assert path_kind("~") is path_kind("~/MODEL.PT") is PathKind.CHECKPOINT


def test_a_folder_of_images_may_have_a_config_and_a_manifest(tmp_path):
    for name in ("config.json", "manifest.json"):
        (tmp_path / name).write_text('{"format": "of another program"}')
    assert path_kind(tmp_path) is PathKind.OTHER
    (tmp_path / "a.JPG").write_bytes(b"")
    assert path_kind(tmp_path) is PathKind.IMAGE_FOLDER
    assert path_kind(tmp_path / "a.JPG") is PathKind.IMAGE


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_an_image_without_a_suffix(tmp_path, suffix):
    image = tmp_path / "image"
    image.write_bytes(cv2.imencode(suffix, np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    assert path_kind(image) is PathKind.IMAGE


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_a_video_without_a_suffix(tmp_path, suffix):
    path = tmp_path / f"video{suffix}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    assert path_kind(path.rename(tmp_path / "video")) is PathKind.VIDEO


def test_other_files_without_a_suffix(tmp_path):
    (tmp_path / "weights").symlink_to(REPO / "samples" / "nano" / "model.safetensors")
    assert path_kind(tmp_path / "weights") is PathKind.CHECKPOINT
    (tmp_path / "notes").write_text("a video")
    assert path_kind(tmp_path / "notes") is PathKind.OTHER


def test_replacing_a_file(tmp_path):
    file = tmp_path / "deep" / "a.txt"
    write_text(file, "old")
    with contextlib.suppress(KeyboardInterrupt), replacing_file(file) as new:
        new.write_text("half")
        assert sorted(file.parent.iterdir()) == sorted([file, new])
        raise KeyboardInterrupt
    assert file.read_text() == "old"
    write_text(file, "new")
    assert file.read_text() == "new"
    assert list(file.parent.iterdir()) == [file]


def test_outputs_are_checked_without_a_trace(tmp_path):
    (tmp_path / "file").touch()
    check_output_file(tmp_path / "file")
    check_output_file(tmp_path / "deep" / "a.txt")
    check_output_directory(tmp_path / "deep")
    for check, path, message in (
        (check_output_file, tmp_path, "is a directory, expected the name of a file to write"),
        (check_output_file, tmp_path / "file" / "a", "is a file, not a directory"),
        (check_output_directory, tmp_path / "file", "is a file, not a directory"),
    ):
        with pytest.raises(InputError, match=message):
            check(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_outputs_without_permission(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # chmod does not stop root
    for path in (tmp_path / "file", tmp_path / "other"):
        with pytest.raises(InputError, match="cannot be written: Permission denied"):
            check_output_file(path)


@pytest.mark.parametrize(
    ("address", "path"),
    [("file:///a%20b/c.mp4", "/a b/c.mp4"), ("file://localhost/c.mp4", "/c.mp4"), ("FILE:///%7Ea", "/~a")],
)
def test_address_of_a_file(address: str, path: str) -> None:
    assert user_path(address) == Path(path)


def test_address_of_a_file_elsewhere() -> None:
    with pytest.raises(InputError, match="is on another computer"):
        user_path("file://server/share/a.mp4")
