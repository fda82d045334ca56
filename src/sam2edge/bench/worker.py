"""The process of one row: `python -m sam2edge.bench.worker JSON` prints what it measured as JSON."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sam2edge.bench.cases import WARM_UP, BenchmarkCase, Measured, percentiles
from sam2edge.bench.readings import PowerMeter, gpu_memory, host_memory, power
from sam2edge.bench.scene import Scene
from sam2edge.bench.timed import Timed, without
from sam2edge.bundle import GRAPHS, Bundle
from sam2edge.bundle.engines import read_manifest
from sam2edge.calibration.measure.davis import in_view, region_similarity
from sam2edge.errors import Sam2EdgeError
from sam2edge.runtime.backends.base import Backend, open_backend
from sam2edge.runtime.backends.tensorrt import TensorRTBackend
from sam2edge.runtime.media.grabber import Grabbed
from sam2edge.runtime.video.stream import stream
from sam2edge.runtime.video.tracker import VideoTracker
from sam2edge.types import Bools, Frame

Boxes = npt.NDArray[np.float64]
Waits = Mapping[str, float]
Tracked = Generator[tuple[Bools, float, Waits], None, None]
"""Of each frame: masks [N,H,W], seconds from the frame to them, and seconds waited for the backend (see Timed)."""
_POWER_SECONDS = 1.0


def measure(row: BenchmarkCase, masks_file: str = "") -> Measured:
    """Measure a row in this process. masks_file: an .npz for the masks of the warm-up, "" for none."""
    frames = row.scene.frames(row.objects)
    boxes, memory = row.scene.boxes(row.objects, frames[0].shape[:2]), [_memory()]
    load, tracked = (_open_pytorch if row.kind == "pytorch" else _open_tracker)(row, itertools.cycle(frames), boxes)
    masks, warm_up = np.empty((WARM_UP, row.objects, *frames[0].shape[:2]), bool), []
    for number, (found, delay, _) in enumerate(itertools.islice(tracked, WARM_UP)):
        masks[number] = found  # the only copy, which is not counted as host memory below
        warm_up.append(delay)
    memory.append(_memory())
    start = time.perf_counter()
    timed = [(delay, waits) for _, delay, waits in itertools.islice(tracked, row.frames)]
    whole = time.perf_counter() - start
    memory.append(_memory())
    if masks_file:
        np.savez_compressed(masks_file, masks=masks)
    delays = [delay for delay, _ in timed]
    (gpu, _), (gpu_full, full), (gpu_end, end) = memory
    clip = (sum(frame.nbytes for frame in frames) + masks.nbytes) / 2**20
    watts = _watts(tracked)
    tracked.close()
    return Measured(
        **percentiles(delays),
        fps=row.frames / whole,
        first=1e3 * warm_up[0],
        load=1e3 * load,
        build=_build_seconds(row) if row.engines else None,
        rss=None if end is None else end - clip,
        gpu=None if gpu is None or gpu_end is None else gpu_end - gpu,
        growth=None if full is None or end is None else end - full + (gpu_end or 0) - (gpu_full or 0),
        watts=watts,
        iou=_true_iou(row.scene, row.objects, masks[: len(frames)]),
        host=_host(timed) if (row.kind, row.mode) == ("track", "latency") else None,
        stages=_stages(timed) if row.kind == "stages" else {},
    )


def _open_tracker(row: BenchmarkCase, frames: Iterator[Frame], boxes: Boxes) -> tuple[float, Tracked]:
    start = time.perf_counter()
    bundle = Bundle.open(row.model)
    backend = without(_backend(row), row.without)
    # not in throughput mode: there two threads wait
    timed = Timed(backend, bundle if row.kind == "stages" else None) if row.mode == "latency" else None
    tracker = VideoTracker(bundle, timed or backend, max_objects=row.objects, memory_frames=row.memory_frames)
    load = time.perf_counter() - start

    def follow() -> Tracked:
        with tracker:
            grabbed = (Grabbed(frame, number, time.monotonic()) for number, frame in enumerate(frames))
            for tracked in stream(grabbed, tracker, row.mode):
                result = tracked.result
                for object_id, box in enumerate(boxes) if result.frame_index == 0 else ():
                    result = tracker.prompt(object_id, box=box)
                masks = result.masks  # made when asked for: part of the work
                delay = time.monotonic() - tracked.grabbed.arrived
                yield masks, delay, timed.take() if timed else {}

    return load, follow()


def _backend(row: BenchmarkCase) -> Backend:
    if not row.engines:
        return open_backend(row.backend)
    return TensorRTBackend(row.engines)


def _build_seconds(row: BenchmarkCase) -> float:
    built = read_manifest(Path(row.engines), Bundle.open(row.model)).engines.values()
    return sum(engine.seconds for engine in built)


def _open_pytorch(row: BenchmarkCase, frames: Iterator[Frame], boxes: Boxes) -> tuple[float, Tracked]:
    from sam2edge.export.reference import TorchVideo

    start = time.perf_counter()
    model = TorchVideo(row.model, row.backend, row.image_size)
    load = time.perf_counter() - start

    def follow() -> Tracked:
        for number, frame in enumerate(frames):
            begin = time.perf_counter()
            masks = model.track(frame, boxes if number == 0 else ())
            yield masks, time.perf_counter() - begin, {}

    return load, follow()


def _memory() -> tuple[float | None, float | None]:
    return gpu_memory(), host_memory()


def _host(timed: Sequence[tuple[float, Waits]]) -> float:
    return 1e3 * float(np.median([delay - sum(waits.values()) for delay, waits in timed]))


def _stages(timed: Sequence[tuple[float, Waits]]) -> dict[str, float]:
    """Median of each graph in ms, and of what is left of the frames."""
    graphs = np.array([[waits.get(name, 0.0) for name in GRAPHS] for _, waits in timed])
    rest = np.array([delay for delay, _ in timed]) - graphs.sum(axis=1)
    medians = 1e3 * np.median(np.column_stack([graphs, rest]), axis=0)
    return dict(zip((*GRAPHS, "rest"), medians.tolist(), strict=True))


def _true_iou(scene: Scene, objects: int, masks: Bools) -> float | None:
    """Mean IoU with the true masks, as far as they are known, where the object shows; masks bool [T,N,H,W]."""
    found: list[float] = []
    for frame, predicted in enumerate(masks):
        true = scene.truth(frame, objects, predicted.shape[1:])
        if true is None:
            return None
        found += region_similarity(predicted[: len(true)], true)[in_view(true)].tolist()
    return float(np.mean(found)) if found else None


def _watts(tracked: Tracked) -> float | None:
    """Mean power over further frames, at least a second, which nobody times: reading it takes the host's time."""
    if power() is None:
        return None
    with PowerMeter() as meter:
        end = time.monotonic() + _POWER_SECONDS
        for _ in itertools.takewhile(lambda _: time.monotonic() < end, tracked):
            pass
    return meter.watts


def main(text: str) -> int:
    """Measure what the JSON names; 2 and a line on stderr for an error of this package's own."""
    sent = json.loads(text)
    row = BenchmarkCase(**{**sent["row"], "scene": Scene(**sent["row"]["scene"])})
    try:
        measured = measure(row, sent["masks"])
    except Sam2EdgeError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(vars(measured)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
