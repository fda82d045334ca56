"""`sam2edge ui`."""

from __future__ import annotations

import argparse
import contextlib
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
from sam2edge.commands.words import add_words, check_words, open_search


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = "Serve a page on this machine only: click objects in a video, or name them, and follow them."
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
    add_words(parser)
    add_backend(parser)
    parser.set_defaults(verb=_ui)


def _ui(args: argparse.Namespace) -> int:
    check_bundle_first(args, "sam2edge ui BUNDLE SOURCE")
    check_outputs(directories=(args.output,))
    check_words(args)
    from sam2edge.bundle import Bundle
    from sam2edge.runtime.video.tracker import VideoTracker
    from sam2edge.runtime.words import SCORE
    from sam2edge.runtime.words.detector import WordDetector
    from sam2edge.ui.player import Player
    from sam2edge.ui.server import Server
    from sam2edge.ui.session import Session

    with contextlib.ExitStack() as stack:
        # Signals are handled outside: none may interrupt the closing of the files that are being saved.
        stop = stack.enter_context(stop_on_signal())
        search = stack.enter_context(open_search(args))
        bundle = search.bundle if search else Bundle.open(args.bundle)
        device = backend(args)
        detector, score = (search.detector, search.score) if search else (None, SCORE)
        if not search and bundle.words:
            detector = stack.enter_context(WordDetector(bundle, device))
        tracker = stack.enter_context(VideoTracker(bundle, device))
        session = stack.enter_context(Session(tracker, args.output, args.range, detector=detector, score=score))
        if search:
            session.look_for_words(search.words)
        if args.source is not None:
            session.open(args.source)
        player = Player(session)
        server = stack.enter_context(Server(player, args.port))
        print(f"{server.url}\nOpen this address in a browser; Ctrl-C ends.", flush=True)
        player.run(stop)
    return 0
