"""`sam2edge export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from sam2edge.bundle import check_output
from sam2edge.commands.console import StatusLine
from sam2edge.commands.inspect import print_parity
from sam2edge.commands.options import add_clip, file_path, optional_packages
from sam2edge.errors import InputError
from sam2edge.files import PathKind, path_kind


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write a bundle: four ONNX graphs that were compared with PyTorch, and their manifest."
    parser.add_argument(
        "source", metavar="SOURCE", help="Hugging Face directory, model id or address, or an upstream .pt file"
    )
    parser.add_argument("out", metavar="OUT", type=file_path, help="directory of the bundle")
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="N",
        help="side of the square that frames are resized to, a multiple of 32 from 256 to 1024 (default: the "
        "checkpoint's own)",
    )
    parser.add_argument(
        "--memory-pool",
        type=int,
        default=1,
        metavar="P",
        help="average P×P tokens of a memory, 2 or 4: faster, smaller, less accurate (default: 1, as in SAM 2)",
    )
    parser.add_argument(
        "--variant",
        metavar="V",
        help="of an EfficientTAM: plain, 512x512, 1 or 2 (default: what the authors' name of the file says)",
    )
    add_clip(parser, "or an image, to compare the graphs with PyTorch on (default: a drawn scene)")
    parser.set_defaults(verb=_export)


def _export(args: argparse.Namespace) -> int:
    check_output(args.out)
    kind = path_kind(args.source)
    if kind in (PathKind.BUNDLE, PathKind.VIDEO, PathKind.IMAGE, PathKind.IMAGE_FOLDER):
        raise InputError(f"{args.source} is {kind.value}; the checkpoint comes first: sam2edge export SOURCE OUT")
    with StatusLine() as status, optional_packages("exporting", '"sam2edge[export]"'):
        from sam2edge.export import export

        bundle = export(
            args.source,
            args.out,
            image_size=args.image_size,
            memory_pool=args.memory_pool,
            variant=args.variant,
            frames=args.clip,
            progress=status.progress,
        )
    print_parity(bundle)
    size = bundle.model.image_size
    note = ""
    told = args.image_size is not None or bundle.manifest.source.variant
    if not told and Path(args.source.partition("?")[0]).suffix in (".pt", ".pth", ".safetensors"):
        note = "; the file does not say at which size the model was trained: give another as --image-size N"
    print(f"frames are resized to {size}×{size}{note}")
    print(f"wrote {bundle.path}")
    return 0
