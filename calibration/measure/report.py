"""Measurements as a table, as JSON, and as one page with pictures that needs no other file."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.closed_loop import STAGES, Agreement, Run
from sam2edge.calibration.measure.comparison import Measurement
from sam2edge.calibration.measure.gate import Gate
from sam2edge.calibration.measure.graph_errors import largest
from sam2edge.calibration.measure.page import html_table, lines as line_chart, page, write
from sam2edge.files import finite, user_path
from sam2edge.runtime.media.overlay import color
from sam2edge.types import Bools, Frame

_WIDTH = 480


def report_directory(out: str | os.PathLike[str]) -> Path:
    """Return the directory of the gate's report on a bundle or on engines: OUT.report.

    It lies beside OUT, so it survives a failure, and what is copied to a device stays small.
    """
    path = user_path(out).resolve()
    return path.with_name(f"{path.name}.report")


def write_report(directory: Path, clip: Clip, gate: Gate, measurements: Sequence[Measurement]) -> tuple[Path, Path]:
    """Write report.json and report.html and return their paths; MediaError if they cannot be written.

    The page has the table, and for every configuration but the reference its IoU on each frame and the worst frames
    with both contours, for which the clip is read once more.
    """
    data, shown = directory / "report.json", directory / "report.html"
    write(data, json.dumps(as_dict(clip, gate, measurements), indent=1) + "\n")
    write(shown, _page(clip, gate, measurements))
    return data, shown


def as_dict(clip: Clip, gate: Gate, measurements: Sequence[Measurement]) -> dict[str, Any]:
    """Return what was measured for JSON; numbers that are not finite are null."""
    run = measurements[0].run
    return {
        "clip": clip.name,
        "frames": len(run),
        "objects": list(run.object_ids),
        "gate": {name: finite(value) for name, value in dataclasses.asdict(gate).items()},
        "rows": [_row(measurement) for measurement in measurements],
    }


def _row(measurement: Measurement) -> dict[str, Any]:
    agreement, verdict, mean = measurement.agreement, measurement.verdict, measurement.j_and_f
    data: dict[str, Any] = {
        "name": measurement.configuration.name,
        "bytes": measurement.configuration.bytes,
        "milliseconds": {stage: round(value, 3) for stage, value in measurement.run.milliseconds.items()},
    }
    if mean is not None and measurement.scores is not None:
        data["davis"] = {"j": mean.j, "f": mean.f, "j_and_f": mean.j_and_f}
        data["davis"]["objects"] = {i: dataclasses.asdict(score) for i, score in measurement.scores.items()}
    if agreement is not None and verdict is not None:
        iou, frame, object_id = agreement.worst
        data["closed_loop"] = {
            "mean_iou": agreement.mean,
            "worst": {"iou": iou, "frame": frame, "object": object_id},
            "lost": list(agreement.lost),
            "iou": agreement.iou.round(6).tolist(),
        }
        data["gate"] = {"passed": verdict.passed, **dataclasses.asdict(verdict)}
    if measurement.errors is not None:
        data["errors"] = {
            graph: {output: {k: finite(v) for k, v in vars(error).items()} for output, error in outputs.items()}
            for graph, outputs in measurement.errors.items()
        }
    return data


def table(measurements: Sequence[Measurement]) -> list[list[str]]:
    """Return the measurements as text, one in each column, "–" for what was not measured."""
    lines = [["", *(measurement.configuration.name for measurement in measurements)]]
    agreements = [measurement.agreement for measurement in measurements]
    verdicts = [measurement.verdict for measurement in measurements]

    def add(name: str, cells: Iterable[str | None]) -> None:
        shown = [cell or "–" for cell in cells]
        if set(shown) != {"–"}:
            lines.append([name, *shown])

    for graph in measurements[0].configuration.bundle.manifest.graphs:
        errors = [measurement.errors[graph] if measurement.errors else None for measurement in measurements]
        add(f"{graph}, relative error", (f"{largest(error):.1e}" if error else None for error in errors))
    add("most sensitive graph", (verdict.sensitive if verdict else None for verdict in verdicts))
    add("closed loop, mean IoU", (f"{a.mean:.4f}" if a else None for a in agreements))
    worst = "{:.4f} (frame {}, object {})"
    add("closed loop, worst IoU", (worst.format(*a.worst) if a else None for a in agreements))
    add("objects lost", ((", ".join(map(str, a.lost)) or "none") if a else None for a in agreements))
    for label, name in (("J", "j"), ("F", "f"), ("J&F", "j_and_f")):
        means = [measurement.j_and_f for measurement in measurements]
        add(label, (f"{100 * getattr(mean, name):.1f}" if mean else None for mean in means))
    for stage in STAGES:
        add(f"{stage}, ms", (f"{measurement.run.milliseconds[stage]:.1f}" for measurement in measurements))
    sizes = [measurement.configuration.bytes for measurement in measurements]
    add("size, MiB", (f"{size / 2**20:.1f}" if size else None for size in sizes))
    add("gate", (("passed" if verdict.passed else "FAILED") if verdict else None for verdict in verdicts))
    return lines


def _page(clip: Clip, gate: Gate, measurements: Sequence[Measurement]) -> str:
    reference, *others = measurements
    parts = [
        f"<h1>{html.escape(clip.name)}</h1>",
        f"<p>{len(reference.run)} frames, objects {', '.join(map(str, reference.run.object_ids))}. Reference: "
        f"{html.escape(reference.configuration.name)}. Gate: mean IoU ≥ {gate.min_mean_iou:g}"
        + (f", worst ≥ {gate.min_worst_iou:g}" if gate.min_worst_iou else "")
        + ", no object lost. Times are medians per frame.</p>",
        html_table(table(measurements)),
    ]
    wanted = {frame for other in others if other.agreement for frame in worst_frames(other.agreement)}
    frames = {number: frame for number, frame in enumerate(clip) if number in wanted}
    for other in others:
        parts += _section(other, reference.run, frames)
    return page(f"sam2edge: {clip.name}", parts)


def _section(measurement: Measurement, reference: Run, frames: dict[int, Frame]) -> Iterator[str]:
    agreement, verdict = measurement.agreement, measurement.verdict
    if agreement is None or verdict is None:
        return
    yield f"<h2>{html.escape(measurement.configuration.name)}</h2>"
    if verdict.passed:
        yield '<p class="pass">The gate passed.</p>'
    else:
        reasons = html.escape("; ".join(verdict.failures))
        hint = f" The graph that differs most: {verdict.sensitive}." if verdict.sensitive else ""
        yield f'<p class="fail">The gate failed: {reasons}.{hint}</p>'
    yield curve(agreement)
    yield "<p>Worst frames: the reference in white, this configuration in colour.</p>"
    for frame in worst_frames(agreement):
        ious = zip(agreement.object_ids, agreement.iou[frame], strict=True)
        values = ", ".join(f"object {object_id}: {iou:.3f}" for object_id, iou in ious)
        picture = contours(frames[frame], reference.object_ids, reference.masks(frame), measurement.run.masks(frame))
        yield (
            f'<figure><img alt="frame {frame}" src="data:image/jpeg;base64,{_jpeg(picture)}"/>'
            f"<figcaption>Frame {frame}. {values}</figcaption></figure>"
        )


def worst_frames(agreement: Agreement, count: int = 4) -> list[int]:
    """Return the numbers of the frames with the lowest IoU of any object, the worst first.

    Frames close to one already chosen show the same and are left out.
    """
    order = np.argsort(agreement.iou.min(axis=1), kind="stable").tolist()
    apart = max(1, len(order) // 20)
    chosen: list[int] = []
    for frame in order:
        if len(chosen) < count and all(abs(frame - other) >= apart for other in chosen):
            chosen.append(frame)
    return chosen


def contours(frame: Frame, object_ids: Sequence[int], reference: Bools, masks: Bools) -> Frame:
    """Draw the contours of two sets of masks, bool [N,H,W]: white, and thinner over it in the objects' colours.

    The picture is first resized to the page's width, so that lines are as thick for clips of all sizes.
    """
    height = round(frame.shape[0] * _WIDTH / frame.shape[1])
    picture: Frame = cv2.resize(frame, (_WIDTH, height), interpolation=cv2.INTER_AREA)
    for thickness, drawn in ((3, reference), (1, masks)):
        for object_id, mask in zip(object_ids, drawn, strict=True):
            small = cv2.resize(mask.view(np.uint8), (_WIDTH, height), interpolation=cv2.INTER_NEAREST)
            outlines, _ = cv2.findContours(small, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            line = (255, 255, 255) if thickness == 3 else color(object_id)
            cv2.drawContours(picture, outlines, -1, line, thickness, cv2.LINE_AA)
    return picture


def _jpeg(picture: Frame) -> str:
    encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, 85))[1]
    return base64.b64encode(encoded.tobytes()).decode()


def curve(agreement: Agreement) -> str:
    """Draw IoU over frames as SVG, a line for each object; the axis begins below the worst, at 0.9 at the highest."""
    ious = zip(agreement.object_ids, agreement.iou.T.tolist(), strict=True)
    return line_chart(
        "IoU with the reference on every frame",
        "frame",
        {f"object {object_id}": list(enumerate(column)) for object_id, column in ious},
        bottom=min(0.9, math.floor(10 * float(agreement.iou.min())) / 10),
        colours=["#{:02x}{:02x}{:02x}".format(*color(object_id)) for object_id in agreement.object_ids],
    )
