"""`sam2edge export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from sam2edge.bundle import check_output
from sam2edge.bundle.words import WORDS
from sam2edge.commands.console import StatusLine
from sam2edge.commands.inspect import print_parity, print_words
from sam2edge.commands.options import add_clip, file_path, optional_packages, refuse_ignored
from sam2edge.errors import InputError
from sam2edge.files import PathKind, path_kind


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write a bundle: four ONNX graphs that were compared with PyTorch, and their manifest. With --words, or where "
        "SOURCE is an OWLv2 or OWL-ViT and OUT a bundle, it gets a word detector: two more graphs in OUT/words."
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="Hugging Face directory, model id or address, or an upstream .pt file"
    )
    parser.add_argument("out", metavar="OUT", type=file_path, help="directory of the bundle")
    parser.add_argument(
        "--words",
        metavar="OWL",
        help="also export a word detector: Hugging Face directory or model id of an OWLv2 or OWL-ViT, such as "
        "google/owlv2-base-patch16-ensemble (default: the one that OUT has already)",
    )
    parser.add_argument(
        "--words-size",
        type=int,
        metavar="N",
        help="side of the square image that the word detector takes, a multiple of its patches: smaller is faster and "
        "finds fewer small things (default: its own)",
    )
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
        from sam2edge.export import export, export_words, is_word_detector

        if is_word_detector(args.source):
            _check_word_detector(args)
            bundle = export_words(
                args.source, args.out, image_size=args.words_size, frames=args.clip, progress=status.progress
            )
            print_words(bundle)
            print(f"wrote {bundle.path / WORDS}")
            return 0
        if args.words is None:
            refuse_ignored(args, "words_size", without="--words")
        bundle = export(
            args.source,
            args.out,
            image_size=args.image_size,
            memory_pool=1 if args.memory_pool is None else args.memory_pool,
            variant=args.variant,
            words=args.words,
            words_size=args.words_size,
            frames=args.clip,
            progress=status.progress,
        )
    print_parity(bundle)
    print_words(bundle)
    size = bundle.model.image_size
    note = ""
    told = args.image_size is not None or bundle.manifest.source.variant
    if not told and Path(args.source.partition("?")[0]).suffix in (".pt", ".pth", ".safetensors"):
        note = "; the file does not say at which size the model was trained: give another as --image-size N"
    print(f"frames are resized to {size}×{size}{note}")
    print(f"wrote {bundle.path}")
    return 0


def _check_word_detector(args: argparse.Namespace) -> None:
    """Raise an InputError where a word detector is the source and what it needs or does not know was given."""
    if path_kind(args.out) is not PathKind.BUNDLE:
        raise InputError(
            f"{args.source} is a word detector, which is added to a bundle, but {args.out} is none: give a bundle, or "
            f"make one with `sam2edge export CHECKPOINT {args.out} --words {args.source}`"
        )
    for name in ("image_size", "memory_pool", "variant", "words"):
        if getattr(args, name) is not None:
            raise InputError(
                f"--{name.replace('_', '-')} is an option for a SAM 2, but {args.source} is a word detector, which "
                "takes --words-size and --clip"
            )
