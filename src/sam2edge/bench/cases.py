"""A row of the benchmark: what is run, in a process of its own, and what was measured."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sam2edge.bench.scene import Scene
from sam2edge.errors import BackendError

WARM_UP = 24
"""Frames that are not timed: the bank fills in 7, its pointers in 16, and then a frame is recorded."""


@dataclass(frozen=True)
class BenchmarkCase:
    """What is run.

    name: what the model is called. kind: "track" (frames as a user has them), "stages" (with a wait around every graph,
    to time it) or "pytorch". model: path of the bundle, or source of PyTorch's model. backend: its name; for PyTorch
    "eager" or "compile". frames: how many are timed. mode: as `stream`'s. memory_frames: as VideoTracker's. without: ""
    or a step that is left out, of STEPS. image_size: of PyTorch's model, None for the checkpoint's own. engines: their
    directory, "" for those that the backend takes. step: what differs from the row of the step before, for the
    waterfall; "" in rows that are no step.
    """

    name: str
    kind: str
    model: str
    backend: str
    objects: int
    frames: int
    mode: str = "latency"
    memory_frames: int | None = None
    without: str = ""
    image_size: int | None = None
    engines: str = ""
    step: str = ""
    scene: Scene = field(default_factory=Scene)

    def __str__(self) -> str:
        return f"{self.name}, {self.backend}, {self.kind}, {self.mode}, objects: {self.objects}"


@dataclass(frozen=True)
class Measured:
    """What was measured; None where it cannot be had. Times in ms, memory in MiB.

    median, p90, p99: from a frame in memory to its masks on the host. fps: frames a second, which throughput mode makes
    more of than 1/median. first: the first frame with its prompts. load: opening the graphs. build: what building the
    row's engines took once, in seconds, by their manifest. rss: host memory at the end, without the clip's frames. gpu:
    GPU memory in use at the end beyond that at the start. growth: of both over the timed frames. watts: a mean. host:
    median of a frame outside of waiting for the backend. iou: mean over objects with true masks. stages: median of each
    graph, and "rest".
    """

    median: float
    p90: float
    p99: float
    fps: float
    first: float
    load: float
    build: float | None = None
    rss: float | None = None
    gpu: float | None = None
    growth: float | None = None
    watts: float | None = None
    host: float | None = None
    iou: float | None = None
    stages: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """A row, what was measured, and the IoU of its masks with those of the first row of as many objects."""

    row: BenchmarkCase
    measured: Measured
    agreement: float | None = None


def percentiles(seconds: npt.ArrayLike) -> dict[str, float]:
    """Median, p90 and p99 in ms of times in seconds."""
    values = np.percentile(1e3 * np.asarray(seconds), (50, 90, 99))
    return dict(zip(("median", "p90", "p99"), map(float, values), strict=True))


def run_case(row: BenchmarkCase, masks: str = "", python: Sequence[str] = ()) -> Measured:
    """Run a row in a process of its own. masks: a file for its masks (see worker.py), "" for none.

    python: what starts another interpreter than this one, which may lack what the row needs. Raises BackendError with
    what the process said last if it failed.
    """
    sent = json.dumps({"row": dataclasses.asdict(row), "masks": masks})
    command = [*(python or (sys.executable,)), "-m", "sam2edge.bench.worker", sent]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        why = said[-1] if said else f"exit code {done.returncode}" + " (out of memory?)" * (done.returncode == -9)
        raise BackendError(f"the row {row} failed: {why}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))
