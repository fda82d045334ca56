"""`sam2edge export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from sam2edge.commands.console import StatusLine
from sam2edge.commands.inspect import print_parity
from sam2edge.errors import ExportError


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write a bundle: four ONNX graphs, compared with PyTorch, and their manifest."
    parser.add_argument("source", metavar="SOURCE", help="Hugging Face directory or model id, or an upstream .pt file")
    parser.add_argument("out", metavar="OUT", type=Path, help="directory of the bundle")
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
        help="average P×P tokens of a memory, 2 or 4: quicker, smaller, less accurate (default: 1, as SAM 2)",
    )
    parser.add_argument(
        "--frames",
        metavar="CLIP",
        help="video, image or folder of images to compare with PyTorch on (default: a drawn scene)",
    )
    parser.set_defaults(verb=_export)


def _export(args: argparse.Namespace) -> int:
    status = StatusLine()
    try:
        from sam2edge.export import export

        bundle = export(
            args.source,
            args.out,
            image_size=args.image_size,
            memory_pool=args.memory_pool,
            frames=args.frames,
            progress=lambda message, fraction: status.show(f"{fraction:4.0%} {message}"),
        )
    except ModuleNotFoundError as error:
        raise ExportError(f'exporting needs {error.name}: pip install "sam2edge[export]"') from error
    finally:
        status.clear()
    print_parity(bundle)
    print(f"wrote {bundle.path}")
    return 0
