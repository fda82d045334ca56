"""Times are taken around what really runs, also where work is only queued; steps can be left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest

from sam2edge import Bundle, VideoTracker
from sam2edge.bench.timed import GraphsOnly, Timed, offers, without
from sam2edge.bundle import GRAPHS
from sam2edge.runtime.backends.base import Array, Backend, open_backend
from sam2edge.runtime.backends.onnx_cuda import OnnxCudaBackend
from sam2edge.runtime.media.sources import VideoSource
from tests.conftest import REPO
from tests.fake_gpu import SimulatedDevice

pytestmark = pytest.mark.usefixtures("gpu")
SLOW = 0.1


class SlowDevice(SimulatedDevice):
    """Whose memory attention takes `SLOW` seconds more."""

    def open(self, graph: Any) -> Any:
        runner = super().open(graph)
        if "memory_attention" in graph.name:
            run: Callable[[Mapping[str, Any]], dict[str, Array]] = runner._inner.run

            def slow(inputs: Mapping[str, Any]) -> dict[str, Array]:
                time.sleep(SLOW)
                return run(inputs)

            runner._inner.run = slow  # type: ignore[method-assign]
        return runner


def track(nano: Bundle, backend: Backend, each: Callable[[], None] = lambda: None, count: int = 6) -> np.ndarray:
    """Masks of the clip's ball on the first frames; `each` is called after every frame."""
    masks = []
    with VideoTracker(nano, backend, max_objects=1) as tracker, VideoSource(REPO / "samples" / "clip.mp4") as video:
        for frame in islice(video, count):
            result = tracker.track(frame)
            if result.frame_index == 0:
                result = tracker.prompt(1, box=[101, 47, 176, 122])
            masks.append(result.masks)
            each()
    return np.stack(masks)


def test_stages_of_a_device_that_queues(nano: Bundle) -> None:
    """Every run is waited for, and what is slow is found in its own stage."""
    timed, seen = Timed(device := SlowDevice(), nano), []
    masks = track(nano, timed, lambda: seen.append(timed.take()))
    assert (masks == track(nano, open_backend("onnx"))).all()
    assert device.replayed == 0
    assert all(stages[name] > 0 for stages in seen[1:] for name in GRAPHS)
    assert min(stages["memory_attention"] for stages in seen[1:]) > SLOW
    for name in set(GRAPHS) - {"memory_attention"}:
        assert np.median([stages[name] for stages in seen[1:]]) < SLOW


def test_waiting_of_a_device_that_queues(nano: Bundle) -> None:
    """Without stages recordings are kept, and all waiting is one number."""
    timed, seen = Timed(device := SlowDevice()), []
    start = time.perf_counter()
    track(nano, timed, lambda: seen.append(timed.take()), count=12)
    whole = time.perf_counter() - start
    assert device.replayed > 0
    assert {name for seconds in seen for name in seconds} == {""}
    assert all(seconds[""] > SLOW for seconds in seen[1:])
    assert sum(seconds[""] for seconds in seen) < whole


def test_nothing_is_counted_twice(nano: Bundle) -> None:
    """On the CPU run_into calls run, and a run within a run counts once."""
    timed = Timed(open_backend("onnx"), nano)
    start = time.perf_counter()
    track(nano, timed)
    assert sum(timed.take().values()) < time.perf_counter() - start


def test_only_what_is_wanted_is_asked_for() -> None:
    """As without looking on: the other outputs stay on the device."""
    inner = create_autospec(Backend, instance=True)
    timed = Timed(inner)
    timed.open(Path("graph.onnx")).run_outputs({}, ["iou"])
    inner.open.return_value.run_outputs.assert_called_once_with({}, ["iou"])
    assert timed.take()[""] > 0


@pytest.mark.parametrize("step", ["device arrays", "recordings"])
def test_steps_left_out(nano: Bundle, step: str) -> None:
    """The masks are the same; nothing is recorded, or nothing stays on the device."""
    device = SimulatedDevice()
    assert offers(device) == ("device arrays", "recordings")
    masks = track(nano, without(device, step))
    assert device.replayed == 0
    assert (device.allocated == 0) is (step == "device arrays")
    assert (masks == track(nano, open_backend("onnx"))).all()


def test_nothing_left_out() -> None:
    device = SimulatedDevice()
    assert without(device, "") is device
    assert offers(open_backend("onnx")) == ()
    assert offers(GraphsOnly(device)) == ()
    assert offers(object.__new__(OnnxCudaBackend)) == ("device arrays",)
