"""The results as tables of text, CSV, JSON, pictures and a page."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import json
import os
import platform
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from sam2edge.bench.cases import WARM_UP, Result
from sam2edge.bench.plots import bars, lines
from sam2edge.bench.waterfall import Step, waterfall
from sam2edge.calibration.measure.closed_loop import STAGES
from sam2edge.calibration.measure.page import html_table, page
from sam2edge.errors import BackendError, MediaError
from sam2edge.files import write_text
from sam2edge.runtime.backends.cuda import gpus

NONE = "–"
TIMED = (
    "Timed: from a frame (RGB uint8 in host memory) to bool masks of its size on the host, in ms. Each row is a "
    "process of its own. Outside of the timing: reading the clip, loading and the "
    f"first {WARM_UP} frames, in which the memory bank fills; first holds the prompts. Throughput mode encodes the "
    "next frame meanwhile, so that each comes later. Build: of the engines, once. Host: a frame outside of waiting "
    "for the backend. GPU: what all processes had more at the end than before. IoU: over the first "
    f"{WARM_UP} frames, with the true masks and with the first row of as many objects."
)
STAGES_TIMED = "Stages: on a GPU with a wait before and after every graph, so that a frame takes longer; medians in ms."


def machine() -> str:
    """What this machine is."""
    try:
        gpu = gpus.first_gpu().name
    except BackendError:
        gpu = "no GPU"
    cores = f"{os.cpu_count()} cores"
    return f"{platform.system()} {platform.machine()}, {cores}, {gpu}, Python {platform.python_version()}"


def frame_table(results: Sequence[Result]) -> list[list[str]]:
    """Whole frames, a line a row after the head."""
    known = any(result.measured.iou is not None for result in results)
    iou = ["IoU true", "IoU row 1"] if known else ["IoU row 1"]
    built = any(result.measured.build is not None for result in results)
    times = ["frames/s", "median ms", "p90", "p99", "first", "load", *["build s"] * built, "host"]
    table = [["model", "backend", "mode", "objects", "memory", *times, "RSS MiB", "GPU MiB", "W", *iou]]
    for result in results:
        row, found = result.row, result.measured
        if row.kind == "stages":
            continue
        mode = row.mode if not row.without else f"no {row.without}"
        ms = (found.median, found.p90, found.p99, found.first, found.load)
        ious = ([_number(found.iou, 4)] if known else []) + [_number(result.agreement, 4)]
        table.append(
            [row.name, row.backend, mode, str(row.objects), str(row.memory_frames or "all"), f"{found.fps:.1f}"]
            + [f"{time:.1f}" for time in ms]
            + [_number(found.build, 1)] * built
            + [_number(found.host, 2), _number(found.rss), _number(found.gpu), _number(found.watts, 1), *ious]
        )
    return table


def stage_table(results: Sequence[Result]) -> list[list[str]]:
    """Time of each graph, a line a row after the head."""
    table = [["model", "backend", "objects", *STAGES, "frame"]]
    for result in results:
        if found := result.measured.stages:
            times = [f"{ms:.2f}" for ms in (*(found[name] for name in STAGES), result.measured.median)]
            table.append([result.row.name, result.row.backend, str(result.row.objects), *times])
    return table


def waterfall_table(steps: Sequence[Step]) -> list[list[str]]:
    """What each step brought."""
    lines = [["step", "ms a frame", "factor", "against"]]
    return lines + [
        [step.name, f"{step.ms:.1f}", f"{step.factor:.2f} ×" if step.against else "", step.against] for step in steps
    ]


def pictures(results: Sequence[Result]) -> dict[str, str]:
    """SVGs by file name; only those for which there are rows."""
    found = {}
    whole = [result for result in results if result.row.kind != "stages" and not result.row.without]
    objects: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for result in whole:
        if result.row.memory_frames is None:
            name = f"{result.row.name}, {result.row.backend}"
            name += f", {result.row.mode}" if result.row.kind == "track" else ""
            objects[name].append((result.row.objects, result.measured.fps))
    found["objects.svg"] = lines("Frames a second by number of objects", "objects", objects)
    memory = [(result.row.memory_frames, result) for result in whole if result.row.memory_frames is not None]
    if memory:
        row = memory[0][1].row
        points = {f"{row.name}, {row.backend}": [(count, result.measured.fps) for count, result in memory]}
        title = f"Frames a second by memory frames, objects: {row.objects}"
        found["memory.svg"] = lines(title, "recent frames that are attended to", points)
    if stages := [result for result in results if result.measured.stages]:
        rows = [
            (
                f"{result.row.name}, {result.row.backend}, {result.row.objects} object{'s' * (result.row.objects > 1)}",
                [result.measured.stages[name] for name in STAGES],
                f"{sum(result.measured.stages.values()):.1f} ms",
            )
            for result in stages
        ]
        found["stages.svg"] = bars("Where a frame's time goes, ms", STAGES, rows)
    taken = sum(result.row.step != "" for result in results)
    if len(steps := waterfall(results)[:taken]) > 1:  # beside ONNX Runtime on the CPU one would not see the others
        bar = [(step.name, [step.ms], f"{step.ms:.1f} ms{_factor(step)}") for step in steps]
        found["waterfall.svg"] = bars(f"What each step brought, ms a frame, objects: {whole[0].row.objects}", [""], bar)
    return found


def _factor(step: Step) -> str:
    return f" ({step.factor:.2f} ×)" if step.against else ""


def _number(value: float | None, digits: int = 0) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def write_csv(file: Path, results: Sequence[Result]) -> None:
    """A line a row with everything that was asked for and measured; times in ms. Raises MediaError."""
    records = [_record(result) for result in results]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for record in records for key in record)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    _write(file, text.getvalue())


def write_json(file: Path, results: Sequence[Result], missing: Sequence[str]) -> None:
    """The same, with the machine, what is timed, the waterfall, and what was not measured. Raises MediaError."""
    content = {
        "machine": machine(),
        "timed": TIMED,
        "rows": [_record(result) for result in results],
        "waterfall": [dataclasses.asdict(step) for step in waterfall(results)],
        "not measured": list(missing),
    }
    _write(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_plots(directory: Path, results: Sequence[Result], missing: Sequence[str]) -> Path:
    """Write the pictures and bench.html, which has them and the tables; its path. Raises MediaError."""
    drawn = pictures(results)
    for name, svg in drawn.items():
        _write(directory / name, svg)
    tables = [
        f'<div style="overflow-x: auto; font-size: 12px; white-space: nowrap">{html_table(table)}</div>'
        for table in (frame_table(results), stage_table(results), waterfall_table(waterfall(results)))
    ]
    notes = [TIMED, STAGES_TIMED, f"Not measured: {'; '.join(missing)}."]
    parts = ["<h1>Benchmark</h1>", f"<p>{html.escape(machine())}</p>", *drawn.values(), *tables]
    parts += [f"<p>{html.escape(note)}</p>" for note in notes]
    _write(directory / "bench.html", page("sam2edge: benchmark", parts))
    return directory / "bench.html"


def _record(result: Result) -> dict[str, object]:
    row = {**dataclasses.asdict(result.row), "scene": str(result.row.scene)}
    found = dataclasses.asdict(result.measured)
    stages = found.pop("stages")
    return {**row, **found, **stages, "agreement": result.agreement}


def _write(file: Path, text: str) -> None:
    try:
        write_text(file, text)
    except OSError as error:
        raise MediaError(f"{file}: cannot be written: {error.strerror or error}") from error
