"""Cases on the bundled model, in this process and in their own."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam2edge import Bundle
from sam2edge.bench import cases, worker
from sam2edge.bench.cases import BenchmarkCase, run_case
from sam2edge.bench.scene import Scene
from sam2edge.bundle import GRAPHS
from sam2edge.calibration.measure.recorder import WAITING
from sam2edge.errors import BackendError
from tests.conftest import NANO
from tests.fake_gpu import SimulatedDevice
from tests.helpers import CLIP, clip_frames, write_frames

MASKS = CLIP.with_name("clip_masks.npz")
WARM_UP = 8
"""Frames that fill the memory bank."""


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "WARM_UP", WARM_UP)


def case(nano: Bundle, **changes: Any) -> BenchmarkCase:
    scene = Scene(str(CLIP), str(MASKS))
    return dataclasses.replace(BenchmarkCase("nano", "track", str(nano.path), "onnx", 2, 4, scene=scene), **changes)


def test_medians_of_stages() -> None:
    timed = [(0.010, {"image_encoder": 0.004, "mask_decoder": 0.001, WAITING: 0.002})] * 2
    timed += [(0.030, {"image_encoder": 0.024, "mask_decoder": 0.001, WAITING: 0.002})]
    assert worker._stages(timed) == pytest.approx(
        {"image_encoder": 4, "memory_attention": 0, "mask_decoder": 1, "memory_encoder": 0, "rest": 5}
    )


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_tracking(nano: Bundle, tmp_path: Path, mode: str) -> None:
    """Numbers agree with each other and with the clock; masks are as good as in the demo."""
    start = time.perf_counter()
    measured = worker.measure(case(nano, mode=mode), str(tmp_path / "masks.npz"))
    whole = 1e3 * (time.perf_counter() - start)
    assert 0 < measured.median <= measured.p90 <= measured.p99 < whole
    assert 4 * 1e3 / measured.fps < whole
    assert measured.first > 0
    assert 0 < measured.load < whole
    assert 50 < measured.rss < 5000  # with all that tests imported
    assert measured.iou > 0.9
    assert (measured.host is not None and 0 < measured.host < measured.median) is (mode == "latency")
    assert measured.stages == {}
    assert np.load(tmp_path / "masks.npz")["masks"].shape == (WARM_UP, 2, 240, 320)


def test_host_memory_holds_no_second_copy_of_the_masks(nano: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames and masks that the benchmark keeps are no part of what tracking takes."""

    def memory(measured: object) -> tuple[None, float]:
        return None, tracemalloc.get_traced_memory()[0] / 2**20

    monkeypatch.setattr(worker, "_memory", memory)
    tracemalloc.start()
    measured = worker.measure(case(nano, objects=4, frames=1, scene=Scene()))
    tracemalloc.stop()
    assert 0 < measured.rss < 0.75 * WARM_UP * 4 * 480 * 640 / 2**20


def test_words(nano_words: Bundle) -> None:
    start = time.perf_counter()
    measured = worker.measure_words(case(nano_words, kind="words", scene=Scene()))
    whole = 1e3 * (time.perf_counter() - start)
    assert 0 < measured.median <= measured.p90 <= measured.p99
    assert 4 * measured.median < whole
    assert 0 < measured.load < whole
    assert 50 < measured.rss < 5000  # with all that tests imported
    assert measured.stages == {}


def test_stages(nano: Bundle) -> None:
    measured = worker.measure(case(nano, kind="stages"))
    assert list(measured.stages) == [*GRAPHS, "rest"]
    assert all(ms > 0 for ms in measured.stages.values())
    assert measured.stages["memory_attention"] < measured.median
    assert measured.host is None


def test_all_ways_track_alike(nano: Bundle, tmp_path: Path) -> None:
    """In a process of its own too, but not with fewer memory frames."""

    def masks(run: Callable[..., Any], **way: Any) -> np.ndarray:
        assert run(case(nano, **way), str(tmp_path / "masks.npz")).median > 0
        return np.load(tmp_path / "masks.npz")["masks"]

    expected = masks(run_case)[:WARM_UP]
    for way in ({}, {"kind": "stages"}, {"mode": "throughput"}, {"memory_frames": 6}):
        np.testing.assert_array_equal(masks(worker.measure, **way), expected)
    assert (masks(worker.measure, memory_frames=1) != expected).any()


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("kind", "replayed"), [("track", True), ("stages", False)])
def test_recordings_are_replayed_unless_graphs_are_timed(
    nano: Bundle, monkeypatch: pytest.MonkeyPatch, kind: str, replayed: bool
) -> None:
    device = SimulatedDevice()
    monkeypatch.setattr(worker, "open_backend", lambda name, **place: device)
    assert worker.measure(case(nano, kind=kind)).median > 0
    assert (device.replayed > 0) is replayed


def test_gpu_memory_and_power(nano: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPU memory counts from before the graphs were opened; growth is that of the timed frames."""
    used = iter([100.0, 300.0, 310.0])
    monkeypatch.setattr(worker, "gpu_memory", lambda gpu: next(used))
    monkeypatch.setattr(worker, "host_memory", lambda: 500.0)
    monkeypatch.setattr(worker, "power", lambda gpu: 9.0)
    monkeypatch.setattr(worker, "power_readings", lambda gpu: contextlib.nullcontext([9.0, 10.0]))
    monkeypatch.setattr(worker, "_POWER_SECONDS", 0.01)
    measured = worker.measure(case(nano))
    assert (measured.gpu, measured.growth, measured.watts) == (210, 10, 9.5)


def test_pytorch(nano: Bundle, tmp_path: Path) -> None:
    """It gives the masks that the bundle gives."""
    measured = worker.measure(case(nano, kind="pytorch", model=str(NANO), backend="eager"), str(tmp_path / "torch.npz"))
    worker.measure(case(nano), str(tmp_path / "nano.npz"))
    assert measured.iou > 0.9
    assert measured.host is None
    differ = np.load(tmp_path / "torch.npz")["masks"] != np.load(tmp_path / "nano.npz")["masks"]
    assert differ.mean() < 1e-4


def test_case_that_fails(nano: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"the row nano, onnx, track, latency, objects: 2 failed: .*no such bundle"):
        run_case(case(nano, model=str(tmp_path / "none")))


def test_case_that_is_killed(nano: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(cases.sys, "executable", str(program))
    with pytest.raises(BackendError, match=r"exit code -9 \(out of memory\?\)"):
        run_case(case(nano))


def test_short_clip(nano: Bundle, tmp_path: Path) -> None:
    """It is repeated; only its first pass is compared with the true masks, of which there are no more."""
    write_frames(tmp_path / "clip", clip_frames(3))
    np.savez(tmp_path / "labels.npz", labels=np.load(MASKS)["labels"][:3])
    measured = worker.measure(case(nano, scene=Scene(str(tmp_path / "clip" / "*.png"), str(tmp_path / "labels.npz"))))
    assert measured.iou > 0.9
