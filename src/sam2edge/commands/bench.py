"""`sam2edge bench`."""

from __future__ import annotations

import argparse
import textwrap

from sam2edge.commands import options
from sam2edge.commands.console import StatusLine, print_table
from sam2edge.commands.options import file_path

_MODES = ("latency", "throughput")


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure what a frame costs on this machine: the time of whole frames and of each graph, by the number of "
        "objects and of memory frames, memory, power and accuracy. Every row is measured in a process of its own."
    )
    parser.add_argument(
        "bundles", nargs="+", type=file_path, metavar="BUNDLE", help="further bundles are compared with the first"
    )
    options.add_backend(parser)
    parser.add_argument(
        "--objects", type=int, nargs="+", default=[1, 4, 8], metavar="N", help="tracked objects (default: 1 4 8)"
    )
    parser.add_argument(
        "--memory-frames",
        type=int,
        nargs="*",
        default=[1, 3],
        metavar="N",
        help="recent frames to attend to (default: 1 3 and the model's own)",
    )
    parser.add_argument("--frames", type=int, default=100, metavar="N", help="frames to time per row (default: 100)")
    parser.add_argument("--mode", nargs="+", choices=_MODES, default=_MODES, help="default: both")
    options.add_clip(parser, "to measure on (default: a drawn scene)")
    options.add_range(parser)
    options.add_truth(parser)
    options.add_against(parser, "PyTorch, and the other backends of ONNX Runtime, are measured too")
    parser.add_argument("--csv", type=file_path, metavar="FILE", help="write the rows as a table")
    parser.add_argument("--json", type=file_path, metavar="FILE", help="write the rows, and what was not measured")
    parser.add_argument("--plots", type=file_path, metavar="DIR", help="write SVG plots, and all of it in bench.html")
    parser.set_defaults(verb=_bench)


def _bench(args: argparse.Namespace) -> int:
    if args.clip is None:
        options.refuse_ignored(args, "truth", "range", without="--clip")
    options.check_outputs(files=(args.csv, args.json), directories=(args.plots,))
    from sam2edge.bench import plan, report
    from sam2edge.bench.scene import Scene
    from sam2edge.bundle import Bundle

    settings = plan.Settings(
        tuple(Bundle.open(path) for path in args.bundles),
        "onnx" if args.backend == "auto" else args.backend,
        tuple(args.objects),
        args.frames,
        tuple(args.mode),
        tuple(args.memory_frames),
        args.against or "",
        Scene(args.clip or "", str(args.truth or ""), args.range),
        args.threads,
        args.gpu,
    )
    cases, missing = plan.plan(settings)
    with StatusLine() as status:
        results, failed = plan.run(cases, status.progress)
    missing += failed
    print(f"{report.machine(results)}\n{settings.scene}, {settings.frames} frames a row")
    print(f"{textwrap.fill(report.TIMED, 120)}\n")
    print_table(report.frame_table(results))
    print(f"\n{report.STAGES_TIMED}")
    print_table(report.stage_table(results))
    if (detectors := report.words_table(results))[1:]:
        print(f"\n{report.WORDS_TIMED}")
        print_table(detectors)
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
