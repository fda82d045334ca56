"""`sam2edge verify`."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from sam2edge.commands.console import StatusLine, print_table
from sam2edge.commands.prompts import add_prompts, prompts_by_id
from sam2edge.errors import InputError
from sam2edge.runtime import BACKENDS

if TYPE_CHECKING:
    from sam2edge.bundle import Bundle
    from sam2edge.calibration.measure.clip import Clip, TrueMasks
    from sam2edge.calibration.measure.configurations import Configuration
    from sam2edge.calibration.measure.targets import Prompts

_FAILED = 1


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Track a clip with PyTorch, the bundle, its engines and others made from it, and compare each with the first: "
        "error of every graph, IoU in closed loop, J&F, time and size. Without prompts the true masks of the first "
        "frame are followed, or else what the bundle finds by itself. Exit code 1 if the gate fails (docs/accuracy.md)."
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="directory that `sam2edge export` wrote")
    parser.add_argument(
        "--clip", metavar="CLIP", required=True, help="a video, or a folder or 'pattern' of images; prompted on frame 0"
    )
    parser.add_argument("--against", metavar="SOURCE", help="the checkpoint it was exported from: PyTorch comes first")
    parser.add_argument(
        "--candidate", type=Path, metavar="BUNDLE", action="append", default=[], help="another bundle; may be repeated"
    )
    parser.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="true masks, for J&F: a folder of PNGs whose pixels are object ids, the root of a DAVIS data set, or .npz",
    )
    add_prompts(parser)
    parser.add_argument("--frames", type=int, metavar="N", help="only the first N frames (default: all)")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write report.json and report.html with pictures")
    parser.add_argument("--min-iou", type=float, default=0.97, metavar="IOU", help="lowest mean IoU (default: 0.97)")
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="default: auto")
    parser.set_defaults(verb=_verify)


def _verify(args: argparse.Namespace) -> int:
    from sam2edge.bundle import Bundle
    from sam2edge.calibration.measure.clip import Clip, TrueMasks
    from sam2edge.calibration.measure.comparison import RangeRatios, compare_all
    from sam2edge.calibration.measure.gate import Gate
    from sam2edge.calibration.measure.report import table, write_report

    gate, clip = Gate(min_mean_iou=args.min_iou), Clip(args.clip, args.frames)
    bundle = Bundle.open(args.bundle)
    truth = TrueMasks(args.masks, args.clip) if args.masks else None
    configurations, missing = _configurations(bundle, args)
    range_ratios: RangeRatios | None = None
    if any(configuration.int8 for configuration in configurations):
        if importlib.util.find_spec("onnx") is None:
            missing.append("ranges of INT8 graphs (onnx is not installed: pip install onnx)")
        else:
            from sam2edge.calibration.int8.ranges import range_ratios
    if truth is None:
        if len(configurations) == 1:
            raise InputError(f"nothing to compare {args.bundle} with: {'; '.join(missing)}; or give --masks")
        missing.append("J&F (give --masks)")
    prompts, status = _prompts(bundle, clip, truth, args), StatusLine()
    try:
        measurements = compare_all(
            configurations,
            clip,
            prompts,
            gate,
            truth,
            range_ratios=range_ratios,
            progress=lambda message, fraction: status.show(f"{fraction:4.0%} {message}"),
        )
    finally:
        status.clear()
    print_table(table(measurements))
    reference, *others = measurements
    missing += [
        f"single graphs of {other.configuration.name} (another model than {reference.configuration.name}'s)"
        for other in others
        if other.errors is None
    ]
    if missing:
        print(f"not measured: {'; '.join(missing)}")
    if args.report:
        print("wrote " + ", ".join(map(str, write_report(args.report, clip, gate, measurements))))
    failed = [(other.configuration.name, other.verdict) for other in others if other.verdict and other.verdict.failures]
    for name, verdict in failed:
        hint = f"; {verdict.sensitive} differs most" if verdict.sensitive else ""
        print(f"{name}: {'; '.join(verdict.failures)}{hint}")
    return _FAILED if failed else 0


def _configurations(bundle: Bundle, args: argparse.Namespace) -> tuple[list[Configuration], list[str]]:
    """Find what can be measured here, the reference first, and what cannot, with the reason."""
    from sam2edge.bundle import Bundle
    from sam2edge.calibration.measure.configurations import Configuration, find_configurations, without_pytorch

    configurations, refused = find_configurations([bundle, *map(Bundle.open, args.candidate)], args.backend)
    missing = list(refused.values())
    if absent := without_pytorch(args.against, "--against"):
        missing.insert(0, absent)
    else:
        from sam2edge.export.reference import TorchBackend

        configurations.insert(0, Configuration("PyTorch", bundle, TorchBackend(bundle, args.against), files={}))
    if not args.candidate:
        missing.append("other precisions (give their bundles as --candidate)")
    return configurations, missing


def _prompts(bundle: Bundle, clip: Clip, truth: TrueMasks | None, args: argparse.Namespace) -> Prompts:
    from sam2edge.calibration.measure.targets import automatic_prompts, prompts_from_truth

    if args.prompts:
        return prompts_by_id(args.prompts)
    if truth is not None:
        return prompts_from_truth(truth)
    return automatic_prompts(bundle, clip.first(), args.backend)
