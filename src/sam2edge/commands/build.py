"""`sam2edge build`."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from sam2edge.commands.console import StatusLine, print_table
from sam2edge.errors import EngineError

_LIMITS = {
    "objects": ("--max-objects", "objects tracked at a time"),
    "conditioning_frames": ("--max-conditioning-frames", "conditioning frames of an object"),
    "prompts": ("--max-prompts", "prompts in one run of the mask decoder on images"),
    "points": ("--max-points", "points of one prompt"),
    "images": ("--max-batch", "images in one run of the image encoder"),
}


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compile a bundle into TensorRT engines for this machine's GPU, into BUNDLE.engines/PRECISION. Takes minutes; "
        "what is up to date is not built again."
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--out", type=Path, metavar="DIR", help="another directory for the engines")
    parser.add_argument("--precision", choices=("fp16", "fp32"), default="fp16", help="(default: fp16)")
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
        from sam2edge.engines.build import build
        from sam2edge.engines.profiles import PRESETS

        preset = PRESETS[args.profile]
        given = {field: getattr(args, option[2:].replace("-", "_")) for field, (option, _) in _LIMITS.items()}
        limits = dataclasses.replace(preset.limits, **{field: n for field, n in given.items() if n is not None})
        workspace = preset.workspace if args.workspace is None else args.workspace << 20
        engines = build(
            args.bundle,
            args.out,
            precision=args.precision,
            preset=dataclasses.replace(preset, limits=limits, workspace=workspace),
            force=args.force,
            progress=lambda message, fraction: status.show(f"{fraction:4.0%} {message}"),
        )
    except ModuleNotFoundError as error:
        raise EngineError(f'building needs {error.name}: pip install "sam2edge[tensorrt]"') from error
    finally:
        status.clear()
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
    return 0
