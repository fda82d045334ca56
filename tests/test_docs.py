"""docs/graphs.md says what the contract says, and the examples of the other pages run."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sam2edge import Bundle
from sam2edge.bundle import Model, TensorSpec, contract
from tests.conftest import REPO

MODEL = Model(1024, 256, 64, 6, 16, 0, 1, True, ((0.0,) * 4,) * 4, 0.0, (0.0,) * 256)
SIDES = {"S": 1024, "h": 64, "2h": 128, "4h": 256, "C": 256, "C/4": 64, "C/8": 32, "M": 64}


@pytest.mark.parametrize(("pool", "tokens"), [(1, 4096), (2, 1024)])
def test_graphs_page(pool: int, tokens: int) -> None:
    sides = {**SIDES, "L": tokens}
    page = (REPO / "docs" / "graphs.md").read_text()
    documented = {}
    for graph, section in re.findall(r"^## (\w+)\n(.*?)(?=^## )", page, re.MULTILINE | re.DOTALL):
        rows = re.findall(r"^\| (→|←) `(\w+)` \| (\w+) \| ([^|]+) \|", section, re.MULTILINE)
        documented[graph] = tuple(
            tuple(TensorSpec(name, dtype, axes(shape, sides)) for arrow, name, dtype, shape in rows if arrow == side)
            for side in "→←"
        )
    assert documented == contract(dataclasses.replace(MODEL, memory_pool=pool))


def axes(shape: str, sides: dict[str, int]) -> tuple[int | str, ...]:
    names = (name.strip() for name in shape.split(","))
    return tuple(int(name) if name.isdigit() else sides.get(name, name) for name in names)


@pytest.fixture
def run_example(
    nano: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], str]:
    """What a page's only example prints, run in a folder that looks like the repository."""
    (tmp_path / "samples").symlink_to(REPO / "samples")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "nano").symlink_to(nano.path)
    monkeypatch.chdir(tmp_path)

    def run(page: str) -> str:
        (code,) = re.findall(r"^```python\n(.*?)^```", (REPO / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
        exec(compile(code, page, "exec"), {})
        return capsys.readouterr().out

    return run


def test_knobs_page(run_example: Callable[[str], str]) -> None:
    assert run_example("knobs.md") == "object 3 is lost on frame 49\n"


def test_sources_page(run_example: Callable[[str], str], tmp_path: Path) -> None:
    assert run_example("sources.md").startswith("Statistics(delivered=120, dropped=0, broken=0,")
    lines = [json.loads(line) for line in (tmp_path / "out" / "tracks.jsonl").read_text().splitlines()]
    assert [line["frame_index"] for line in lines] == list(range(120))
    assert all(line["objects"][0]["visible"] for line in lines[:20])
