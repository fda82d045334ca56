"""What each step brought: rows of one number of objects, each against the one before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sam2edge.bench.rows import Result
from sam2edge.bench.timed import STEPS

_KEPT = {"device arrays": "arrays stay on the device", "recordings": "frames are recorded"}


@dataclass(frozen=True)
class Step:
    """A step. ms: of a frame, 1000 over frames a second. against: what it is compared with, "" for the first."""

    name: str
    ms: float
    against: str = ""
    factor: float = 1.0


def waterfall(results: Sequence[Result]) -> list[Step]:
    """Steps in the order in which they are taken; other bundles and backends are against the first bundle's."""
    ours = [result for result in results if result.row.kind == "track" and result.row.memory_frames is None]
    if not ours:
        return []
    objects, name, backend = ours[0].row.objects, ours[0].row.name, ours[0].row.backend
    named: list[tuple[str, Result]] = [
        (f"PyTorch {result.row.backend}", result)
        for result in results
        if result.row.kind == "pytorch" and result.row.objects == objects
    ]
    ours = [result for result in ours if result.row.objects == objects]
    own = [result for result in ours if (result.row.name, result.row.backend) == (name, backend)]
    latency = [result for result in own if result.row.mode == "latency"]
    stripped = [result for step in STEPS for result in latency if result.row.without == step]
    whole = [result for result in latency if not result.row.without]
    labels = [f"{name}, {backend}", *(_KEPT[result.row.without] for result in stripped)]
    named += zip(labels, [*stripped, *whole], strict=False)
    named += [("throughput mode", result) for result in own if result.row.mode == "throughput"]
    steps: list[Step] = []
    for label, result in named:
        ms, before = 1e3 / result.measured.fps, steps[-1] if steps else None
        steps.append(Step(label, ms, before.name, before.ms / ms) if before else Step(label, ms))
    base = next((step for (_, result), step in zip(named, steps, strict=True) if result in whole), None)
    for result in ours:
        if base and result not in own and result.row.mode == "latency":
            ms = 1e3 / result.measured.fps
            steps.append(Step(f"{result.row.name}, {result.row.backend}", ms, base.name, base.ms / ms))
    return steps
