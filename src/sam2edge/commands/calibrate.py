"""`sam2edge calibrate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2edge.commands.console import StatusLine, print_table
from sam2edge.commands.prompts import add_prompts, prompts_by_id
from sam2edge.errors import ExportError, GateError, InputError

if TYPE_CHECKING:
    from sam2edge.bundle import Bundle
    from sam2edge.calibration.int8.recipe import Recipe

_FAILED = 1


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write an INT8 bundle. Its ranges are those that the graphs show while the clips are tracked; a clip without "
        "prompts is tracked from what is found on its first frame. What was tracked is kept in ~/.cache/sam2edge. Then "
        "INT8 must track the clips as FP32 does: while it does not, a block of layers is kept out, the one with the "
        "widest range or else the one that differs most. The report is in OUT.report; exit code 1 if INT8 does not "
        "pass (docs/calibration.md)."
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="directory that `sam2edge export` wrote")
    parser.add_argument("out", metavar="OUT", type=Path, help="directory of the INT8 bundle")
    parser.add_argument("--clips", nargs="+", required=True, metavar="VIDEO", help="videos, or folders of images")
    add_prompts(parser)
    parser.add_argument(
        "--frames", type=int, default=64, metavar="N", help="frames to record, of all clips together (default: 64)"
    )
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="which layers stay FP32, as OUT/recipe.json")
    parser.add_argument("--min-iou", type=float, default=0.97, metavar="IOU", help="lowest mean IoU (default: 0.97)")
    parser.add_argument("--no-gate", action="store_true", help="write INT8 without measuring it")
    parser.add_argument(
        "--sensitivity", type=Path, metavar="DIR", help="first rank the blocks of layers by what INT8 does to each"
    )
    parser.set_defaults(verb=_calibrate)


def _calibrate(args: argparse.Namespace) -> int:
    prompts = prompts_by_id(args.prompts)
    if prompts and len(args.clips) > 1:
        raise InputError(f"prompts are of one clip but there are {len(args.clips)}; give one, or no prompts")
    status = StatusLine()

    def show(message: str, fraction: float) -> None:
        status.show(f"{fraction:4.0%} {message}")

    try:
        from sam2edge.calibration.int8.calibrate import calibrate, calibrated_sensitivity
        from sam2edge.calibration.int8.recipe import Recipe
        from sam2edge.calibration.int8.sensitivity import table, write_sensitivity
        from sam2edge.calibration.measure.clip import Clip
        from sam2edge.calibration.measure.gate import Gate
        from sam2edge.calibration.measure.report import report_directory

        recipe = Recipe.read(args.recipe) if args.recipe else Recipe()
        gate = None if args.no_gate else Gate(args.min_iou)
        given = [prompts] if prompts else None
        common: dict[str, Any] = {"frames": args.frames, "recipe": recipe, "progress": show}
        if args.sensitivity:
            effects = calibrated_sensitivity(args.bundle, args.clips, given, **common)
            status.clear()
            print_table(table(effects))
            files = write_sensitivity(args.sensitivity, Clip(args.clips[0]), effects)
            print(f"wrote {', '.join(map(str, files))}\n")
        bundle = calibrate(args.bundle, args.out, args.clips, given, gate=gate, **common)
    except ModuleNotFoundError as error:
        raise ExportError(f"calibrating needs {error.name}: pip install {error.name}") from error
    except GateError as error:
        status.clear()
        print(error)
        return _FAILED
    finally:
        status.clear()
    _print(bundle, recipe, report_directory(args.out))
    return 0


def _print(bundle: Bundle, given: Recipe, report: Path) -> None:
    from sam2edge.bundle import RECIPE
    from sam2edge.calibration.int8.recipe import Recipe

    size = sum(graph.bytes for graph in bundle.manifest.graphs.values())
    print(f"wrote {bundle.path}: INT8, {size / 2**20:.1f} MiB")
    if bundle.manifest.calibration is None or not bundle.manifest.calibration.iou:
        print("not measured against FP32: see `sam2edge verify` before it is used")
        return
    for island in Recipe.read(bundle.path / RECIPE).kept[len(given.kept) :]:
        print(f"kept out of INT8: {island.graph} {island.nodes} ({island.reason})")
    for clip, iou in bundle.manifest.calibration.iou.items():
        print(f"mean IoU with FP32 on {clip}: {iou:.4f}; on clips that it did not see, ask `sam2edge verify`")
    print(f"report in {report}")
