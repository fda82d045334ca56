"""The README's commands and example, run as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from sam2edge import Bundle, cli
from tests.conftest import REPO

README = (REPO / "README.md").read_text()


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that looks like the repository to the README's relative paths."""
    (tmp_path / "samples").symlink_to(REPO / "samples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_commands(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [line for line in blocks("sh")[0].splitlines() if line.startswith("sam2edge ")]
    assert [line.split()[1] for line in commands] == ["export", "inspect", "track", "doctor"]
    for command in commands:
        assert cli.main(shlex.split(command)[1:]) == 0, command
    assert (workplace / "out" / "tracked.mp4").stat().st_size > 10_000
    assert len((workplace / "out" / "tracked.jsonl").read_text().splitlines()) == 120
    assert "120 frames" in capsys.readouterr().out


def printed_by(code: str, workplace: Path, nano: Bundle, capsys: pytest.CaptureFixture[str]) -> list[str]:
    (workplace / "out").mkdir()
    (workplace / "out" / "nano").symlink_to(nano.path)
    assert len(code.splitlines()) <= 15
    exec(compile(code, "README.md", "exec"), {})
    return capsys.readouterr().out.splitlines()


def test_video_example(workplace: Path, nano: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split() for line in printed_by(blocks("python")[0], workplace, nano, capsys)]
    assert {int(object_id) for _, object_id, *_ in lines} == {1, 2}
    assert int(lines[-1][0]) > 100
    assert all(0 <= float(iou) <= 1 for *_, iou in lines)


def test_whole_video_example(workplace: Path, nano: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed_by(blocks("python")[1], workplace, nano, capsys)
    frames = [int(line.split()[0]) for line in lines]
    assert frames == [*range(60, 120), *range(60, -1, -1)]
    assert all("[1, 3]" in line for line in lines)


def test_image_example(workplace: Path, nano: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    first, *others = printed_by(blocks("python")[2], workplace, nano, capsys)
    assert first.startswith("(1, 240, 320) ")
    assert all(0.5 < float(number) <= 1 for number in re.findall(r"\[(.*?)\]", first))
    assert [line.split()[0] for line in others] == [str(index) for index in range(20)]
