"""A row of the benchmark's table: what is run, in a process of its own, and what was measured."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from sam2edge.bench.scene import Scene
from sam2edge.errors import BackendError

WARM_UP = 24
"""Frames that are not timed: the bank fills in 7, its pointers in 16, and then a frame is recorded."""
WORDS_FRAMES = 20
"""Most frames on which a word detector is timed, which takes seconds for each on a CPU."""


@dataclass(frozen=True)
class BenchmarkCase:
    """What is run."""

    name: str
    kind: str  # "track" (frames as a user has them), "stages" (waits around every graph), "words" or "pytorch"
    model: str  # path of the bundle, or source of PyTorch's model
    backend: str  # its name; for PyTorch "eager" or "compile"
    objects: int
    frames: int  # the number of timed ones
    mode: str = "latency"  # as `stream`'s
    memory_frames: int | None = None  # as VideoTracker's
    image_size: int | None = None  # of PyTorch's model; None for the checkpoint's own
    engines: str = ""  # their directory; "" for those that the backend chooses
    step: str = ""  # of the waterfall: what differs from the step before; "" if this is no step
    scene: Scene = field(default_factory=Scene)
    threads: int | None = None  # as open_backend's
    gpu: int | None = None  # as open_backend's

    def __str__(self) -> str:
        return f"{self.name}, {self.backend}, {self.kind}, {self.mode}, objects: {self.objects}"


@dataclass(frozen=True)
class Measured:
    """What was measured, times in ms and memory in MiB; None where it is not available."""

    median: float  # from a frame in memory to its masks on the host; of kind "words", to its boxes
    p90: float
    p99: float
    fps: float  # frames per second, in throughput mode more than 1/median
    first: float  # the first frame with its prompts
    load: float  # opening the graphs
    build: float | None = None  # building the engines, once, in seconds, by their manifest
    rss: float | None = None  # host memory at the end, without the clip's frames
    gpu: float | None = None  # GPU memory in use at the end beyond that at the start
    growth: float | None = None  # of both over the timed frames
    watts: float | None = None  # mean power
    host: float | None = None  # median time of a frame that is not spent waiting for the backend
    iou: float | None = None  # mean over objects with true masks
    stages: dict[str, float] = field(default_factory=dict)  # median of each graph, and "rest"


@dataclass(frozen=True)
class Result:
    """A case, what was measured, and its masks' IoU with those of the first case with as many objects."""

    case: BenchmarkCase
    measured: Measured
    agreement: float | None = None


def run_case(case: BenchmarkCase, masks: str = "", python: Sequence[str] = ()) -> Measured:
    """Run a case in a process of its own, and write its masks into a file if one is given.

    `python` is the command of another interpreter, if this one lacks what the case needs. BackendError quotes the last
    line of a process that failed.
    """
    job = json.dumps({"case": dataclasses.asdict(case), "masks": masks})
    command = [*(python or (sys.executable,)), "-m", "sam2edge.bench.worker", job]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        printed = done.stderr.strip().splitlines()
        why = printed[-1] if printed else f"exit code {done.returncode}" + " (out of memory?)" * (done.returncode == -9)
        raise BackendError(f"the row {case} failed: {why}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))
