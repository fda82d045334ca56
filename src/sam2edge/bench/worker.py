"""The process of one case: `python -m sam2edge.bench.worker JSON` prints what it measured as JSON."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sam2edge.bench.cases import WARM_UP, BenchmarkCase, Measured
from sam2edge.bench.readings import gpu_memory, host_memory, power, power_readings
from sam2edge.bench.scene import Scene
from sam2edge.bundle import GRAPHS, Bundle
from sam2edge.bundle.engines import read_manifest
from sam2edge.calibration.measure.closed_loop import STAGES
from sam2edge.calibration.measure.davis import in_view, region_similarity
from sam2edge.calibration.measure.recorder import Recorder
from sam2edge.errors import Sam2EdgeError
from sam2edge.runtime.backends.base import Backend, open_backend
from sam2edge.runtime.backends.tensorrt import TensorRTBackend
from sam2edge.runtime.media.grabber import Grabbed
from sam2edge.runtime.video.stream import stream
from sam2edge.runtime.video.tracker import VideoTracker
from sam2edge.runtime.words.detector import WordDetector
from sam2edge.runtime.words.words import Words
from sam2edge.types import Bools, Frame

Boxes = npt.NDArray[np.float64]
Waits = Mapping[str, float]
Tracked = Generator[tuple[Bools, float, Waits], None, None]
"""For each frame: masks [N,H,W], seconds from the frame to them, and seconds waited for the backend (see Recorder)."""
_POWER_SECONDS = 1.0
_RESUMED = 2
"""Untimed frames after memory was read: that takes a while, and an idle GPU lowers its clocks."""
_WORDS, _WORDS_WARM_UP = 4, 2


def measure(case: BenchmarkCase, masks_file: str = "") -> Measured:
    """Measure a case in this process. masks_file: an .npz for the masks of the warm-up, "" for none."""
    frames = case.scene.frames(case.objects)
    boxes, memory = case.scene.boxes(case.objects, frames[0].shape[:2]), [_memory(case)]
    load, tracked = (_open_pytorch if case.kind == "pytorch" else _open_tracker)(case, itertools.cycle(frames), boxes)
    masks, warm_up = np.empty((WARM_UP, case.objects, *frames[0].shape[:2]), bool), []
    for number, (of_frame, delay, _) in enumerate(itertools.islice(tracked, WARM_UP)):
        masks[number] = of_frame  # the only copy, which is not counted as host memory below
        warm_up.append(delay)
    memory.append(_memory(case))
    for _ in itertools.islice(tracked, _RESUMED):
        pass
    start = time.perf_counter()
    timed = [(delay, waits) for _, delay, waits in itertools.islice(tracked, case.frames)]
    whole = time.perf_counter() - start
    memory.append(_memory(case))
    if masks_file:
        np.savez_compressed(masks_file, masks=masks)
    (gpu, _), (gpu_full, full), (gpu_end, end) = memory
    median, p90, p99 = np.percentile([1e3 * delay for delay, _ in timed], (50, 90, 99)).tolist()
    own = [delay - sum(waits.values()) for delay, waits in timed]
    clip = (sum(frame.nbytes for frame in frames) + masks.nbytes) / 2**20
    watts = _watts(case, tracked)
    tracked.close()
    return Measured(
        median=median,
        p90=p90,
        p99=p99,
        fps=case.frames / whole,
        first=1e3 * warm_up[0],
        load=1e3 * load,
        build=_build_seconds(case) if case.engines else None,
        rss=None if end is None else end - clip,
        gpu=None if gpu is None or gpu_end is None else gpu_end - gpu,
        growth=None if full is None or end is None else end - full + (gpu_end or 0) - (gpu_full or 0),
        watts=watts,
        iou=_true_iou(case.scene, case.objects, masks[: len(frames)]),
        host=1e3 * float(np.median(own)) if (case.kind, case.mode) == ("track", "latency") else None,
        stages=_stages(timed) if case.kind == "stages" else {},
    )


def measure_words(case: BenchmarkCase) -> Measured:
    """Measure the word detector alone, looking for four words; which ones does not matter for the time."""
    frames, before = case.scene.frames(1), _memory(case)
    start = time.perf_counter()
    bundle = Bundle.open(case.model)
    detector = WordDetector(bundle, _backend(case))
    load = time.perf_counter() - start
    source = bundle.word_detector().manifest.source
    texts = tuple(f"word {number}" for number in range(_WORDS))
    words = Words(texts, (), np.eye(_WORDS, detector.model.dim, dtype=np.float32), source.title, source.sha256)
    delays = []
    with detector:
        for frame in itertools.islice(itertools.cycle(frames), _WORDS_WARM_UP + case.frames):
            begin = time.perf_counter()
            detector.detect(frame, words)
            delays.append(1e3 * (time.perf_counter() - begin))
    (gpu, _), (gpu_end, end) = before, _memory(case)
    median, p90, p99 = np.percentile(timed := delays[_WORDS_WARM_UP:], (50, 90, 99)).tolist()
    return Measured(
        median=median,
        p90=p90,
        p99=p99,
        fps=1e3 / float(np.mean(timed)),
        first=delays[0],
        load=1e3 * load,
        rss=None if end is None else end - sum(frame.nbytes for frame in frames) / 2**20,
        gpu=None if gpu is None or gpu_end is None else gpu_end - gpu,
    )


def _backend(case: BenchmarkCase) -> Backend:
    if case.engines:
        return TensorRTBackend(case.engines, case.backend, case.gpu or 0)
    return open_backend(case.backend, threads=case.threads, gpu=case.gpu)


def _open_tracker(case: BenchmarkCase, frames: Iterator[Frame], boxes: Boxes) -> tuple[float, Tracked]:
    start = time.perf_counter()
    bundle = Bundle.open(case.model)
    backend = _backend(case)
    # not in throughput mode, where two threads wait
    timed = Recorder(backend, bundle if case.kind == "stages" else None) if case.mode == "latency" else None
    tracker = VideoTracker(bundle, timed or backend, max_objects=case.objects, memory_frames=case.memory_frames)
    load = time.perf_counter() - start

    def follow() -> Tracked:
        with tracker:
            grabbed = (Grabbed(frame, number, time.monotonic()) for number, frame in enumerate(frames))
            for tracked in stream(grabbed, tracker, case.mode):
                result = tracked.result
                for object_id, box in enumerate(boxes) if result.frame_index == 0 else ():
                    result = tracker.prompt(object_id, box=box)
                masks = result.masks  # computed on first access, so part of the frame's work
                delay = time.monotonic() - tracked.grabbed.arrived
                yield masks, delay, timed.take() if timed else {}

    return load, follow()


def _build_seconds(case: BenchmarkCase) -> float:
    built = read_manifest(Path(case.engines), Bundle.open(case.model)).engines.values()
    return sum(engine.seconds for engine in built)


def _open_pytorch(case: BenchmarkCase, frames: Iterator[Frame], boxes: Boxes) -> tuple[float, Tracked]:
    from sam2edge.export.reference import TorchVideo

    start = time.perf_counter()
    model = TorchVideo(case.model, case.backend, case.image_size)
    load = time.perf_counter() - start

    def follow() -> Tracked:
        for number, frame in enumerate(frames):
            begin = time.perf_counter()
            masks = model.track(frame, boxes if number == 0 else ())
            yield masks, time.perf_counter() - begin, {}

    return load, follow()


def _memory(case: BenchmarkCase) -> tuple[float | None, float | None]:
    return gpu_memory(case.gpu or 0), host_memory()


def _stages(timed: Sequence[tuple[float, Waits]]) -> dict[str, float]:
    """Return the median of each graph in ms, and of the rest of the frames."""
    graphs = np.array([[waits.get(name, 0.0) for name in GRAPHS] for _, waits in timed])
    rest = np.array([delay for delay, _ in timed]) - graphs.sum(axis=1)
    medians = 1e3 * np.median(np.column_stack([graphs, rest]), axis=0)
    return dict(zip(STAGES, medians.tolist(), strict=True))


def _true_iou(scene: Scene, objects: int, masks: Bools) -> float | None:
    """Return the mean IoU of masks bool [T,N,H,W] with the known true masks that show enough of their object."""
    ious: list[float] = []
    for frame, predicted in enumerate(masks):
        true = scene.truth(frame, objects, predicted.shape[1:])
        if true is None:
            return None
        ious += region_similarity(predicted[: len(true)], true)[in_view(true)].tolist()
    return float(np.mean(ious)) if ious else None


def _watts(case: BenchmarkCase, tracked: Tracked) -> float | None:
    """Return the mean power over at least another second, which is not timed: reading it takes the host's time."""
    gpu = case.gpu or 0
    if power(gpu) is None:
        return None
    with power_readings(gpu) as watts:
        end = time.monotonic() + _POWER_SECONDS
        for _ in itertools.takewhile(lambda _: time.monotonic() < end, tracked):
            pass
    return float(np.mean(watts)) if watts else None


def main(text: str) -> int:
    """Measure the case in the JSON; return 2 after a line on stderr for one of this package's errors."""
    job = json.loads(text)
    case = BenchmarkCase(**{**job["case"], "scene": Scene(**job["case"]["scene"])})
    try:
        measured = measure_words(case) if case.kind == "words" else measure(case, job["masks"])
    except Sam2EdgeError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(vars(measured)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
