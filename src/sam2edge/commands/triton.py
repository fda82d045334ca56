"""`sam2edge triton`."""

from __future__ import annotations

import argparse

from sam2edge.commands.options import add_bundle, add_gpus, check_bundle_first, file_path
from sam2edge.runtime import BACKENDS


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write a model repository for NVIDIA Triton: sam2_image for single images and sam2_video for streams of "
        "frames. It serves nothing itself."
    )
    add_bundle(parser)
    parser.add_argument("repository", metavar="REPOSITORY", type=file_path, help="directory to write, or to replace")
    parser.add_argument(
        "--backend",
        choices=[name for name in BACKENDS if name != "auto"],
        default="onnx",
        help="what runs the graphs in the server; tensorrt and tensorrt-rtx take the bundle's engines, which must be "
        "for the GPU of the server (default: onnx)",
    )
    parser.add_argument(
        "--streams",
        type=int,
        default=8,
        metavar="N",
        help="streams that an instance takes at a time; more are refused (default: 8)",
    )
    parser.add_argument(
        "--idle",
        type=float,
        default=60,
        metavar="SECONDS",
        help="a stream that sends nothing for so long is given up (default: 60)",
    )
    parser.add_argument(
        "--max-objects", type=int, default=16, metavar="N", help="objects that a stream may have (default: 16)"
    )
    add_gpus(parser, "serve on these GPUs (default: on all)")
    parser.add_argument(
        "--instances",
        type=int,
        default=1,
        metavar="N",
        help="processes of each model, on each GPU, with the weights in each (default: 1)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of the CPU for --backend onnx (default: one for each core)"
    )
    parser.set_defaults(verb=_triton)


def _triton(args: argparse.Namespace) -> int:
    check_bundle_first(args, "sam2edge triton BUNDLE REPOSITORY")
    from sam2edge.bundle import Bundle
    from sam2edge.serving.repository import Settings, write_repository

    names = ("backend", "streams", "idle", "max_objects", "threads", "gpus", "instances")
    settings = Settings(**{name: getattr(args, name) for name in names})
    write_repository(Bundle.open(args.bundle), args.repository, settings)
    command = f"tritonserver --model-repository {args.repository} --disable-auto-complete-config"
    print(f"wrote {args.repository}; serve it with: {command}")
    return 0
