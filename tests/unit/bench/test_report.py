"""The plan, tables, files and pictures with made-up results, and the command on the bundled model."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam2edge import Bundle, cli
from sam2edge.bench import plan, report, worker
from sam2edge.bench.cases import BenchmarkCase, Measured, Result
from sam2edge.bench.plan import Settings
from sam2edge.bench.report import Step, waterfall
from sam2edge.bench.scene import Scene
from sam2edge.bundle import GRAPHS
from sam2edge.errors import BackendError, InputError
from tests.fake_gpu import SimulatedDevice
from tests.helpers import CLIP

STAGES = {**{name: 10.0 * n for n, name in enumerate(GRAPHS, 1)}, "rest": 5.0}


def result(fps: float, kind: str = "track", objects: int = 1, **fields: Any) -> Result:
    measured = {name: fields.pop(name) for name in ("stages", "iou", "gpu", "watts", "host", "build") if name in fields}
    case = BenchmarkCase(fields.pop("name", "b fp32"), kind, "m", fields.pop("backend", "onnx"), objects, 9, **fields)
    return Result(case, Measured(1e3 / fps, 40.0, 50.0, fps, 60.0, 70.0, **measured), 0.99)


RESULTS = [
    result(10, "pytorch", name="PyTorch", backend="eager", step="PyTorch eager"),
    result(12, "pytorch", objects=4, name="PyTorch", backend="eager"),
    result(25, step="exported graphs", name="b"),
    result(40, host=1.25, gpu=512.4, watts=9.87, iou=0.95, step="precision"),
    result(80, mode="throughput", step="throughput mode"),
    result(38, "stages", stages=STAGES),
    result(20, objects=4),
    result(100, name="b int8"),
    result(50, name="b int8", mode="throughput"),
    result(50, memory_frames=1),
    result(39, memory_frames=6),
    result(8, backend="other"),
    result(4, backend="other", objects=4),
]


def test_waterfall() -> None:
    """Each step is compared with the one before; other models and backends with the last one in latency mode."""
    assert [(s.name, round(s.ms, 6), s.against, round(s.factor, 6)) for s in waterfall(RESULTS)] == [
        ("PyTorch eager", 100, "", 1),
        ("exported graphs", 40, "PyTorch eager", 2.5),
        ("precision", 25, "exported graphs", 1.6),
        ("throughput mode", 12.5, "precision", 2),
        ("b int8, onnx", 10, "precision", 2.5),
        ("b fp32, other", 125, "precision", 0.2),
    ]


def test_waterfall_without_its_base() -> None:
    """Without a step in latency mode, or without any step, there is nothing to compare with."""
    assert waterfall([RESULTS[0], RESULTS[7]]) == [Step("PyTorch eager", 100.0)]
    assert waterfall([RESULTS[7]]) == []


def test_frame_table() -> None:
    head, *table = report.frame_table(RESULTS)
    assert dict(zip(head, table[3], strict=True)) == {
        "model": "b fp32", "backend": "onnx", "mode": "latency", "objects": "1", "memory": "all", "frames/s": "40.0",
        "median ms": "25.0", "p90": "40.0", "p99": "50.0", "first": "60.0", "load": "70.0", "host": "1.25",
        "RSS MiB": "–", "GPU MiB": "512", "W": "9.9", "IoU true": "0.9500", "IoU row 1": "0.9900",
    }  # fmt: skip
    assert [line[2] for line in table] == [
        *["latency"] * 4, "throughput", "latency", "latency", "throughput", *["latency"] * 4
    ]  # fmt: skip


def test_columns_without_values_are_left_out() -> None:
    head, *lines = report.frame_table([RESULTS[0], result(40, build=75.25)])
    assert head[head.index("load") + 1] == "build s"
    assert [line[head.index("build s")] for line in lines] == ["–", "75.2"]
    assert "IoU true" not in head


def test_words_are_a_table_of_their_own() -> None:
    words = result(5, "words", name="b")
    assert report.frame_table([*RESULTS, words]) == report.frame_table(RESULTS)
    assert waterfall([*RESULTS, words]) == waterfall(RESULTS)
    assert report.words_table(RESULTS)[1:] == []
    _, line = report.words_table([*RESULTS, words])
    assert line == ["b", "onnx", "200.0", "40.0", "60.0", "70.0", "–", "–"]


def test_words_are_planned_and_may_fail(nano_words: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines may be older than the words of their bundle."""
    cases, _ = plan.plan(Settings((nano_words,), objects=(1,), memory_frames=(), modes=("latency",), frames=100))
    *_, words = cases
    assert [case.kind for case in cases] == ["track", "stages", "words"]
    assert (words.frames, words.step) == (20, "")

    def fail(case: BenchmarkCase, masks: str) -> Measured:
        raise BackendError("no detector")

    monkeypatch.setattr(plan, "run_case", fail)
    assert plan.run([words]) == ([], ["no detector"])
    monkeypatch.setattr(plan, "run_case", lambda case, masks: RESULTS[0].measured)
    assert plan.run([words]) == ([Result(words, RESULTS[0].measured)], [])


def test_stage_table() -> None:
    _, line = report.stage_table(RESULTS)
    assert line == ["b fp32", "onnx", "1", "10.00", "20.00", "30.00", "40.00", "5.00", "26.32"]


def test_files(tmp_path: Path) -> None:
    results = [*RESULTS, result(40, name="b fp16", build=75.25, engines="b.engines/fp16")]
    report.write_csv(tmp_path / "a" / "rows.csv", results)
    with open(tmp_path / "a" / "rows.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["fps"]) for row in rows] == [one.measured.fps for one in results]
    assert rows[5]["memory_attention"] == "20.0"
    assert rows[3]["memory_attention"] == rows[3]["rss"] == rows[3]["build"] == ""
    assert rows[0]["scene"] == "a drawn scene of 640×480"
    assert (rows[-1]["build"], rows[-1]["engines"]) == ("75.25", "b.engines/fp16")
    report.write_json(tmp_path / "rows.json", results, ["a GPU"])
    content = json.loads((tmp_path / "rows.json").read_text())
    assert [row["agreement"] for row in content["rows"]] == [0.99] * len(results)
    assert content["rows"][3]["gpu"] == 512.4
    assert content["rows"][-1]["build"] == 75.25
    assert content["waterfall"][1]["factor"] == 2.5
    assert content["not measured"] == ["a GPU"]


def test_pictures() -> None:
    drawn = report.pictures(RESULTS)
    assert list(drawn) == ["objects.svg", "memory.svg", "stages.svg", "waterfall.svg"]
    assert list(report.pictures(RESULTS[3:4])) == ["objects.svg"]
    names = {"objects.svg": "b int8, onnx, latency", "stages.svg": "105.0 ms", "waterfall.svg": "12.5 ms (2.00 ×)"}
    for file, text in names.items():
        assert f">{text}<" in drawn[file]
    assert "b fp32, other" not in drawn["waterfall.svg"]


def test_page(tmp_path: Path) -> None:
    file = report.write_plots(tmp_path / "plots", RESULTS, ["a GPU <here>"])
    page = file.read_text()
    assert page.count("<svg") == 4
    assert "<td>b fp32, other</td><td>125.0</td><td>0.20 ×</td><td>precision</td>" in page
    assert "a GPU &lt;here&gt;" in page
    assert {path.name for path in file.parent.iterdir()} == {"bench.html", *report.pictures(RESULTS)}


def test_plan(nano: Bundle) -> None:
    cases, missing = plan.plan(Settings((nano,), objects=(2, 3), frames=5, memory_frames=(1, 6, 9)))
    first = f"exported graphs with their rewrites: {nano.path.name} fp32, auto"
    assert [(r.kind, r.mode, r.objects, r.memory_frames, r.step) for r in cases] == [
        ("track", "latency", 2, None, first), ("track", "throughput", 2, None, "throughput mode"),
        ("stages", "latency", 2, None, ""), ("track", "latency", 3, None, ""), ("track", "throughput", 3, None, ""),
        ("stages", "latency", 3, None, ""), ("track", "latency", 2, 1, ""), ("track", "latency", 2, 6, ""),
    ]  # fmt: skip
    assert {(r.name, r.frames, r.backend) for r in cases} == {(f"{nano.path.name} fp32", 5, "auto")}
    assert {case.threads for case in cases} == {None}
    assert {case.threads for case in plan.plan(Settings((nano,), threads=1))[0]} == {1}
    assert [text.partition(" (")[0] for text in missing] == [
        "PyTorch", "FP16", "INT8", "the export's rewrites one by one"
    ]  # fmt: skip


def test_plan_without_latency_has_no_steps(nano: Bundle) -> None:
    cases, _ = plan.plan(Settings((nano,), objects=(1,), modes=("throughput",), memory_frames=()))
    assert [(r.kind, r.mode, r.step) for r in cases] == [("track", "throughput", ""), ("stages", "latency", "")]


def test_bundles_of_one_name(nano: Bundle, tmp_path: Path) -> None:
    other = dataclasses.replace(nano, path=tmp_path / nano.path.name)
    cases, _ = plan.plan(Settings((nano, other), objects=(1,), modes=("latency",), memory_frames=()))
    assert {case.name for case in cases} == {f"{nano.path} fp32", f"{other.path} fp32"}


def test_plan_to_compare(nano: Bundle, nano_int8: Bundle) -> None:
    """PyTorch comes first, then FP32, whatever the order; ONNX Runtime on the CPU is what is measured already."""
    bundles = (nano_int8, nano)
    cases, missing = plan.plan(Settings(bundles, objects=(1, 2), modes=("latency",), memory_frames=(), compare="m"))
    assert [(r.name.split()[-1], r.kind, r.backend, r.step) for r in cases if r.objects == 1] == [
        ("PyTorch", "pytorch", "eager", "PyTorch eager"), ("PyTorch", "pytorch", "compile", "PyTorch compile"),
        ("fp32", "track", "auto", f"exported graphs with their rewrites: {nano.path.name} fp32, auto"),
        ("fp32", "stages", "auto", ""), ("int8", "track", "auto", f"precision: {nano_int8.path.name} int8"),
        ("int8", "stages", "auto", ""),
    ]  # fmt: skip
    assert all(case.step == "" for case in cases if case.objects == 2)
    assert [text.partition(" (")[0] for text in missing] == [
        "onnx-cuda", "FP16", "the export's rewrites one by one"
    ]  # fmt: skip


def test_another_model_is_no_step(nano: Bundle, pooled: Bundle) -> None:
    cases, _ = plan.plan(Settings((nano, pooled), objects=(1,), modes=("latency",), memory_frames=(2,)))
    assert [(r.name, r.step != "") for r in cases if r.kind == "track" and r.memory_frames is None] == [
        (f"{nano.path.name} fp32", True), (f"{pooled.path.name} fp32", False)
    ]  # fmt: skip
    assert {r.name for r in cases if r.memory_frames} == {f"{nano.path.name} fp32"}


@pytest.mark.usefixtures("gpu")
def test_plan_of_a_device(nano: Bundle, nano_int8: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its precisions and throughput mode are steps; ONNX Runtime is another backend."""
    monkeypatch.setattr(plan, "open_backend", lambda name, **place: SimulatedDevice())
    settings = Settings((nano, nano_int8), "onnx-cuda", (1,), memory_frames=(), compare="m")
    cases, _ = plan.plan(settings)
    assert [(r.name.split()[-1], r.mode, r.step.partition(":")[0]) for r in cases if r.step][2:] == [
        ("fp32", "latency", "exported graphs with their rewrites"),
        ("int8", "latency", "precision"),
        ("int8", "throughput", "throughput mode"),
    ]
    assert [(r.name.split()[-1], r.backend, r.mode) for r in cases if r.kind == "track" and not r.step] == [
        ("fp32", "onnx-cuda", "throughput"), ("fp32", "onnx", "latency")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objects": (1, 0)}, "the number of objects must be an integer of at least 1 but got 0"),
        ({"objects": ()}, "needs a bundle, a number of objects and a mode"),
        ({"memory_frames": (-1,)}, "the number of memory frames must be an integer of at least 1 but got -1"),
        ({"frames": 0}, "the number of timed frames must be an integer of at least 1 but got 0"),
        ({"scene": Scene("", "m.npz")}, "m.npz: true masks need the clip that they belong to; give --clip"),
        ({"modes": ("quick",)}, "unknown mode 'quick'; use latency or throughput"),
    ],
)
def test_wrong_settings(nano: Bundle, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Settings((nano,), **changes)


def test_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks are compared with those of the first case with as many objects; PyTorch may fail, a bundle may not."""
    pixels = {"eager": 5, "onnx": 4, "tensorrt": 2}

    def run_case(case: BenchmarkCase, file: str) -> Measured:
        if case.backend not in pixels:
            raise BackendError(f"{case.backend} is broken")
        np.savez(file, masks=np.tile(np.arange(10) < pixels[case.backend], (2, 1, 1, 1)))
        return Measured(1, 1, 1, 1, 1, 1)

    monkeypatch.setattr(plan, "run_case", run_case)
    torch = BenchmarkCase("PyTorch", "pytorch", "m", "eager", 1, 3)
    ours = dataclasses.replace(torch, kind="track", backend="onnx")
    other = dataclasses.replace(ours, backend="tensorrt", objects=2)
    seen: list[float] = []
    cases = [torch, dataclasses.replace(torch, backend="compile"), ours, other]
    results, failed = plan.run(cases, lambda text, fraction: seen.append(fraction))
    assert [one.agreement for one in results] == pytest.approx([1, 0.8, 1])
    assert failed == ["compile is broken"]
    assert seen == [0, 0.25, 0.5, 0.75]
    with pytest.raises(BackendError, match="cuda is broken"):
        plan.run([dataclasses.replace(ours, backend="cuda")])


def test_command(
    nano: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows in this process, nearly without a warm-up; test_cases.py runs one in its own."""
    monkeypatch.setattr(worker, "WARM_UP", 2)
    monkeypatch.setattr(plan, "run_case", worker.measure)
    few = ["--objects", "2", "--frames", "3", "--memory-frames", "2"]
    files = ["--csv", str(tmp_path / "b.csv"), "--json", str(tmp_path / "b.json"), "--plots", str(tmp_path / "plots")]
    assert cli.main(["bench", str(nano.path), "--clip", str(CLIP), "--mode", "latency", *few, *files]) == 0
    out = capsys.readouterr().out
    assert "Timed: from a frame" in out
    assert len(re.findall(rf"^{nano.path.name} fp32 +onnx +latency +2 +\S+ +[\d.]+ ", out, re.MULTILINE)) == 3
    assert re.search(r"^not measured: PyTorch \(give --against SOURCE\); ", out, re.MULTILINE)
    assert len(json.loads((tmp_path / "b.json").read_text())["rows"]) == 4
    assert (tmp_path / "plots" / "memory.svg").exists()


def test_clip_that_is_not_there(nano: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", str(nano.path), "--clip", "none.mp4"]) == 2
    assert "none.mp4" in capsys.readouterr().err
    assert cli.main(["bench", str(nano.path), "--truth", "masks.npz"]) == 2
    assert "--truth does nothing without --clip" in capsys.readouterr().err
