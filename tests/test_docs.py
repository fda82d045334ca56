"""Examples in Python run, the page of graphs says what the contract says, quoted messages exist, the site builds."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sam2edge
from sam2edge import Bundle
from sam2edge.bundle import Model, TensorSpec, contract
from sam2edge.bundle.words import WordsModel, words_contract
from tests.conftest import REPO
from tests.documents import PAGES
from tests.helpers import write_samples

MODEL = Model(1024, 256, 64, 6, 16, 0, 1, True, ((0.0,) * 4,) * 4, 0.0, (0.0,) * 256)
WORDS = WordsModel(1024, 16, 512, 16, 49408, 49406, 49407, 0, letterbox=True, objectness=True)
RunExamples = Callable[..., list[str]]
SIDES = {"S": 1024, "D": 512, "h": 64, "2h": 128, "4h": 256, "C": 256, "C/4": 64, "C/8": 32, "M": 64}


@pytest.mark.parametrize(("pool", "tokens"), [(1, 4096), (2, 1024)])
def test_graphs_page(pool: int, tokens: int) -> None:
    sides = {**SIDES, "L": tokens}
    page = (REPO / "docs" / "reference" / "graphs.md").read_text()
    documented = {}
    for graph, section in re.findall(r"^## (\w+)\n(.*?)(?=^## )", page, re.MULTILINE | re.DOTALL):
        if graph == "detector":
            sides["P"] = WORDS.boxes  # not the points of the mask decoder
        rows = re.findall(r"^\| (→|←) `(\w+)` \| (\w+) \| ([^|]+) \|", section, re.MULTILINE)
        documented[graph] = tuple(
            tuple(TensorSpec(name, dtype, axes(shape, sides)) for arrow, name, dtype, shape in rows if arrow == side)
            for side in "→←"
        )
    assert documented == contract(dataclasses.replace(MODEL, memory_pool=pool)) | words_contract(WORDS)


def axes(shape: str, sides: dict[str, int]) -> tuple[int | str, ...]:
    names = (name.strip() for name in shape.split(","))
    return tuple(int(name) if name.isdigit() else sides.get(name, name) for name in names)


@pytest.fixture
def run_examples(
    nano: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunExamples:
    """Run a page's examples in a folder that looks like the repository, with so many of the clip's frames.

    Return what each prints. The frames are as many as the page speaks of, if it does.
    """
    monkeypatch.chdir(tmp_path)

    def run(page: str, frames: int, bundle: Bundle = nano) -> list[str]:
        write_samples(tmp_path / "samples", frames)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "nano").symlink_to(bundle.path)
        printed = []
        for code in re.findall(r"^```python\n(.*?)^```", (REPO / page).read_text(), re.MULTILINE | re.DOTALL):
            exec(compile(code, page, "exec"), {})
            printed.append(capsys.readouterr().out)
        return printed

    return run


def test_readme_example(run_examples: RunExamples) -> None:
    (printed,) = run_examples("README.md", 8)
    rows = [re.fullmatch(r"(\d+) (\d+) \[(.+)\]", line) for line in printed.splitlines()]
    assert [int(row[1]) for row in rows if row] == list(range(8))
    assert all(int(row[2]) > 1000 and 0.5 < float(row[3]) <= 1 for row in rows if row)


def test_video_examples(run_examples: RunExamples) -> None:
    live, whole = (printed.splitlines() for printed in run_examples("docs/how-to/video.md", 96))
    rows = [line.split() for line in live]
    assert {int(object_id) for _, object_id, *_ in rows} == {1, 2}
    assert int(rows[-1][0]) > 90
    assert all(0 <= float(iou) <= 1 for *_, iou in rows)
    assert [int(line.split()[0]) for line in whole] == [*range(60, 96), *range(60, -1, -1)]
    assert all("[1, 3]" in line for line in whole)


def test_image_example(run_examples: RunExamples) -> None:
    first, *others = run_examples("docs/how-to/images.md", 21)[0].splitlines()
    assert first.startswith("(1, 240, 320) ")
    assert all(0.5 < float(number) <= 1 for number in re.findall(r"\[(.*?)\]", first))
    assert [line.split()[0] for line in others] == [str(index) for index in range(20)]


def test_words_example(run_examples: RunExamples, shapes: Bundle, tmp_path: Path) -> None:
    (printed,) = run_examples("docs/how-to/words.md", 4, shapes)
    assert set(ast.literal_eval(printed.splitlines()[0])) == {"red ball", "blue block"}
    assert printed.splitlines()[-1].startswith("3 (1, 2) ")
    assert (tmp_path / "out" / "words.npz").exists()


def test_confidence_example(run_examples: RunExamples) -> None:
    (printed,) = run_examples("docs/how-to/confidence.md", 61)
    rows = [line.split() for line in printed.splitlines()]
    assert [row[:2] for row in rows[:2]] == [["0", "visible"], ["20", "visible"]]
    assert rows[-1][:2] in (["60", "lost"], ["60", "occluded"])


def test_knobs_example(run_examples: RunExamples) -> None:
    assert run_examples("docs/how-to/knobs.md", 75) == ["object 3 is lost on frame 49\n"]


def test_sources_example(run_examples: RunExamples, tmp_path: Path) -> None:
    (printed,) = run_examples("docs/how-to/sources.md", 8)
    assert printed.startswith("Statistics(delivered=8, dropped=0, broken=0,")
    lines = [json.loads(line) for line in (tmp_path / "out" / "tracks.jsonl").read_text().splitlines()]
    assert [line["frame_index"] for line in lines] == list(range(8))
    assert all(line["objects"][0]["visible"] for line in lines)


def literals() -> set[str]:
    """Every text in the code, with … in place of what is filled in."""
    texts = set()
    for folder in ("src/sam2edge", "export", "runtime", "engines", "calibration"):
        for file in (REPO / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.add(node.value)
                if isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                    texts.add("".join(map(str, parts)))
    return texts


def test_quoted_messages_are_those_of_the_code() -> None:
    quoted = re.findall(r"^> `(.*)`$", (REPO / "docs" / "how-to" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(quoted) > 20
    texts = literals()
    pattern = {quote: ".*".join(map(re.escape, quote.strip("…").split("…"))) for quote in quoted}
    assert [quote for quote in quoted if not any(re.search(pattern[quote], text) for text in texts)] == []


def test_named_files_exist() -> None:
    """A page names a file of this repository by its path, or by the end of it."""
    folders = ("src", "export", "runtime", "engines", "calibration", "samples", "tools", "deploy", "tests", ".github")
    files = [str(file) for folder in folders for file in (REPO / folder).rglob("*")]
    upstreams = {"sam2_video_predictor.py", "sam2_base.py", "automatic_mask_generator.py", "metrics.py"}
    for page in PAGES:
        for name in set(re.findall(r"`([\w./-]+\.(?:py|sh|yml|service))`", page.read_text())) - upstreams:
            assert any(file.endswith(f"/{name}") for file in files), (page, name)


def test_pictures() -> None:
    """They are small enough for a clone and a phone, and each is on a page."""
    pages = "".join(page.read_text() for page in PAGES)
    for picture in (REPO / "docs" / "images").iterdir():
        assert picture.stat().st_size < 1_500_000
        assert f"images/{picture.name}" in pages


def test_site(tmp_path: Path) -> None:
    """It builds without a warning, a class is on the API page with its arguments, and no page loads from elsewhere."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = {file: file.read_text() for file in tmp_path.rglob("*.html")}
    assert len(pages) >= len(list((REPO / "docs").rglob("*.md")))
    api = pages[tmp_path / "reference" / "api" / "index.html"]
    for name in sam2edge.__all__:
        assert re.search(rf'id="sam2edge\.[\w.]*{name}"', api), name
    assert "max_conditioning_frames" in re.sub(r"<[^>]+>", "", api)
    loaded = [re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]*)"', page) for page in pages.values()]
    assert {address for one in loaded for address in one} == set()
