"""`sam2edge calibrate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2edge.bundle import RECIPE, check_output
from sam2edge.commands.console import StatusLine, print_table
from sam2edge.commands.options import (
    add_bundle,
    add_gate,
    add_range,
    check_outputs,
    file_path,
    min_iou,
    optional_packages,
)
from sam2edge.commands.prompts import add_prompts, prompts_by_id
from sam2edge.commands.words import split_words
from sam2edge.errors import InputError

if TYPE_CHECKING:
    from sam2edge.bundle import Bundle
    from sam2edge.calibration.int8.recipe import Recipe


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write an INT8 bundle whose ranges are those that the graphs show while the clips are tracked. A clip without "
        "prompts is tracked from the objects that the bundle finds on its first frame. Ranges are kept in "
        "~/.cache/sam2edge. INT8 must then track the clips as FP32 does; while it does not, one more block of layers "
        "is kept out of INT8: the one with the widest range, or else the one that differs most. The report is in "
        "OUT.report, and the exit code is 1 if INT8 does not pass."
    )
    add_bundle(parser)
    parser.add_argument("out", metavar="OUT", type=file_path, help="directory of the INT8 bundle")
    parser.add_argument(
        "--clip",
        dest="clips",
        metavar="CLIP",
        nargs="+",
        action="extend",
        required=True,
        help="videos, or folders or 'patterns' of images",
    )
    add_range(parser)
    add_prompts(parser)
    parser.add_argument(
        "--frames", type=int, default=64, metavar="N", help="frames to record, of all clips together (default: 64)"
    )
    parser.add_argument("--recipe", type=file_path, metavar="FILE", help="layers that stay FP32, as in OUT/recipe.json")
    parser.add_argument(
        "--words",
        metavar="WORDS",
        help="make the word detector INT8, too, and compare what it finds for these words: 'red cup, person'",
    )
    add_gate(parser)
    parser.add_argument("--no-gate", action="store_true", help="write INT8 without measuring it")
    parser.add_argument(
        "--sensitivity", type=file_path, metavar="DIR", help="first rank the blocks of layers by what INT8 does to each"
    )
    parser.set_defaults(verb=_calibrate)


def _calibrate(args: argparse.Namespace) -> int:
    prompts = prompts_by_id(args.prompts)
    if prompts and len(args.clips) > 1:
        raise InputError(f"prompts belong to one clip but there are {len(args.clips)}; give one, or no prompts")
    if args.no_gate and args.min_iou is not None:
        raise InputError("--min-iou does nothing with --no-gate")
    check_output(args.out)
    check_outputs(directories=(args.sensitivity,))
    with StatusLine() as status, optional_packages("calibrating"):
        from sam2edge.calibration.int8.calibrate import calibrate, calibrated_sensitivity
        from sam2edge.calibration.int8.detector import WordSearch
        from sam2edge.calibration.int8.recipe import Recipe
        from sam2edge.calibration.int8.sensitivity import table, write_sensitivity
        from sam2edge.calibration.measure.clip import Clip
        from sam2edge.calibration.measure.detections import DEFAULT_DETECTION_GATE
        from sam2edge.calibration.measure.gate import Gate
        from sam2edge.calibration.measure.report import report_directory

        recipe = Recipe.read(args.recipe) if args.recipe else Recipe()
        gate = None if args.no_gate else Gate(min_iou(args))
        search = None
        if args.words is not None:
            texts = split_words(args.words, "--words")
            search = WordSearch(texts, gate=None if args.no_gate else DEFAULT_DETECTION_GATE)
        given = [prompts] if prompts else None
        common: dict[str, Any] = {
            "frames": args.frames,
            "value_range": args.range,
            "recipe": recipe,
            "progress": status.progress,
        }
        if args.sensitivity:
            effects = calibrated_sensitivity(args.bundle, args.clips, given, **common)
            status.close()
            print_table(table(effects))
            files = write_sensitivity(args.sensitivity, Clip(args.clips[0]), effects)
            print(f"wrote {', '.join(map(str, files))}\n")
        bundle = calibrate(args.bundle, args.out, args.clips, given, gate=gate, search=search, **common)
    _print(bundle, recipe, report_directory(args.out))
    return 0


def _print(bundle: Bundle, given: Recipe, report: Path) -> None:
    from sam2edge.calibration.int8.recipe import Recipe
    from sam2edge.calibration.measure.detections import DetectionErrors

    size = sum(graph.bytes for graph in bundle.manifest.graphs.values())
    print(f"wrote {bundle.path}: INT8, {size / 2**20:.1f} MiB")
    if bundle.manifest.calibration is None or not bundle.manifest.calibration.iou:
        print("not compared with FP32: run `sam2edge verify` before you use it")
        return
    for island in Recipe.read(bundle.path / RECIPE).kept[len(given.kept) :]:
        print(f"kept out of INT8: {island.graph} {island.nodes} ({island.reason})")
    for clip, iou in bundle.manifest.calibration.iou.items():
        print(f"mean IoU with FP32 on {clip}: {iou:.4f}; for other clips, run `sam2edge verify`")
    if found := bundle.manifest.calibration.detections:
        print(f"word detector: {DetectionErrors(**found)}")
    print(f"report in {report}")
