"""Exact rewrites of a bundle's graphs for TensorRT: the same numbers, from graphs that it compiles and fuses better.

Bundles stay as they are, because elsewhere the rewrites cost more than they save. docs/explanation/performance.md has
what each of them brings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
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
        self.outputs = [value.name for value in model.graph.output]
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

    def knows(self, tensor: str) -> bool:
        """Tell whether the sizes of all axes of a tensor but the first were known before any rewrite."""
        shape = self._shapes.get(tensor, ())
        return bool(shape) and all(isinstance(side, int) and side > 0 for side in shape[1:])

    def values(self, weight: str) -> npt.NDArray[np.float32]:
        """Return the numbers of a weight."""
        values: npt.NDArray[np.float32] = numpy_helper.to_array(self._weights[weight])
        return values

    def add_weight(self, name: str, values: npt.NDArray[np.float32]) -> str:
        """Add a weight and return its name."""
        self._weights[name] = self._model.graph.initializer.add()
        self._weights[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def integer(self, name: str) -> int:
        """Return the value of a constant integer."""
        (tensor,) = (node.attribute[0].t for node in self.nodes if name in node.output)
        return int(numpy_helper.to_array(tensor))

    def constants(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all constants by name, also of INT8 weights behind their scales."""
        shapes = {name: tuple(tensor.dims) for name, tensor in self._weights.items()}
        for node in self.nodes:
            if node.op_type == "Constant":
                shapes[node.output[0]] = tuple(node.attribute[0].t.dims)
            elif node.op_type == "DequantizeLinear" and node.input[0] in shapes:
                shapes[node.output[0]] = shapes[node.input[0]]
        return shapes

    def pad_rows(self, weight: str, rows: int) -> None:
        """Give a weight this number of rows, by zeros."""
        values = self.values(weight)
        padded = np.pad(values, ((0, rows - len(values)), (0, 0)))
        self._weights[weight].CopyFrom(numpy_helper.from_array(padded, weight))

    def replace(self, node: NodeProto, *new: NodeProto) -> None:
        """Put nodes in the place of one, which may be among them."""
        place = next(place for place, other in enumerate(self.nodes) if other is node)
        self.nodes[place : place + 1] = new

    def write(self) -> None:
        """Write the nodes into the model; BuildError if it is not valid."""
        graph = self._model.graph
        read = {tensor for node in self.nodes for tensor in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(kept)
        try:
            onnx.checker.check_model(self._model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise BuildError(f"not a valid graph: {error}; {_AGAIN}") from error


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


def batch_projections(graph: Graph) -> None:
    """Compute query, keys and values of one input as a batch of three products, which lie one behind the other.

    Behind one product that is three times as wide, a kernel each takes them apart. Weights in INT8, which have scales
    for each column, stay as they are.
    """
    for product in [node for node in graph.nodes if node.op_type == "MatMul" and graph.is_weight(node.input[1])]:
        chain = [product]
        for operator in ("Add", "Reshape", "Transpose", "Split"):
            following = graph.readers(chain[-1].output[0])
            if [node.op_type for node in following] == [operator]:
                chain += following
        if len(chain) < 5 or len(chain[-1].output) != 3:
            continue
        _, bias, reshape, transpose, split = chain
        (order,) = (attribute.ints for attribute in transpose.attribute)
        if list(order) != [2, 0, 3, 1, 4]:
            raise BuildError(f"{split.name} does not separate query, keys and values; {_AGAIN}")
        _, tokens, _, heads, width = graph.shape(reshape.output[0])
        (vector,) = filter(graph.is_weight, bias.input)
        weight, single = product.input[1], f"{product.name}/single"
        rows = len(graph.values(weight))
        batch = graph.values(weight).reshape(rows, 3, -1).transpose(1, 0, 2)
        sizes = graph.constant(1, -1, rows)
        graph.replace(product, helper.make_node("Reshape", [product.input[0], sizes], [single], single), product)
        product.input[:] = [single, graph.add_weight(f"{weight}/batch", batch)]
        bias.input[:] = [product.output[0], graph.add_weight(f"{vector}/batch", graph.values(vector).reshape(3, 1, -1))]
        reshape.input[1] = graph.constant(3, -1, int(tokens), int(heads), int(width))
        order[:] = [0, 1, 3, 2, 4]


def batch_siblings(graph: Graph) -> None:
    """Compute query, keys and values, three projections of one tensor, as a batch that is split along its first axis.

    Then one kernel adds all biases and rotates query and keys. Projections in INT8 stay as they are.
    """
    for norm in [node for node in graph.nodes if node.op_type == "LayerNormalization"]:
        products = graph.readers(norm.output[0])
        if [node.op_type for node in products] != ["MatMul"] * 3 or not all(
            graph.is_weight(node.input[1]) for node in products
        ):
            continue
        sums = [node for product in products for node in graph.readers(product.output[0])]
        biases = [next(filter(graph.is_weight, node.input), "") for node in sums]
        if [node.op_type for node in sums] != ["Add"] * 3 or not all(biases):
            raise BuildError(f"{norm.name}: three projections read it, but not each has a bias; {_AGAIN}")
        name, first, rank = f"{products[0].name}/batch", graph.constant(0), len(graph.shape(norm.output[0]))
        weights = np.stack([graph.values(node.input[1]) for node in products])
        weight = graph.add_weight(f"{name}/weights", np.expand_dims(weights, tuple(range(1, rank - 1))))
        stacked = np.stack([graph.values(bias) for bias in biases])
        bias = graph.add_weight(f"{name}/biases", np.expand_dims(stacked, tuple(range(1, rank))))
        parts = [f"{name}/{number}" for number in range(3)]
        graph.replace(
            products[0],
            helper.make_node("Unsqueeze", [norm.output[0], first], [f"{name}/one"], f"{name}/Unsqueeze"),
            helper.make_node("MatMul", [f"{name}/one", weight], [f"{name}/products"], f"{name}/MatMul"),
            helper.make_node("Add", [f"{name}/products", bias], [f"{name}/sums"], f"{name}/Add"),
            helper.make_node("Split", [f"{name}/sums", graph.constant(1, 1, 1)], parts, f"{name}/Split", axis=0),
            *(
                helper.make_node("Squeeze", [part, first], [node.output[0]], f"{part}/Squeeze")
                for part, node in zip(parts, sums, strict=True)
            ),
        )
        for node in (*products[1:], *sums):
            graph.replace(node)


_MLP = ("Unsqueeze", "Gemm", "Relu", "Gemm", "Relu", "Gemm", "Gather")
"""An MLP of three layers for one of several tokens, from its end to its beginning."""


def batch_mlps(graph: Graph) -> None:
    """Compute MLPs that each have a token of their own as one MLP with a batch of weights.

    They make the weights of the masks. MLPs in INT8 stay as they are.
    """
    makers = {output: node for node in graph.nodes for output in node.output}
    for concat in [node for node in graph.nodes if node.op_type == "Concat"]:
        mlps = [list(_climb(makers, name, _MLP)) for name in concat.input]
        gemms = [node for mlp in mlps for node in mlp if node.op_type == "Gemm"]
        if not all(mlps) or not all(graph.is_weight(node.input[1]) for node in gemms):
            continue
        name, tokens = concat.name, mlps[0][-1].input[0]
        if any(mlp[-1].input[0] != tokens for mlp in mlps):
            raise BuildError(f"{name}: its MLPs do not read tokens of the same tensor; {_AGAIN}")
        chosen, value = f"{name}/chosen", f"{name}/tokens"
        places = graph.constant(*(graph.integer(mlp[-1].input[1]) for mlp in mlps))
        new = [
            helper.make_node("Gather", [tokens, places], [chosen], chosen, axis=1),
            helper.make_node("Transpose", [chosen], [value], value, perm=[1, 0, 2]),
        ]
        for number, layer in enumerate(list(zip(*mlps, strict=True))[-2:0:-1]):  # from the first to the last
            before, value = value, f"{name}/{number}"
            if layer[0].op_type == "Relu":
                new.append(helper.make_node("Relu", [before], [value], value))
            else:
                matrix, bias = (np.stack([graph.values(node.input[i]).T for node in layer]) for i in (1, 2))
                product = f"{value}/product"
                batch = graph.add_weight(f"{value}/weight", matrix)
                vector = graph.add_weight(f"{value}/bias", bias[:, None])
                new.append(helper.make_node("MatMul", [before, batch], [product], product))
                new.append(helper.make_node("Add", [product, vector], [value], value))
        graph.replace(concat, *new, helper.make_node("Transpose", [value], concat.output, name, perm=[1, 0, 2]))
        gone = {id(node) for mlp in mlps for node in mlp}
        graph.nodes[:] = [node for node in graph.nodes if id(node) not in gone]


def _climb(makers: Mapping[str, NodeProto], tensor: str, operators: Sequence[str]) -> Iterator[NodeProto]:
    """Yield the nodes that make a tensor, each from the one before's first input; nothing if they are others."""
    chain = []
    for operator in operators:
        node = makers.get(tensor)
        if node is None or node.op_type != operator:
            return
        chain.append(node)
        tensor = node.input[0]
    yield from chain


_BY_TOKEN = frozenset(
    {"Add", "DequantizeLinear", "Div", "Erf", "LayerNormalization", "Mul", "QuantizeLinear", "Relu", "Sub"}
)
"""Operators that compute a token from that token alone, if their constants are alike for all tokens."""


def flatten_tokens(graph: Graph) -> None:
    """Make a matrix [tokens, C] of what projections read, and of what surrounds them token by token.

    Behind the product of a tensor with more axes, TensorRT computes an activation function or a sum in a kernel of its
    own, and not with the product.
    """
    constants = graph.constants()
    flat: dict[str, str] = {}
    whole: set[str] = set()
    nodes: list[NodeProto] = []

    def by_token(node: NodeProto) -> bool:
        output = node.output[0]
        data = [name for name in node.input if name not in constants]
        if not graph.knows(output) or len(shape := graph.shape(output)) < 3 or not data:
            return False
        if node.op_type == "MatMul":
            return len(data) == 1 and len(constants.get(node.input[1], ())) == 2
        alike = all(math.prod(constants[name][:-1]) == 1 for name in node.input if name in constants)
        return node.op_type in _BY_TOKEN and alike and all(graph.shape(name) == shape for name in data)

    def begins(node: NodeProto) -> bool:
        """Whether a node gets a matrix even if no node before it has one. DQ nodes stay next to their projection."""
        if node.op_type != "QuantizeLinear":
            return node.op_type in ("LayerNormalization", "MatMul")
        (dequantize,) = graph.readers(node.output[0])
        return {reader.op_type for reader in graph.readers(dequantize.output[0])} == {"MatMul"}

    def flattened(name: str) -> str:
        if name not in flat:
            flat[name] = f"{name}/flat"
            whole.add(name)
            sizes = graph.constant(-1, int(graph.shape(name)[-1]))
            nodes.append(helper.make_node("Reshape", [name, sizes], [flat[name]], f"{name}/Flatten"))
        return flat[name]

    def make_whole(name: str) -> None:
        if name in flat and name not in whole:
            whole.add(name)
            sizes = graph.constant(-1, *map(int, graph.shape(name)[1:]))
            nodes.append(helper.make_node("Reshape", [flat[name], sizes], [name], f"{name}/Unflatten"))

    for node in graph.nodes:
        if by_token(node) and (begins(node) or any(name in flat for name in node.input)):
            node.input[:] = [name if name in constants else flattened(name) for name in node.input]
            flat[node.output[0]] = f"{node.output[0]}/flat"
            node.output[0] = flat[node.output[0]]
        else:
            for name in node.input:
                make_whole(name)
        nodes.append(node)
    for name in graph.outputs:
        make_whole(name)
    graph.nodes[:] = nodes


Rewrite = Callable[[Graph], None]

FORMS: dict[str, tuple[Rewrite, ...]] = {"fused": (pad_values, expand_query), "narrow": ()}
"""The forms of the memory attention. "narrow" takes the least arithmetic, "fused" the least memory."""

_ALWAYS: dict[str, tuple[Rewrite, ...]] = {
    "image_encoder": (batch_projections, flatten_tokens),
    "memory_attention": (batch_siblings,),
    "mask_decoder": (repeat_plainly, batch_mlps),
}


def rewrite(model: ModelProto, name: str, attention: str = "") -> None:
    """Rewrite a graph of a bundle in place; `attention` is one of FORMS for the memory attention, "" for others.

    Raises BuildError if the graph lacks what is to be rewritten.
    """
    if rewrites := (*_ALWAYS.get(name, ()), *FORMS.get(attention, ())):
        graph = Graph(model)
        try:
            for change in rewrites:
                change(graph)
            graph.write()
        except BuildError as error:
            raise BuildError(f"{name}: {error}") from error
