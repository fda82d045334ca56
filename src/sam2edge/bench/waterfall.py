"""What each step brought: rows of one number of objects, each against the one before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sam2edge.bench.cases import Result


@dataclass(frozen=True)
class Step:
    """A step. ms: of a frame, 1000 over frames a second. against: what it is compared with, "" for the first."""

    name: str
    ms: float
    against: str = ""
    factor: float = 1.0


def waterfall(results: Sequence[Result]) -> list[Step]:
    """The steps that the plan took, then other models and backends, which are against the last in latency mode."""
    taken = [result for result in results if result.row.step]
    steps: list[Step] = []
    base: Step | None = None
    for result in taken:
        steps.append(_step(result.row.step, result, steps[-1] if steps else None))
        if (result.row.kind, result.row.mode) == ("track", "latency"):
            base = steps[-1]
    models = {(result.row.name, result.row.backend) for result in taken}
    for result in results:
        row = result.row
        plain = (row.kind, row.mode, row.without, row.memory_frames) == ("track", "latency", "", None)
        if base and plain and row.objects == taken[0].row.objects and (row.name, row.backend) not in models:
            steps.append(_step(f"{row.name}, {row.backend}", result, base))
    return steps


def _step(name: str, result: Result, before: Step | None) -> Step:
    ms = 1e3 / result.measured.fps
    return Step(name, ms, before.name, before.ms / ms) if before else Step(name, ms)
