"""Compare the workers of `sam2edge label` with a plain process pool, and with the scaling model.

    python -m tools.label_speed BUNDLE [--videos 4] [--frames 48] [--workers 2] [--rounds 7] [--ray]
labels copies of the bundled clip's first frames with `multiprocessing.Pool`, which knows neither progress nor faults,
with the scheduler's local processes, and with Ray. All workers have a thread each and have started before; the three
take turns, round by round, so that other work on the machine meets all of them. The prediction is the scaling model's
(tools/scaling.py), from the processor time of one worker's work in this process.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

# One thread for each library, as in the workers, of whom each has a core; numpy reads this when it is imported.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import cv2

from sam2edge.labelling.items import Item, Settings
from sam2edge.labelling.labeller import Labeller
from sam2edge.labelling.plan import Draft, plan
from sam2edge.labelling.processes import Processes
from sam2edge.labelling.scheduler import Event, Pool, Scheduler, Started
from sam2edge.labelling.store import Store
from sam2edge.runtime.backends.base import open_backend
from sam2edge.runtime.media.prompt_files import parse_prompts
from sam2edge.runtime.media.sinks import JsonSink
from sam2edge.runtime.media.sources import VideoSource
from sam2edge.runtime.video.tracker import VideoTracker
from tools.scaling import Cost

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
SETTINGS = Settings(backend="onnx")
Round = Callable[[list[Draft]], None]


def drafts(folder: Path, videos: int, frames: int) -> list[Draft]:
    """Write so many videos into a folder, and return what there is to label."""
    prompts = json.loads((SAMPLES / "clip.json").read_text())["prompts"]
    with VideoSource(SAMPLES / "clip.mp4") as clip:
        pictures = list(islice(clip, frames))
    lines = []
    for number in range(videos):
        file = folder / f"{number}.mp4"
        writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 25, pictures[0].shape[1::-1])
        for picture in pictures:
            writer.write(picture[..., ::-1])
        writer.release()
        [given] = [
            parse_prompts(
                json.dumps([{"object": int(name), **prompt} for name, prompt in prompts.items()]), "clip.json"
            )
        ]
        lines += [dataclasses.replace(line, source=file) for line in given]
    return plan([], lines, SETTINGS)


class Kept:
    """A pool whose workers outlive the runs of schedulers."""

    def __init__(self, pool: Pool, workers: int) -> None:
        self._pool = pool
        self.submit, self.kill = pool.submit, pool.kill
        self._workers = [pool.start() for _ in range(workers)]
        started = 0
        while started < workers:
            started += sum(isinstance(event, Started) for event in pool.wait(1))
        self._free = list(self._workers)
        self._events: list[Event] = []

    def run(self, store: Store, todo: list[Draft]) -> None:
        """Let a scheduler do this with the workers that there are."""
        self._free = list(self._workers)
        Scheduler(todo, self, store, workers=len(self._workers), report=print).run(lambda tally: None, lambda: False)

    def start(self) -> int:
        """Return one of the workers, which has started long ago."""
        worker = self._free.pop()
        self._events.append(Started(worker, ""))
        return worker

    def wait(self, timeout: float) -> list[Event]:
        """Return what happened."""
        events, self._events = self._events, []
        return events or self._pool.wait(timeout)


@contextlib.contextmanager
def plain(bundle: Path, store: Store, workers: int) -> Iterator[Round]:
    """Yield what does a round with multiprocessing.Pool."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(workers + 1)
    with context.Pool(workers, _begin, (bundle, store.out, ready)) as pool:
        ready.wait()
        yield lambda todo: [None for _ in pool.imap_unordered(_work, [draft.item() for draft in todo])] and None


_mine: dict[str, Any] = {}


def _begin(bundle: Path, out: Path, ready: Any) -> None:
    _mine.update(labeller=Labeller(bundle, SETTINGS, threads=1, gpu=None), store=Store(out))
    ready.wait()


def _work(item: Item) -> None:
    _mine["labeller"].label(item, _mine["store"], lambda frames, total: None, lambda: False)


@contextlib.contextmanager
def scheduled(pool: Pool, store: Store, workers: int) -> Iterator[Round]:
    """Yield what does a round with a scheduler and this pool."""
    with pool:
        yield functools.partial(Kept(pool, workers).run, store)


def parts(bundle: Path, item: Item, folder: Path) -> Cost:
    """Return what a frame of an item costs one core."""

    def used(work: Callable[[], object]) -> float:
        before = time.process_time()
        work()
        return (time.process_time() - before) / len(frames)

    def read() -> list[Any]:
        with VideoSource(item.sources[0]) as video:
            return list(video)

    frames, results = read(), list[Any]()
    decode = used(read)
    tracker = VideoTracker(bundle, open_backend("onnx", threads=1), max_objects=len(item.prompts))
    with tracker, JsonSink(folder / "one.jsonl") as sink:
        tracker.track(frames[0])
        for prompt in item.prompts:
            tracker.prompt(prompt.object_id, **prompt.prompt.arguments)
        graphs = used(lambda: results.extend(map(tracker.track, frames)))
        output = used(lambda: [*map(sink.write, frames, results)])
    return Cost(decode, output, graphs)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ray", action="store_true", help="measure Ray, too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        todo = drafts(folder, args.videos, args.frames)
        rounds: dict[str, Round] = {}
        for kind in ("plain pool", "processes", *(["Ray"] if args.ray else [])):
            store = stack.enter_context(Store(folder / kind))
            store.open_run({})
            rounds[kind] = stack.enter_context(_workers(kind, args.bundle, store, args.workers))
        seconds: dict[str, list[float]] = {kind: [] for kind in rounds}
        predicted = []
        for number in range(args.rounds):
            one = parts(args.bundle, todo[0].item(), folder)
            predicted.append(one.on_cores(args.workers))
            these = [dataclasses.replace(draft, key=f"{draft.key}-{number}") for draft in todo]
            for kind, work in rounds.items():
                began = time.perf_counter()
                work(these)
                seconds[kind].append(time.perf_counter() - began)
        print(f"the last frame's costs: decode {one.decode * 1e3:.1f}, graphs {one.graphs * 1e3:.1f}, ", end="")
        print(f"output {one.output * 1e3:.1f} ms of one core")
        print(f"predicted: median {statistics.median(predicted):.1f} frames/s")
        for kind, times in seconds.items():
            shares = [plain / each for plain, each in zip(seconds["plain pool"], times, strict=True)]
            print(
                f"{kind}: {' '.join(f'{each:.2f}' for each in times)} s, "
                f"median {args.videos * args.frames / statistics.median(times):.1f} frames/s, "
                f"median of {statistics.median(shares):.3f} of the plain pool's in the same round"
            )


def _workers(kind: str, bundle: Path, store: Store, workers: int) -> contextlib.AbstractContextManager[Round]:
    open_labeller = functools.partial(Labeller, settings=SETTINGS)
    if kind == "plain pool":
        return plain(bundle, store, workers)
    if kind == "processes":
        return scheduled(Processes(functools.partial(open_labeller, bundle), store.out, threads=1), store, workers)
    from sam2edge.labelling.ray import RayPool

    return scheduled(RayPool(open_labeller, bundle, store.out), store, workers)


if __name__ == "__main__":
    main()
