"""Compare rows of `sam2edge bench` on a GPU with the project's targets, and with PyTorch's own predictor.

    sam2edge build out/tiny && sam2edge build out/large
    python samples/gpu_speed.py out/tiny out/large --source MODEL [--compile] [--python COMMAND] [--csv FILE]

MODEL is what the first bundle was exported from; COMMAND starts a Python that has PyTorch, if this one does not.
`sam2edge bench` defines what is timed. A row that fails is reported and left out.
"""

import argparse
import shlex
import sys
from pathlib import Path

from demo import CLIP

from sam2edge import Bundle, Sam2EdgeError
from sam2edge.bench.cases import BenchmarkCase, Result, run_case
from sam2edge.bench.report import write_csv
from sam2edge.bench.scene import Scene
from sam2edge.runtime.backends.base import open_backend

BARS_MS = {("tiny", 1): 4.5, ("tiny", 8): 20.0, ("large", 1): 14.0}


def verdict(value, bar):
    """Return whether a value is at most the target `bar`, in words."""
    return f"bar {bar:g}: {'kept' if value <= bar else 'MISSED'}"


def plan(args):
    """Return the rows: the name of each, the size of its model, and what to run."""
    rows, scene = [], Scene(str(CLIP))
    for bundle in args.bundles:
        size = Bundle.open(bundle).manifest.source.size
        for kind, n in [("track", n) for n in args.objects] + [("stages", 1)]:
            row = BenchmarkCase(f"{bundle} ({size})", kind, bundle, args.backend, n, args.frames, scene=scene)
            rows.append((f"{row.name}, {kind}, {n} objects", size, row))
    for mode in ("eager", "compile")[: 1 + args.compile] if args.source else ():
        for n in args.objects:
            size = Bundle.open(args.bundles[0]).model.image_size
            row = BenchmarkCase("PyTorch", "pytorch", args.source, mode, n, args.frames, image_size=size, scene=scene)
            rows.append((f"PyTorch {mode}, {n} objects", "", row))
    memory = BenchmarkCase("memory", "track", args.bundles[0], args.backend, 1, args.long, scene=scene)
    return [*rows, (f"{args.bundles[0]}, memory over {args.long} frames", "", memory)]


def report(name, size, row, measured, ours):
    """Return a row as text, with its targets. `ours` has the medians of the first bundle by number of objects."""
    if row.kind == "stages":
        return f"{name}: " + ", ".join(f"{stage} {ms:.2f} ms" for stage, ms in measured.stages.items())
    if row.name == "memory":
        return f"{name}: grows by {measured.growth:.1f} MiB, host and GPU ({verdict(measured.growth, 8)})"
    text = f"{name}: median {measured.median:.2f} ms, p99 {measured.p99:.2f}, first {measured.first:.0f}"
    if row.kind == "pytorch":
        if row.objects not in ours:
            return text
        bar = 4 if row.backend == "eager" else 2
        return f"{text}; {measured.median / ours[row.objects]:.2f} × ours (bar: at least {bar})"
    text += f"; host {measured.host:.2f} ms" + ("" if measured.gpu is None else f"; GPU memory {measured.gpu:.0f} MiB")
    if (size, row.objects) in BARS_MS:
        ratio = measured.p99 / measured.median
        text += f"; median: {verdict(measured.median, BARS_MS[size, row.objects])}"
        text += f"; p99 {ratio:.2f} × median: {verdict(ratio, 1.3)}"
    if (size, row.objects) == ("tiny", 1):
        text += f"; host: {verdict(measured.host, 0.3)}"
        text += "" if measured.gpu is None else f"; memory: {verdict(measured.gpu, 1024)}"
    return text


def main(args):
    """Run all rows and print each when it is done."""
    rows, ours, results, failed = plan(args), {}, [], 0
    try:
        device = open_backend(args.backend)
        for bundle in args.bundles:
            device.open(Bundle.open(bundle).graph_path("mask_decoder"))
    except Sam2EdgeError as error:
        print(f"the backend {args.backend} does not run here: {error}\nRows that would be printed:", file=sys.stderr)
        print("\n".join(f"  {name}" for name, *_ in rows), file=sys.stderr)
        raise SystemExit(1) from error
    for name, size, row in rows:
        python = shlex.split(args.python) if row.kind == "pytorch" else ()
        try:
            measured = run_case(row, python=python)
        except Sam2EdgeError as error:
            print(f"{name}: {error}", flush=True)
            failed += 1
            continue
        if (row.kind, row.model) == ("track", args.bundles[0]):
            ours.setdefault(row.objects, measured.median)
        results.append(Result(row, measured))
        print(report(name, size, row, measured, ours), flush=True)
        if args.csv:
            write_csv(args.csv, results)
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE")
    parser.add_argument("--backend", default="tensorrt")
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--source", metavar="MODEL")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--python", metavar="COMMAND", default="")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--long", type=int, default=2000)
    parser.add_argument("--csv", type=Path)
    main(parser.parse_args())
