"""`sam2edge bench`."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from sam2edge.commands.console import StatusLine, print_table


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure what a frame costs on this machine, every row in a process of its own: time of whole frames and of "
        "each graph, by number of objects and of memory frames, memory, power and accuracy (docs/performance.md)."
    )
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE", help="others are compared with the first")
    parser.add_argument("--backend", default="auto", metavar="NAME", help="as for `track` (default: auto)")
    parser.add_argument(
        "--objects", type=int, nargs="+", default=[1, 4, 8], metavar="N", help="tracked objects (default: 1 4 8)"
    )
    parser.add_argument(
        "--memory-frames",
        type=int,
        nargs="*",
        default=[1, 3],
        metavar="N",
        help="as for `track` (default: 1 3 and the model's own)",
    )
    parser.add_argument("--frames", type=int, default=100, metavar="N", help="timed in each row (default: 100)")
    parser.add_argument(
        "--mode",
        nargs="+",
        default=["latency", "throughput"],
        metavar="MODE",
        help="latency, throughput (default: both)",
    )
    parser.add_argument("--clip", default="", metavar="CLIP", help="frames to measure on (default: a drawn scene)")
    parser.add_argument("--masks", default="", metavar="DIR", help="its true masks, as for `verify`")
    parser.add_argument(
        "--compare",
        default="",
        metavar="SOURCE",
        help="the checkpoint: PyTorch, and ONNX Runtime's other backends, too",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="the rows as a table")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the same, and what was not measured")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="pictures (SVG), and bench.html with all of it")
    parser.set_defaults(verb=_bench)


def _bench(args: argparse.Namespace) -> int:
    from sam2edge.bench import plan, report
    from sam2edge.bench.scene import Scene
    from sam2edge.bundle import Bundle

    settings = plan.Settings(
        tuple(Bundle.open(path) for path in args.bundles),
        args.backend,
        tuple(args.objects),
        args.frames,
        tuple(args.mode),
        tuple(args.memory_frames),
        args.compare,
        Scene(args.clip, args.masks),
    )
    cases, missing = plan.plan(settings)
    status = StatusLine()
    try:
        results, failed = plan.run(cases, lambda case, fraction: status.show(f"{fraction:4.0%} {case}"))
    finally:
        status.clear()
    missing += failed
    print(f"{report.machine()}\n{settings.scene}, {settings.frames} frames a row\n{textwrap.fill(report.TIMED, 120)}\n")
    print_table(report.frame_table(results))
    print(f"\n{report.STAGES_TIMED}")
    print_table(report.stage_table(results))
    print()
    print_table(report.waterfall_table(results))
    print(f"\nnot measured: {'; '.join(missing)}")
    if args.csv:
        report.write_csv(args.csv, results)
    if args.json:
        report.write_json(args.json, results, missing)
    if args.plots:
        print(f"wrote {report.write_plots(args.plots, results, missing)}")
    return 0
