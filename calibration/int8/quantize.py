"""Quantise an FP32 graph explicitly, with Q/DQ nodes, by the ranges of its activations.

TensorRT reads precisions from such nodes, and ONNX Runtime runs them. Linear layers and convolutions get INT8 inputs
(per tensor) and weights (per output channel), all symmetric with zero point 0. Biases, attention products, softmax and
norms stay as they are; so do transposed convolutions, two small ones in a graph, since versions of TensorRT disagree
about their channel axis (NVIDIA/TensorRT issue 1694).

onnxruntime.quantization and NVIDIA's modelopt are not used: both calibrate on samples of one graph's inputs, while here
ranges come from the running loop. ONNX Runtime's takes ranges only through a private class, and puts Q/DQ behind the
layers as well, before their biases are added.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sam2edge.engines.low_precision import Fp32Island, island_nodes
from sam2edge.errors import InputError

LARGEST = 127
"""The largest magnitude in INT8; no weight is -128."""
TABLE = 1 << 16
"""Constants outside INT8 with at least this many values, weights of excluded layers too, are stored as FP16."""
INT8_TABLES = {"image_encoder": ("position",)}
"""Constants that become INT8 per channel as well: the position code is 25 MB of tiny's 193 at S = 1024."""


@dataclass(frozen=True)
class Layer:
    """A node with a constant weight, whose output channels lie along `axis`."""

    node: str
    activation: str
    weight: str
    axis: int


def layers(model: ModelProto) -> list[Layer]:
    """Return the linear layers and convolutions of a graph in its order."""
    weights, result = _Constants(model), []
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm", "Conv") and (weight := weights.source(node.input[1])):
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            axis = 0 if node.op_type == "Conv" or transposed else len(weights.tensors[weight].dims) - 1
            result.append(Layer(node.name, node.input[0], weight, axis))
    return result


def quantize(model: ModelProto, graph: str, ranges: Mapping[str, float], kept: Iterable[Fp32Island] = ()) -> ModelProto:
    """Return a new model with all layers in INT8 except for those in `kept`.

    `ranges` has the largest magnitude that INT8 must hold, by the name of the activation.

    Raises:
        InputError: a range is missing, 0 or not finite.
        BuildError: a layer of `kept` does not exist.
    """
    stays = island_nodes(model.graph, kept)
    chosen = {layer.node: layer for layer in layers(model) if layer.node not in stays}
    constants = _Constants(model)
    writer = _Writer(constants)
    for node in model.graph.node:
        new = NodeProto()
        new.CopyFrom(node)
        if layer := chosen.get(node.name):
            new.input[0] = writer.activation(layer, ranges)
            new.input[1] = writer.weight(layer.weight, layer.axis)
        writer.nodes.append(new)
    for name in constants.tensors.keys() & INT8_TABLES.get(graph, ()):
        table = writer.weight(name, len(constants.tensors[name].dims) - 1)
        for node in writer.nodes:
            node.input[:] = [table if read == name else read for read in node.input]
    return writer.model(model)


def fp16_above(scales: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Round scales up to FP16, so that graphs with FP16 around INT8 have the very same ones and nothing is cut off.

    They grow by a thousandth at most, or by 6e-8 below 6e-5; scales that FP16 cannot hold stay as they are.
    """
    with np.errstate(over="ignore"):
        rounded = scales.astype(np.float16)
        above = np.where(rounded < scales, np.nextafter(rounded, np.float16(np.inf)), rounded).astype(np.float32)
    return np.where(np.isfinite(above), above, scales)


class _Constants:
    """Initializers by name; the tracing exporter refers to some through Identity nodes."""

    def __init__(self, model: ModelProto) -> None:
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._aliases = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Identity"}

    def source(self, name: str) -> str | None:
        """Return the name of the initializer behind a name; None for anything else."""
        while name in self._aliases:
            name = self._aliases[name]
        return name if name in self.tensors else None


class _Writer:
    """Nodes and initializers of the new graph, with one Q/DQ pair for all readers of an activation.

    A weight is stored once for each reader: with exact arithmetic on x86 without VNNI (runtime/backends/onnx.py), ONNX
    Runtime 1.31 fails on a shared one. Few are shared, of 16 KB each.
    """

    def __init__(self, constants: _Constants) -> None:
        self._constants = constants
        self.nodes: list[NodeProto] = []
        self._first: list[NodeProto] = []
        self._initializers: list[TensorProto] = []
        self._made: dict[str, str] = {}
        self._readers: Counter[str] = Counter()

    def activation(self, layer: Layer, ranges: Mapping[str, float]) -> str:
        """Return the name of an activation after Q/DQ."""
        name = layer.activation
        if name not in self._made:
            largest = ranges.get(name, math.nan)
            if not 0 < largest < math.inf:
                raise InputError(
                    f"{layer.node}: its input {name} has the range {largest}, so no scale: it saw no data or only "
                    "zeros. Calibrate on clips that show more, or keep the layer out of INT8 in the recipe"
                )
            scale, zero = self._scale(name, fp16_above(np.array(largest / LARGEST, np.float32)))
            integers, output = f"{name}/int8", f"{name}/dequantized"
            self.nodes += [
                helper.make_node("QuantizeLinear", [name, scale, zero], [integers], f"{name}/QuantizeLinear"),
                helper.make_node("DequantizeLinear", [integers, scale, zero], [output], f"{name}/DequantizeLinear"),
            ]
            self._made[name] = output
        return self._made[name]

    def weight(self, name: str, axis: int) -> str:
        """Store a constant in INT8 with a scale for every index along `axis`, and return its new name."""
        values: npt.NDArray[np.float32] = numpy_helper.to_array(self._constants.tensors[name])
        others = tuple(i for i in range(values.ndim) if i != axis)
        largest = np.abs(values).max(axis=others)
        if not np.isfinite(largest).all():
            raise InputError(f"weight {name}: has values that are not finite; export the bundle again")
        # a channel of zeros needs some scale
        scales = fp16_above(np.where(largest > 0, largest / LARGEST, 1).astype(np.float32))
        shape = [-1 if i == axis else 1 for i in range(values.ndim)]
        integers = np.clip(np.rint(values / scales.reshape(shape)), -LARGEST, LARGEST).astype(np.int8)
        prefix = f"{name}/axis{axis}"
        self._readers[prefix] += 1
        if self._readers[prefix] > 1:
            prefix += f"/{self._readers[prefix]}"
        scale, zero = self._scale(prefix, scales)
        stored, output = f"{prefix}/int8", f"{prefix}/dequantized"
        self._initializers.append(numpy_helper.from_array(integers, stored))
        self._first.append(
            helper.make_node(
                "DequantizeLinear", [stored, scale, zero], [output], f"{prefix}/DequantizeLinear", axis=axis
            )
        )
        return output

    def _scale(self, name: str, scale: npt.NDArray[np.float32]) -> tuple[str, str]:
        zero = np.zeros(scale.shape, np.int8)
        self._initializers += [
            numpy_helper.from_array(scale, f"{name}/scale"),
            numpy_helper.from_array(zero, f"{name}/zero"),
        ]
        return f"{name}/scale", f"{name}/zero"

    def model(self, source: ModelProto) -> ModelProto:
        """Return the new model, without constants and nodes that nothing reads any more."""
        used = {value.name for value in source.graph.output}
        for node in reversed(self.nodes):
            if used.intersection(node.output):
                used.update(node.input)
        kept = [node for node in self.nodes if used.intersection(node.output)]
        for tensor in source.graph.initializer:
            if tensor.name in used:
                self._store(tensor)
        new = helper.make_graph(
            [*self._first, *kept], source.graph.name, source.graph.input, source.graph.output, self._initializers
        )
        model = helper.make_model(new, opset_imports=source.opset_import, ir_version=source.ir_version)
        onnx.checker.check_model(model, full_check=True)
        return model

    def _store(self, tensor: TensorProto) -> None:
        """Keep a constant, in FP16 if it is large and FP16 can hold it."""
        if tensor.data_type == TensorProto.FLOAT and math.prod(tensor.dims) >= TABLE:
            values = numpy_helper.to_array(tensor)
            if np.abs(values).max() <= np.finfo(np.float16).max:
                stored = f"{tensor.name}/half"
                self._initializers.append(numpy_helper.from_array(values.astype(np.float16), stored))
                cast = helper.make_node("Cast", [stored], [tensor.name], f"{tensor.name}/Cast", to=TensorProto.FLOAT)
                self._first.append(cast)
                return
        self._initializers.append(tensor)
