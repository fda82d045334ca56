"""Times are taken around what really runs, also where work is only queued, and runs are kept as the graphs saw them."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any
from unittest.mock import create_autospec, sentinel

import numpy as np
import pytest

from sam2edge import Bundle, VideoTracker
from sam2edge.bundle import GRAPHS
from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.closed_loop import compare, track_clip
from sam2edge.calibration.measure.graph_errors import OutputError, graph_errors
from sam2edge.calibration.measure.recorder import WAITING, Recorder
from sam2edge.runtime.backends.base import Array, Backend, GraphRunner, open_backend
from sam2edge.runtime.backends.onnx import OnnxBackend
from sam2edge.runtime.model.prompts import Prompt
from tests.fake_gpu import SimulatedDevice
from tests.helpers import BALL, BLOCK, CLIP

PROMPTS = {1: Prompt(box=BALL), 7: Prompt(box=BLOCK)}
SLOW = 0.1

pytestmark = pytest.mark.usefixtures("gpu")


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
    with VideoTracker(nano, backend, max_objects=1) as tracker:
        for frame in Clip(CLIP, count):
            result = tracker.track(frame)
            if result.frame_index == 0:
                result = tracker.prompt(1, box=BALL)
            masks.append(result.masks)
            each()
    return np.stack(masks)


def test_stages_of_a_device_that_queues(nano: Bundle) -> None:
    """Every run is waited for, and what is slow is found in its own stage."""
    recorder, seen = Recorder(device := SlowDevice(), nano), []
    masks = track(nano, recorder, lambda: seen.append(recorder.take()))
    assert (masks == track(nano, open_backend("onnx"))).all()
    assert device.replayed == 0
    assert all(stages[name] > 0 for stages in seen[1:] for name in GRAPHS)
    assert min(stages["memory_attention"] for stages in seen[1:]) > SLOW
    for name in set(GRAPHS) - {"memory_attention"}:
        assert np.median([stages[name] for stages in seen[1:]]) < SLOW


def test_waiting_for_a_device_that_queues(nano: Bundle) -> None:
    """Without a bundle recordings are replayed, and all waiting is one number."""
    recorder, seen = Recorder(device := SlowDevice()), []
    start = time.perf_counter()
    track(nano, recorder, lambda: seen.append(recorder.take()), count=12)
    whole = time.perf_counter() - start
    assert device.replayed > 0
    assert {name for seconds in seen for name in seconds} == {WAITING}
    assert all(seconds[WAITING] > SLOW for seconds in seen[1:])
    assert sum(seconds[WAITING] for seconds in seen) < whole


def test_nothing_is_counted_twice(nano: Bundle) -> None:
    """On the CPU run_into calls run, and a run within a run counts once."""
    recorder = Recorder("onnx", nano)
    start = time.perf_counter()
    track(nano, recorder)
    assert sum(recorder.take().values()) < time.perf_counter() - start


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (kind, name)
        for kind in (Backend, GraphRunner)
        for name, value in vars(kind).items()
        if isinstance(value, FunctionType) and name not in ("open", "new_stream", "for_user", "fence")
    ],
)
def test_every_method_is_passed_on(kind: type, method: str) -> None:
    """A missing one would silently fall back to the default for the CPU."""
    inner = create_autospec(Backend, instance=True)
    recorder = Recorder(inner)
    passed, wrapper = (
        (inner, recorder) if kind is Backend else (inner.open.return_value, recorder.open(Path("graph.onnx")))
    )
    signature = inspect.signature(getattr(kind, method))
    arguments = [getattr(sentinel, name) for name in list(signature.parameters)[1:]]
    getattr(passed, method).return_value = sentinel.result
    result = getattr(wrapper, method)(*arguments)
    getattr(passed, method).assert_called_once_with(*arguments)
    assert len(passed.method_calls) == 1
    assert result is (None if signature.return_annotation == "None" else sentinel.result)
    assert (WAITING in recorder.take()) is (method.startswith("run") or method in ("download", "synchronize"))


def test_waiting_at_a_fence_is_timed() -> None:
    inner = create_autospec(Backend, instance=True)
    wait = (recorder := Recorder(inner)).fence()
    inner.fence.assert_called_once_with()
    inner.fence.return_value.assert_not_called()
    assert recorder.take() == {}
    wait()
    inner.fence.return_value.assert_called_once_with()
    assert recorder.take().keys() == {WAITING}


def test_work_on_another_stream_or_of_another_user_is_timed_too() -> None:
    recorder = Recorder("onnx")
    assert recorder.new_stream() is recorder.for_user() is recorder


def test_all_outputs_of_a_recorded_run_are_kept() -> None:
    inner = create_autospec(Backend, instance=True)
    inner.open.return_value.run.return_value = {"iou": np.zeros(1), "mask": np.ones(1)}
    recorder = Recorder(inner)
    recorder.recording = True
    assert list(recorder.open(Path("graph.onnx")).run_outputs({}, ["iou"])) == ["iou"]
    assert list(recorder.recorded[0].outputs) == ["iou", "mask"]


def test_runs_of_a_device_are_kept_as_on_the_cpu(nano: Bundle) -> None:
    run, recorded = track_clip(nano, Clip(CLIP, 6), PROMPTS, SimulatedDevice(half=True), record=(3,))
    plain, reference = track_clip(nano, Clip(CLIP, 6), PROMPTS, record=(3,))
    assert compare(plain, run).mean > 0.98
    assert (run.seconds[1:] > 0).all()
    for one, other in zip(recorded, reference, strict=True):
        assert one.graph == other.graph
        for name, array in {**other.inputs, **other.outputs}.items():
            kept = {**one.inputs, **one.outputs}[name]
            assert (kept.dtype, kept.shape[0]) == (array.dtype, array.shape[0])
            assert kept is not array


def test_runs_are_kept_as_the_graph_saw_them(nano: Bundle) -> None:
    """The tracker writes its bank again: a view of it would show later values, and the errors would not be 0."""
    _, recorded = track_clip(nano, Clip(CLIP, 12), PROMPTS, record=(0, 7, 8))  # full from 7 on, so slots are reused
    errors = graph_errors(nano, recorded)
    assert len(errors) == 4
    assert all(error == OutputError(0, 0) for outputs in errors.values() for error in outputs.values())


def test_recording_is_no_part_of_a_frame(nano: Bundle) -> None:
    class SlowCopies(OnnxBackend):
        def download(self, array: Any) -> Array:
            time.sleep(0.02)
            return super().download(array)

    run, recorded = track_clip(nano, Clip(CLIP, 3), PROMPTS, SlowCopies(), record=range(3))
    assert run.seconds.sum() < 0.02 * sum(len(kept.inputs) for kept in recorded)
