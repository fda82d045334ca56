"""`sam2edge ui`."""

from __future__ import annotations

import argparse
from pathlib import Path

from sam2edge.commands.track import stop_on_signal
from sam2edge.runtime import BACKENDS


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = "Serve a page on this machine alone: click objects in a video and follow them (docs/ui.md)."
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="directory that `sam2edge export` wrote")
    parser.add_argument(
        "source", metavar="SOURCE", nargs="?", help="what to open, as for `track`; the page can open others"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("masks"), metavar="DIR", help="where masks are saved (default: masks)"
    )
    parser.add_argument("--port", type=int, default=8620, metavar="N", help="0 takes a free one (default: 8620)")
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="default: auto")
    parser.set_defaults(verb=_ui)


def _ui(args: argparse.Namespace) -> int:
    from sam2edge.runtime.video.tracker import VideoTracker
    from sam2edge.ui.player import Player
    from sam2edge.ui.server import Server
    from sam2edge.ui.session import Session

    # The signals outside: none may tear the closing of what was saved.
    with (
        stop_on_signal() as stop,
        VideoTracker(args.bundle, args.backend) as tracker,
        Session(tracker, args.output) as session,
    ):
        if args.source is not None:
            session.open(args.source)
        player = Player(session)
        with Server(player, args.port) as server:
            print(f"{server.url}\nOpen this address in a browser; Ctrl-C ends.", flush=True)
            player.run(stop)
    return 0
