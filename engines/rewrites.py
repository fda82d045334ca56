"""Exact rewrites of a bundle's graphs for TensorRT: the same numbers, from graphs that it compiles and fuses better.

Bundles stay as they are, because elsewhere the rewrites cost more than they save. docs/explanation/performance.md has
what each of them brings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from sam2edge.errors import BuildError


class Graph:
    """A graph whose nodes are being replaced. `write` puts the result into the model."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        self._shapes = {
            value.name: tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim)
            for value in (*inferred.input, *inferred.value_info, *inferred.output)
        }
        self.nodes = list(model.graph.node)
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}

    def shape(self, tensor: str) -> tuple[int | str, ...]:
        """Return the shape that a tensor had before any rewrite, with names for dynamic axes."""
        if not self._shapes.get(tensor):
            raise BuildError(f"the shape of {tensor} is not known; {_AGAIN}")
        return self._shapes[tensor]

    def readers(self, tensor: str) -> list[NodeProto]:
        """Return the nodes that read a tensor."""
        return [node for node in self.nodes if tensor in node.input]

    def is_weight(self, tensor: str) -> bool:
        """Tell whether a tensor is in the file, and not computed."""
        return tensor in self._weights

    def constant(self, *values: int) -> str:
        """Return the name of an initialiser that holds a vector of integers."""
        name = f"rewrites/{','.join(map(str, values))}"
        if name not in self._weights:
            self._weights[name] = self._model.graph.initializer.add()
            self._weights[name].CopyFrom(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def pad_rows(self, weight: str, rows: int) -> None:
        """Give a weight this number of rows, by zeros."""
        values = numpy_helper.to_array(self._weights[weight])
        padded = np.pad(values, ((0, rows - len(values)), (0, 0)))
        self._weights[weight].CopyFrom(numpy_helper.from_array(padded, weight))

    def replace(self, node: NodeProto, *new: NodeProto) -> None:
        """Put nodes in the place of one, which may be among them."""
        place = next(place for place, other in enumerate(self.nodes) if other is node)
        self.nodes[place : place + 1] = new

    def write(self) -> None:
        """Write the nodes into the model, and check that it is valid."""
        del self._model.graph.node[:], self._model.graph.value_info[:]
        self._model.graph.node.extend(self.nodes)
        onnx.checker.check_model(self._model, full_check=True)


_AGAIN = "export the bundle again with this sam2edge"


@dataclass(frozen=True)
class Attention:
    """The products in softmax(query · keys + bias) · values."""

    scores: NodeProto
    product: NodeProto


def attentions(graph: Graph) -> list[Attention]:
    """Find every attention of a graph, in order; BuildError for a softmax of anything else."""
    producers = {output: node for node in graph.nodes for output in node.output}
    found = []
    for softmax in (node for node in graph.nodes if node.op_type == "Softmax"):
        scores, products = producers[softmax.input[0]], graph.readers(softmax.output[0])
        if scores.op_type == "Add":  # of the bias
            scores = producers[scores.input[0]]
        if scores.op_type != "MatMul" or [node.op_type for node in products] != ["MatMul"]:
            raise BuildError(f"{softmax.name} is not the softmax of an attention; {_AGAIN}")
        found.append(Attention(scores, products[0]))
    return found


def pad_values(graph: Graph) -> None:
    """Give narrow values the width of the keys, by zeros. Fused attention needs both alike.

    Memories are 64 wide and their keys 256. The projection that reads the product gets rows of zeros; where its weights
    are quantised, the product is cut instead.
    """
    padded: dict[str, str] = {}
    for attention in attentions(graph):
        product, values, output = attention.product, attention.product.input[1], attention.product.output[0]
        narrow, wide = graph.shape(values)[-1], graph.shape(attention.scores.input[0])[-1]
        if not (isinstance(narrow, int) and isinstance(wide, int)):
            raise BuildError(f"{product.name}: the width of its values is not known; {_AGAIN}")
        if narrow == wide:
            continue
        if values not in padded:  # all layers attend to the same values
            padded[values] = f"{values}/padded"
            pads = graph.constant(*[0] * (2 * len(graph.shape(values)) - 1), wide - narrow)
            pad = helper.make_node("Pad", [values, pads], [padded[values]], f"{product.name}/Pad")
            graph.replace(product, pad, product)
        product.input[1] = padded[values]
        if weights := _projection(graph, output):
            graph.pad_rows(weights, wide)
        else:
            product.output[0] = f"{output}/padded"
            ends = graph.constant(0), graph.constant(narrow), graph.constant(-1)
            cut = helper.make_node("Slice", [product.output[0], *ends], [output], f"{product.name}/Slice")
            graph.replace(product, product, cut)
    if not padded:
        raise BuildError(f"no attention has values that are narrower than its keys; {_AGAIN}")


def _projection(graph: Graph, output: str) -> str | None:
    """Return the weights that alone multiply the output of an attention, or None if there are no such weights."""
    readers = graph.readers(output)
    if [node.op_type for node in readers] == ["Squeeze"]:
        readers = graph.readers(readers[0].output[0])
    if [node.op_type for node in readers] != ["MatMul"]:
        return None
    weights = readers[0].input[1]
    return weights if graph.is_weight(weights) and graph.readers(weights) == readers else None


def expand_query(graph: Graph) -> None:
    """Repeat a query that all objects share for each of them, which fused attention needs.

    It is that of the first layer, where features have not met any memories yet.
    """
    for attention in attentions(graph):
        scores = attention.scores
        query, keys = scores.input
        if graph.shape(query)[0] != 1 or graph.shape(keys)[0] == 1:
            continue
        name, repeated = scores.name, f"{query}/repeated"
        once = graph.constant(*[1] * (len(graph.shape(query)) - 1))
        scores.input[0] = repeated
        graph.replace(
            scores,
            helper.make_node("Shape", [keys], [f"{name}/sizes"], f"{name}/Shape"),
            helper.make_node("Gather", [f"{name}/sizes", graph.constant(0)], [f"{name}/objects"], f"{name}/Gather"),
            helper.make_node("Concat", [f"{name}/objects", once], [f"{name}/times"], f"{name}/Concat", axis=0),
            helper.make_node("Expand", [query, f"{name}/times"], [repeated], f"{name}/Expand"),
            scores,
        )
        return
    raise BuildError(f"no attention has a query that all objects share; {_AGAIN}")


def repeat_plainly(graph: Graph) -> None:
    """Replace selections between a tensor and itself, which repeat it for every flag.

    They are the cheapest way without a computed shape, but with one object and one prompt TensorRT's compiler fails on
    them in INT8.
    """
    for node in [node for node in graph.nodes if node.op_type == "Where" and node.input[1] == node.input[2]]:
        flags, repeated, *_ = node.input
        sizes = f"{node.name}/sizes"
        graph.replace(
            node,
            helper.make_node("Shape", [flags], [sizes], f"{node.name}/Shape"),
            helper.make_node("Expand", [repeated, sizes], node.output, f"{node.name}/Expand"),
        )


Rewrite = Callable[[Graph], None]

FORMS: dict[str, tuple[Rewrite, ...]] = {"fused": (pad_values, expand_query), "narrow": ()}
"""The forms of the memory attention. "narrow" takes the least arithmetic, "fused" the least memory."""

_ALWAYS: dict[str, tuple[Rewrite, ...]] = {"mask_decoder": (repeat_plainly,)}


def rewrite(model: ModelProto, name: str, attention: str = "") -> None:
    """Rewrite a graph of a bundle in place; `attention` is one of FORMS for the memory attention, "" for others.

    Raises BuildError if the graph lacks what is to be rewritten.
    """
    if rewrites := (*_ALWAYS.get(name, ()), *FORMS.get(attention, ())):
        graph = Graph(model)
        try:
            for change in rewrites:
                change(graph)
        except BuildError as error:
            raise BuildError(f"{name}: {error}") from error
        graph.write()
