"""ONNX Runtime on the CPU: how many threads it takes, and one session of a graph for all that use a backend."""

from __future__ import annotations

import gc
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from sam2edge import Bundle, ImagePredictor, VideoTracker
from sam2edge.bundle import GRAPHS
from sam2edge.errors import BackendError, InputError
from sam2edge.runtime.backends.base import Backend, open_backend
from tests.helpers import BALL, BLOCK, assert_close, assert_same, clip_frames, graph_inputs, play


def test_threads(nano: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    real, taken = onnxruntime.InferenceSession, []

    def session(graph: str, options: Any, **more: Any) -> Any:
        taken.append(options.intra_op_num_threads)
        return real(graph, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    file, inputs = nano.graph_path("mask_decoder"), graph_inputs(nano, "mask_decoder", {"N": 1, "P": 2})
    one, two, all_cores = (
        open_backend(name, threads=threads).open(file).run(inputs)
        for name, threads in (("onnx", 1), ("auto", 2), ("auto", None))
    )
    assert taken == [1, 2, 0]
    assert_close(one, two)
    assert_close(one, all_cores)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_threads_that_are_none(threads: Any) -> None:
    with pytest.raises(InputError, match="threads must be an integer of at least 1 but got"):
        open_backend("onnx", threads=threads)


@pytest.mark.parametrize("name", ["onnx-cuda", "tensorrt", "tensorrt-rtx"])
def test_threads_of_a_backend_that_has_none(name: str) -> None:
    with pytest.raises(InputError, match=f"threads must be left out for the backend {name}: they are those of the CPU"):
        open_backend(name, threads=2)


@pytest.mark.parametrize("name", ["auto", "onnx"])
def test_the_cpu_is_no_gpu(name: str) -> None:
    message = f"gpu must be left out for the backend {name}: it is for onnx-cuda, tensorrt, tensorrt-rtx"
    with pytest.raises(InputError, match=message):
        open_backend(name, gpu=0)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> weakref.WeakSet[Any]:
    """The sessions that are open: with a number of threads, not those that the tests share."""
    found = weakref.WeakSet[Any]()

    class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            found.add(self)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    return found


def test_trackers_on_one_backend_have_one_session_of_a_graph(nano: Bundle, sessions: weakref.WeakSet[Any]) -> None:
    """Each as alone, also in threads at once; the last one closes them."""
    boxes = [BALL, BLOCK] * 2
    frames = clip_frames(4)

    def track(backend: Backend, box: Any) -> list[Any]:
        with VideoTracker(nano, backend, max_objects=1) as tracker:
            return list(play(tracker, frames, {0: [(1, {"box": box})]}))

    alone = [track(open_backend("onnx", threads=1), box) for box in boxes[:2]]
    backend = open_backend("onnx", threads=1)
    with VideoTracker(nano, backend) as first, ImagePredictor(nano, backend), ThreadPoolExecutor(4) as threads:
        for found, expected in zip(threads.map(track, [backend] * 4, boxes), alone * 2, strict=True):
            assert_same(found, expected)
        assert len(sessions) == len(GRAPHS)
        assert first.track(frames[0]).frame_index == 0
    gc.collect()
    assert len(sessions) == 0


def test_a_file_that_was_replaced_is_another_graph(
    nano: Bundle, sessions: weakref.WeakSet[Any], tmp_path: Path
) -> None:
    backend, file = open_backend("onnx", threads=1), tmp_path / "memory_encoder.onnx"
    shutil.copy(nano.graph_path("memory_encoder"), file)
    inputs = graph_inputs(nano, "memory_encoder", {"N": 1})
    before, same = backend.open(file), backend.open(tmp_path / "." / file.name)
    expected = before.run(inputs)
    assert_same(same.run(inputs), expected)
    assert len(sessions) == 1
    shutil.copy(nano.graph_path("image_encoder"), file)
    after = backend.open(file)
    assert "features" in after.run({"image": np.zeros((1, 128, 128, 3), np.uint8)})
    assert_same(before.run(inputs), expected)
    file.unlink()
    with pytest.raises(BackendError, match=r"memory_encoder\.onnx: ONNX Runtime cannot load it"):
        backend.open(file)
