"""The rewrites for TensorRT: the same numbers as the bundle's graphs, and the shapes that its compiler fuses."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto

from sam2edge import Bundle
from sam2edge.engines.resize import resize_graph
from sam2edge.engines.rewrites import Graph, attentions, rewrite
from sam2edge.errors import BuildError
from tests.helpers import graph_inputs

GRIDS = [{"N": 1, "T": 7, "K": 16}, {"N": 3, "T": 2, "K": 1}]
"""Sizes of the axes of memories and pointers."""


def rewritten(bundle: Bundle, name: str, attention: str = "") -> ModelProto:
    model = onnx.load(bundle.graph_path(name))
    rewrite(model, name, attention)
    return model


def opened(graph: str | bytes) -> onnxruntime.InferenceSession:
    """Open a graph without optimisations, which round products of INT8 differently for other shapes."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def assert_alike(bundle: Bundle, name: str, models: list[ModelProto], cases: list[dict[str, np.ndarray]]) -> None:
    """Check that models give what the bundle's graph gives for the same inputs."""
    original = opened(str(bundle.graph_path(name)))
    names = [output.name for output in original.get_outputs()]
    expected = [original.run(names, inputs) for inputs in cases]
    for model in models:
        session = opened(model.SerializeToString())
        for inputs, right in zip(cases, expected, strict=True):
            for output, actual, values in zip(names, session.run(names, inputs), right, strict=True):
                atol = 2e-6 * np.abs(values).max()
                np.testing.assert_allclose(actual, values, rtol=1e-5, atol=atol, err_msg=output)


@pytest.mark.parametrize("source", ["nano", "pooled", "nano_2_0", "nano_int8", "edgetam", "efficienttam_1"])
def test_both_forms_of_attention_are_exact(request: pytest.FixtureRequest, source: str) -> None:
    """With full, half-full and empty slots."""
    bundle: Bundle = request.getfixturevalue(source)
    cases = [graph_inputs(bundle, "memory_attention", sizes) for sizes in GRIDS]
    random = np.random.default_rng(1)
    for inputs in cases:
        for age in ("memory_age", "pointer_age"):
            inputs[age] = random.integers(-1, 7, inputs[age].shape).astype(np.int32)
        inputs["pointer_age"][-1] = -1
    models = [rewritten(bundle, "memory_attention", form) for form in ("fused", "narrow")]
    assert_alike(bundle, "memory_attention", models, cases)


@pytest.mark.parametrize("source", ["nano", "pooled", "nano_2_0"])
def test_fused_attention_has_one_width_and_one_batch(request: pytest.FixtureRequest, source: str) -> None:
    bundle: Bundle = request.getfixturevalue(source)
    before, after = (Graph(rewritten(bundle, "memory_attention", form)) for form in ("narrow", "fused"))
    sizes = [
        {(graph.shape(each.scores.input[0])[0], *graph.shape(each.product.input[1])[::3]) for each in attentions(graph)}
        for graph in (before, after)
    ]
    assert sizes == [{(1, 1, 256), (1, "N", 64), ("N", "N", 256), ("N", "N", 64)}, {(1, 1, 256), ("N", "N", 256)}]


def test_query_keys_and_values_are_one_product(nano: Bundle, nano_int8: Bundle) -> None:
    """In both layers; in INT8 they stay as they are."""
    saved = []
    for bundle in (nano, nano_int8):
        before, after = (
            onnx.load(bundle.graph_path("memory_attention")),
            rewritten(bundle, "memory_attention", "narrow"),
        )
        products = [sum(node.op_type == "MatMul" for node in model.graph.node) for model in (before, after)]
        saved.append(products[0] - products[1])
    assert saved == [4, 0]


def test_a_projection_without_a_bias(nano: Bundle) -> None:
    model = onnx.load(nano.graph_path("memory_attention"))
    add = next(node for node in model.graph.node if node.name == "/layers.0/key/Add")
    add.op_type = "Sub"
    with pytest.raises(BuildError, match=r"memory_attention: /layers\.0/norm1/.*not each has a bias; export"):
        rewrite(model, "memory_attention", "narrow")


def test_tokens_are_repeated_without_a_selection(nano: Bundle) -> None:
    nodes = rewritten(nano, "mask_decoder").graph.node
    assert not [node for node in nodes if node.op_type == "Where" and node.input[1] == node.input[2]]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        *((source, name) for source in ("nano", "nano_int8") for name in ("image_encoder", "mask_decoder")),
        ("edgetam", "image_encoder"),
        ("edgetam", "memory_encoder"),
        ("efficienttam", "image_encoder"),
        ("efficienttam", "mask_decoder"),
    ],
)
def test_what_is_always_rewritten_is_exact(request: pytest.FixtureRequest, source: str, name: str) -> None:
    bundle: Bundle = request.getfixturevalue(source)
    cases = [graph_inputs(bundle, name, sizes) for sizes in ({"B": 1, "N": 1, "P": 2}, {"B": 2, "N": 3, "P": 1})]
    assert_alike(bundle, name, [rewritten(bundle, name)], cases)


@pytest.mark.parametrize("source", ["nano", "nano_int8"])
def test_projections_of_the_encoder_take_matrices(request: pytest.FixtureRequest, source: str) -> None:
    """Those of query, keys and values in one take a batch of one; Q/DQ nodes keep them from being a batch."""
    model = rewritten(request.getfixturevalue(source), "image_encoder")
    graph = Graph(model)
    constants = graph.constants()
    products = [node for node in graph.nodes if node.op_type == "MatMul" and node.input[1] in constants]
    ranks = [(len(graph.shape(node.input[0])), len(constants[node.input[1]])) for node in products]
    pooled = sum("/query/" in node.name for node in products)
    batches = sum(node.op_type == "Softmax" for node in graph.nodes) - pooled if source == "nano" else 0
    assert batches == (6 if source == "nano" else 0)
    assert ranks.count((3, 3)) == batches
    assert ranks.count((2, 2)) == len(ranks) - batches
    makers = {output: node.op_type for node in graph.nodes for output in node.output}
    if source == "nano_int8":
        assert {makers[name] for node in products for name in node.input[:2]} == {"DequantizeLinear"}
    assert {tensor.name for tensor in model.graph.initializer} <= {name for node in graph.nodes for name in node.input}


def test_the_mlps_of_the_masks_are_one(nano: Bundle) -> None:
    graph = Graph(rewritten(nano, "mask_decoder"))
    assert not [node.name for node in graph.nodes if node.name.startswith("/hypernetworks")]
    assert [shape for shape in graph.constants().values() if len(shape) == 3 and shape[0] == 4] == [
        *((4, 256, 256), (4, 1, 256)) * 2,
        *((4, 256, 32), (4, 1, 32)),
    ]


def test_projections_and_mlps_that_are_not_as_exported(nano: Bundle) -> None:
    encoder = onnx.load(nano.graph_path("image_encoder"))
    transpose = next(node for node in encoder.graph.node if node.name == "/blocks.0/Transpose")
    transpose.attribute[0].ints[:] = [2, 0, 1, 3, 4]
    with pytest.raises(BuildError, match=r"image_encoder: /blocks\.0/Split does not separate query, keys and values"):
        rewrite(encoder, "image_encoder")
    decoder = onnx.load(nano.graph_path("mask_decoder"))
    next(node for node in decoder.graph.node if node.name == "/Gather_2").input[0] = (
        "/final_norm/LayerNormalization_output_0"
    )
    with pytest.raises(BuildError, match=r"mask_decoder: /Concat_1: its MLPs do not read tokens of the same tensor"):
        rewrite(decoder, "mask_decoder")


def test_a_graph_without_attention(nano: Bundle) -> None:
    message = "memory_attention: no attention has values that are narrower than its keys; export the bundle again"
    with pytest.raises(BuildError, match=message):
        rewrite(onnx.load(nano.graph_path("memory_encoder")), "memory_attention", "fused")
    model = onnx.load(nano.graph_path("memory_attention"))
    rewrite(model, "memory_attention", "fused")
    with pytest.raises(BuildError, match="memory_attention: no attention has values that are narrower"):
        rewrite(model, "memory_attention", "fused")


def test_a_softmax_of_something_else(nano: Bundle) -> None:
    model = onnx.load(nano.graph_path("memory_attention"))
    scores = next(node for node in model.graph.node if node.name == "/layers.1/MatMul_2")
    scores.op_type = "Gemm"
    with pytest.raises(BuildError, match=r"/layers\.1/Softmax_1 is not the softmax of an attention; export the bundle"):
        rewrite(model, "memory_attention", "fused")


def test_a_graph_that_is_not_valid(nano: Bundle) -> None:
    model = onnx.load(nano.graph_path("image_encoder"))
    next(node for node in model.graph.node if node.op_type == "Resize").op_type = "Attention"
    with pytest.raises(BuildError, match=r"image_encoder: not a valid graph: No Op registered for Attention"):
        rewrite(model, "image_encoder")


def test_nothing_else_is_rewritten() -> None:
    model = resize_graph(128)
    rewrite(model, "resize")
    assert model == resize_graph(128)
