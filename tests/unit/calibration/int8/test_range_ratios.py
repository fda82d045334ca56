"""Ranges of INT8 graphs against the magnitudes of what is quantised."""

import numpy as np
import onnx
import pytest

from sam2edge.bundle import GRAPHS
from sam2edge.calibration.int8 import range_ratios as module
from sam2edge.calibration.int8.quantize import LARGEST
from sam2edge.calibration.int8.range_ratios import range_ratios
from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.closed_loop import track_clip
from sam2edge.calibration.measure.comparison import Comparison, Configuration
from sam2edge.calibration.measure.gate import Gate
from tests.conftest import REPO

CLIP = REPO / "samples" / "clip.mp4"


@pytest.fixture(scope="module")
def recorded(nano, prompts):
    return track_clip(nano, Clip(CLIP, 5), prompts, "onnx", record=(0, 1, 4))[1]


def test_ratios_of_a_graphs_inputs(nano_int8, recorded):
    """The one activation whose magnitudes need no look into the graph: what the memory encoder reads."""
    [ratio] = [one for one in range_ratios(nano_int8, "memory_encoder", recorded) if one.activation == "features"]
    model = onnx.load(nano_int8.graph_path("memory_encoder"))
    [scale] = [tensor for tensor in model.graph.initializer if tensor.name == "features/scale"]
    largest = max(np.abs(one.inputs["features"]).max() for one in recorded if one.graph == "memory_encoder")
    assert ratio.ratio == pytest.approx(LARGEST * onnx.numpy_helper.to_array(scale) / largest, rel=1e-6)


def test_eight_times_a_range(nano_int8, wide_int8, recorded):
    """All other ratios up to that tensor stay the same; it comes first."""
    before, after = (
        sorted((one for graph in GRAPHS for one in range_ratios(bundle, graph, recorded)), key=lambda one: -one.ratio)
        for bundle in (nano_int8, wide_int8)
    )
    assert 1 <= before[0].ratio < 3
    assert {one.graph for one in before} == set(GRAPHS)
    first, second = after[:2]
    assert (first.graph, first.activation) == ("mask_decoder", "/hypernetworks.0/activation/Relu_output_0")
    [same] = [one for one in before if one.activation == first.activation and one.graph == first.graph]
    assert first.ratio == pytest.approx(8 * same.ratio, rel=1e-5)
    assert second.ratio < 3


def test_what_is_zero_is_left_out(nano_int8, recorded):
    zeros = [
        type(one)(one.graph, {name: np.zeros_like(value) for name, value in one.inputs.items()}, {}) for one in recorded
    ]
    found = {one.activation for one in range_ratios(nano_int8, "memory_encoder", zeros)}
    assert found
    assert "features" not in found


def test_a_graph_that_two_rungs_share_is_run_once(nano, nano_int8, wide_int8, prompts, monkeypatch):
    """As in `auto`, and where one block after the other is kept out of INT8."""
    measured = []

    def counted(bundle, graph, recorded):
        measured.append((bundle.path.name, graph))
        return range_ratios(bundle, graph, recorded)

    monkeypatch.setattr(module, "range_ratios", counted)
    ladder = Comparison(Configuration("FP32", nano), Clip(CLIP, 3), prompts, Gate())
    for bundle in (nano_int8, wide_int8, nano_int8):
        verdict = ladder.measure(Configuration("INT8", bundle, int8=GRAPHS)).verdict
        assert len(verdict.wide) == (bundle is wide_int8)
    assert measured == [*(("nano", graph) for graph in GRAPHS), ("wide", "mask_decoder")]
