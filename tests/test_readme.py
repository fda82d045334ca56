"""The README's examples in Python, run as they stand."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sam2edge import Bundle
from tests.conftest import REPO

LIVE, WHOLE_VIDEO, IMAGES = re.findall(
    r"^```python\n(.*?)^```", (REPO / "README.md").read_text(), re.MULTILINE | re.DOTALL
)


@pytest.fixture
def printed_by(
    nano: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], list[str]]:
    """The lines that an example prints, in a folder that looks like the repository to its relative paths."""
    (tmp_path / "samples").symlink_to(REPO / "samples")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "nano").symlink_to(nano.path)
    monkeypatch.chdir(tmp_path)

    def run(code: str) -> list[str]:
        assert len(code.splitlines()) <= 15
        exec(compile(code, "README.md", "exec"), {})
        return capsys.readouterr().out.splitlines()

    return run


def test_video_example(printed_by: Callable[[str], list[str]]) -> None:
    lines = [line.split() for line in printed_by(LIVE)]
    assert {int(object_id) for _, object_id, *_ in lines} == {1, 2}
    assert int(lines[-1][0]) > 100
    assert all(0 <= float(iou) <= 1 for *_, iou in lines)


def test_whole_video_example(printed_by: Callable[[str], list[str]]) -> None:
    lines = printed_by(WHOLE_VIDEO)
    frames = [int(line.split()[0]) for line in lines]
    assert frames == [*range(60, 120), *range(60, -1, -1)]
    assert all("[1, 3]" in line for line in lines)


def test_image_example(printed_by: Callable[[str], list[str]]) -> None:
    first, *others = printed_by(IMAGES)
    assert first.startswith("(1, 240, 320) ")
    assert all(0.5 < float(number) <= 1 for number in re.findall(r"\[(.*?)\]", first))
    assert [line.split()[0] for line in others] == [str(index) for index in range(20)]
