"""Convert an FP32 graph of the bundle to FP16, except for a few FP32 islands.

TensorRT 10 and newer build exactly these types (strongly typed networks); 8 chooses them with its FP16 flag.

ONNX Runtime's converter (onnxruntime.transformers.float16) is the usual tool for this. It rounds an input that is kept
in FP32 to FP16 before an FP32 node reads it, which the points of a prompt must be spared, and it clips weights beyond
FP16 silently. A test compares the two without islands.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sam2edge.errors import BuildError

FLOAT, HALF = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)
LARGEST = 65504.0
"""Largest number of FP16."""
QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
_SUFFIX = {FLOAT: "float", HALF: "half"}

HOST_TENSORS = frozenset({"points", "mask_input", "mask", "masks", "iou", "ious", "object_score"})
"""Inputs and outputs that stay float32, as in the contract: those that the host writes, reads or compares.

The others (features, high_res_0, high_res_1, conditioned, memory, pointer, pointers) only pass from graph to graph.
In FP16 they take half the memory and bandwidth, and the memory bank is the largest array.
"""


@dataclass(frozen=True)
class Fp32Island:
    """Nodes of a graph that stay FP32: those whose name matches a pattern. Not every model has `optional` ones."""

    graph: str
    nodes: str
    reason: str
    optional: bool = False


ISLANDS = (
    Fp32Island("mask_decoder", r"/stability/", "areas of masks: 256 × 256 pixels are 65536, FP16 ends at 65504"),
    Fp32Island("mask_decoder", r"/prompts/", "positions of points: above 512 pixels FP16 has steps of half a pixel"),
    Fp32Island(
        "memory_attention",
        r"/pointer_code/",
        "sine codes of a pointer's age, which grows without limit: FP16 has steps of 1 radian from age 15360 on",
        optional=True,  # SAM 2.0 has no temporal codes of pointers
    ),
    Fp32Island(
        "memory_encoder", r"/soft_mask/", "mask logits at the frame's size: rounded, pixels near 0 change sides"
    ),
)
"""docs/explanation/precision.md says what each of them changes."""


def half(
    model: ModelProto, islands: Collection[Fp32Island] = (), float_tensors: Collection[str] = HOST_TENSORS
) -> ModelProto:
    """Return a model with FP16 in place of FP32, except in the islands and the inputs and outputs `float_tensors`.

    INT8 tensors stay; the scales and outputs of Q/DQ nodes become FP16, which opset 19 allows. Raises BuildError for a
    weight that FP16 cannot hold, and for an island that is not in the graph.
    """
    return _Halving(onnx.shape_inference.infer_shapes(model), islands, frozenset(float_tensors)).model()


def island_nodes(graph: GraphProto, islands: Iterable[Fp32Island]) -> set[str]:
    """Return the names of the nodes on islands; BuildError if one that is not optional has none."""
    nodes: set[str] = set()
    for island in islands:
        names = {node.name for node in graph.node if re.match(island.nodes, node.name)}
        if not names and not island.optional:
            raise BuildError(
                f"{island.graph}: no node is called {island.nodes}…, which must stay FP32 ({island.reason}); "
                "correct your recipe, or export the bundle again if another version of sam2edge wrote it"
            )
        nodes |= names
    return nodes


class _Halving:
    """Builds the new graph node by node. Every FP32 tensor becomes FP16 unless an FP32 node or input makes it."""

    def __init__(self, model: ModelProto, islands: Collection[Fp32Island], float_tensors: frozenset[str]) -> None:
        graph = model.graph
        if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
            raise BuildError(f"{graph.name}: has a subgraph, which no graph of a bundle has; export the bundle again")
        self._source, self._float_tensors = model, float_tensors
        # Q/DQ nodes are named after tensors: those of an island's output are not part of the island
        self._island = island_nodes(graph, islands) - {node.name for node in graph.node if node.op_type in QDQ}
        values = (*graph.input, *graph.output, *graph.value_info)
        self._floats = {value.name for value in values if value.type.tensor_type.elem_type == FLOAT}
        self._weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == FLOAT}
        for node in graph.node:
            for attribute in node.attribute if node.op_type == "Constant" else ():
                if attribute.t.data_type == FLOAT:
                    self._weights[node.output[0]] = attribute.t
        self._types: dict[str, int] = {}
        self._nodes: list[NodeProto] = []
        self._initializers = [tensor for tensor in graph.initializer if tensor.name not in self._weights]
        self._made: dict[tuple[str, int], str] = {}

    def model(self) -> ModelProto:
        graph = self._source.graph
        self._types = {value.name: self._io_type(value.name) for value in graph.input if value.name in self._floats}
        for node in graph.node:
            if not (node.op_type == "Constant" and node.output[0] in self._weights):
                self._add(node)
        for value in graph.output:
            if value.name in self._floats:
                self._give(value.name)
        inputs, outputs = ([self._declared(value) for value in side] for side in (graph.input, graph.output))
        new = helper.make_graph(self._nodes, graph.name, inputs, outputs, self._initializers)
        model = helper.make_model(new, opset_imports=self._source.opset_import, ir_version=self._source.ir_version)
        if any(node.op_type in QDQ for node in self._nodes):
            _raise_opset(model)
        onnx.checker.check_model(model, full_check=True)
        return model

    def _io_type(self, name: str) -> int:
        return FLOAT if name in self._float_tensors else HALF

    def _declared(self, value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
        new = onnx.ValueInfoProto()
        new.CopyFrom(value)
        if value.name in self._floats:
            new.type.tensor_type.elem_type = self._io_type(value.name)
        return new

    def _add(self, source: NodeProto) -> None:
        node = NodeProto()
        node.CopyFrom(source)
        wanted = FLOAT if node.name in self._island else HALF
        if node.op_type == "QuantizeLinear":
            wanted = self._types[node.input[0]]  # FP32 becomes INT8 without being rounded to FP16 first
        for index, name in enumerate(node.input):
            # the operator Resize requires FP32 scales
            if name in self._floats or name in self._weights:
                node.input[index] = self._as(name, FLOAT if node.op_type == "Resize" and index else wanted)
        if wanted == HALF:
            _halve_attributes(node)
        self._types.update({name: wanted for name in node.output if name in self._floats})
        self._nodes.append(node)

    def _as(self, name: str, wanted: int) -> str:
        """Return the name of a tensor in a type, and convert it if there is none yet."""
        if self._types.get(name) == wanted:
            return name
        if (name, wanted) not in self._made:
            self._made[name, wanted] = new = (
                name if name in self._weights and wanted == FLOAT else f"{name}/{_SUFFIX[wanted]}"
            )
            if name in self._weights:
                self._initializers.append(_weight(self._weights[name], new, wanted))
            else:
                self._nodes.append(helper.make_node("Cast", [name], [new], f"{new}/Cast", to=wanted))
        return self._made[name, wanted]

    def _give(self, name: str) -> None:
        """Cast an output to its declared type under its own name."""
        if self._types[name] == (wanted := self._io_type(name)):
            return
        inner = f"{name}/inner"
        for node in self._nodes:
            for names in (node.input, node.output):
                names[:] = [inner if old == name else old for old in names]
        self._nodes.append(helper.make_node("Cast", [inner], [name], f"{name}/Cast", to=wanted))


def _raise_opset(model: ModelProto) -> None:
    """Raise a model to opset 19; from 18 on, Split without sizes and reductions are written differently."""
    for node in model.graph.node:
        if node.op_type == "Split" and len(node.input) == 1:
            node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))
        if node.op_type in ("ReduceMax", "ReduceMean"):
            (axes,) = (attribute for attribute in node.attribute if attribute.name == "axes")
            name = f"{node.output[0]}/axes"
            model.graph.initializer.append(numpy_helper.from_array(np.array(axes.ints, np.int64), name))
            node.input.append(name)
            node.attribute.remove(axes)
    opset = next(opset for opset in model.opset_import if opset.domain == "")
    opset.version, model.ir_version = max(opset.version, 19), max(model.ir_version, 9)


def _halve_attributes(node: NodeProto) -> None:
    """Convert what a node makes from nothing or from another type."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
            attribute.i = HALF
        elif node.op_type == "ConstantOfShape" and attribute.name == "value" and attribute.t.data_type == FLOAT:
            attribute.t.CopyFrom(_weight(attribute.t, attribute.t.name, HALF))


def _weight(tensor: TensorProto, name: str, wanted: int) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    if wanted == HALF:
        largest = float(np.abs(values).max(initial=0))
        if not largest <= LARGEST:
            raise BuildError(
                f"weight {tensor.name or name}: reaches {largest:g}, but FP16 ends at {LARGEST:g}; build with fp32"
            )
        values = values.astype(np.float16)
    return numpy_helper.from_array(values, name)


def small_weights(model: ModelProto) -> dict[str, int]:
    """Count the FP32 weights of a graph that FP16 turns to 0, and those it holds with fewer bits (below 6.1e-5)."""
    zero = subnormal = 0
    for tensor in model.graph.initializer:
        if tensor.data_type == FLOAT:
            values = numpy_helper.to_array(tensor)
            small = np.abs(values.astype(np.float16))
            zero += int(((small == 0) & (values != 0)).sum())
            subnormal += int(((small > 0) & (small < np.finfo(np.float16).smallest_normal)).sum())
    return {"zero": zero, "subnormal": subnormal}
