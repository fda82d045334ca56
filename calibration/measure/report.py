"""A measured ladder as JSON, and as one page with pictures that needs nothing beside it."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.closed_loop import Agreement, Run
from sam2edge.calibration.measure.comparison import Measurement
from sam2edge.calibration.measure.gate import Gate
from sam2edge.calibration.measure.graph_errors import largest
from sam2edge.calibration.measure.page import html_table, page
from sam2edge.errors import MediaError
from sam2edge.files import finite, write_text
from sam2edge.runtime.media.overlay import color
from sam2edge.types import Frame

_PICTURES = 4
_WIDTH = 480
_CURVE = (720, 160)
_MARGIN = 34


def report_directory(out: str | os.PathLike[str]) -> Path:
    """Where the gate's report on a bundle, or on engines, is: OUT.report.

    Beside it, so that it is there after a failure too, and what is copied to a device stays small.
    """
    path = Path(out).resolve()
    return path.with_name(f"{path.name}.report")


def write_report(directory: Path, clip: Clip, gate: Gate, rows: Sequence[Measurement]) -> tuple[Path, Path]:
    """Write report.json and report.html; their paths. The clip is read once more, for the pictures.

    The page has the table, and for every row but the reference its IoU per frame as a curve and the worst frames with
    both contours. Raises MediaError.
    """
    data, shown = directory / "report.json", directory / "report.html"
    try:
        write_text(data, json.dumps(as_dict(clip, gate, rows), indent=1) + "\n")
        write_text(shown, _page(clip, gate, rows))
    except OSError as error:
        raise MediaError(f"{directory}: the report cannot be written: {error.strerror or error}") from error
    return data, shown


def as_dict(clip: Clip, gate: Gate, rows: Sequence[Measurement]) -> dict[str, Any]:
    """What was measured, for JSON; numbers that are not finite are null."""
    run = rows[0].run
    return {
        "clip": clip.name,
        "frames": len(run),
        "objects": list(run.object_ids),
        "gate": {name: finite(value) for name, value in dataclasses.asdict(gate).items()},
        "rows": [_row(row) for row in rows],
    }


def _row(row: Measurement) -> dict[str, Any]:
    rung, mean = row.rung, row.j_and_f
    data: dict[str, Any] = {
        "name": rung.name,
        "bytes": rung.bytes,
        "milliseconds": {stage: round(value, 3) for stage, value in row.run.milliseconds.items()},
    }
    if mean is not None and row.scores is not None:
        data["davis"] = {"j": mean.j, "f": mean.f, "j_and_f": mean.j_and_f}
        data["davis"]["objects"] = {i: dataclasses.asdict(one) for i, one in row.scores.items()}
    if row.comparison is not None and row.verdict is not None:
        iou, frame, object_id = row.comparison.worst
        data["closed_loop"] = {
            "mean_iou": row.comparison.mean,
            "worst": {"iou": iou, "frame": frame, "object": object_id},
            "lost": list(row.comparison.lost),
            "iou": row.comparison.iou.round(6).tolist(),
        }
        data["gate"] = {"passed": row.verdict.passed, **dataclasses.asdict(row.verdict)}
    if row.errors is not None:
        data["errors"] = {
            graph: {output: {k: finite(v) for k, v in vars(error).items()} for output, error in outputs.items()}
            for graph, outputs in row.errors.items()
        }
    return data


def table(rows: Sequence[Measurement]) -> list[list[str]]:
    """The ladder as text: a column a row of it, "–" for what was not measured. Columns are narrow, names short."""
    lines = [["", *(row.rung.name for row in rows)]]

    def add(name: str, cells: Iterator[str]) -> None:
        if set(values := list(cells)) - {"–"}:
            lines.append([name, *values])

    for graph in rows[0].rung.bundle.manifest.graphs:
        add(
            f"{graph}, relative error",
            (f"{largest(row.errors[graph]):.1e}" if row.errors and graph in row.errors else "–" for row in rows),
        )
    add("most sensitive graph", ((row.verdict.sensitive or "–") if row.verdict else "–" for row in rows))
    add("closed loop, mean IoU", (f"{row.comparison.mean:.4f}" if row.comparison else "–" for row in rows))
    add("closed loop, worst IoU", (_worst(row.comparison) for row in rows))
    add("objects lost", (_lost(row.comparison) for row in rows))
    for name in ("j", "f", "j_and_f"):
        label = name.upper().replace("_AND_", "&")
        add(label, (f"{100 * getattr(row.j_and_f, name):.1f}" if row.j_and_f else "–" for row in rows))
    for stage in rows[0].run.milliseconds:
        add(f"{stage}, ms", (f"{row.run.milliseconds[stage]:.1f}" for row in rows))
    add("size, MiB", (f"{row.rung.bytes / 2**20:.1f}" if row.rung.bytes is not None else "–" for row in rows))
    add("gate", (("passed" if row.verdict.passed else "FAILED") if row.verdict else "–" for row in rows))
    return lines


def _worst(comparison: Agreement | None) -> str:
    if comparison is None:
        return "–"
    iou, frame, object_id = comparison.worst
    return f"{iou:.4f} (frame {frame}, object {object_id})"


def _lost(comparison: Agreement | None) -> str:
    return "–" if comparison is None else ", ".join(map(str, comparison.lost)) or "none"


def _page(clip: Clip, gate: Gate, rows: Sequence[Measurement]) -> str:
    reference = rows[0]
    parts = [
        f"<h1>{html.escape(clip.name)}</h1>",
        f"<p>{len(reference.run)} frames, objects {', '.join(map(str, reference.run.object_ids))}. Reference: "
        f"{html.escape(reference.rung.name)}. Gate: mean IoU ≥ {gate.min_mean_iou:g}"
        + (f", worst ≥ {gate.min_worst_iou:g}" if gate.min_worst_iou else "")
        + ", no object lost. Times are medians of a frame.</p>",
        html_table(table(rows)),
    ]
    wanted = {frame for row in rows if row.comparison for frame in worst_frames(row.comparison)}
    frames = {number: frame for number, frame in enumerate(clip) if number in wanted}
    for row in rows[1:]:
        parts += _section(row, reference.run, frames)
    return page(f"sam2edge: {clip.name}", parts)


def _section(row: Measurement, reference: Run, frames: dict[int, Frame]) -> Iterator[str]:
    if row.comparison is None or row.verdict is None:
        return
    yield f"<h2>{html.escape(row.rung.name)}</h2>"
    if row.verdict.passed:
        yield '<p class="pass">The gate passed.</p>'
    else:
        reasons = html.escape("; ".join(row.verdict.failures))
        hint = f" The graph that differs most: {row.verdict.sensitive}." if row.verdict.sensitive else ""
        yield f'<p class="fail">The gate failed: {reasons}.{hint}</p>'
    yield "<p>IoU with the reference on every frame, a line an object.</p>"
    yield curve(row.comparison)
    yield "<p>Worst frames. White: the reference. Colour: this one.</p>"
    for frame in worst_frames(row.comparison):
        values = ", ".join(
            f"object {i}: {iou:.3f}"
            for i, iou in zip(row.comparison.object_ids, row.comparison.iou[frame], strict=True)
        )
        picture = contours(frames[frame], reference.object_ids, reference.masks(frame), row.run.masks(frame))
        yield (
            f'<figure><img alt="frame {frame}" src="data:image/jpeg;base64,{_jpeg(picture)}">'
            f"<figcaption>Frame {frame}. {values}</figcaption></figure>"
        )


def worst_frames(comparison: Agreement, count: int = _PICTURES) -> list[int]:
    """Numbers of the frames with the lowest IoU of any object, the worst first.

    Neighbours of a frame that was taken are left out while there are others: they show the same.
    """
    order = np.argsort(comparison.iou.min(axis=1), kind="stable").tolist()
    apart = max(1, len(order) // 20)
    taken: list[int] = []
    for frame in order:
        if len(taken) < count and all(abs(frame - other) >= apart for other in taken):
            taken.append(frame)
    return taken


def contours(
    frame: Frame, object_ids: Sequence[int], reference: npt.NDArray[np.bool_], masks: npt.NDArray[np.bool_]
) -> Frame:
    """A frame with the contours of two sets of masks, bool [N,H,W]: white, and over it thinner in the objects' colours.

    The picture is brought to the page's width first, so that lines are as thick in clips of all sizes.
    """
    height = round(frame.shape[0] * _WIDTH / frame.shape[1])
    picture = cv2.resize(frame, (_WIDTH, height), interpolation=cv2.INTER_AREA)
    for thickness, some in ((3, reference), (1, masks)):
        for object_id, mask in zip(object_ids, some, strict=True):
            small = cv2.resize(mask.view(np.uint8), (_WIDTH, height), interpolation=cv2.INTER_NEAREST)
            outlines, _ = cv2.findContours(small, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            line = (255, 255, 255) if thickness == 3 else color(object_id)
            cv2.drawContours(picture, outlines, -1, line, thickness, cv2.LINE_AA)
    drawn: Frame = picture
    return drawn


def _jpeg(picture: Frame) -> str:
    encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, 85))[1]
    return base64.b64encode(encoded.tobytes()).decode()


def curve(comparison: Agreement) -> str:
    """IoU over frames as SVG, a line an object; the axis of IoU begins where the worst is, at 0.9 at the latest."""
    width, height = _CURVE
    iou = comparison.iou
    bottom = min(0.9, math.floor(10 * float(iou.min())) / 10)
    right = _MARGIN + width
    plate = f'<rect x="{_MARGIN}" y="8" width="{width}" height="{height}" fill="#2b2b2b"/>'
    parts = [
        f'<svg width="{right + 90}" height="{height + 30}" font-family="sans-serif" font-size="11" fill="none">{plate}'
    ]
    for value in np.linspace(bottom, 1, 3):
        y = _y(value, bottom)
        parts.append(f'<path d="M{_MARGIN} {y:.1f}H{right}" stroke="#555"/>')
        parts.append(f'<text x="0" y="{y + 4:.1f}" fill="#555">{value:.2f}</text>')
    for x, frame in ((_MARGIN, 0), (right, len(iou) - 1)):
        parts.append(f'<text x="{x}" y="{height + 26}" fill="#555" text-anchor="middle">{frame}</text>')
    xs = np.linspace(_MARGIN, right, len(iou))
    for row, (object_id, column) in enumerate(zip(comparison.object_ids, iou.T, strict=True)):
        points = " ".join(f"{x:.1f},{_y(value, bottom):.1f}" for x, value in zip(xs, column, strict=True))
        stroke = "#{:02x}{:02x}{:02x}".format(*color(object_id))
        parts.append(f'<polyline points="{points}" stroke="{stroke}" stroke-width="1.5"/>')
        y = 14 + 15 * row
        parts.append(f'<rect x="{right + 8}" y="{y}" width="10" height="10" fill="{stroke}"/>')
        parts.append(f'<text x="{right + 22}" y="{y + 9}" fill="#222">object {object_id}</text>')
    return "".join([*parts, "</svg>"])


def _y(value: float, bottom: float) -> float:
    """Where an IoU lies on the curve's picture, from the top."""
    return 8 + _CURVE[1] * (1 - value) / (1 - bottom)
