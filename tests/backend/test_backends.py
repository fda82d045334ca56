"""The same cases on every backend of this machine and on a stand-in for a GPU; others are skipped with the reason."""

from __future__ import annotations

import numpy as np
import pytest

from sam2edge import Bundle, ImagePredictor, VideoTracker
from sam2edge.bundle.engines import default_directory
from sam2edge.engines.build import build
from sam2edge.errors import BackendError
from sam2edge.runtime.backends.base import Backend, open_backend
from sam2edge.runtime.backends.tensorrt import TensorRTBackend
from sam2edge.runtime.video.tracker import Earlier
from tests.fake_gpu import install_onnxruntime
from tests.gpu.small import SMALL
from tests.helpers import BALL, BLOCK, assert_close, clip_frames, graph_inputs

STAND_IN = "onnx-cuda on a stand-in"


@pytest.fixture(params=["onnx", "onnx-cuda", "tensorrt", "tensorrt-rtx", STAND_IN])
def backend(request: pytest.FixtureRequest, nano: Bundle, monkeypatch: pytest.MonkeyPatch) -> Backend:
    if request.param == STAND_IN:
        install_onnxruntime(monkeypatch, request.getfixturevalue("gpu"))
        return open_backend("onnx-cuda")
    try:
        opened = open_backend(request.param)
    except BackendError as error:
        pytest.skip(str(error))
    if request.param.startswith("tensorrt"):
        build(nano, precision="fp32", product=request.param, preset=SMALL)
        return TensorRTBackend(default_directory(nano.path, "fp32", request.param), request.param)  # tests/gpu has FP16
    return opened


@pytest.fixture
def relative(request: pytest.FixtureRequest) -> float:
    """Return the largest difference from the CPU that is allowed: a GPU sums in another order."""
    return 1e-4 if request.node.callspec.params["backend"] == STAND_IN else 2e-2


def test_tracks_like_onnx_on_the_cpu(backend: Backend, nano: Bundle, relative: float) -> None:
    frames = clip_frames(12)

    def logits(name: str | Backend) -> list[np.ndarray]:
        with VideoTracker(nano, name) as tracker:
            tracker.track(frames[0])
            tracker.prompt(1, box=[30, 40, 110, 120])
            tracker.prompt(2, points=[[200, 120]])
            early = Earlier(1, tracker.encode(frames[1]))
            found = [tracker.track(frame).logits for frame in frames[1:6]]
            tracker.prompt(3, box=[200, 20, 300, 110], earlier=early)
            return [*found, *(tracker.track(frame).logits for frame in frames[6:])]

    assert_close(logits(backend), logits("onnx"), relative)


def test_segments_like_onnx_on_the_cpu(backend: Backend, nano: Bundle, relative: float) -> None:
    """Images in a batch, several prompts in a run, and a mask alone, for which the decoder gets no point at all."""
    frames = list(clip_frames(3))

    def logits(name: str | Backend) -> list[np.ndarray]:
        with ImagePredictor(nano, name) as predictor:
            predictor.set_image_batch(frames)
            *_, several = predictor.predict_batch(box_batch=[[BALL, BLOCK]] * 3)
            *_, alone = predictor.predict(mask_input=several[-1][0, :1])
            return [*several, alone]

    assert_close(logits(backend), logits("onnx"), relative)


def test_a_mask_alone(backend: Backend, nano: Bundle, relative: float) -> None:
    """There is no point at all: an empty array needs an address."""
    inputs, graph = graph_inputs(nano, "mask_decoder", {"N": 1, "P": 0}), nano.graph_path("mask_decoder")
    assert_close(backend.open(graph).run(inputs), open_backend("onnx").open(graph).run(inputs), relative)


def test_outputs_belong_to_the_caller(backend: Backend, nano: Bundle) -> None:
    encoder = backend.open(nano.graph_path("image_encoder"))
    first = encoder.run(graph_inputs(nano, "image_encoder", {"B": 1}))
    kept = first["features"].copy()
    encoder.run(graph_inputs(nano, "image_encoder", {"B": 1}, seed=1))
    np.testing.assert_array_equal(first["features"], kept)


def test_wrong_input_names_the_graph(backend: Backend, nano: Bundle) -> None:
    encoder = backend.open(nano.graph_path("image_encoder"))
    with pytest.raises(BackendError, match=r"image_encoder\.onnx"):
        encoder.run({"image": np.zeros((1, 64, 64, 3), np.uint8)})
