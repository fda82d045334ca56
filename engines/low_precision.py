"""Put a 16-bit type, FP16 or BF16, in the place of FP32 in a graph of the bundle, except for a few FP32 islands.

TensorRT 10 and newer build exactly these types (strongly typed networks); 8 chooses them with its FP16 flag.

ONNX Runtime's converter (onnxruntime.transformers.float16) is the usual tool for this. It rounds an input that is kept
in FP32 to FP16 before an FP32 node reads it, which the points of a prompt must be spared, and it clips weights beyond
FP16 silently. A test compares the two without islands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sam2edge.errors import BuildError

FLOAT = int(TensorProto.FLOAT)
QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
QDQ_OPSET = 19, 9
"""The first opset in which Q/DQ nodes may have FP16 scales and outputs, and the version of ONNX's format for it."""
BF16_OPSET = 22, 10
"""The first opset in which Conv, Sin and Cos have BF16, and the version of the format."""

HOST_TENSORS = frozenset(
    {"points", "mask_input", "mask", "masks", "iou", "ious", "object_score"}
    | {"image", "queries", "boxes", "logits", "objectness", "embeddings"}
)
"""Inputs and outputs that stay float32 in FP16 graphs: those that the host writes, reads or compares.

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


@dataclass(frozen=True)
class LowPrecision:
    """A type of 16 bits.

    Attributes:
        name: As in `--precision`.
        onnx: ONNX's number of it.
        largest: Its largest number.
        exponent: The bits that are 0 in numbers with fewer digits than the others have.
        bits: Rounds FP32 to the nearest numbers of the type, and returns their bits.
        islands: What stays FP32; docs/explanation/precision.md says what each of them changes.
        float_io: Whether all inputs and outputs stay float32, since numpy does not have the type.
    """

    name: str
    onnx: int
    largest: float
    exponent: int
    bits: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.uint16]]
    islands: tuple[Fp32Island, ...]
    float_io: bool


def _half_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    return values.astype(np.float16).view(np.uint16)


def _bfloat16_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round to the upper half of FP32's bits; a tie goes to the even one."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


_ISLANDS = (
    Fp32Island("mask_decoder", r"/stability/", "areas of masks: 256 × 256 pixels are 65536, FP16 ends at 65504"),
    Fp32Island("mask_decoder", r"/prompts/", "positions of points: above 512 pixels FP16 has steps of half a pixel"),
    Fp32Island(
        "memory_attention",
        r"/pointer_code/",
        "sine codes of a pointer's age, which grows without limit: FP16 has steps of 1 radian from age 15360 on",
        optional=True,  # SAM 2.0 has no temporal codes of pointers
    ),
    Fp32Island("detector", r"/corners/", "places of boxes: near 1, FP16 has steps of half a pixel of 1024"),
    Fp32Island("detector", r"/unit/", "lengths of embeddings: sums of squares may be beyond 65504"),
    Fp32Island(
        "memory_encoder", r"/soft_mask/", "mask logits at the frame's size: rounded, pixels near 0 change sides"
    ),
)
FP16 = LowPrecision("fp16", int(TensorProto.FLOAT16), 65504.0, 0x7C00, _half_bits, _ISLANDS, float_io=False)
_BF16_ISLANDS = (
    *_ISLANDS,
    Fp32Island("mask_decoder", r"/upscale\d/", "TensorRT has no transposed convolution in BF16"),
)
BF16 = LowPrecision(
    "bf16", int(TensorProto.BFLOAT16), 3.3895314e38, 0x7F80, _bfloat16_bits, _BF16_ISLANDS, float_io=True
)


def lowered(
    model: ModelProto,
    kind: LowPrecision,
    islands: Collection[Fp32Island] = (),
    float_tensors: Collection[str] | None = None,
) -> ModelProto:
    """Return a model with `kind` in place of FP32, except in the islands and the inputs and outputs `float_tensors`.

    By default these are all for a type with `float_io`, and otherwise HOST_TENSORS. INT8 tensors stay; the scales and
    outputs of Q/DQ nodes become FP16. Raises BuildError for a weight that the type cannot hold, and for an island that
    is not in the graph.
    """
    if float_tensors is None:
        float_tensors = ends(model.graph) if kind.float_io else HOST_TENSORS
    return _Lowering(onnx.shape_inference.infer_shapes(model), kind, islands, frozenset(float_tensors)).model()


def ends(graph: GraphProto) -> set[str]:
    """Return the names of inputs and outputs."""
    return {value.name for value in (*graph.input, *graph.output)}


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


class _Lowering:
    """Builds the new graph node by node. Every FP32 tensor becomes 16-bit unless an FP32 node or input makes it."""

    def __init__(
        self, model: ModelProto, kind: LowPrecision, islands: Collection[Fp32Island], float_tensors: frozenset[str]
    ) -> None:
        graph = model.graph
        if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
            raise BuildError(f"{graph.name}: has a subgraph, which no graph of a bundle has; export the bundle again")
        self._source, self._kind, self._float_tensors = model, kind, float_tensors
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
            _raise_opset(model, *QDQ_OPSET)
        onnx.checker.check_model(_checkable(model), full_check=True)
        return model

    def _io_type(self, name: str) -> int:
        return FLOAT if name in self._float_tensors else self._kind.onnx

    def _declared(self, value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
        new = onnx.ValueInfoProto()
        new.CopyFrom(value)
        if value.name in self._floats:
            new.type.tensor_type.elem_type = self._io_type(value.name)
        return new

    def _add(self, source: NodeProto) -> None:
        node = NodeProto()
        node.CopyFrom(source)
        wanted = FLOAT if node.name in self._island else self._kind.onnx
        if node.op_type == "QuantizeLinear":
            wanted = self._types[node.input[0]]  # FP32 becomes INT8 without being rounded to 16 bits first
        for index, name in enumerate(node.input):
            # the operator Resize requires FP32 scales
            if name in self._floats or name in self._weights:
                node.input[index] = self._as(name, FLOAT if node.op_type == "Resize" and index else wanted)
        if wanted != FLOAT:
            _lower_attributes(node, self._kind)
        self._types.update({name: wanted for name in node.output if name in self._floats})
        self._nodes.append(node)

    def _as(self, name: str, wanted: int) -> str:
        """Return the name of a tensor in a type, and convert it if there is none yet."""
        if self._types.get(name) == wanted:
            return name
        if (name, wanted) not in self._made:
            weight = self._weights.get(name)
            new = f"{name}/{'fp32' if wanted == FLOAT else self._kind.name}"
            if weight is None:
                self._nodes.append(helper.make_node("Cast", [name], [new], f"{new}/Cast", to=wanted))
            elif wanted == FLOAT:
                new = name
                self._initializers.append(numpy_helper.from_array(numpy_helper.to_array(weight), name))
            else:
                self._initializers.append(_weight(weight, new, self._kind))
            self._made[name, wanted] = new
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


def tensor_types(model: ModelProto) -> dict[str, int]:
    """Return ONNX's numbers of the types of all tensors that nodes make or read, but for initialisers."""
    graph = onnx.shape_inference.infer_shapes(_checkable(model)).graph
    return {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}


def _checkable(model: ModelProto) -> ModelProto:
    """Return a model with BF16 at the opset that has it for all operators; TensorRT itself takes it in any opset."""
    if all(tensor.data_type != TensorProto.BFLOAT16 for tensor in model.graph.initializer):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    _raise_opset(copy, *BF16_OPSET)
    return copy


def _raise_opset(model: ModelProto, version: int, ir_version: int) -> None:
    """Raise a model from opset 17; from 18 on, Split without sizes and reductions are written differently."""
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
    opset.version, model.ir_version = max(opset.version, version), max(model.ir_version, ir_version)


def _lower_attributes(node: NodeProto, kind: LowPrecision) -> None:
    """Convert what a node makes from nothing or from another type."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
            attribute.i = kind.onnx
        elif node.op_type == "ConstantOfShape" and attribute.name == "value" and attribute.t.data_type == FLOAT:
            attribute.t.CopyFrom(_weight(attribute.t, attribute.t.name, kind))


def _weight(tensor: TensorProto, name: str, kind: LowPrecision) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0))
    if not largest <= kind.largest:
        wider = "fp32" if kind is BF16 else "bf16 or fp32"
        raise BuildError(
            f"weight {tensor.name or name}: reaches {largest:g}, but {kind.name.upper()} ends at {kind.largest:g}; "
            f"build with {wider}"
        )
    return helper.make_tensor(name, kind.onnx, values.shape, kind.bits(values).tobytes(), raw=True)


def small_weights(model: ModelProto, kind: LowPrecision) -> dict[str, int]:
    """Count the FP32 weights of a graph that a type turns to 0, and those it holds with fewer bits.

    FP16 has fewer bits below 6.1e-5, BF16 where FP32 has, too.
    """
    zero = subnormal = 0
    for tensor in model.graph.initializer:
        if tensor.data_type == FLOAT:
            values = numpy_helper.to_array(tensor)
            bits = kind.bits(values) & 0x7FFF
            zero += int(((bits == 0) & (values != 0)).sum())
            subnormal += int(((bits != 0) & (bits & kind.exponent == 0)).sum())
    return {"zero": zero, "subnormal": subnormal}
