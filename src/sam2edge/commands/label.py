"""`sam2edge label`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2edge.commands import FAILED, INTERRUPTED
from sam2edge.commands.console import StatusLine
from sam2edge.commands.options import (
    add_auto,
    add_bundle,
    add_gpus,
    add_knobs,
    add_range,
    check_bundle_first,
    file_path,
    optional_packages,
    refuse_ignored,
)
from sam2edge.commands.track import stop_on_signal
from sam2edge.commands.words import add_words, check_words, is_file, word_texts
from sam2edge.errors import BackendError, InputError, PromptError
from sam2edge.files import sha256, user_path
from sam2edge.labelling import LABEL_IMAGE_LAYOUTS, LAYOUTS
from sam2edge.runtime import BACKENDS
from sam2edge.runtime.image import GRID
from sam2edge.runtime.video import KNOBS

if TYPE_CHECKING:
    from sam2edge.bundle import Bundle
    from sam2edge.labelling.items import Settings
    from sam2edge.labelling.processes import OpenLabeller
    from sam2edge.labelling.scheduler import Pool, Tally
    from sam2edge.labelling.store import Store

_FORMAT = "sam2edge-label"
_VERSION = 1
_WEIGHTS, _WORKER = 3, 512 << 20
"""A worker on the CPU takes this many times the bytes of the weights, and these bytes."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Label many videos and images with several workers: follow what prompts mark, find everything, or find what "
        "words name. The same command goes on where it was interrupted, does what is missing and tries again what "
        "failed."
    )
    add_bundle(parser)
    parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="*",
        help="a video, a folder or 'pattern' of images or of videos (default: those that --prompts name)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=file_path,
        metavar="OUT",
        required=True,
        help="folder of the run, new or to go on with",
    )
    add_range(parser)
    parser.add_argument(
        "--prompts",
        type=file_path,
        metavar="FILE.jsonl",
        help="follow what the lines of this file mark, each in the video that it names as its source",
    )
    add_auto(parser)
    add_words(parser, following=True)
    add_knobs(parser)
    outputs = parser.add_argument_group("what is written")
    outputs.add_argument(
        "--format", choices=("jsonl", "parquet"), default="jsonl", help="of labels/ITEM.* (default: jsonl)"
    )
    outputs.add_argument(
        "--layout",
        choices=LAYOUTS,
        action="append",
        default=[],
        help="also make this from all items at the end; may be repeated",
    )
    work = parser.add_argument_group("who does the work")
    work.add_argument("--backend", choices=BACKENDS, default="auto", help="what runs the graphs (default: auto, onnx)")
    work.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes, each with the weights (default: one for each core, as far as half of the memory goes, or for "
        "each of --gpus)",
    )
    work.add_argument(
        "--threads", type=int, metavar="N", help="threads of each worker (default: its share of the cores)"
    )
    add_gpus(work, "share these GPUs among the workers (default: 0)")
    work.add_argument(
        "--attempts",
        type=int,
        default=3,
        metavar="N",
        help="an item fails after its worker has died this many times (default: 3)",
    )
    work.add_argument(
        "--split-objects",
        type=int,
        default=1,
        metavar="N",
        help="let up to N workers do a video with prompts, each some of its objects: the same masks, and the same "
        "scores but for rounding (default: 1)",
    )
    cluster = parser.add_argument_group("workers on a Ray cluster")
    cluster.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="put the workers on the cluster at HOST:PORT, or auto (default: $RAY_ADDRESS, or else a Ray of this "
        "machine alone); every node needs sam2edge, and OUT and the sources at the same paths",
    )
    cluster.add_argument(
        "--cpus-per-worker", type=int, metavar="N", help="cores of each worker, which are also its threads (default: 1)"
    )
    cluster.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="F",
        help="GPUs of each worker, or a part of one as 0.5 (default: 1 for a backend that needs one)",
    )
    parser.set_defaults(verb=_label)


def _label(args: argparse.Namespace) -> int:
    _check(args)
    from sam2edge.bundle import Bundle
    from sam2edge.labelling.items import whole_key
    from sam2edge.labelling.layouts import check_layouts, write_layouts
    from sam2edge.labelling.outputs import check_format
    from sam2edge.labelling.plan import plan
    from sam2edge.labelling.report import Report
    from sam2edge.labelling.scheduler import Scheduler
    from sam2edge.labelling.store import Store
    from sam2edge.runtime.media.prompt_files import read_prompts

    bundle, settings = Bundle.open(args.bundle), _settings(args)
    check_layouts(settings)
    check_format(settings)
    drafts = plan(args.sources, read_prompts(args.prompts) if args.prompts else (), settings)
    keys = [draft.key for draft in drafts]
    with contextlib.ExitStack() as stack:
        status = stack.enter_context(StatusLine())
        store = stack.enter_context(Store(args.output))
        store.open_run(_run(bundle, settings))
        rate, interrupted = None, False
        if not set(keys) <= store.settled():
            pool, workers = _pool(args, bundle, settings, store, status.report)
            with stop_on_signal() as stop, pool:
                scheduler = Scheduler(
                    drafts,
                    pool,
                    store,
                    workers=workers,
                    attempts=args.attempts,
                    parts=args.split_objects,
                    report=status.report,
                )
                try:
                    interrupted = not scheduler.run(lambda tally: status.show(_progress(tally)), stop.is_set)
                except BackendError:
                    Report.of(store, keys, scheduler.tally.rate).write(store)
                    raise
            rate = scheduler.tally.rate
        status.close()
        report = Report.of(store, keys, rate)
        report.write(store)
        for problem in report.problems:
            print(f"sam2edge: error: {problem}", file=sys.stderr)
        for remark in report.remarks:
            print(f"sam2edge: {remark}", file=sys.stderr)
        if interrupted:
            done = f"{report.done} of {report.items} items are done"
            print(f"sam2edge: interrupted: {done}; the same command goes on", file=sys.stderr)
            return INTERRUPTED
        written = [store.out, *write_layouts(store, settings, keys)]
        print(*report.lines(), f"in {', '.join(map(str, written))}", sep="\n")
        if others := {whole_key(key) for key in store.done()}.difference(keys):
            print(f"{len(others)} more items are kept there, of sources that have changed or are not named now")
    return FAILED if report.done < report.items or report.problems else 0


def _check(args: argparse.Namespace) -> None:
    """Raise an error, before any work is done, for options that are wrong."""
    check_bundle_first(args, "sam2edge label BUNDLE SOURCE… -o OUT")
    check_words(args)
    modes = [args.prompts is not None, args.auto, args.words is not None]
    if sum(modes) != 1:
        raise PromptError("give one of --prompts FILE.jsonl (follow that), --auto (everything) and --words 'red cup'")
    if not (args.sources or args.prompts):
        raise InputError("nothing to label: name videos, images or folders")
    if not args.auto:
        refuse_ignored(args, *GRID, without="--auto")
    from sam2edge import checks

    for name in ("workers", "threads", "attempts", "split_objects", "cpus_per_worker"):
        if getattr(args, name) is not None:
            checks.integer(f"--{name.replace('_', '-')}", getattr(args, name), 1)
    for gpu in args.gpus:
        checks.integer("--gpus", gpu, 0)
    if args.gpus and _on_cpu(args):
        raise InputError("--gpus does nothing with --backend onnx, which runs on the CPU")
    if args.ray is None:
        refuse_ignored(args, "cpus_per_worker", "gpus_per_worker", without="--ray")
    elif args.threads or args.gpus:
        raise InputError(
            "--threads and --gpus are for processes of this machine; with --ray give --cpus-per-worker, "
            "--gpus-per-worker"
        )
    if args.gpus_per_worker is not None:
        checks.number("--gpus-per-worker", args.gpus_per_worker, 0)
    if args.split_objects > 1:
        _check_split(args)


def _check_split(args: argparse.Namespace) -> None:
    """Raise an InputError for what the parts of a video cannot do as the whole would."""
    needs = (
        (args.prompts is not None, "--prompts"),
        (args.format == "jsonl", "--format jsonl"),
        # A prompt makes the tracker look at a frame that it would have left out, for all its objects.
        (args.track_every == 1, "--track-every 1"),
        # Where masks overlap, the one with the higher logit wins, which parts do not know of each other.
        (not set(args.layout).intersection(LABEL_IMAGE_LAYOUTS), f"no --layout {' or '.join(LABEL_IMAGE_LAYOUTS)}"),
    )
    for is_so, need in needs:
        if not is_so:
            raise InputError(f"--split-objects {args.split_objects} needs {need}: its parts must make the same labels")


def _settings(args: argparse.Namespace) -> Settings:
    """Return what decides how the labels look."""
    from sam2edge.labelling.items import Settings

    words: dict[str, Any] = {}
    if args.words is not None and is_file(args.words):
        words = {"words_file": str(user_path(args.words).absolute())}
    elif args.words is not None:
        words = dict(zip(("words", "others"), map(tuple, word_texts(args)), strict=True))
    return Settings(
        mode="auto" if args.auto else "prompts" if args.prompts else "words",
        backend="onnx" if args.backend == "auto" else args.backend,
        format=args.format,
        layouts=tuple(sorted(set(args.layout))),
        value_range=args.range,
        **words,
        **{name: getattr(args, name) for name in ("words_score", "words_every", *GRID, *KNOBS)},
    )


def _run(bundle: Bundle, settings: Settings) -> dict[str, Any]:
    """Return what makes this run another one: all that the labels depend on, but for the sources."""
    from sam2edge.bundle.records import MANIFEST

    manifests = [bundle.path / MANIFEST]  # which have the hashes of all other files
    if settings.mode == "words":
        manifests.append(bundle.word_detector().path / MANIFEST)
    fields = dataclasses.asdict(settings)
    # Layouts are made at the end, and may be others each time; but some need what workers write.
    needs_images = set(fields["layouts"]).intersection(LABEL_IMAGE_LAYOUTS)
    fields["layouts"] = " or ".join(LABEL_IMAGE_LAYOUTS) if needs_images else ""
    if settings.words_file:
        try:
            fields["words_file"] = sha256(Path(settings.words_file))
        except OSError as error:
            raise InputError(f"{settings.words_file}: cannot be read: {error.strerror}") from error
    return {"format": _FORMAT, "version": _VERSION, "bundle": sha256(*manifests), "settings": fields}


def _on_cpu(args: argparse.Namespace) -> bool:
    return BACKENDS[args.backend] == BACKENDS["onnx"]


def _shares(args: argparse.Namespace, bundle: Bundle) -> tuple[int, int]:
    """Return how many workers there are, and the threads of each.

    A second thread of a worker costs more of a core's time than it saves, so that each core gets a worker, unless their
    weights and what they compute with would take more than half of the memory that is there.
    """
    from sam2edge.runtime.image.predictor import available_memory

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = args.workers or max(len(args.gpus), 1)
    if args.workers is None and _on_cpu(args):
        room = (available_memory() or 0) // 2 // _memory(bundle)
        workers = min(max(room, 1), cores)
    return workers, args.threads or max(cores // workers, 1)


def _memory(bundle: Bundle) -> int:
    """Return the bytes that a worker on the CPU takes at most."""
    return _WEIGHTS * sum(graph.bytes for graph in bundle.manifest.graphs.values()) + _WORKER


def _pool(
    args: argparse.Namespace, bundle: Bundle, settings: Settings, store: Store, report: Callable[[str], None]
) -> tuple[Pool, int]:
    """Return the workers, none of which has started, and how many there are to be."""
    open_labeller = _labeller(settings)
    if args.ray is None:
        from sam2edge.labelling.processes import Processes

        workers, threads = _shares(args, bundle)
        here = functools.partial(open_labeller, bundle.path)
        return Processes(here, store.out, threads=threads, gpus=args.gpus), workers
    with optional_packages("--ray", '"sam2edge[ray]"'):
        from sam2edge.labelling.ray import RayPool

    pool = RayPool(
        open_labeller,
        bundle.path,
        store.out,
        backend=settings.backend,
        words=settings.mode == "words",
        address=args.ray or None,
        cpus=args.cpus_per_worker or 1,
        gpus=args.gpus_per_worker,
        memory=_memory(bundle) if _on_cpu(args) else 0,
        tell=report,
    )
    return pool, args.workers or pool.room


def _labeller(settings: Settings) -> OpenLabeller:
    """Return what opens a worker's labeller, given the bundle's directory."""
    from sam2edge.labelling.labeller import Labeller

    return functools.partial(Labeller, settings=settings)


def _progress(tally: Tally) -> str:
    """Return the status line: `3/10 items, 1 failed, 21.3 frames/s, 4:05 left`."""
    left = tally.seconds_left
    return ", ".join(
        (
            f"{tally.done}/{tally.total} items",
            *([f"{tally.failed} failed"] if tally.failed else []),
            f"{tally.rate:.1f} frames/s",
            *([] if left is None else [f"{_clock(left)} left"]),
        )
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
