"""Read many spoiled inputs, each of which must give an error of ours or a result.

`python -m tests.fuzz [COUNT [SEED]]`, by default 500 from seed 0; the exit code is 1 if any failed.

A process of its own reads one input after the other, with 2 GiB beyond what it takes for valid ones. An input that
needs more memory, takes more than 10 seconds, raises anything else or ends the process has failed; the rest goes on.
"""

from __future__ import annotations

import collections
import faulthandler
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sam2edge import Bundle
from tests.fuzz.kinds import KINDS, Shared, attempt

MEMORY = 2 << 30
SECONDS = 10

Job = tuple[str, int]


def main(count: int, seed: int) -> int:
    """Print what became of each input, and the failures in full; return how many there were."""
    names = list(KINDS)
    jobs = [(names[number % len(names)], seed + number) for number in range(count)]
    outcomes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    slowest = (0.0, ("", 0))
    with tempfile.TemporaryDirectory(prefix="sam2edge-") as folder:
        for job, ended in _results(jobs, _bundle(Path(folder))):
            outcomes[job[0]][ended["outcome"]] += 1
            slowest = max(slowest, (ended["seconds"], job))
            if ended["outcome"] == "failure":
                print(f"--- {job[0]}, seed {job[1]}: {ended['seconds']:.1f} s\n{ended['failure']}", flush=True)
    for name, counts in outcomes.items():
        print(f"{name:20}", ", ".join(f"{counts[outcome]} {outcome}s" for outcome in ("error", "result", "failure")))
    total = sum(outcomes.values(), collections.Counter[str]())
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{count} inputs from seed {seed}: {dict(total)}; the slowest took {slowest[0]:.1f} s {slowest[1]}")
    print(f"the process took {most:.0f} MiB at most, with PyTorch in it")
    return total["failure"]


def _bundle(folder: Path) -> str:
    if ready := os.environ.get("SAM2EDGE_NANO"):
        return ready
    from sam2edge.export import export
    from tests.conftest import NANO

    return str(export(NANO, folder / "nano").path)


def _results(jobs: list[Job], bundle: str) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Yield every input with its outcome; a process that ended is followed by another."""
    waiting = list(jobs)
    while waiting:
        command = [sys.executable, "-m", "tests.fuzz", "--work", json.dumps([bundle, waiting])]
        with (
            tempfile.TemporaryFile("w+") as printed,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=printed, text=True) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                yield waiting.pop(0), json.loads(line)
            if process.wait() or waiting:
                printed.seek(0)
                failure = f"the process ended with {process.returncode}:\n{printed.read()[-4000:]}"
                yield waiting.pop(0), {"outcome": "failure", "failure": failure, "seconds": 0.0}


def _work(bundle: str, jobs: list[Job]) -> None:
    """Read inputs, and print a line of JSON after each."""
    shared, out = Shared(Bundle.open(bundle)), sys.stdout  # closed with the process
    for name in {name for name, _ in jobs}:
        attempt(name, None, shared)  # a valid one, which loads what it takes
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for name, seed in jobs:
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        begin, failure = time.monotonic(), ""
        try:
            outcome = attempt(name, seed, shared)
        except Exception:
            outcome, failure = "failure", traceback.format_exc()
        faulthandler.cancel_dump_traceback_later()
        ended = {"outcome": outcome, "failure": failure, "seconds": time.monotonic() - begin}
        print(json.dumps(ended), file=out, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        _work(*json.loads(sys.argv[2]))
    else:
        numbers = [int(word) for word in sys.argv[1:]]
        sys.exit(main(*(numbers + [500, 0][len(numbers) :])) > 0)
