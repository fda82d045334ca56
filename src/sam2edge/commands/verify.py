"""`sam2edge verify`."""

from __future__ import annotations

import argparse
import importlib.util
from typing import TYPE_CHECKING

from sam2edge.commands import FAILED, options
from sam2edge.commands.console import StatusLine, print_table
from sam2edge.commands.options import file_path
from sam2edge.commands.prompts import add_prompts, prompts_by_id
from sam2edge.commands.words import split_words
from sam2edge.errors import InputError

if TYPE_CHECKING:
    from sam2edge.bundle import Bundle
    from sam2edge.calibration.measure.clip import Clip, TrueMasks
    from sam2edge.calibration.measure.configurations import Configuration
    from sam2edge.calibration.measure.detections import DetectionErrors
    from sam2edge.calibration.measure.targets import Prompts


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Track a clip with PyTorch, the bundle, its engines and other bundles, and compare each with the first: errors "
        "of every graph, IoU in closed loop, J&F, time and size. Without prompts, the objects of the first true mask "
        "are tracked, or else those that the bundle finds on the first frame. The exit code is 1 if the gate fails."
    )
    options.add_bundle(parser)
    options.add_clip(parser, "to track; prompts are for its first frame", required=True)
    options.add_range(parser)
    options.add_against(parser, "PyTorch becomes the reference")
    parser.add_argument(
        "--candidate",
        type=file_path,
        metavar="BUNDLE",
        action="append",
        default=[],
        help="another bundle to compare; may be repeated",
    )
    options.add_truth(parser)
    add_prompts(parser)
    parser.add_argument(
        "--words", metavar="WORDS", help="also compare what the word detectors find for these words: 'red cup, person'"
    )
    parser.add_argument("--frames", type=int, metavar="N", help="only the clip's first N frames (default: all)")
    parser.add_argument("--report", type=file_path, metavar="DIR", help="write report.json and report.html")
    options.add_gate(parser)
    options.add_backend(parser)
    parser.set_defaults(verb=_verify)


def _verify(args: argparse.Namespace) -> int:
    options.check_outputs(directories=(args.report,))
    from sam2edge.bundle import Bundle
    from sam2edge.calibration.measure.clip import Clip, TrueMasks
    from sam2edge.calibration.measure.comparison import Comparison, RangeRatios
    from sam2edge.calibration.measure.detections import DEFAULT_DETECTION_GATE
    from sam2edge.calibration.measure.gate import Gate
    from sam2edge.calibration.measure.report import table, write_report

    gate, clip = Gate(min_mean_iou=options.min_iou(args)), Clip(args.clip, args.frames, args.range)
    bundle = Bundle.open(args.bundle)
    if args.words is not None:
        split_words(args.words, "--words")
        bundle.word_detector()  # raises now rather than after the clip was tracked
    truth = TrueMasks(args.truth, args.clip) if args.truth else None
    configurations, missing = _configurations(bundle, args)
    range_ratios: RangeRatios | None = None
    if any(configuration.int8 for configuration in configurations):
        if importlib.util.find_spec("onnx") is None:
            missing.append("ranges of INT8 graphs (onnx is not installed: pip install onnx)")
        else:
            from sam2edge.calibration.int8.ranges import range_ratios
    if truth is None:
        if len(configurations) == 1:
            raise InputError(f"nothing to compare {args.bundle} with: {'; '.join(missing)}; or give --truth")
        missing.append("J&F (give --truth)")
    prompts = _prompts(bundle, clip, truth, args)
    with StatusLine() as status:
        comparison = Comparison(
            configurations[0], clip, prompts, gate, truth, range_ratios=range_ratios, progress=status.progress
        )
        for configuration in configurations[1:]:
            comparison.measure(configuration)
    measurements = comparison.measurements
    print_table(table(measurements))
    reference, *others = measurements
    missing += [
        f"single graphs of {other.configuration.name} (another model than {reference.configuration.name}'s)"
        for other in others
        if other.errors is None
    ]
    detectors = _compare_words(bundle, configurations, clip, args, missing)
    if missing:
        print(f"not measured: {'; '.join(missing)}")
    if args.report:
        print("wrote " + ", ".join(map(str, write_report(args.report, clip, gate, measurements))))
    print(*(f"word detector of {name}: {errors}" for name, errors in detectors), sep="\n", end="\n" * bool(detectors))
    failed = [(other.configuration.name, other.verdict) for other in others if other.verdict and other.verdict.failures]
    for name, verdict in failed:
        hint = f"; {verdict.sensitive} differs most" if verdict.sensitive else ""
        print(f"{name}: {'; '.join(verdict.failures)}{hint}")
    refused = [(name, DEFAULT_DETECTION_GATE.failures(errors)) for name, errors in detectors]
    for name, failures in refused:
        if failures:
            print(f"word detector of {name}: {'; '.join(failures)}")
    return FAILED if failed or any(failures for _, failures in refused) else 0


def _configurations(bundle: Bundle, args: argparse.Namespace) -> tuple[list[Configuration], list[str]]:
    """Find what can be measured here, the reference first, and what cannot, with the reason."""
    from sam2edge.bundle import Bundle
    from sam2edge.calibration.measure.configurations import Configuration, find_configurations, without_pytorch

    bundles = [bundle, *map(Bundle.open, args.candidate)]
    configurations, refused = find_configurations(bundles, options.backend(args), gpu=args.gpu or 0)
    missing = list(refused.values())
    if absent := without_pytorch(args.against, "--against"):
        missing.insert(0, absent)
    else:
        from sam2edge.export.reference import TorchBackend

        configurations.insert(0, Configuration("PyTorch", bundle, TorchBackend(bundle, args.against), files={}))
    if not args.candidate:
        missing.append("other precisions (give their bundles as --candidate)")
    return configurations, missing


def _compare_words(
    bundle: Bundle, configurations: list[Configuration], clip: Clip, args: argparse.Namespace, missing: list[str]
) -> list[tuple[str, DetectionErrors]]:
    """Compare the word detectors of configurations with the bundle's on the CPU; add to `missing` what has none."""
    if args.words is None:
        return []
    from sam2edge.calibration.measure.configurations import Configuration
    from sam2edge.calibration.measure.detections import compare_detectors

    source, others = bundle.word_detector().manifest.source, []
    for configuration in configurations:
        words = configuration.bundle.words
        if configuration.files == {} or (configuration.bundle is bundle and configuration.engines is None):
            continue  # PyTorch, whose parity is in the manifest, and the reference itself
        if words is None or words.manifest.source.sha256 != source.sha256:
            missing.append(f"words with {configuration.name} (it has no or another word detector)")
            continue
        others.append(configuration)
    texts = split_words(args.words, "--words")
    errors = compare_detectors(Configuration("FP32", bundle, "onnx"), others, clip, texts)
    return [(other.name, found) for other, found in zip(others, errors, strict=True)]


def _prompts(bundle: Bundle, clip: Clip, truth: TrueMasks | None, args: argparse.Namespace) -> Prompts:
    from sam2edge.calibration.measure.targets import automatic_prompts, prompts_from_truth

    if args.prompts:
        return prompts_by_id(args.prompts)
    if truth is not None:
        return prompts_from_truth(truth, clip.first().shape[:2])
    return automatic_prompts(bundle, clip.first(), options.backend(args))
