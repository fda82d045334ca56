"""Print a line for each target that reports of `sam2edge verify` answer: `python -m tests.gpu.bars REPORT.json …`.

The reference of each report is the bundle's FP32 on the CPU. Engines in FP16 are judged on every graph and by J&F,
those in INT8 by their IoU with FP32: on the clip that calibration saw, and on others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STEPPED = {"mask", "iou", "pointer"}
"""Outputs of the mask decoder that jump: a tiny difference may choose another of three masks."""

Row = dict[str, Any]


def verdict(value: float, kept: bool, bar: str) -> str:
    """Return a value with its target, in words."""
    return f"{value:.3g} (bar: {bar}: {'kept' if kept else 'MISSED'})"


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each row of engines, and what else it needs to be understood."""
    reference, *others = report["rows"]
    for row in others:
        if not row["name"].endswith("engines"):
            continue
        iou, lost = row["closed_loop"]["mean_iou"], row["closed_loop"]["lost"]
        text = f"{Path(report['clip']).name}, {row['name']}: "
        if " int8 " in row["name"]:
            yield text + f"IoU with FP32 {verdict(iou, iou >= 0.97, 'at least 0.97')}, lost {lost or 'none'}"
            continue
        followed = f"IoU with FP32 {iou:.4f}, lost {lost or 'none'}"
        yield text + ", ".join([_errors(row), followed, *_points(reference, row)])


def _errors(row: Row) -> str:
    """Compare the largest relative error of all outputs with the target; those that jump are listed behind it."""
    errors = {
        f"{graph} {output}": error["largest"] if error["largest"] is not None else float("inf")
        for graph, outputs in row["errors"].items()
        for output, error in outputs.items()
    }
    jumping = {name: error for name, error in errors.items() if name.split()[1] in STEPPED}
    worst = max(errors.keys() - jumping.keys(), key=lambda name: errors[name])
    shown = ", ".join(f"{name.split()[1]} {error:.1e}" for name, error in jumping.items())
    judged = verdict(errors[worst], errors[worst] <= 5e-3, "at most 0.005")
    return f"relative error {judged} in {worst}, jumping: {shown}"


def _points(reference: Row, row: Row) -> list[str]:
    """Compare J&F with the reference's, where true masks were given."""
    if "davis" not in row:
        return []
    points = 100 * (row["davis"]["j_and_f"] - reference["davis"]["j_and_f"])
    return [f"J&F differs by points: {verdict(points, abs(points) <= 0.5, 'at most 0.5')}"]


def main(files: list[str]) -> None:
    """Print the lines of each report."""
    for file in files:
        print(*lines(json.loads(Path(file).read_text())), sep="\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
