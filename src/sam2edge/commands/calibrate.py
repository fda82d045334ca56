"""`sam2edge calibrate`."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from sam2edge.commands.console import StatusLine
from sam2edge.commands.prompts import add_prompts, gather
from sam2edge.errors import ExportError, InputError


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write an INT8 bundle. Its ranges are those that the graphs show while the clips are tracked; a clip without "
        "prompts is tracked from what is found on its first frame. What was tracked is kept in ~/.cache/sam2edge."
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="directory that `sam2edge export` wrote")
    parser.add_argument("out", metavar="OUT", type=Path, help="directory of the INT8 bundle")
    parser.add_argument("--clips", nargs="+", required=True, metavar="VIDEO", help="videos, or folders of images")
    add_prompts(parser)
    parser.add_argument("--frames", type=int, default=64, metavar="N", help="frames to record (default: 64)")
    parser.add_argument(
        "--method",
        choices=("minmax", "entropy", "percentile"),
        help="how a range is chosen (default: the recipe's; minmax)",
    )
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="which layers stay FP32, as OUT/recipe.json")
    parser.set_defaults(verb=_calibrate)


def _calibrate(args: argparse.Namespace) -> int:
    prompts = {prompt.object_id: prompt.arguments for prompt in gather(args.prompts)}
    if prompts and len(args.clips) > 1:
        raise InputError(f"prompts are of one clip but there are {len(args.clips)}; give one, or no prompts")
    status = StatusLine()
    try:
        from sam2edge.calibration.calibrate import calibrate
        from sam2edge.calibration.recipe import Recipe

        recipe = Recipe.read(args.recipe) if args.recipe else Recipe()
        bundle = calibrate(
            args.bundle,
            args.out,
            args.clips,
            [prompts] if prompts else None,
            frames=args.frames,
            recipe=dataclasses.replace(recipe, method=args.method) if args.method else recipe,
            progress=lambda message, fraction: status.show(f"{fraction:4.0%} {message}"),
        )
    except ModuleNotFoundError as error:
        raise ExportError(f'calibrating needs {error.name}: pip install "sam2edge[export]"') from error
    finally:
        status.clear()
    size = sum(graph.bytes for graph in bundle.manifest.graphs.values())
    print(f"wrote {bundle.path}: INT8, {size / 2**20:.1f} MiB; measure it before you use it")
    return 0
