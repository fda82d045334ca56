"""The results as tables of text, CSV, JSON, pictures and a page."""

from __future__ import annotations

import dataclasses
import html
import json
import os
import platform
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sam2edge.bench.cases import WARM_UP, BenchmarkCase, Result
from sam2edge.calibration.measure.closed_loop import STAGES
from sam2edge.calibration.measure.page import bars, csv_text, html_table, lines, page, write
from sam2edge.errors import BackendError
from sam2edge.runtime.backends.cuda import gpus

NONE = "–"
TIMED = (
    "Timed: from a frame (RGB uint8 in host memory) to bool masks of its size on the host, in ms. Each row is a "
    "process of its own. Not timed: reading the clip, loading, and the "
    f"first {WARM_UP} frames, in which the memory bank fills; first includes the prompts, "
    "and on TensorRT for RTX the compilation of kernels that no earlier process kept. Throughput mode encodes the "
    "next frame meanwhile, so each frame arrives later. Build: of the engines, once. Host: the part of a frame that is "
    "not spent waiting for the backend. GPU: memory of all processes at the end beyond that at the start. IoU: over "
    f"the first {WARM_UP} frames, with the true masks and with the first row with as many objects."
)
WORDS_TIMED = "Word detector, four words: from a frame to boxes on the host, in ms; words were encoded before."
STAGES_TIMED = "Stages: on a GPU with a wait before and after every graph, so a frame takes longer; medians in ms."


def machine(results: Sequence[Result]) -> str:
    """Describe this machine, and the GPU on which something was measured."""
    try:
        gpu = gpus.find_gpu(max((result.case.gpu or 0 for result in results), default=0)).name
    except BackendError:
        gpu = "no GPU"
    cores = f"{os.cpu_count()} cores"
    return f"{platform.system()} {platform.machine()}, {cores}, {gpu}, Python {platform.python_version()}"


def _number(value: float | None, digits: int = 0) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


_COLUMNS: tuple[tuple[str, Callable[[Result], str]], ...] = (
    ("model", lambda result: result.case.name),
    ("backend", lambda result: result.case.backend),
    ("mode", lambda result: result.case.mode),
    ("objects", lambda result: str(result.case.objects)),
    ("memory", lambda result: str(result.case.memory_frames or "all")),
    ("frames/s", lambda result: _number(result.measured.fps, 1)),
    ("median ms", lambda result: _number(result.measured.median, 1)),
    ("p90", lambda result: _number(result.measured.p90, 1)),
    ("p99", lambda result: _number(result.measured.p99, 1)),
    ("first", lambda result: _number(result.measured.first, 1)),
    ("load", lambda result: _number(result.measured.load, 1)),
    ("build s", lambda result: _number(result.measured.build, 1)),
    ("host", lambda result: _number(result.measured.host, 2)),
    ("RSS MiB", lambda result: _number(result.measured.rss)),
    ("GPU MiB", lambda result: _number(result.measured.gpu)),
    ("W", lambda result: _number(result.measured.watts, 1)),
    ("IoU true", lambda result: _number(result.measured.iou, 4)),
    ("IoU row 1", lambda result: _number(result.agreement, 4)),
)
_OPTIONAL = ("build s", "IoU true")
"""Columns that are left out where no row has a value."""


def frame_table(results: Sequence[Result]) -> list[list[str]]:
    """Return the times of whole frames, a line for each case after the head."""
    whole = [result for result in results if result.case.kind in ("track", "pytorch")]
    columns = [[name, *map(cell, whole)] for name, cell in _COLUMNS]
    kept = [column for column in columns if column[0] not in _OPTIONAL or set(column[1:]) != {NONE}]
    return [list(line) for line in zip(*kept, strict=True)]


def stage_table(results: Sequence[Result]) -> list[list[str]]:
    """Return the time of each graph, a line for each case after the head."""
    table = [["model", "backend", "objects", *STAGES, "frame"]]
    for result in results:
        if stages := result.measured.stages:
            times = [f"{ms:.2f}" for ms in (*(stages[name] for name in STAGES), result.measured.median)]
            table.append([result.case.name, result.case.backend, str(result.case.objects), *times])
    return table


def words_table(results: Sequence[Result]) -> list[list[str]]:
    """Return the times of word detectors, a line for each case after the head; the head alone without any."""
    table = [["model", "backend", "median ms", "p90", "first", "load", "RSS MiB", "GPU MiB"]]
    for result in results:
        if result.case.kind == "words":
            ms = result.measured
            times = [f"{value:.1f}" for value in (ms.median, ms.p90, ms.first, ms.load)]
            table.append([result.case.name, result.case.backend, *times, _number(ms.rss), _number(ms.gpu)])
    return table


@dataclass(frozen=True)
class Step:
    """A step of the waterfall: its milliseconds a frame, and how much faster it is than the step `against`."""

    name: str
    ms: float
    against: str = ""
    factor: float = 1.0

    @property
    def speedup(self) -> str:
        """The factor as text; "" for the first step."""
        return f"{self.factor:.2f} ×" if self.against else ""

    @staticmethod
    def of(name: str, result: Result, before: Step | None) -> Step:
        ms = 1e3 / result.measured.fps
        return Step(name, ms, before.name, before.ms / ms) if before else Step(name, ms)


def waterfall(results: Sequence[Result]) -> list[Step]:
    """Return what each step brought, all with the same number of objects.

    First come the steps of the plan, each against the one before; then other models and backends, against the last step
    in latency mode.
    """
    planned = [result for result in results if result.case.step]
    steps: list[Step] = []
    base: Step | None = None
    for result in planned:
        steps.append(Step.of(result.case.step, result, steps[-1] if steps else None))
        if (result.case.kind, result.case.mode) == ("track", "latency"):
            base = steps[-1]
    models = {(result.case.name, result.case.backend) for result in planned}
    for result in results if base else ():
        case = result.case
        plain = (case.kind, case.mode, case.memory_frames) == ("track", "latency", None)
        if plain and case.objects == planned[0].case.objects and (case.name, case.backend) not in models:
            steps.append(Step.of(f"{case.name}, {case.backend}", result, base))
    return steps


def waterfall_table(results: Sequence[Result]) -> list[list[str]]:
    """Return the waterfall as text, a line for each step after the head."""
    head = ["step", "ms a frame", "factor", "against"]
    return [head, *([step.name, f"{step.ms:.1f}", step.speedup, step.against] for step in waterfall(results))]


def pictures(results: Sequence[Result]) -> dict[str, str]:
    """Return SVGs by file name, only those for which there are cases."""
    drawn = {}
    whole = [result for result in results if result.case.kind in ("track", "pytorch")]
    objects: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for result in whole:
        case = result.case
        if case.memory_frames is None:
            name = _label(case) + (f", {case.mode}" if case.kind == "track" else "")
            objects[name].append((case.objects, result.measured.fps))
    drawn["objects.svg"] = lines("Frames per second by number of objects", "objects", objects)
    memory = [(result.case.memory_frames, result) for result in whole if result.case.memory_frames is not None]
    if memory:
        case = memory[0][1].case
        points = {_label(case): [(count, result.measured.fps) for count, result in memory]}
        title = f"Frames per second by memory frames, objects: {case.objects}"
        drawn["memory.svg"] = lines(title, "recent frames that are attended to", points)
    if stages := [result for result in results if result.measured.stages]:
        bar = [
            (
                f"{_label(result.case)}, {result.case.objects} object{'s' * (result.case.objects > 1)}",
                [result.measured.stages[name] for name in STAGES],
                f"{sum(result.measured.stages.values()):.1f} ms",
            )
            for result in stages
        ]
        drawn["stages.svg"] = bars("Where a frame's time goes, ms", STAGES, bar)
    planned = sum(result.case.step != "" for result in results)
    if len(steps := waterfall(results)[:planned]) > 1:  # beside ONNX Runtime on the CPU the others would be too short
        notes = [f"{step.ms:.1f} ms ({step.speedup})" if step.against else f"{step.ms:.1f} ms" for step in steps]
        bar = [(step.name, [step.ms], note) for step, note in zip(steps, notes, strict=True)]
        title = f"What each step brought, ms a frame, objects: {whole[0].case.objects}"
        drawn["waterfall.svg"] = bars(title, [""], bar)
    return drawn


def _label(case: BenchmarkCase) -> str:
    return f"{case.name}, {case.backend}"


def write_csv(file: Path, results: Sequence[Result]) -> None:
    """Write a line for each case with all its settings and what was measured; MediaError if that fails."""
    records = [_record(result) for result in results]
    names = list(dict.fromkeys(name for record in records for name in record))
    write(file, csv_text([names, *([record.get(name, "") for name in names] for record in records)]))


def write_json(file: Path, results: Sequence[Result], missing: Sequence[str]) -> None:
    """Write the same with the machine, what is timed, the waterfall, and what was not measured; MediaError as well."""
    content = {
        "machine": machine(results),
        "timed": TIMED,
        "rows": [_record(result) for result in results],
        "waterfall": [dataclasses.asdict(step) for step in waterfall(results)],
        "not measured": list(missing),
    }
    write(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_plots(directory: Path, results: Sequence[Result], missing: Sequence[str]) -> Path:
    """Write the pictures, and bench.html with them and the tables, and return its path; MediaError if that fails."""
    drawn = pictures(results)
    for name, svg in drawn.items():
        write(directory / name, svg)
    tables = [
        f'<div style="overflow-x: auto; font-size: 12px; white-space: nowrap">{html_table(table)}</div>'
        for table in (frame_table(results), stage_table(results), words_table(results), waterfall_table(results))
        if table[1:]
    ]
    notes = [TIMED, STAGES_TIMED, WORDS_TIMED, f"Not measured: {'; '.join(missing)}."]
    parts = ["<h1>Benchmark</h1>", f"<p>{html.escape(machine(results))}</p>", *drawn.values(), *tables]
    parts += [f"<p>{html.escape(note)}</p>" for note in notes]
    write(directory / "bench.html", page("sam2edge: benchmark", parts))
    return directory / "bench.html"


def _record(result: Result) -> dict[str, object]:
    measured = dataclasses.asdict(result.measured)
    stages = measured.pop("stages")
    case = {**dataclasses.asdict(result.case), "scene": str(result.case.scene)}
    return {**case, **measured, **stages, "agreement": result.agreement}
