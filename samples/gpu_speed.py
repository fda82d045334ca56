"""Compare rows of `sam2edge bench` on a GPU with the project's targets, and with PyTorch's own predictor.

    sam2edge build out/tiny && sam2edge build out/large
    python samples/gpu_speed.py out/tiny out/large --source MODEL [--compile] [--python COMMAND] [--csv FILE]

MODEL is what the first bundle was exported from; COMMAND starts a Python that has PyTorch, if this one does not.
Where nothing can be fetched, PyTorch's rows may be measured first, without a bundle, and compared with later:

    python samples/gpu_speed.py --source MODEL --image-size 1024 --csv pytorch.csv
    python samples/gpu_speed.py out/tiny --pytorch pytorch.csv

`sam2edge bench` defines what is timed. A row that fails is reported and left out.
"""

import argparse
import csv
import shlex
import subprocess
import sys
from pathlib import Path

from demo import CLIP

from sam2edge import Bundle, Sam2EdgeError
from sam2edge.bench.cases import BenchmarkCase, Result, run_case
from sam2edge.bench.report import write_csv
from sam2edge.bench.scene import Scene
from sam2edge.errors import BackendError
from sam2edge.runtime.backends.cuda import gpus

BARS_MS = {("tiny", 1): 4.5, ("tiny", 8): 20.0, ("large", 1): 14.0}
H100_MS = {("tiny", 1): 5.2}
"""Where an H100, whose memory is slower than that of the H200, has another target."""
TIMES_PYTORCH = {"eager": 4, "compile": 2}
ROWS = ("track", "stages", "pytorch", "memory")
PROBE = """
import sys
from sam2edge import Sam2EdgeError
from sam2edge.bench.readings import gpu_memory
from sam2edge.runtime.backends.base import open_backend
try:
    before = gpu_memory() or 0
    device = open_backend(sys.argv[1])
    print((gpu_memory() or 0) - before)
except Sam2EdgeError as error:
    sys.exit(str(error))
"""
"""Prints the MiB of a bare context. In a process of its own: none but the one that is timed may hold a GPU context."""


def verdict(value, bar):
    """Return whether a value is at most the target `bar`, in words."""
    return f"bar {bar:g}: {'kept' if value <= bar else 'MISSED'}"


def bar_ms(size, objects):
    """Return the target of a frame's median on this machine's GPU, or None."""
    try:
        card = gpus.find_gpu().name
    except BackendError:
        card = "no GPU"
    return {**BARS_MS, **(H100_MS if "H100" in card else {})}.get((size, objects))


def plan(args):
    """Return the rows: the name of each, the size of its model, and what to run."""
    rows, scene = [], Scene(str(args.clip))
    for bundle in args.bundles:
        size = Bundle.open(bundle).manifest.source.size
        for kind, n in [("track", n) for n in args.objects] + [("stages", 1)]:
            row = BenchmarkCase(f"{bundle} ({size})", kind, bundle, args.backend, n, args.frames, scene=scene)
            rows.append((f"{row.name}, {kind}, {n} objects", size, row))
    for mode in ("eager", "compile")[: 1 + args.compile] if args.source else ():
        for n in args.objects:
            side = Bundle.open(args.bundles[0]).model.image_size if args.bundles else args.image_size
            row = BenchmarkCase("PyTorch", "pytorch", args.source, mode, n, args.frames, image_size=side, scene=scene)
            rows.append((f"PyTorch {mode}, {n} objects", "", row))
    for bundle in args.bundles[:1]:
        row = BenchmarkCase("memory", "track", bundle, args.backend, 1, args.long, scene=scene)
        rows.append((f"{bundle}, memory over {args.long} frames", "", row))
    return [row for row in rows if ("memory" if row[2].name == "memory" else row[2].kind) in args.rows]


def read_pytorch(file):
    """Return medians of PyTorch's rows by mode and number of objects, from a table that an earlier run wrote.

    If that run failed, there is nothing to compare with, but ours are measured all the same.
    """
    if not file.exists():
        print(f"not compared with PyTorch: {file} is not there", flush=True)
        return {}
    with open(file, newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["kind"] == "pytorch"]
    return {(row["backend"], int(row["objects"])): float(row["median"]) for row in rows}


def against_pytorch(mode, pytorch, ours):
    """Say how many times as long PyTorch takes for a frame."""
    return f"{pytorch / ours:.2f} × ours (bar: at least {TIMES_PYTORCH[mode]})"


def report(name, size, row, measured, ours, context, pytorch):
    """Return a row as text, with its targets.

    `ours` has the medians of the first bundle by number of objects, `pytorch` those that were measured before; of the
    GPU's memory, `context` MiB are that of any program.
    """
    if row.kind == "stages":
        return f"{name}: " + ", ".join(f"{stage} {ms:.2f} ms" for stage, ms in measured.stages.items())
    if row.name == "memory":
        return f"{name}: grows by {measured.growth:.1f} MiB, host and GPU ({verdict(measured.growth, 8)})"
    text = f"{name}: median {measured.median:.2f} ms, p99 {measured.p99:.2f}, first {measured.first:.0f}"
    if row.kind == "pytorch":
        if row.objects not in ours:
            return text
        return f"{text}; {against_pytorch(row.backend, measured.median, ours[row.objects])}"
    text += f"; host {measured.host:.2f} ms"
    if measured.gpu is not None:
        text += f"; GPU memory {measured.gpu:.0f} MiB, the context's {context:.0f} included"
    if bar := bar_ms(size, row.objects):
        ratio = measured.p99 / measured.median
        text += f"; median: {verdict(measured.median, bar)}"
        text += f"; p99 {ratio:.2f} × median: {verdict(ratio, 1.3)}"
    if (size, row.objects) == ("tiny", 1):
        text += f"; host: {verdict(measured.host, 0.3)}"
        text += "" if measured.gpu is None else f"; memory: {verdict(measured.gpu - context, 1024)}"
    for (mode, objects), median in pytorch.items():
        if objects == row.objects:
            text += f"; PyTorch {mode} takes {median:.2f} ms, {against_pytorch(mode, median, measured.median)}"
    return text


def main(args):
    """Run all rows and print each when it is done."""
    rows, ours, results, failed, context = plan(args), {}, [], 0, 0.0
    pytorch = read_pytorch(args.pytorch) if args.pytorch else {}
    if args.bundles:
        command = [sys.executable, "-c", PROBE, args.backend]
        probe = subprocess.run(command, capture_output=True, text=True, check=False)
        if probe.returncode:
            print(f"the backend {args.backend} does not run here: {probe.stderr.strip()}", file=sys.stderr)
            print("Rows that would be printed:", *(f"  {name}" for name, *_ in rows), sep="\n", file=sys.stderr)
            raise SystemExit(1)
        context = float(probe.stdout)
    for name, size, row in rows:
        python = shlex.split(args.python) if row.kind == "pytorch" else ()
        try:
            measured = run_case(row, python=python)
        except Sam2EdgeError as error:
            print(f"{name}: {error}", flush=True)
            failed += 1
            continue
        if (row.kind, row.model) == ("track", *args.bundles[:1]):
            ours.setdefault(row.objects, measured.median)
        results.append(Result(row, measured))
        print(report(name, size, row, measured, ours, context, pytorch), flush=True)
        if args.csv:
            write_csv(args.csv, results)
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", metavar="BUNDLE")
    parser.add_argument("--backend", default="tensorrt")
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--clip", type=Path, default=CLIP)
    parser.add_argument("--source", metavar="MODEL")
    parser.add_argument("--image-size", type=int, help="of PyTorch's model, if there is no bundle")
    parser.add_argument("--pytorch", type=Path, metavar="FILE", help="rows of PyTorch that --csv wrote before")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--python", metavar="COMMAND", default="")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--long", type=int, default=2000)
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    if not (arguments.bundles or arguments.source):
        parser.error("give bundles, or --source for PyTorch's rows alone")
    main(arguments)
