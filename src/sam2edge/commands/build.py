"""`sam2edge build`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2edge.commands.console import StatusLine, print_table
from sam2edge.commands.prompts import add_prompts, prompts_by_id
from sam2edge.errors import EngineError, GateError, InputError

if TYPE_CHECKING:
    from sam2edge.bundle.engines import Engines
    from sam2edge.calibration.choose import Trial
    from sam2edge.runtime.backends.base import Backend

_FAILED = 1

_LIMITS = {
    "objects": ("--max-objects", "objects tracked at a time"),
    "conditioning_frames": ("--max-conditioning-frames", "conditioning frames of an object"),
    "prompts": ("--max-prompts", "prompts in one run of the mask decoder on images"),
    "points": ("--max-points", "points of one prompt"),
    "images": ("--max-batch", "images in one run of the image encoder"),
    "side": ("--max-side", "rows and columns of frames that are resized on the GPU"),
}


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compile a bundle into TensorRT engines for this machine's GPU, into BUNDLE.engines/PRECISION. Takes minutes; "
        "what is up to date is not built again. With --clip they must track it as FP32 does: the report is in "
        "BUNDLE.engines/PRECISION.report, exit code 1 if they do not."
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--out", type=Path, metavar="DIR", help="another directory for the engines")
    parser.add_argument(
        "--precision",
        default="fp16",
        metavar="{fp16,fp32,int8,auto}",
        help="int8: of a bundle that `sam2edge calibrate` wrote; auto: for each graph the fastest that passes on "
        "--clip (default: fp16)",
    )
    parser.add_argument(
        "--clip", metavar="CLIP", help="a video or images that the engines must track as FP32 does, or they are refused"
    )
    add_prompts(parser)
    parser.add_argument("--frames", type=int, metavar="N", help="only the clip's first N frames (default: all)")
    parser.add_argument("--min-iou", type=float, default=0.97, metavar="IOU", help="lowest mean IoU (default: 0.97)")
    parser.add_argument(
        "--source", type=Path, metavar="BUNDLE", help="the FP32 bundle that an INT8 one was made of, for --clip"
    )
    parser.add_argument(
        "--profile", choices=("desktop", "jetson"), default="desktop", help="sizes and memory (default: desktop)"
    )
    for option, what in _LIMITS.values():
        parser.add_argument(option, type=int, metavar="N", help=f"{what} (default: the profile's)")
    parser.add_argument(
        "--workspace", type=int, metavar="MIB", help="scratch memory of a layer (default: the profile's)"
    )
    parser.add_argument("--force", action="store_true", help="build even what is up to date")
    parser.set_defaults(verb=_build)


def _build(args: argparse.Namespace) -> int:
    status = StatusLine()
    try:
        engines, trials = _engines(args, lambda message, fraction: status.show(f"{fraction:4.0%} {message}"))
    except ModuleNotFoundError as error:
        raise EngineError(f"building needs {error.name}: pip install {error.name}") from error
    except GateError as error:
        status.clear()
        print(error)
        return _FAILED
    finally:
        status.clear()
    _print(engines)
    for trial in trials:
        said = "; ".join(trial.failures) or ("taken" if trial is trials[-1] else "passed")
        print(f"{'/'.join(trial.assignment)}: {trial.total:.2f} ms, {said}")
    return 0


def _engines(args: argparse.Namespace, progress: Callable[[str, float], None]) -> tuple[Engines, list[Trial]]:
    from sam2edge.engines.build import build
    from sam2edge.engines.profiles import PRESETS

    preset = PRESETS[args.profile]
    given = {field: getattr(args, option[2:].replace("-", "_")) for field, (option, _) in _LIMITS.items()}
    limits = dataclasses.replace(preset.limits, **{field: n for field, n in given.items() if n is not None})
    workspace = preset.workspace if args.workspace is None else args.workspace << 20
    common: dict[str, Any] = {
        "precision": args.precision,
        "preset": dataclasses.replace(preset, limits=limits, workspace=workspace),
        "force": args.force,
        "progress": progress,
    }
    if args.clip is None:
        if args.precision == "auto" or args.source or args.prompts:
            raise InputError("engines are compared with FP32 on a clip of yours; give it as --clip")
        return build(args.bundle, args.out, **common), []

    from sam2edge.calibration.checked_build import build_checked
    from sam2edge.calibration.measure.clip import Clip
    from sam2edge.calibration.measure.gate import Gate

    prompts = prompts_by_id(args.prompts) or None
    clip, gate = Clip(args.clip, args.frames), Gate(args.min_iou)
    return build_checked(
        args.bundle, clip, _opener(), args.out, source=args.source, prompts=prompts, gate=gate, **common
    )


def _opener() -> Callable[[Engines], Backend]:
    """What runs engines. BackendError before anything is built where they cannot run."""
    from sam2edge.runtime.backends.tensorrt import TensorRTBackend

    TensorRTBackend()
    return lambda engines: TensorRTBackend(engines.path)


def _print(engines: Engines) -> None:
    manifest = engines.manifest
    target = manifest.target
    print(f"{target.gpu}, compute capability {target.compute_capability}, TensorRT {target.tensorrt}")
    print_table(
        [("engine", "MiB", "activations MiB", "layers", "seconds")]
        + [
            (
                name,
                f"{engine.bytes / 2**20:.1f}",
                f"{engine.activation_bytes / 2**20:.1f}",
                ", ".join(f"{count} {precision}" for precision, count in sorted(engine.layers.items())),
                f"{engine.seconds:.0f}",
            )
            for name, engine in manifest.engines.items()
        ]
    )
    print(f"engines in {engines.path}")
