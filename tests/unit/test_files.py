"""Paths that a user gives."""

from pathlib import Path

import pytest

from sam2edge.errors import InputError
from sam2edge.files import user_path


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


@pytest.mark.parametrize("name", ["~", "~/clip.mp4", "~x"])
def test_a_name_that_begins_with_a_tilde(home, name):
    path = user_path(f"./{name}")
    assert path == user_path(path) == home.parent / "work" / name


@pytest.mark.parametrize("given", [None, 0, b"clip.mp4", ["clip.mp4"], "", "a\0b"])
def test_refuses_what_is_no_path(given):
    with pytest.raises(InputError, match=r"expected a path but got|cannot be the path of a file"):
        user_path(given)
