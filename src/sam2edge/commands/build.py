"""`sam2edge build`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sam2edge.commands import options
from sam2edge.commands.console import StatusLine, print_table
from sam2edge.commands.options import file_path
from sam2edge.commands.prompts import add_prompts, prompts_by_id
from sam2edge.errors import InputError

if TYPE_CHECKING:
    from sam2edge.bundle.engines import Engines
    from sam2edge.calibration.choose import Trial
    from sam2edge.engines.build import EngineBuilder
    from sam2edge.runtime.backends.base import Backend
    from sam2edge.types import Progress

_PRECISIONS = ("fp16", "bf16", "fp32", "int8", "auto")
_PRODUCTS = {"tensorrt": "tensorrt", "rtx": "tensorrt-rtx"}
_LIMITS = {
    "objects": ("--max-objects", "objects tracked at a time"),
    "usual_objects": ("--usual-objects", "objects usually tracked, for which kernels are chosen"),
    "conditioning_frames": ("--max-conditioning-frames", "conditioning frames of an object"),
    "prompts": ("--max-prompts", "prompts in one run of the mask decoder on images"),
    "points": ("--max-points", "points of one prompt"),
    "images": ("--max-batch", "images in one run of the image encoder"),
    "side": ("--max-side", "rows and columns of frames that are resized on the GPU"),
    "words": ("--max-words", "words in one run of the word detector"),
}


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compile a bundle into TensorRT engines for this machine's GPU, in BUNDLE.engines/PRECISION, which takes "
        "minutes; or with --for rtx, on any machine, into engines for RTX GPUs, in BUNDLE.engines/rtx/PRECISION. "
        "Engines that are up to date are not built again. With --clip, they must track it as FP32 does: the report is "
        "beside them in PRECISION.report, and the exit code is 1 if they do not."
    )
    options.add_bundle(parser)
    parser.add_argument("-o", "--output", type=file_path, metavar="DIR", help="another directory for the engines")
    parser.add_argument(
        "--precision",
        default="fp16",
        metavar=f"{{{','.join(_PRECISIONS)}}}",
        help="int8 needs a bundle that `sam2edge calibrate` wrote; auto takes for each graph the fastest that passes "
        "on --clip (default: fp16)",
    )
    parser.add_argument(
        "--attention",
        choices=("fused", "narrow"),
        help="form of the memory attention: the least memory, or the least arithmetic (default: fused; narrow in FP32, "
        "and for TensorRT 8 where memory allows it)",
    )
    parser.add_argument(
        "--for",
        dest="product",
        choices=_PRODUCTS,
        default="tensorrt",
        help="what runs the engines: TensorRT on this machine, or TensorRT for RTX (default: tensorrt)",
    )
    parser.add_argument(
        "--compute-capability",
        nargs="+",
        metavar="X.Y",
        help="with --for rtx: the GPUs to build for, such as 8.6 8.9 (default: all from 8.0)",
    )
    options.add_gpu(parser, "to build on and for, with --for tensorrt")
    options.add_clip(parser, "that the engines must track as FP32 does")
    options.add_range(parser)
    add_prompts(parser)
    parser.add_argument("--frames", type=int, metavar="N", help="only the clip's first N frames (default: all)")
    options.add_gate(parser)
    parser.add_argument(
        "--fp32", type=file_path, metavar="BUNDLE", help="with --clip: the FP32 bundle that an INT8 one was made from"
    )
    parser.add_argument(
        "--profile", choices=("desktop", "jetson"), default="desktop", help="sizes and memory (default: desktop)"
    )
    for option, text in _LIMITS.values():
        parser.add_argument(option, type=int, metavar="N", help=f"{text} (default: the profile's)")
    parser.add_argument(
        "--workspace", type=int, metavar="MIB", help="scratch memory of a layer (default: the profile's)"
    )
    parser.add_argument("--force", action="store_true", help="build engines that are up to date, too")
    parser.set_defaults(verb=_build)


def _build(args: argparse.Namespace) -> int:
    if args.precision not in (*_PRECISIONS, "fp8"):  # the library says why there is no fp8
        raise InputError(f"--precision must be one of {', '.join(_PRECISIONS)} but is {args.precision!r}")
    if args.product != "rtx":
        options.refuse_ignored(args, "compute_capability", without="--for rtx")
    if args.clip is None:
        if args.precision == "auto":
            raise InputError("--precision auto compares engines with FP32 on a clip of yours: give it as --clip")
        options.refuse_ignored(args, "frames", "range", "min_iou", "fp32", without="--clip")
        if args.prompts:
            raise InputError(f"{args.prompts[0]} does nothing without --clip")
    options.check_outputs(directories=(args.output,))
    with StatusLine() as status, options.optional_packages("building"):
        engines, trials = _engines(args, status.progress)
    _print(engines)
    if args.clip is None:
        print("not compared with FP32; give a clip of yours as --clip to do that")
    for trial in trials:
        outcome = "; ".join(trial.failures) or ("chosen" if trial is trials[-1] else "passed")
        print(f"{trial.name}: {trial.total:.2f} ms, {outcome}")
    return 0


def _engines(args: argparse.Namespace, progress: Progress) -> tuple[Engines, list[Trial]]:
    from sam2edge.engines.build import EngineBuilder, build
    from sam2edge.engines.profiles import PRESETS

    preset = PRESETS[args.profile]
    given = {field: getattr(args, option[2:].replace("-", "_")) for field, (option, _) in _LIMITS.items()}
    limits = dataclasses.replace(preset.limits, **{field: n for field, n in given.items() if n is not None})
    workspace = preset.workspace if args.workspace is None else args.workspace << 20
    common: dict[str, Any] = {
        "precision": args.precision,
        "attention": args.attention,
        "product": _PRODUCTS[args.product],
        "compute_capabilities": args.compute_capability or (),
        "preset": (preset := dataclasses.replace(preset, limits=limits, workspace=workspace)),
        "gpu": args.gpu,
        "force": args.force,
        "progress": progress,
    }
    if args.clip is None:
        return build(args.bundle, args.output, **common), []

    from sam2edge.calibration.checked_build import build_checked
    from sam2edge.calibration.measure.clip import Clip
    from sam2edge.calibration.measure.gate import Gate

    builder = EngineBuilder.here(preset, common["product"], common["compute_capabilities"], args.gpu)
    prompts = prompts_by_id(args.prompts) or None
    clip, gate = Clip(args.clip, args.frames, args.range), Gate(options.min_iou(args))
    return build_checked(
        args.bundle, clip, _opener(builder), args.output, source=args.fp32, prompts=prompts, gate=gate, **common
    )


def _opener(builder: EngineBuilder) -> Callable[[Engines], Backend]:
    """Return what runs a builder's engines; raise an error, before anything is built, if they cannot run here."""
    from sam2edge.runtime.backends.tensorrt import TensorRTBackend

    target, gpu = builder.target, builder.gpu
    here = TensorRTBackend(product=target.product, gpu=gpu).target
    if reasons := target.mismatches(here):
        raise InputError(f"--clip runs the engines on this machine, but they are {'; '.join(reasons)}")
    return lambda engines: TensorRTBackend(engines.path, target.product, gpu)


def _print(engines: Engines) -> None:
    manifest = engines.manifest
    print(f"for {manifest.target}")
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
