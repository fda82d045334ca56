"""The graph that resizes against the resize on the host."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from sam2edge.engines.resize import resize_graph
from sam2edge.runtime.model.resize import filter_weights, resize


@pytest.mark.parametrize("frame_size", [(128, 128), (96, 160), (720, 1280), (301, 97), (1, 1)])
def test_as_on_the_host(frame_size: tuple[int, int]) -> None:
    size = 128
    frame = np.random.default_rng(0).integers(0, 256, (*frame_size, 3), np.uint8)
    session = onnxruntime.InferenceSession(resize_graph(size).SerializeToString(), providers=["CPUExecutionProvider"])
    rows, columns = (filter_weights(length, size) for length in frame_size)
    (image,) = session.run(None, {"frame": frame, "rows": rows, "columns": columns})
    expected = resize(frame, size)[None]
    assert (image.shape, image.dtype) == (expected.shape, np.uint8)
    # sums in another order: a value that lies on a half may round to the other side
    difference = np.abs(image.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
