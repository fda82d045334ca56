"""The graph that resizes against the resize on the host."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from sam2edge.engines.resize import resize_graph
from sam2edge.runtime.model.resize import filter_inputs, filter_weights, filter_windows, resize, window_size


def ties(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Tell which values lie on a half, up to float32's rounding: CPUs sum in different orders and round either way."""
    return np.abs(values % 1 - 0.5) < 1e-3


@pytest.mark.parametrize("frame_size", [(128, 128), (96, 160), (720, 1280), (301, 97), (1, 1)])
def test_as_on_the_host(frame_size: tuple[int, int]) -> None:
    """By one grey level less or more where a value lies on a half after either axis, and nowhere else."""
    size = 128
    frame = np.random.default_rng(0).integers(0, 256, (*frame_size, 3), np.uint8)
    session = onnxruntime.InferenceSession(resize_graph(size).SerializeToString(), providers=["CPUExecutionProvider"])
    rows, columns = (filter_weights(length, size) for length in frame_size)
    (image,) = session.run(None, {"frame": frame, **filter_inputs(frame_size, size)})
    expected = resize(frame, size)[None]
    assert (image.shape, image.dtype) == (expected.shape, np.uint8)
    difference = np.abs(image.astype(int) - expected)[0]
    assert difference.max() <= 1
    wide = np.einsum("sw,hwc->hsc", columns, frame, dtype=np.float64)
    high = np.einsum("rh,hsc->rsc", rows, np.floor(wide + 0.5), dtype=np.float64)
    doubtful = ties(high) | (np.einsum("rh,hsc->rsc", rows, ties(wide), dtype=np.float64) > 0)
    assert not difference[~doubtful].any()
    assert doubtful.mean() < 0.5


@pytest.mark.parametrize("size", [32, 128, 480, 1024])
def test_windows_hold_the_whole_filter(size: int) -> None:
    """And none is larger than the engine's profile allows for larger frames."""
    before = 0
    for length in (1, 2, 31, 128, 240, 479, 720, 1080, 1920, 4001):
        used, windows = filter_windows(length, size)
        assert used.shape[1] == windows.shape[2] == window_size(length, size) >= before
        before = used.shape[1]
        whole = np.zeros((*windows.shape[:2], length), np.float32)
        np.put_along_axis(whole, used[:, None, :].astype(int), windows, axis=2)
        np.testing.assert_array_equal(whole.reshape(size, length), filter_weights(length, size))
