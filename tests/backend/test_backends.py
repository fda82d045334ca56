"""The same cases on every backend that is present; a backend that is not is skipped with the reason it gives."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from sam2edge import Bundle, ImagePredictor, VideoTracker
from sam2edge.bundle.engines import default_directory
from sam2edge.engines.build import build
from sam2edge.errors import BackendError
from sam2edge.runtime.backends.base import Backend, open_backend
from sam2edge.runtime.backends.tensorrt import TensorRTBackend
from sam2edge.runtime.media.sources import VideoSource
from tests.conftest import REPO
from tests.gpu.small import SMALL


@pytest.fixture(scope="module", params=["onnx", "onnx-cuda", "tensorrt"])
def backend(request: pytest.FixtureRequest, nano: Bundle) -> str | Backend:
    try:
        open_backend(request.param)
    except BackendError as error:
        pytest.skip(str(error))
    if request.param == "tensorrt":
        build(nano, precision="fp32", preset=SMALL)
        return TensorRTBackend(default_directory(nano.path, "fp32"))  # tests/gpu has FP16
    return request.param


def test_tracks_like_onnx_on_the_cpu(backend: str | Backend, nano: Bundle) -> None:
    with VideoSource(REPO / "samples" / "clip.mp4") as source:
        frames = list(islice(source, 12))

    def logits(name: str | Backend) -> list[np.ndarray]:
        with VideoTracker(nano, name) as tracker:
            tracker.track(frames[0])
            tracker.prompt(1, box=[30, 40, 110, 120])
            tracker.prompt(2, points=[[200, 120]])
            return [tracker.track(frame).logits for frame in frames[1:]]

    for found, expected in zip(logits(backend), logits("onnx"), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-2 * np.abs(expected).max())


def test_segments_like_onnx_on_the_cpu(backend: str | Backend, nano: Bundle) -> None:
    """Images in a batch, several prompts in a run, and a mask alone, for which the decoder gets no point at all."""
    with VideoSource(REPO / "samples" / "clip.mp4") as source:
        frames = list(islice(source, 3))

    def logits(name: str | Backend) -> list[np.ndarray]:
        with ImagePredictor(nano, name) as predictor:
            predictor.set_image_batch(frames)
            *_, several = predictor.predict_batch(box_batch=[[[101, 47, 176, 122], [220, 18, 305, 103]]] * 3)
            *_, alone = predictor.predict(mask_input=several[-1][0, :1])
            return [*several, alone]

    for found, expected in zip(logits(backend), logits("onnx"), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-2 * np.abs(expected).max())


def test_outputs_belong_to_the_caller(backend: str | Backend, nano: Bundle) -> None:
    encoder = open_backend(backend).open(nano.graph_path("image_encoder"))
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 128, 128, 3), dtype=np.uint8)
    first = encoder.run({"image": images[0]})
    kept = first["features"].copy()
    encoder.run({"image": images[1]})
    np.testing.assert_array_equal(first["features"], kept)


def test_wrong_input_names_the_graph(backend: str | Backend, nano: Bundle) -> None:
    encoder = open_backend(backend).open(nano.graph_path("image_encoder"))
    with pytest.raises(BackendError, match=r"image_encoder\.onnx"):
        encoder.run({"image": np.zeros((1, 64, 64, 3), np.uint8)})
