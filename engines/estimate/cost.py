"""What a graph costs: its floating-point operations and bytes moved, counted for given sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper

from sam2edge.errors import InputError

_VIEWS = frozenset({"Constant", "Flatten", "Identity", "Reshape", "Shape", "Squeeze", "Unsqueeze"})
_POINTWISE = frozenset(
    {"Add", "And", "Cast", "Clip", "Cos", "DequantizeLinear", "Div", "Equal", "Erf", "Exp", "Greater"}
    | {"GreaterOrEqual", "Less", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pow", "QuantizeLinear", "Relu", "Sigmoid"}
    | {"Sin", "Sqrt", "Sub", "Tanh", "Where"}
)


@dataclass(frozen=True)
class Cost:
    """The cost of a node, or of one that is fused with the pointwise nodes after it.

    `flops` has 2 for each multiply-add of a product or convolution; `moved` has the bytes read and written.
    """

    name: str
    operator: str
    flops: int
    moved: int


def graph_cost(model: ModelProto, dims: Mapping[str, int], fused: bool = False) -> list[Cost]:
    """Count the costs of a graph's nodes, in its order, with dynamic axes (B, N, T, K, P) of the sizes `dims`.

    Nodes that only rename memory cost nothing and are left out: reshapes, parts of the first axis, and the
    transposition of a factor, which products do themselves. If `fused`, pointwise nodes join the node that makes their
    last input, as in every compiler, and tensors between them are not moved. Raises InputError for an axis without a
    size, and for a tensor whose shape is not known before the graph runs.
    """
    sizes, graph, memory = _Sizes(model, dims), model.graph, _Memory()
    factors = _factors(graph)
    maker: dict[str, int] = {}
    groups: list[list[NodeProto]] = []
    for node in graph.node:
        if _is_view(node, sizes, factors):
            memory.add(node)
            continue
        made = [maker[whole] for whole in map(memory.whole, node.input) if whole in maker]
        if not (fused and made and node.op_type in _POINTWISE):
            made = [len(groups)]
            groups.append([])
        groups[max(made)].append(node)
        maker.update((name, max(made)) for name in node.output)
    leaving = {memory.whole(value.name) for value in graph.output}
    read: list[dict[str, str]] = [{} for _ in groups]
    for index, group in enumerate(groups):
        for name in (name for node in group for name in node.input if name):
            if maker.get(memory.whole(name)) != index:
                read[index][memory.part(name)] = name  # counted once for all nodes of the group
                leaving.add(memory.whole(name))
    return [
        Cost(
            group[0].name,
            group[0].op_type,
            sum(_flops(node, sizes) for node in group),
            sizes.bytes([*names.values(), *(name for node in group for name in node.output if name in leaving)]),
        )
        for group, names in zip(groups, read, strict=True)
    ]


def least_bytes(model: ModelProto, dims: Mapping[str, int]) -> int:
    """Return the bytes that any compiler must move: inputs, outputs and weights of the graph, once each."""
    graph = model.graph
    names = [value.name for value in (*graph.input, *graph.output, *graph.initializer)]
    return _Sizes(model, dims).bytes(dict.fromkeys(names))


def seconds(costs: Iterable[Cost], flops: float, bandwidth: float) -> float:
    """Return the time of all costs in sequence on a device of `flops` operations and `bandwidth` bytes per second."""
    return sum(max(cost.flops / flops, cost.moved / bandwidth) for cost in costs)


class _Memory:
    """Tells for a view which tensor it is a view of, and of which part of it."""

    def __init__(self) -> None:
        self._part: dict[str, str] = {}
        self._whole: dict[str, str] = {}

    def add(self, view: NodeProto) -> None:
        for name in view.output if view.input else ():
            self._whole[name] = self.whole(view.input[0])
            self._part[name] = name if view.op_type == "Split" else self.part(view.input[0])

    def whole(self, name: str) -> str:
        return self._whole.get(name, name)

    def part(self, name: str) -> str:
        return self._part.get(name, name)


class _Sizes:
    """The shape and type of every tensor."""

    def __init__(self, model: ModelProto, dims: Mapping[str, int]) -> None:
        fixed = ModelProto()
        fixed.CopyFrom(model)
        for value in fixed.graph.input:
            for axis in value.type.tensor_type.shape.dim:
                if axis.HasField("dim_param"):
                    if axis.dim_param not in dims:
                        raise InputError(f"{value.name}: the size of its axis {axis.dim_param} must be given")
                    axis.dim_value = dims[axis.dim_param]
        for value in fixed.graph.output:
            value.type.tensor_type.ClearField("shape")
        del fixed.graph.value_info[:]
        graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
        self._tensors = {tensor.name: (tuple(tensor.dims), tensor.data_type) for tensor in graph.initializer}
        for value in (*graph.input, *graph.value_info, *graph.output):
            axes = value.type.tensor_type.shape.dim
            if value.type.tensor_type.HasField("shape") and all(axis.HasField("dim_value") for axis in axes):
                self._tensors[value.name] = tuple(axis.dim_value for axis in axes), value.type.tensor_type.elem_type

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensor(name)[0]

    def bytes(self, names: Iterable[str]) -> int:
        return sum(
            math.prod(shape) * int(helper.tensor_dtype_to_np_dtype(dtype).itemsize)
            for shape, dtype in map(self._tensor, names)
        )

    def _tensor(self, name: str) -> tuple[tuple[int, ...], int]:
        if name not in self._tensors:
            raise InputError(
                f"{name}: its shape is not known before the graph runs; export the bundle again with this sam2edge"
            )
        return self._tensors[name]


def _factors(graph: GraphProto) -> set[str]:
    """Return the tensors that only products read."""
    others = {name for node in graph.node if node.op_type != "MatMul" for name in node.input}
    return {name for node in graph.node if node.op_type == "MatMul" for name in node.input} - others


def _is_view(node: NodeProto, sizes: _Sizes, factors: set[str]) -> bool:
    if node.op_type == "Transpose" and node.output[0] in factors:
        (order,) = (list(attribute.ints) for attribute in node.attribute)
        last = len(order) - 2
        return order == [*range(last), last + 1, last]
    if node.op_type == "Split":
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        shape = sizes.shape(node.input[0])
        return math.prod(shape[: axis % len(shape)]) == 1
    return node.op_type in _VIEWS


def _flops(node: NodeProto, sizes: _Sizes) -> int:
    if node.op_type in ("MatMul", "Gemm"):
        first = sizes.shape(node.input[0])
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return 2 * math.prod(sizes.shape(node.output[0])) * first[-2 if transposed else -1]
    if node.op_type in ("Conv", "ConvTranspose"):
        # a weight [out, in / groups, …] meets every output pixel, a transposed one [in, out / groups, …] every input's
        image = sizes.shape(node.output[0] if node.op_type == "Conv" else node.input[0])
        return 2 * math.prod(image) * math.prod(sizes.shape(node.input[1])[1:])
    return 0
