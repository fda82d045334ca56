"""FP16 and BF16 in the types of the graphs: what stays FP32, that it is right, and why it is needed."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from transformers import Sam2VideoModel

from sam2edge.bundle import GRAPHS, TensorSpec, contract
from sam2edge.engines.low_precision import (
    BF16,
    FP16,
    HOST_TENSORS,
    Fp32Island,
    ends,
    island_nodes,
    lowered,
    small_weights,
    tensor_types,
)
from sam2edge.errors import BuildError
from sam2edge.export.mask_decoder import Stability
from sam2edge.export.onnx_file import write_onnx
from tests.conftest import ALL, NANO
from tests.helpers import graph_inputs
from tools.precision_errors import rounded as rounded_bundle, run, track
from tools.rounding import with_rounding

FLOAT, HALF, BFLOAT = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16


def of(graph, kind=FP16):
    return [island for island in kind.islands if island.graph == graph]


def graph_of(nodes, inputs, outputs, weights=()):
    """Return a model; inputs and outputs are (ONNX type, shape) by name."""

    def infos(tensors):
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in tensors.items()]

    graph = helper.make_graph(nodes, "test", infos(inputs), infos(outputs), list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def compute(model, tmp_path, **inputs):
    onnx.save(model, tmp_path / "graph.onnx")
    return run(tmp_path / "graph.onnx", inputs)


def in_order(model):
    """Sort the nodes topologically, which the usual converter does not do."""
    waiting, known = list(model.graph.node), {t.name for t in (*model.graph.input, *model.graph.initializer)} | {""}
    ordered = []
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        waiting = [node for node in waiting if not known.issuperset(node.input)]
        ordered += ready
        known.update(name for node in ready for name in node.output)
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    return model


@pytest.mark.parametrize("graph", GRAPHS)
def test_types(nano, graph):
    source = onnx.load(nano.graph_path(graph))
    model = lowered(source, FP16, of(graph))
    inputs, outputs = contract(nano.model)[graph]
    for spec, value in zip((*inputs, *outputs), (*model.graph.input, *model.graph.output), strict=True):
        dtype = "float16" if spec.dtype == "float32" and spec.name not in HOST_TENSORS else spec.dtype
        assert helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) == dtype
        assert value.name == spec.name
    islands, found = island_nodes(source.graph, of(graph)), tensor_types(model)
    for node in model.graph.node:
        for name in node.output:
            if node.op_type != "Cast" and found.get(name) in (FLOAT, HALF):
                assert found[name] == (FLOAT if node.name in islands else HALF), node.name
    assert model.ByteSize() < 0.52 * source.ByteSize()


@pytest.mark.parametrize("graph", GRAPHS)
def test_types_in_bf16(nano, graph):
    source = onnx.load(nano.graph_path(graph))
    model = lowered(source, BF16, of(graph, BF16))
    assert [(model.graph.input, model.graph.output)] == [(source.graph.input, source.graph.output)]
    islands, found = island_nodes(source.graph, of(graph, BF16)), tensor_types(model)
    for node in model.graph.node:
        for name in node.output:
            if node.op_type != "Cast" and found.get(name) in (FLOAT, BFLOAT):
                wide = node.name in islands or name in ends(source.graph)
                assert found[name] == (FLOAT if wide else BFLOAT), node.name
    assert not {HALF} & set(found.values())


def test_bf16_is_the_nearest_number():
    values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    ties = np.arange(1, 2, 2.0**-8, np.float32)
    values = np.concatenate([values * 1e-40, values, values * 1e37, ties, -ties, [0, BF16.largest]]).astype(np.float32)
    np.testing.assert_array_equal(BF16.bits(values), values.astype(ml_dtypes.bfloat16).view(np.uint16))


@pytest.mark.parametrize("graph", GRAPHS)
def test_without_islands_it_equals_the_usual_converter(nano, graph, tmp_path):
    source = onnx.load(nano.graph_path(graph))
    names = [value.name for value in (*source.graph.input, *source.graph.output)]
    ours = with_rounding(lowered(source, FP16, (), names))
    usual = with_rounding(in_order(convert_float_to_float16(source, keep_io_types=True)))
    inputs = graph_inputs(nano, graph, {"N": 2, "T": 2, "K": 3, "P": 2, "B": 1})
    for name in inputs.keys() & {"labels", "memory_age", "pointer_age"}:
        inputs[name] = np.random.default_rng(0).integers(-1, 3, inputs[name].shape, np.int32)
    expected = compute(usual, tmp_path, **inputs)
    for name, output in compute(ours, tmp_path, **inputs).items():
        np.testing.assert_array_equal(output, expected[name])


def test_an_fp32_input_reaches_an_fp32_node_unrounded(tmp_path):
    """The usual converter rounds it to FP16."""
    nodes = [helper.make_node("Sin", ["points"], ["sine"], "island/Sin")]
    model = graph_of(nodes, {"points": (FLOAT, [4])}, {"sine": (FLOAT, [4])})
    points = np.float32([700.3, 900.77, 1023.4, 0.1])
    exact = lowered(model, FP16, [Fp32Island("test", "island/", "test")], {"points", "sine"})
    np.testing.assert_allclose(compute(exact, tmp_path, points=points)["sine"], np.sin(points), atol=1e-6)
    usual = convert_float_to_float16(model, keep_io_types=True, node_block_list=["island/Sin"])
    assert np.abs(compute(usual, tmp_path, points=points)["sine"] - np.sin(points)).max() > 0.01


def test_a_weight_used_in_both_types_is_stored_twice(tmp_path):
    weight = numpy_helper.from_array(np.float32([1 / 3, 1, 2, 3]), "weight")
    nodes = [
        helper.make_node("Mul", ["x", "weight"], ["fine"], "island/Mul"),
        helper.make_node("Mul", ["x", "weight"], ["coarse"], "Mul"),
    ]
    model = graph_of(nodes, {"x": (FLOAT, [4])}, {"fine": (FLOAT, [4]), "coarse": (FLOAT, [4])}, [weight])
    typed = lowered(model, FP16, [Fp32Island("test", "island/", "test")], {"x", "fine"})
    assert {t.name: t.data_type for t in typed.graph.initializer} == {"weight": FLOAT, "weight/fp16": HALF}
    outputs = compute(typed, tmp_path, x=np.ones(4, np.float32))
    assert outputs["fine"][0] == np.float32(1 / 3)
    assert outputs["coarse"][0] == np.float16(1 / 3)


def test_an_output_that_is_read_in_the_graph_too(tmp_path):
    nodes = [helper.make_node("Exp", ["x"], ["mask"], "Exp"), helper.make_node("Neg", ["mask"], ["y"], "Neg")]
    model = graph_of(nodes, {"x": (FLOAT, [4])}, {"mask": (FLOAT, [4]), "y": (FLOAT, [4])})
    outputs = compute(with_rounding(lowered(model, FP16)), tmp_path, x=np.float32([0.1, 0.2, 0.3, 0.4]))
    x = np.float32([0.1, 0.2, 0.3, 0.4]).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(outputs["mask"], np.exp(x).astype(np.float16))
    np.testing.assert_array_equal(outputs["y"], -outputs["mask"])


def adding(*values):
    """Return a model that adds a weight."""
    weight = numpy_helper.from_array(np.float32(values), "weight")
    nodes = [helper.make_node("Add", ["x", "weight"], ["y"])]
    return graph_of(nodes, {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])}, [weight])


@pytest.mark.parametrize("value", [65505.0, np.inf, np.nan])
def test_a_weight_beyond_fp16_is_an_error(value):
    with pytest.raises(BuildError, match=r"weight weight: reaches .*, but FP16 ends at 65504; build with bf16 or fp32"):
        lowered(adding(0, 1, 2, value), FP16)


@pytest.mark.parametrize("value", [3.4e38, np.inf, np.nan])
def test_a_weight_beyond_bf16_is_an_error(value):
    with pytest.raises(BuildError, match=r"weight weight: reaches .*, but BF16 ends at 3\.38953e\+38; build with fp32"):
        lowered(adding(0, 1, 2, value), BF16)


def test_small_weights_are_counted():
    assert small_weights(adding(0, 1e-8, -2e-5, 0.1), FP16) == {"zero": 1, "subnormal": 1}
    assert small_weights(adding(0, 1e-45, 1e-8, 1e-39), BF16) == {"zero": 1, "subnormal": 1}


def test_a_missing_island_is_an_error(nano):
    graph = onnx.load(nano.graph_path("image_encoder")).graph
    with pytest.raises(BuildError, match=r"mask_decoder: no node is called /stability/….*export the bundle again"):
        island_nodes(graph, of("mask_decoder"))


def test_sam_2_0_has_no_pointer_code(nano_2_0):
    model = lowered(onnx.load(nano_2_0.graph_path("memory_attention")), FP16, of("memory_attention"))
    assert HALF in tensor_types(model).values()
    assert FLOAT not in tensor_types(model).values()


# Graphs with Q/DQ nodes


@pytest.mark.parametrize("graph", GRAPHS)
def test_types_around_int8(nano_int8, graph):
    """Q reads the existing type and DQ outputs FP16, both with scales of that type and the values of FP32."""
    source = onnx.load(nano_int8.graph_path(graph))
    model = lowered(source, FP16, of(graph))
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 19)]
    islands = island_nodes(source.graph, of(graph))
    before, after = ({t.name: t for t in one.graph.initializer} for one in (source, model))
    found = tensor_types(model)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            q = node.op_type == "QuantizeLinear"
            dtype = found[node.input[0]] if q else HALF
            assert after[node.input[1]].data_type == dtype
            assert found[node.output[0]] == (TensorProto.INT8 if q else HALF)
            scale = before[node.input[1].removesuffix("/fp16")]
            np.testing.assert_array_equal(
                numpy_helper.to_array(after[node.input[1]]).astype(np.float32), numpy_helper.to_array(scale)
            )
            if q and dtype == FLOAT:
                assert node.input[0] in HOST_TENSORS or node.input[0].removesuffix("_output_0") in islands
    for name, tensor in before.items():
        if tensor.data_type == TensorProto.INT8:
            assert after[name] == tensor
    assert model.ByteSize() < source.ByteSize()


def test_an_fp32_island_is_quantized_without_fp16_between(nano_int8):
    """The soft mask is an island: its FP32 values become INT8, and the convolution behind it reads FP16."""
    model = lowered(onnx.load(nano_int8.graph_path("memory_encoder")), FP16, of("memory_encoder"))
    quantize, dequantize = (
        next(node for node in model.graph.node if node.name == f"/soft_mask/Add_output_0/{operator}Linear")
        for operator in ("Quantize", "Dequantize")
    )
    assert tensor_types(model)[quantize.input[0]] == FLOAT
    conv = next(node for node in model.graph.node if node.name == "/mask_downsampler/layers.0/conv/Conv")
    assert conv.input[0] == dequantize.output[0]
    assert tensor_types(model)[dequantize.output[0]] == HALF


def test_split_without_sizes_is_raised_to_opset_18(tmp_path):
    weight = [numpy_helper.from_array(np.float32(0.5), "scale"), numpy_helper.from_array(np.int8(0), "zero")]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "Q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], "DQ"),
        helper.make_node("Split", ["d"], ["a", "b"], "Split"),
    ]
    model = graph_of(nodes, {"x": (FLOAT, [4])}, {"a": (FLOAT, [2]), "b": (FLOAT, [2])}, weight)
    outputs = compute(lowered(model, FP16, (), ("x", "a", "b")), tmp_path, x=np.float32([0.6, 1.1, -3, 100]))
    np.testing.assert_array_equal(np.concatenate([outputs["a"], outputs["b"]]), [0.5, 1, -3, 63.5])


# What each island is for, shown by what happens without it.


def memories(bundle, pointer_age):
    inputs = graph_inputs(bundle, "memory_attention", {"N": 1, "T": 1, "K": 1}, seed=1)
    return {**inputs, "memory_age": np.int32([[0]]), "pointer_age": np.int32([[pointer_age]])}


def test_pointers_may_have_any_age(nano, tmp_path):
    """70000 frames are 39 minutes at 30 a second; in FP16 that age is infinite and its sine NaN."""
    source = onnx.load(nano.graph_path("memory_attention"))
    inputs = memories(nano, 70_000)
    expected = run(nano.graph_path("memory_attention"), inputs)["conditioned"]
    without = compute(with_rounding(lowered(source, FP16)), tmp_path, **inputs)["conditioned"]
    assert np.isnan(without).all()
    found = compute(with_rounding(lowered(source, FP16, of("memory_attention"))), tmp_path, **inputs)["conditioned"]
    assert np.abs(found - expected).max() < 3e-3 * np.abs(expected).max()


def test_an_empty_slot_weighs_nothing(nano, tmp_path):
    source = onnx.load(nano.graph_path("memory_attention"))
    model = with_rounding(lowered(source, FP16, of("memory_attention")))
    one = memories(nano, 3)
    two = {**one, "memory_age": np.int32([[0, -1]]), "memory": np.repeat(one["memory"], 2, 1)}
    two["memory"][:, 1] = 1000
    np.testing.assert_allclose(
        compute(model, tmp_path, **two)["conditioned"], compute(model, tmp_path, **one)["conditioned"], atol=5e-3
    )


def test_areas_of_masks_at_1024_pixels(tmp_path):
    """A single mask that fills 256 × 256 is stable; its area is infinite in FP16, and the ratio NaN."""

    class Graph(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stability = Stability(Sam2VideoModel.from_pretrained(NANO, dtype=torch.float32).mask_decoder)

        def forward(self, mask):
            return self.stability(mask)

    specs = (TensorSpec("mask", "float32", ("N", 256, 256)),), (TensorSpec("stable", "bool", ("N",)),)
    write_onnx(Graph(), *specs, tmp_path / "s.onnx")
    source = onnx.load(tmp_path / "s.onnx")
    island = next(island for island in FP16.islands if island.nodes == "/stability/")
    mask = np.full((1, 256, 256), 5.0, np.float32)
    assert compute(source, tmp_path, mask=mask)["stable"].all()
    assert compute(with_rounding(lowered(source, FP16, [island])), tmp_path, mask=mask)["stable"].all()
    assert not compute(with_rounding(lowered(source, FP16)), tmp_path, mask=mask)["stable"].any()


def test_bf16_holds_what_fp32_holds(nano, tmp_path):
    """Feed-forward layers whose activations are 2¹⁸ times as large, and are divided by that again, overflow FP16."""
    source = onnx.load(nano.graph_path("memory_attention"))
    inputs = memories(nano, 3)
    expected = run(nano.graph_path("memory_attention"), inputs)["conditioned"]
    tensors = {tensor.name: tensor for tensor in source.graph.initializer}
    for node in source.graph.node:
        scale = 2**18 if "/linear1/" in node.name else 2**-18 if "/linear2/MatMul" in node.name else 1
        for tensor in (tensors[name] for name in node.input if name in tensors and scale != 1):
            tensor.CopyFrom(numpy_helper.from_array(np.float32(scale) * numpy_helper.to_array(tensor), tensor.name))
    np.testing.assert_allclose(compute(source, tmp_path, **inputs)["conditioned"], expected, atol=1e-4)
    for kind, finite in ((FP16, False), (BF16, True)):
        low = with_rounding(lowered(source, kind, of("memory_attention", kind)))
        found = compute(low, tmp_path, **inputs)["conditioned"]
        assert np.isfinite(found).all() == finite
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_pixels_near_zero_keep_their_side(nano, tmp_path):
    """The memory of a prompted frame is encoded from the binary mask; rounded logits flip some pixels."""
    source = onnx.load(nano.graph_path("memory_encoder"))
    side = nano.model.mask_size
    inputs = {
        **graph_inputs(nano, "memory_encoder", {"N": 1}, seed=2),
        # five eighths of the one and three of the other are just above 0; of FP16's 1 and -1.667 they are below
        "mask": np.tile(np.float32([1.0002, -1.6667]), (1, 1, side, side // 2)),
        "object_score": np.ones((1, 1), np.float32),
        "binarize": np.ones(1, bool),
    }
    expected = run(nano.graph_path("memory_encoder"), inputs)["memory"]
    scale = np.abs(expected).max()
    with_island = compute(with_rounding(lowered(source, FP16, of("memory_encoder"))), tmp_path, **inputs)["memory"]
    without = compute(with_rounding(lowered(source, FP16)), tmp_path, **inputs)["memory"]
    assert np.abs(with_island - expected).max() < 2e-3 * scale
    assert np.abs(without - expected).max() > 3 * np.abs(with_island - expected).max()


@pytest.mark.parametrize(
    ("name", "kind", "frames", "least"),
    [
        ("nano", FP16, 9, 0.995),
        ("nano_int8", FP16, 9, 0.99),
        ("nano", BF16, 9, 0.98),
        # random weights, and one memory
        ("edgetam", FP16, 2, 0.98),
        ("efficienttam_1", BF16, 2, 0.9),
        *((("edgetam", BF16, 5, 0.9), ("efficienttam_1", FP16, 5, 0.98)) if ALL else ()),
    ],
)
def test_the_clip_is_tracked_as_without_rounding(request, tmp_path, name, kind, frames, least):
    """Closed loop with every tensor rounded: errors of a frame go into the memories of the next ones, a full bank."""
    bundle = request.getfixturevalue(name)
    exact, rounded = (track(one, frames) for one in (bundle, rounded_bundle(bundle, kind, kind.islands, tmp_path)))
    both, either = (exact & rounded).sum((-2, -1)), (exact | rounded).sum((-2, -1))
    assert (both / np.maximum(either, 1))[either > 100].mean() > least
