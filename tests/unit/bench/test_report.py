"""The plan, tables, files and pictures, with results that were made up; and the command on the bundled model."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam2edge import Bundle, cli
from sam2edge.bench import plan, report
from sam2edge.bench.plan import Settings
from sam2edge.bench.plots import bars, lines
from sam2edge.bench.rows import Measured, Result, Row
from sam2edge.bench.scene import Scene
from sam2edge.bench.waterfall import Step, waterfall
from sam2edge.bundle import GRAPHS
from sam2edge.errors import BackendError, InputError
from tests.conftest import REPO
from tests.simulated_device import SimulatedDevice

STAGES = {**{name: 10.0 * n for n, name in enumerate(GRAPHS, 1)}, "rest": 5.0}


def result(fps: float, kind: str = "track", objects: int = 1, **fields: Any) -> Result:
    measured = {name: fields.pop(name) for name in ("stages", "iou", "gpu", "watts", "host") if name in fields}
    row = Row(fields.pop("name", "b fp32"), kind, "m", fields.pop("backend", "onnx"), objects, 9, **fields)
    return Result(row, Measured(1e3 / fps, 40.0, 50.0, fps, 60.0, 70.0, **measured), 0.99)


RESULTS = [
    result(10, "pytorch", name="PyTorch", backend="eager"),
    result(40, host=1.25, gpu=512.4, watts=9.87, iou=0.95),
    result(80, mode="throughput"),
    result(38, "stages", stages=STAGES),
    result(20, objects=4),
    result(16, "pytorch", objects=4, name="PyTorch", backend="eager"),
    result(20, without="device arrays"),
    result(25, without="recordings"),
    result(50, memory_frames=1),
    result(39, memory_frames=6),
    result(100, name="b int8"),
]


def test_waterfall() -> None:
    """PyTorch, then what is added step by step; what is another bundle's against the first's latency mode."""
    found = [(s.name, round(s.ms, 6), s.against, round(s.factor, 6)) for s in waterfall(RESULTS)]
    assert found == [
        ("PyTorch eager", 100, "", 1),
        ("b fp32, onnx", 50, "PyTorch eager", 2),
        ("arrays stay on the device", 40, "b fp32, onnx", 1.25),
        ("frames are recorded", 25, "arrays stay on the device", 1.6),
        ("throughput mode", 12.5, "frames are recorded", 2),
        ("b int8, onnx", 10, "frames are recorded", 2.5),
    ]


def test_waterfall_of_a_plain_backend() -> None:
    assert waterfall(RESULTS[1:3]) == [
        Step("b fp32, onnx", 25.0),
        Step("throughput mode", 12.5, "b fp32, onnx", 2.0),
    ]
    assert waterfall(RESULTS[:1]) == []


def test_frame_table() -> None:
    head, _, first, *others = report.frame_table(RESULTS)
    assert dict(zip(head, first, strict=True)) == {
        "model": "b fp32", "backend": "onnx", "mode": "latency", "objects": "1", "memory": "all", "frames/s": "40.0",
        "median ms": "25.0", "p90": "40.0", "p99": "50.0", "first": "60.0", "load": "70.0", "host": "1.25",
        "RSS MiB": "–", "GPU MiB": "512", "W": "9.9", "IoU true": "0.9500", "IoU row 1": "0.9900",
    }  # fmt: skip
    assert len(others) == 8
    assert [line[2] for line in others] == [
        "throughput", "latency", "latency", "no device arrays", "no recordings", *["latency"] * 3
    ]  # fmt: skip
    assert "IoU true" not in report.frame_table(RESULTS[:1])[0]


def test_stage_table() -> None:
    _, line = report.stage_table(RESULTS)
    assert line == ["b fp32", "onnx", "1", "10.00", "20.00", "30.00", "40.00", "5.00", "26.32"]


def test_files(tmp_path: Path) -> None:
    report.write_csv(tmp_path / "a" / "rows.csv", RESULTS)
    with open(tmp_path / "a" / "rows.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["fps"]) for row in rows] == [one.measured.fps for one in RESULTS]
    assert rows[3]["memory_attention"] == "20.0"
    assert rows[1]["memory_attention"] == rows[1]["rss"] == ""
    assert rows[0]["scene"] == "a drawn scene of 640×480"
    report.write_json(tmp_path / "rows.json", RESULTS, ["a GPU"])
    content = json.loads((tmp_path / "rows.json").read_text())
    assert [row["agreement"] for row in content["rows"]] == [0.99] * len(RESULTS)
    assert content["rows"][1]["gpu"] == 512.4
    assert content["waterfall"][1]["factor"] == 2
    assert content["not measured"] == ["a GPU"]


def test_pictures() -> None:
    drawn = report.pictures(RESULTS)
    assert list(drawn) == ["objects.svg", "memory.svg", "stages.svg", "waterfall.svg"]
    assert list(report.pictures(RESULTS[1:2])) == ["objects.svg"]
    names = {"objects.svg": "b int8, onnx, latency", "stages.svg": "105.0 ms", "waterfall.svg": "12.5 ms (2.00 ×)"}
    for file, text in names.items():
        assert text in texts(drawn[file])


def test_page(tmp_path: Path) -> None:
    file = report.write_plots(tmp_path / "plots", RESULTS, ["a GPU <here>"])
    page = file.read_text()
    assert page.count("<svg") == 4
    assert "a GPU &lt;here&gt;" in page
    assert {path.name for path in file.parent.iterdir()} == {"bench.html", *report.pictures(RESULTS)}


def shapes(svg: str, tag: str) -> list[dict[str, str]]:
    return [
        dict(element.attrib) for element in ElementTree.fromstring(svg).iter(f"{{http://www.w3.org/2000/svg}}{tag}")
    ]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_bars_are_as_long_as_their_values() -> None:
    svg = bars("t <1>", ["a", "b"], [("one", [1.0, 2.0], "3"), ("two", [6.0, 0.0], "6")])
    rects = [rect for rect in shapes(svg, "rect") if rect["height"] == "19"]
    widths = [float(rect["width"]) for rect in rects]
    assert np.array(widths) / widths[2] == pytest.approx(np.array([1, 2, 6, 0]) / 6, abs=1e-3)
    assert float(rects[1]["x"]) == pytest.approx(float(rects[0]["x"]) + widths[0], abs=0.1)
    assert texts(svg) == ["t <1>", "a", "b", "one", "3", "two", "6"]


def test_lines_are_as_high_as_their_values() -> None:
    svg = lines("t", "x", {"a": [(4, 30.0), (1, 60.0)], "b": [(1, 15.0)]})
    (x1, y1), (x4, y4), (_, low) = ((float(c["cx"]), float(c["cy"])) for c in shapes(svg, "circle"))
    assert x1 < x4
    bottom = 330
    assert [(bottom - y) / (bottom - y1) for y in (y4, low)] == pytest.approx([0.5, 0.25], abs=1e-3)
    assert texts(svg)[1:8] == ["0", "10", "20", "30", "40", "50", "60"]


@pytest.mark.parametrize(
    ("largest", "marks"), [(0.03, ["0", "0.005"]), (7, ["0", "1"]), (66, ["0", "10"]), (90000, ["0", "20000"])]
)
def test_axis_has_round_numbers(largest: float, marks: list[str]) -> None:
    assert texts(lines("t", "x", {"a": [(1, largest)]}))[1:3] == marks


def test_plan(nano: Bundle) -> None:
    rows, missing = plan.plan(Settings((nano,), objects=(2, 3), frames=5, memory_frames=(1, 6, 9)))
    assert [(r.kind, r.mode, r.objects, r.memory_frames) for r in rows] == [
        ("track", "latency", 2, None), ("track", "throughput", 2, None), ("stages", "latency", 2, None),
        ("track", "latency", 3, None), ("track", "throughput", 3, None), ("stages", "latency", 3, None),
        ("track", "latency", 2, 1), ("track", "latency", 2, 6),
    ]  # fmt: skip
    assert {(r.name, r.frames, r.backend) for r in rows} == {(f"{nano.path.name} fp32", 5, "auto")}
    assert [text.partition(" (")[0] for text in missing] == [
        "PyTorch", "device arrays", "recordings", "FP16", "INT8", "the export's rewrites one by one"
    ]  # fmt: skip


def test_bundles_of_one_name(nano: Bundle, tmp_path: Path) -> None:
    other = dataclasses.replace(nano, path=tmp_path / nano.path.name)
    rows, _ = plan.plan(Settings((nano, other), objects=(1,), modes=("latency",), memory_frames=()))
    assert {row.name for row in rows} == {f"{nano.path} fp32", f"{other.path} fp32"}


def test_plan_to_compare(nano: Bundle, nano_int8: Bundle) -> None:
    """PyTorch comes first; ONNX Runtime on the CPU is what is measured already."""
    bundles = (nano, nano_int8)
    rows, missing = plan.plan(Settings(bundles, objects=(1,), modes=("latency",), memory_frames=(), compare="m"))
    assert [(r.name.split()[-1], r.kind, r.backend) for r in rows] == [
        ("PyTorch", "pytorch", "eager"), ("PyTorch", "pytorch", "compile"), ("fp32", "track", "auto"),
        ("fp32", "stages", "auto"), ("int8", "track", "auto"), ("int8", "stages", "auto"),
    ]  # fmt: skip
    assert [text.partition(" (")[0] for text in missing] == [
        "device arrays", "recordings", "onnx-cuda", "FP16", "the export's rewrites one by one"
    ]  # fmt: skip


def test_plan_of_a_device(nano: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that it has can be left out, and ONNX Runtime is something else."""
    real = plan.open_backend
    monkeypatch.setattr(plan, "open_backend", lambda name: SimulatedDevice() if name == "gpu" else real(name))
    settings = Settings((nano,), "gpu", (1,), modes=("latency",), memory_frames=(), compare="m")
    rows, missing = plan.plan(settings)
    assert [(r.backend, r.without) for r in rows if r.kind == "track"] == [
        ("gpu", ""), ("gpu", "device arrays"), ("gpu", "recordings"), ("onnx", "")
    ]  # fmt: skip
    assert not {"device arrays", "recordings"} & {text.partition(" (")[0] for text in missing}


def test_plan_without_pytorch(nano: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None)
    rows, missing = plan.plan(Settings((nano,), compare="m"))
    assert all(row.kind != "pytorch" for row in rows)
    assert missing[0] == 'PyTorch (torch is not installed: pip install "sam2edge[export]")'


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objects": (1, 0)}, "the number of objects must be an integer of at least 1 but got 0"),
        ({"objects": ()}, "needs a bundle, a number of objects and a mode"),
        ({"memory_frames": (-1,)}, "the number of memory frames must be an integer of at least 1 but got -1"),
        ({"frames": 0}, "the number of timed frames must be an integer of at least 1 but got 0"),
        ({"scene": Scene("", "m.npz")}, "m.npz: true masks need the clip that they are of; give --clip"),
        ({"modes": ("quick",)}, "unknown mode 'quick'; use latency or throughput"),
    ],
)
def test_wrong_settings(nano: Bundle, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        Settings((nano,), **changes)


def masks_file(file: str, share: float) -> None:
    masks = np.zeros((2, 1, 10, 10), bool)
    masks[..., : round(10 * share)] = True
    np.savez(file, masks=masks)


def test_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row's masks against the first of as many objects; PyTorch may fail, a bundle may not."""
    shares = {"eager": 0.5, "onnx": 0.4, "tensorrt": 0.2}

    def run_row(row: Row, masks: str) -> Measured:
        if row.backend not in shares:
            raise BackendError(f"{row.backend} is broken")
        masks_file(masks, shares[row.backend])
        return Measured(1, 1, 1, 1, 1, 1)

    monkeypatch.setattr(plan, "run_row", run_row)
    row = Row("PyTorch", "pytorch", "m", "eager", 1, 3)
    ours = dataclasses.replace(row, kind="track", backend="onnx")
    other = dataclasses.replace(ours, backend="tensorrt", objects=2)
    seen: list[float] = []
    rows = [row, dataclasses.replace(row, backend="compile"), ours, other]
    results, failed = plan.run(rows, lambda text, fraction: seen.append(fraction))
    assert [one.agreement for one in results] == pytest.approx([1, 0.8, 1])
    assert failed == ["compile is broken"]
    assert seen == [0, 0.25, 0.5, 0.75]
    with pytest.raises(BackendError, match="cuda is broken"):
        plan.run([dataclasses.replace(ours, backend="cuda")])


def test_command(nano: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, few = REPO / "samples" / "clip.mp4", ["--objects", "2", "--frames", "3", "--memory-frames", "2"]
    files = ["--csv", str(tmp_path / "b.csv"), "--json", str(tmp_path / "b.json"), "--plots", str(tmp_path / "plots")]
    assert cli.main(["bench", str(nano.path), "--clip", str(clip), "--mode", "latency", *few, *files]) == 0
    out = capsys.readouterr().out
    assert "Timed: from a frame" in out
    assert len(re.findall(r"^nano fp32 +auto +latency +2 +\S+ +[\d.]+ ", out, re.MULTILINE)) == 3
    assert re.search(r"^not measured: PyTorch \(give --compare SOURCE\); ", out, re.MULTILINE)
    assert len(json.loads((tmp_path / "b.json").read_text())["rows"]) == 4
    assert (tmp_path / "plots" / "memory.svg").exists()


def test_backend_that_is_not_there(nano: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", str(nano.path), "--backend", "magic"]) == 2
    assert "unknown backend 'magic'" in capsys.readouterr().err


def test_clip_that_is_not_there(nano: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", str(nano.path), "--clip", "none.mp4"]) == 2
    assert "none.mp4" in capsys.readouterr().err
