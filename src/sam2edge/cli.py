"""The command `sam2edge VERB …`; each verb is a file of sam2edge.commands, which has the exit codes too.

SIGTERM interrupts as Ctrl-C does, so that processes and temporary files of a verb go with it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

from sam2edge import __version__, commands
from sam2edge.commands import (
    bench,
    build,
    calibrate,
    doctor,
    export,
    inspect,
    label,
    segment,
    track,
    triton,
    ui,
    verify,
)
from sam2edge.commands.prompts import join_coordinates
from sam2edge.errors import GateError, Sam2EdgeError

VERBS = {
    "export": (export, "write a bundle of ONNX graphs from a checkpoint"),
    "build": (build, "compile a bundle into TensorRT engines for this GPU"),
    "calibrate": (calibrate, "write an INT8 bundle with ranges from your clips"),
    "inspect": (inspect, "show what is in a bundle"),
    "track": (track, "track objects through a video"),
    "segment": (segment, "segment images: what is prompted, or everything"),
    "label": (label, "label many videos and images, with several workers"),
    "ui": (ui, "click objects and follow them on a web page"),
    "triton": (triton, "write a model repository for NVIDIA Triton"),
    "verify": (verify, "compare graphs with PyTorch, or with each other, on a clip"),
    "bench": (bench, "measure speed, memory and power on this machine"),
    "doctor": (doctor, "check this machine's setup"),
}
_PYTHON_WORDS = {
    "; remove(object_id) ends the tracking of an object": "",
    "resize the frames, or reset() and prompt again": "resize the frames",
    " (a predictor also takes normalize_coords=False)": "",
    'backend="onnx"': "--backend onnx",
    "min_mean_iou": "--min-iou",
    "max_objects": "--max-objects",
}
"""What errors say to a Python program, and what to say on the command line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (`sys.argv` by default) and return its exit code."""
    args = parse(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # no result is lost for an × that a locale lacks
    try:
        with _terminable():
            code = int(args.verb(args))
        sys.stdout.flush()
        return code
    except GateError as error:
        print(error)
        return commands.FAILED
    except BrokenPipeError:  # of `sam2edge doctor | head`; Python would complain once more when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return commands.BROKEN_PIPE
    except (Sam2EdgeError, OSError) as error:  # OSError: a folder that may not be entered, a name no file can have
        print(f"sam2edge: error: {_with_options(str(error), args)}", file=sys.stderr)
        return commands.ERROR
    except KeyboardInterrupt:
        print("sam2edge: interrupted", file=sys.stderr)
        return commands.INTERRUPTED


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the words of a command line; wrong usage ends the program, with the usage of the verb."""
    top, verbs = parsers()
    args, unknown = top.parse_known_args(join_coordinates(words))
    if unknown:
        hint = "; coordinates are written with commas: --point X,Y,LABEL" if unknown[0].isdecimal() else ""
        if getattr(args, "sources", None) == [] and not unknown[0].startswith("-"):
            hint = "; name the sources right after the bundle"
        verbs[args.name].error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return args


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Make the parser of the command, and those of its verbs by their names."""
    top = argparse.ArgumentParser(
        prog="sam2edge",
        description="Export SAM 2 or a lighter relative to ONNX, segment images and track objects without PyTorch.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"sam2edge {__version__}")
    choices = top.add_subparsers(metavar="VERB", dest="name", required=True)
    verbs = {}
    for name, (module, text) in VERBS.items():
        verbs[name] = choices.add_parser(name, help=text, allow_abbrev=False)
        module.add(verbs[name])
    verbs["help"] = choices.add_parser("help", help="show the options of a verb", allow_abbrev=False)
    verbs["help"].add_argument("topic", nargs="?", choices=VERBS, metavar="VERB", help="default: all verbs")

    def print_help(args: argparse.Namespace) -> int:
        verbs.get(args.topic, top).print_help()
        return 0

    verbs["help"].set_defaults(verb=print_help)
    return top, verbs


def _with_options(message: str, args: argparse.Namespace) -> str:
    """Put options in place of the names that arguments have in Python."""
    for python, option in _PYTHON_WORDS.items():
        message = message.replace(python, option)
    for name in vars(args):
        option = f"--{name.replace('_', '-')}"
        message = re.sub(rf"(?<![\w'\"]){name}\b" if "_" in name else rf"^{name}(?= must )", option, message)
    return message


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only there are signals handled
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one does not wait for anything
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
