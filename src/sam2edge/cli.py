"""The command `sam2edge VERB …`; each verb is a file of sam2edge.commands.

Exit codes: 0 done, 1 `doctor` found that this machine cannot track or the gate of `verify`, `calibrate` or `build`
failed, 2 an error (said in one line on stderr), 130 interrupted (`ui`, which has no other end: 0), 141 nobody reads the
output. SIGTERM interrupts as Ctrl-C does, so that processes and temporary files of a verb go with it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

from sam2edge.commands import (
    BROKEN_PIPE,
    INTERRUPTED,
    bench,
    build,
    calibrate,
    doctor,
    export,
    inspect,
    segment,
    track,
    ui,
    verify,
)
from sam2edge.errors import Sam2EdgeError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (`sys.argv` by default) and return its exit code."""
    args = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # no result is lost for an × that a locale lacks
    try:
        with _terminable():
            code = int(args.verb(args))
        sys.stdout.flush()
        return code
    except Sam2EdgeError as error:
        print(f"sam2edge: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # of `sam2edge doctor | head`; Python would complain once more when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:  # a folder that may not be entered, a name that no file can have
        print(f"sam2edge: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sam2edge: interrupted", file=sys.stderr)
        return INTERRUPTED


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sam2edge", description="Export SAM 2 to ONNX, segment images and track objects in video without PyTorch."
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    export.add(verbs.add_parser("export", help="write a bundle of ONNX graphs from a checkpoint"))
    build.add(verbs.add_parser("build", help="compile a bundle into TensorRT engines for this GPU"))
    calibrate.add(verbs.add_parser("calibrate", help="write an INT8 bundle from the ranges that clips show"))
    inspect.add(verbs.add_parser("inspect", help="say what is in a bundle"))
    track.add(verbs.add_parser("track", help="track objects through a video"))
    segment.add(verbs.add_parser("segment", help="segment images: what is prompted, or everything"))
    ui.add(verbs.add_parser("ui", help="click objects and follow them on a web page"))
    verify.add(verbs.add_parser("verify", help="measure graphs against PyTorch or each other on a clip"))
    bench.add(verbs.add_parser("bench", help="measure speed, memory and power on this machine"))
    doctor.add(verbs.add_parser("doctor", help="say what this machine has and lacks"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
