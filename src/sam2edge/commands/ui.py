"""`sam2edge ui`."""

from __future__ import annotations

import argparse
from pathlib import Path

from sam2edge.commands.options import (
    SOURCES,
    add_backend,
    add_bundle,
    add_range,
    backend,
    check_bundle_first,
    check_outputs,
    file_path,
)
from sam2edge.commands.track import stop_on_signal


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = "Serve a page on this machine only: click objects in a video and follow them."
    add_bundle(parser)
    parser.add_argument("source", metavar="SOURCE", nargs="?", help=f"{SOURCES}; the page can open others")
    parser.add_argument(
        "-o",
        "--output",
        type=file_path,
        default=Path("masks"),
        metavar="DIR",
        help="where masks are saved (default: masks)",
    )
    parser.add_argument(
        "--port", type=int, default=8620, metavar="N", help="port of the page; 0 takes a free one (default: 8620)"
    )
    add_range(parser)
    add_backend(parser)
    parser.set_defaults(verb=_ui)


def _ui(args: argparse.Namespace) -> int:
    check_bundle_first(args, "sam2edge ui BUNDLE SOURCE")
    check_outputs(directories=(args.output,))
    from sam2edge.runtime.video.tracker import VideoTracker
    from sam2edge.ui.player import Player
    from sam2edge.ui.server import Server
    from sam2edge.ui.session import Session

    # Signals are handled outside: none may interrupt the closing of the files that are being saved.
    with (
        stop_on_signal() as stop,
        VideoTracker(args.bundle, backend(args)) as tracker,
        Session(tracker, args.output, args.range) as session,
    ):
        if args.source is not None:
            session.open(args.source)
        player = Player(session)
        with Server(player, args.port) as server:
            print(f"{server.url}\nOpen this address in a browser; Ctrl-C ends.", flush=True)
            player.run(stop)
    return 0
