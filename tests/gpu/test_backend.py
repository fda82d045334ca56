"""Tracking on a GPU with engines and ONNX Runtime's CUDA provider, compared with the CPU; skipped without them."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sam2edge import Bundle, VideoTracker
from sam2edge.engines.build import build
from sam2edge.errors import BackendError
from sam2edge.runtime.backends.base import Backend, open_backend
from sam2edge.runtime.backends.tensorrt import TensorRTBackend
from tests.gpu.small import SMALL
from tests.helpers import Frames, Masks, clip_frames, iou


@pytest.fixture(scope="module")
def clip() -> Frames:
    return clip_frames(60)


@pytest.fixture(scope="module")
def engines(nano: Bundle) -> Path:
    """Return FP16 engines of the bundled model; existing ones if possible, since a build takes minutes."""
    try:
        TensorRTBackend()
    except BackendError as error:
        pytest.skip(str(error))
    return build(nano, preset=SMALL).path


@pytest.fixture
def cuda() -> Backend:
    try:
        return open_backend("onnx-cuda")
    except BackendError as error:
        pytest.skip(str(error))


def masks(bundle: Bundle, backend: str | Backend, clip: Frames) -> Masks:
    """Return the masks of two objects on all frames but the first: bool [T,2,H,W]."""
    with VideoTracker(bundle, backend, max_objects=2) as tracker:
        tracker.track(clip[0])
        tracker.prompt(1, box=[101, 47, 176, 122])
        tracker.prompt(2, points=[[262, 60]])
        return np.stack([tracker.track(frame).masks for frame in clip[1:]])


def mean_iou(one: Masks, other: Masks) -> float:
    """Mean over frames and objects; two empty masks are the same."""
    pairs = [zip(*of_frame, strict=True) for of_frame in zip(one, other, strict=True)]
    return float(np.mean([iou(mask, same) for of_frame in pairs for mask, same in of_frame]))


def test_fp16_engines_find_the_same_masks(nano: Bundle, clip: Frames, engines: Path) -> None:
    assert mean_iou(masks(nano, TensorRTBackend(engines), clip), masks(nano, "onnx", clip)) > 0.98


def test_onnx_cuda_finds_the_same_masks(nano: Bundle, clip: Frames, cuda: Backend) -> None:
    assert mean_iou(masks(nano, cuda, clip), masks(nano, "onnx", clip)) > 0.99


class Plain(TensorRTBackend):
    """A backend that records nothing."""

    def replay(self, key, steps):  # type: ignore[no-untyped-def]
        steps()


def test_recorded_frames_are_the_same(nano: Bundle, clip: Frames, engines: Path) -> None:
    np.testing.assert_array_equal(masks(nano, TensorRTBackend(engines), clip), masks(nano, Plain(engines), clip))


def test_2000_frames_take_no_more_memory(nano: Bundle, clip: Frames, engines: Path) -> None:
    backend = TensorRTBackend(engines)
    taken = []
    with VideoTracker(nano, backend, max_objects=2) as tracker:
        tracker.track(clip[0])
        tracker.prompt(1, box=[101, 47, 176, 122])
        for number in range(2000):
            tracker.track(clip[number % len(clip)])
            if number in (99, 1999):
                with backend.context:
                    free, total = backend.context.cuda.mem_get_info()
                taken.append(total - free)
    assert taken[1] <= taken[0], taken


def test_a_process_ends_silently(engines: Path) -> None:
    """What pycuda cannot free it prints, and it ends a process whose contexts are not left."""
    program = f"""
from sam2edge.runtime.backends.tensorrt import TensorRTBackend
backend = TensorRTBackend({str(engines)!r})
print(backend.download(backend.zeros((2,))))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0. 0.]\n", "")


def test_onnx_cuda_beside_engines(nano: Bundle, clip: Frames, engines: Path, cuda: Backend) -> None:
    first = masks(nano, TensorRTBackend(engines), clip)
    assert mean_iou(masks(nano, cuda, clip), first) > 0.98
    np.testing.assert_array_equal(masks(nano, TensorRTBackend(engines), clip), first)


def test_trackers_that_share_a_backend(nano: Bundle, clip: Frames, engines: Path) -> None:
    """In two threads, whose calls take turns on one stream; each has recordings of its own."""
    backend = TensorRTBackend(engines)
    expected = masks(nano, backend, clip)
    with ThreadPoolExecutor(2) as threads:
        for found in threads.map(lambda _: masks(nano, backend, clip), range(2)):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["onnx-cuda", "tensorrt"])
def test_the_second_gpu(nano: Bundle, clip: Frames, name: str, request: pytest.FixtureRequest) -> None:
    """Beside the first, in another thread."""
    if name == "tensorrt":
        request.getfixturevalue("engines")
    try:
        both = [open_backend(name, gpu=number) for number in range(2)]
    except BackendError as error:
        pytest.skip(str(error))
    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(lambda backend: masks(nano, backend, clip), both)
    assert mean_iou(one, other) > 0.99


# Last, since TensorRT 8.6 may end in an illegal memory access beside other work on the GPU


def test_beside_pytorch(nano: Bundle, clip: Frames, engines: Path) -> None:
    """Meanwhile PyTorch multiplies on its own stream in another thread."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    expected, stop, sums = masks(nano, TensorRTBackend(engines), clip), threading.Event(), set()

    def multiply() -> None:
        matrix = torch.ones(512, 512, device="cuda")
        while not stop.is_set():
            sums.add(float((matrix @ torch.ones(512, 512, device="cuda")).sum()))

    thread = threading.Thread(target=multiply)
    thread.start()
    try:
        np.testing.assert_array_equal(masks(nano, TensorRTBackend(engines), clip), expected)
    finally:
        stop.set()
        thread.join()
    assert sums == {512.0**3}


def test_two_trackers_in_two_threads(nano: Bundle, clip: Frames, engines: Path) -> None:
    def track(_: int) -> Masks:
        return masks(nano, TensorRTBackend(engines), clip)

    with ThreadPoolExecutor(2) as threads:
        actual = list(threads.map(track, range(2)))
    for result in actual:
        np.testing.assert_array_equal(result, track(2))
