"""Rows on the bundled model, in this process and in their own."""

from __future__ import annotations

import dataclasses
import itertools
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sam2edge import Bundle
from sam2edge.bench import cases, worker
from sam2edge.bench.cases import WARM_UP, BenchmarkCase, percentiles, run_case
from sam2edge.bench.scene import Scene
from sam2edge.bundle import GRAPHS
from sam2edge.errors import BackendError
from sam2edge.runtime.media.sources import VideoSource
from tests.conftest import NANO, REPO
from tests.fake_gpu import SimulatedDevice

CLIP, MASKS = REPO / "samples" / "clip.mp4", REPO / "samples" / "clip_masks.npz"


def row(nano: Bundle, **changes: Any) -> BenchmarkCase:
    scene = Scene(str(CLIP), str(MASKS))
    return dataclasses.replace(BenchmarkCase("nano", "track", str(nano.path), "onnx", 2, 4, scene=scene), **changes)


def masks_of(file: Path) -> np.ndarray:
    with np.load(file) as arrays:
        masks: np.ndarray = arrays["masks"]
    return masks


def test_percentiles() -> None:
    found = percentiles([0.001 * n for n in range(1, 102)])
    assert found == pytest.approx({"median": 51, "p90": 91, "p99": 100})


def test_stages_and_host() -> None:
    timed = [(0.010, {"image_encoder": 0.004, "mask_decoder": 0.001, "": 0.002})] * 2
    timed += [(0.030, {"image_encoder": 0.024, "mask_decoder": 0.001, "": 0.002})]
    assert worker._stages(timed) == pytest.approx(
        {"image_encoder": 4, "memory_attention": 0, "mask_decoder": 1, "memory_encoder": 0, "rest": 5}
    )
    assert worker._host(timed) == pytest.approx(3)


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_tracking(nano: Bundle, tmp_path: Path, mode: str) -> None:
    """Numbers agree with each other and with the clock; masks are as good as in the demo."""
    start = time.perf_counter()
    found = worker.measure(row(nano, mode=mode), str(tmp_path / "masks.npz"))
    whole = 1e3 * (time.perf_counter() - start)
    assert 0 < found.median <= found.p90 <= found.p99 < whole
    assert 4 * 1e3 / found.fps < whole
    assert found.first > 0
    assert 0 < found.load < whole
    assert found.rss is not None
    assert 50 < found.rss < 5000  # with all that tests imported
    assert found.iou is not None
    assert found.iou > 0.9
    assert (found.host is not None and 0 < found.host < found.median) is (mode == "latency")
    assert found.stages == {}
    assert masks_of(tmp_path / "masks.npz").shape == (WARM_UP, 2, 240, 320)


def test_host_memory_holds_no_second_copy_of_the_masks(nano: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames and masks that the benchmark keeps are no part of what tracking takes."""

    def memory() -> tuple[None, float]:
        return None, tracemalloc.get_traced_memory()[0] / 2**20

    monkeypatch.setattr(worker, "_memory", memory)
    tracemalloc.start()
    found = worker.measure(row(nano, objects=4, frames=1, scene=Scene()))
    tracemalloc.stop()
    assert found.rss is not None
    assert 0 < found.rss < 0.75 * WARM_UP * 4 * 480 * 640 / 2**20


def test_stages(nano: Bundle) -> None:
    found = worker.measure(row(nano, kind="stages"))
    assert list(found.stages) == [*GRAPHS, "rest"]
    assert all(ms > 0 for ms in found.stages.values())
    assert found.stages["memory_attention"] < found.median
    assert found.host is None


def test_all_ways_track_alike(nano: Bundle, tmp_path: Path) -> None:
    """In a process of its own too."""
    ways: list[dict[str, Any]] = [{}, {"kind": "stages"}, {"mode": "throughput"}, {"memory_frames": 6}]
    masks = []
    for number, way in enumerate(ways):
        worker.measure(row(nano, **way), str(tmp_path / f"{number}.npz"))
        masks.append(masks_of(tmp_path / f"{number}.npz"))
    measured = run_case(row(nano), str(tmp_path / "own.npz"))
    masks.append(masks_of(tmp_path / "own.npz"))
    assert all((other == masks[0]).all() for other in masks)
    assert measured.median > 0


def test_fewer_memory_frames(nano: Bundle, tmp_path: Path) -> None:
    for frames in (1, 6):
        worker.measure(row(nano, memory_frames=frames), str(tmp_path / f"{frames}.npz"))
    assert (masks_of(tmp_path / "1.npz") != masks_of(tmp_path / "6.npz")).any()


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("without", "replayed"), [("", True), ("recordings", False), ("device arrays", False)])
def test_device(nano: Bundle, monkeypatch: pytest.MonkeyPatch, without: str, replayed: bool) -> None:
    device = SimulatedDevice()
    monkeypatch.setattr(worker, "open_backend", lambda name: device)
    assert worker.measure(row(nano, without=without)).median > 0
    assert (device.replayed > 0) is replayed


def test_gpu_memory_and_power(nano: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came on top since before the graphs were opened; growth is that of the timed frames."""
    used: Iterator[float] = itertools.chain([100.0, 300.0, 310.0])
    monkeypatch.setattr(worker, "gpu_memory", lambda: next(used))
    monkeypatch.setattr(worker, "host_memory", lambda: 500.0)
    monkeypatch.setattr(worker, "power", lambda: 9.0)
    monkeypatch.setattr(worker.PowerMeter, "watts", 9.5)
    monkeypatch.setattr(worker, "_POWER_SECONDS", 0.01)
    found = worker.measure(row(nano))
    assert (found.gpu, found.growth, found.watts) == (210, 10, 9.5)


def test_pytorch(nano: Bundle, tmp_path: Path) -> None:
    """It gives the masks that the bundle gives."""
    found = worker.measure(row(nano, kind="pytorch", model=str(NANO), backend="eager"), str(tmp_path / "torch.npz"))
    worker.measure(row(nano), str(tmp_path / "nano.npz"))
    assert found.iou is not None
    assert found.iou > 0.9
    assert found.host is None
    differ = masks_of(tmp_path / "torch.npz") != masks_of(tmp_path / "nano.npz")
    assert differ.mean() < 1e-4


def test_row_that_fails(nano: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"the row nano, onnx, track, latency, objects: 2 failed: .*no such bundle"):
        run_case(row(nano, model=str(tmp_path / "none")))


def test_row_that_is_killed(nano: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(cases.sys, "executable", str(program))
    with pytest.raises(BackendError, match=r"exit code -9 \(out of memory\?\)"):
        run_case(row(nano))


def test_short_clip(nano: Bundle, tmp_path: Path) -> None:
    """It is repeated; only its first pass is compared with the true masks, of which there are no more."""
    with VideoSource(CLIP) as source:
        for number, frame in enumerate(itertools.islice(source, 3)):
            cv2.imwrite(str(tmp_path / f"{number}.png"), frame[..., ::-1])
    np.savez(tmp_path / "labels.npz", labels=np.load(MASKS)["labels"][:3])
    found = worker.measure(row(nano, scene=Scene(str(tmp_path / "*.png"), str(tmp_path / "labels.npz"))))
    assert found.iou is not None
    assert found.iou > 0.9
