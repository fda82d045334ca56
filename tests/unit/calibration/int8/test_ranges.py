"""Ranges that are collected, kept in the cache, and compared with what a clip shows."""

import numpy as np
import onnx
import onnxruntime
import pytest

from sam2edge.bundle import GRAPHS
from sam2edge.calibration.int8.quantize import LARGEST, layers
from sam2edge.calibration.int8.ranges import collect, load_graph, observed, range_ratios, read_ranges, write_ranges
from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.closed_loop import track_clip
from sam2edge.calibration.measure.comparison import Comparison
from sam2edge.calibration.measure.configurations import Configuration
from sam2edge.calibration.measure.gate import Gate
from sam2edge.errors import BundleError
from tests.helpers import CLIP
from tests.models import write_changed


def test_observed_graph_gives_the_magnitudes_of_its_activations(nano):
    model = load_graph(nano.graph_path("memory_encoder"))
    side = nano.model.grid
    random = np.random.default_rng(0)
    inputs = {
        "features": random.normal(size=(1, nano.model.hidden_dim, side, side)).astype(np.float32),
        "mask": random.normal(size=(2, 1, 4 * side, 4 * side)).astype(np.float32),
        "object_score": np.ones((2, 1), np.float32),
        "binarize": np.zeros(2, bool),
    }
    names = list(dict.fromkeys(layer.activation for layer in layers(model)))
    whole = observed(model, names)
    whole.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names if name != "features")
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    values = inputs | dict(zip(outputs, session.run(outputs, inputs), strict=True))
    for name in names:
        magnitudes = np.abs(values[name])
        assert values[f"{name}/largest"] == magnitudes.max()
        assert values[f"{name}/sum"] == pytest.approx(magnitudes.sum(dtype=np.float64), rel=1e-4)


def test_only_recorded_frames_count(nano, prompts):
    seen = []
    few, many = (
        collect(nano, Clip(CLIP, 6), prompts, record, lambda m, f: seen.append(m)) for record in ({0}, range(6))
    )
    assert seen[:6] == [f"tracked {number} frames of {CLIP}" for number in range(1, 7)]
    assert set(few) == set(many) == set(GRAPHS)
    assert all(many[graph][name] >= largest for graph in GRAPHS for name, largest in few[graph].items())
    assert many["image_encoder"] != few["image_encoder"]
    # the first frame has no memory, and its own memory is encoded when the next frame comes
    assert not any(few["memory_attention"].values())
    assert all(many["memory_attention"].values())


def test_graphs_that_give_nan_are_refused(nano, prompts, tmp_path):
    """The largest magnitude hides them: ONNX Runtime's ReduceMax passes over NaN that is not the first value."""

    def spoil(graph, weights):
        if graph == "memory_encoder" and weights.shape[:2] == (nano.model.memory_dim, nano.model.hidden_dim):
            weights = weights.copy()
            weights[-1] = np.nan
        return weights

    spoiled = write_changed(nano, tmp_path / "spoiled", spoil)
    with pytest.raises(BundleError, match=r"memory_attention: \S+ is not finite in FP32 already"):
        collect(spoiled, Clip(CLIP, 3), prompts, {1, 2})


def test_ranges_are_read_as_written_and_a_damaged_file_as_none(tmp_path):
    ranges = {"mask_decoder": {f"x{n}": float(n) for n in range(100)}, "memory_encoder": {"x": 0.5}}
    write_ranges(file := tmp_path / "a.npz", ranges)
    assert read_ranges(file) == ranges
    assert list(tmp_path.iterdir()) == [file]
    whole = file.read_bytes()
    inside = bytearray(whole)
    inside[len(whole) // 3] ^= 255
    for damaged in (b"", whole[:100], bytes(inside)):
        file.write_bytes(damaged)
        assert read_ranges(file) is None


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


def test_a_graph_that_two_configurations_share_is_run_once(nano, nano_int8, wide_int8, prompts):
    """As in `auto`, and where one block after the other is kept out of INT8."""
    measured = []

    def counted(bundle, graph, recorded):
        measured.append((bundle.path.name, graph))
        return range_ratios(bundle, graph, recorded)

    comparison = Comparison(Configuration("FP32", nano), Clip(CLIP, 3), prompts, Gate(), range_ratios=counted)
    for bundle in (nano_int8, wide_int8, nano_int8):
        verdict = comparison.measure(Configuration("INT8", bundle)).verdict
        assert len(verdict.wide) == (bundle is wide_int8)
    assert measured == [*(("nano-int8", graph) for graph in GRAPHS), ("wide", "mask_decoder")]
