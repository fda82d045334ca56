"""Options that several verbs share, each declared once, and checks that they share."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sam2edge.errors import InputError, Sam2EdgeError
from sam2edge.files import PathKind, check_output_directory, check_output_file, path_kind, user_path
from sam2edge.runtime import BACKENDS
from sam2edge.runtime.image import GRID

if TYPE_CHECKING:
    from sam2edge.runtime.backends.base import Backend

SOURCES = (
    "a video, a folder or 'pattern' of images, a camera (0, /dev/video0, csi:0), a stream (rtsp://…, http://…, "
    "udp://…) or 'gst:PIPELINE'"
)
"""The help of SOURCE, whatever `open_source` opens."""
_GRID_HELP = {
    "points_per_side": "points in a row and in a column of the grid (default: 32)",
    "pred_iou_thresh": "drop masks whose predicted IoU is not above N (default: 0.8)",
    "stability_score_thresh": "drop masks whose stability is below N (default: 0.95)",
}
_MIN_IOU = 0.97


def file_path(text: str) -> Path:
    """Return the path of an argument; a leading `~` is the home directory in `--option=~/x`, too."""
    try:
        return user_path(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = (float(number) for number in text.split(","))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise argparse.ArgumentTypeError(f"expected two numbers LO,HI with LO below HI but got {text!r}")
    return low, high


def add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", type=file_path, help="directory that `sam2edge export` wrote")


def add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend", choices=BACKENDS, default="auto", help="what runs the graphs (default: auto, which is onnx)"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of the CPU for --backend onnx (default: one for each core)"
    )
    add_gpu(parser, "for the other backends")


def add_gpu(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument(
        "--gpu",
        type=int,
        metavar="N",
        help=f"number of the GPU {text}: from 0, as CUDA counts those in CUDA_VISIBLE_DEVICES, or all (default: 0)",
    )


def add_gpus(parser: argparse._ActionsContainer, text: str) -> None:
    parser.add_argument("--gpus", type=_gpus, default=(), metavar="N[,N]…", help=text)


def _gpus(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers of GPUs with commas between but got {text!r}") from None


def backend(args: argparse.Namespace) -> str | Backend:
    """Return what --backend names, opened if it has to be told --threads or --gpu."""
    if args.threads is None and args.gpu is None:
        return str(args.backend)
    from sam2edge.runtime.backends.base import open_backend

    return open_backend(args.backend, threads=args.threads, gpu=args.gpu)


def add_clip(parser: argparse.ArgumentParser, text: str, *, required: bool = False) -> None:
    parser.add_argument(
        "--clip", metavar="CLIP", required=required, help=f"a video, or a folder or 'pattern' of images, {text}"
    )


def add_range(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--range",
        type=_range,
        metavar="LO,HI",
        help="the values of images that become black and white; needed where they have more than 8 bits and use few of "
        "them, as from a thermal camera (--range=-10,40 if LO is below 0)",
    )


def add_auto(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--auto", action="store_true", help="find everything, with a grid of points")
    for name, kind in GRID.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=kind, metavar="N", help=f"with --auto: {_GRID_HELP[name]}")


def add_knobs(parser: argparse.ArgumentParser) -> None:
    knobs = parser.add_argument_group("memory of the tracked objects, by default as in the model's own code")
    knobs.add_argument(
        "--min-confidence",
        type=float,
        default=0.0,
        metavar="IOU",
        help="do not memorise frames whose predicted IoU is below IOU (default: 0)",
    )
    knobs.add_argument(
        "--memory-frames", type=int, metavar="N", help="recent frames to attend to (default: the model's 6)"
    )
    knobs.add_argument(
        "--memory-stride", type=int, default=1, metavar="N", help="attend to every Nth recent frame (default: 1)"
    )
    knobs.add_argument(
        "--track-every",
        type=int,
        default=1,
        metavar="N",
        help="track every Nth frame and repeat its result on the others (default: 1)",
    )


def add_truth(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--truth",
        type=file_path,
        metavar="MASKS",
        help="true masks of the clip, for J&F: a folder of PNGs whose pixels are object ids, the root of a DAVIS data "
        "set, or an .npz file",
    )


def add_against(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--against", metavar="SOURCE", help=f"the checkpoint that BUNDLE was exported from: {text}")


def add_gate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--min-iou", type=float, metavar="IOU", help=f"lowest mean IoU that passes the gate (default: {_MIN_IOU})"
    )


def min_iou(args: argparse.Namespace) -> float:
    """Return --min-iou or its default."""
    return _MIN_IOU if args.min_iou is None else float(args.min_iou)


def refuse_ignored(args: argparse.Namespace, *names: str, without: str) -> None:
    """Raise an InputError for options that were given but do nothing `without` another one."""
    for name in names:
        value = getattr(args, name)
        if value is not None and value is not False:  # 0 counts
            raise InputError(f"--{name.replace('_', '-')} does nothing without {without}")


def check_outputs(*, files: tuple[Path | None, ...] = (), directories: tuple[Path | None, ...] = ()) -> None:
    """Raise an InputError, before any work is done, if an output cannot be written."""
    for check, outputs in ((check_output_file, files), (check_output_directory, directories)):
        for output in outputs:
            if output is not None:
                check(output)


def check_bundle_first(args: argparse.Namespace, usage: str) -> None:
    """Raise an InputError if a video or an image stands where the bundle belongs."""
    kind = path_kind(args.bundle)
    if kind in (PathKind.VIDEO, PathKind.IMAGE, PathKind.IMAGE_FOLDER):
        raise InputError(f"{args.bundle} is {kind.value}; the bundle comes first: {usage}")


@contextlib.contextmanager
def optional_packages(work: str, extra: str | None = None) -> Iterator[None]:
    """Turn a failed import into an error that says what to install: `extra`, or else the package alone."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise Sam2EdgeError(f"{work} needs {error.name}: pip install {extra or error.name}") from error
