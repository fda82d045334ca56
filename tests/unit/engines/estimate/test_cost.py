"""Operations and bytes of graphs, compared with counts by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from sam2edge import Bundle
from sam2edge.engines.estimate.cost import Cost, graph_cost, least_bytes, seconds
from sam2edge.engines.low_precision import FP16, lowered
from sam2edge.errors import InputError

Shape = tuple[int | str, ...]


def graph(
    nodes: Sequence[NodeProto], inputs: dict[str, Shape], outputs: Sequence[str], **weights: Sequence[int]
) -> onnx.ModelProto:
    """A float32 graph; weights are of the given shapes."""
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )


def node(operator: str, inputs: str, outputs: str, **attributes: object) -> NodeProto:
    return helper.make_node(operator, inputs.split(), outputs.split(), outputs.split()[0], **attributes)


@pytest.mark.parametrize(
    ("one", "x", "w", "flops", "elements"),
    [
        (node("MatMul", "x w", "y"), ("N", 5, 8), (8, 3), 2 * 4 * 5 * 8 * 3, 4 * 5 * 8 + 8 * 3 + 4 * 5 * 3),
        (node("Gemm", "x w", "y", transB=1), ("N", 8), (3, 8), 2 * 4 * 8 * 3, 4 * 8 + 3 * 8 + 4 * 3),
        (node("Gemm", "x w", "y", transA=1), (8, "N"), (8, 3), 2 * 4 * 8 * 3, 4 * 8 + 3 * 8 + 4 * 3),
        (
            node("Conv", "x w", "y", group=2, strides=[2, 2]),
            ("N", 6, 8, 8),
            (4, 3, 2, 2),
            2 * (4 * 4 * 4 * 4) * (3 * 2 * 2),
            4 * 6 * 64 + 48 + 4 * 4 * 16,
        ),
        (
            node("ConvTranspose", "x w", "y", strides=[2, 2]),
            ("N", 6, 4, 4),
            (6, 3, 2, 2),
            2 * (4 * 6 * 4 * 4) * (3 * 2 * 2),
            4 * 6 * 16 + 72 + 4 * 3 * 64,
        ),
    ],
    ids=["MatMul", "Gemm", "Gemm, transposed", "Conv", "ConvTranspose"],
)
def test_products(one: NodeProto, x: Shape, w: Sequence[int], flops: int, elements: int) -> None:
    (cost,) = graph_cost(graph([one], {"x": x}, ["y"], w=w), {"N": 4})
    assert cost == Cost("y", one.op_type, flops, 4 * elements)


MLP = graph(
    [
        node("MatMul", "x a", "h"),
        node("Sigmoid", "h", "s"),
        node("Mul", "h s", "u"),
        node("MatMul", "u b", "v"),
        node("Add", "v x", "y"),
    ],
    {"x": ("N", 8)},
    ["y"],
    a=(8, 32),
    b=(32, 8),
)


def test_every_node_alone() -> None:
    costs = graph_cost(MLP, {"N": 2})
    assert [cost.operator for cost in costs] == ["MatMul", "Sigmoid", "Mul", "MatMul", "Add"]
    assert [cost.moved for cost in costs] == [4 * (16 + 256 + 64), 4 * 128, 4 * 192, 4 * (64 + 256 + 16), 4 * 48]


def test_pointwise_nodes_join_what_makes_their_input() -> None:
    costs = graph_cost(MLP, {"N": 2}, fused=True)
    assert costs == [
        Cost("h", "MatMul", 2 * 2 * 8 * 32, 4 * (16 + 256 + 64)),
        Cost("v", "MatMul", 2 * 2 * 8 * 32, 4 * (64 + 256 + 16 + 16)),
    ]
    assert least_bytes(MLP, {"N": 2}) == 4 * (16 + 256 + 256 + 16)


def test_views_move_nothing() -> None:
    model = graph(
        [
            node("Reshape", "x shape", "r"),
            node("Split", "r", "q k", axis=0),
            node("Transpose", "k", "t", perm=[0, 2, 1]),
            node("MatMul", "q t", "s"),
            node("Transpose", "s", "y", perm=[1, 0, 2]),
        ],
        {"x": ("N", 8)},
        ["y"],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, -1, 8]), "shape"))
    costs = graph_cost(model, {"N": 6})
    assert costs == [
        Cost("s", "MatMul", 2 * 3 * 3 * 8, 4 * (24 + 24 + 9)),
        Cost("y", "Transpose", 0, 4 * (9 + 9)),
    ]


def test_half_moves_half(nano: Bundle) -> None:
    model = onnx.load(nano.graph_path("memory_attention"))
    dims = {"N": 2, "T": 7, "K": 16}
    both = [graph_cost(m, dims, fused=True) for m in (model, lowered(model, FP16))]
    full, halved = (sum(cost.moved for cost in costs) for costs in both)
    assert sum(c.flops for c in both[0]) == sum(c.flops for c in both[1])
    assert 0.5 <= halved / full < 0.51


def test_attention_of_the_bundled_model(nano: Bundle) -> None:
    """Everything whose cost depends on the memories: their keys, scores and weighted sums, in two layers."""
    model = onnx.load(nano.graph_path("memory_attention"))
    flops = [sum(c.flops for c in graph_cost(model, {"N": 1, "T": t, "K": 1})) for t in (1, 2)]
    assert flops[1] - flops[0] == 2 * 2 * (64 * 64 * 256 + 64 * 64 * 256 + 64 * 64 * 64)


def test_seconds_are_bound_by_the_slower_of_arithmetic_and_memory() -> None:
    costs = [Cost("a", "MatMul", 200, 20), Cost("b", "Add", 0, 30)]
    assert seconds(costs, flops=100, bandwidth=15) == 2 + 2


def test_an_axis_without_a_size() -> None:
    with pytest.raises(InputError, match="x: the size of its axis N must be given"):
        graph_cost(MLP, {"B": 1})


def test_a_shape_that_depends_on_data() -> None:
    model = graph([node("NonZero", "x", "i"), node("Cast", "i", "y", to=TensorProto.FLOAT)], {"x": (4,)}, ["y"])
    with pytest.raises(InputError, match="i: its shape is not known before the graph runs; export the bundle again"):
        graph_cost(model, {})
