"""INT8 graphs for TensorRT 8.6, which reads no INT8 constant: weights become floats that are quantised in the graph."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

_LAYERS = ("MatMul", "Gemm", "Conv")


def with_float_weights(model: ModelProto) -> ModelProto:
    """Return a model that computes the same without a constant that is stored in INT8.

    A weight becomes float → QuantizeLinear → DequantizeLinear, which TensorRT folds into an INT8 layer; quantising it
    gives back exactly the INT8 values. Other constants (calibration's INT8_TABLES) become floats.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    readers: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            readers[name].append((node.op_type, index))
    nodes: list[NodeProto] = []
    floats: dict[str, TensorProto] = {}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in stored:
            nodes.append(node)
            continue
        integers, scale, zero = node.input
        values = _dequantized(node, stored)
        if all(kind in _LAYERS and index == 1 for kind, index in readers[node.output[0]]):
            name = f"{integers}/float"
            quantize = helper.make_node("QuantizeLinear", [name, scale, zero], [integers], f"{integers}/QuantizeLinear")
            quantize.attribute.extend(node.attribute)  # the axis
            nodes += [quantize, node]
        else:
            name = node.output[0]
        floats[integers] = numpy_helper.from_array(values, name)
    new = ModelProto()
    new.CopyFrom(model)
    del new.graph.node[:], new.graph.initializer[:]
    new.graph.node.extend(nodes)
    new.graph.initializer.extend(floats.get(tensor.name, tensor) for tensor in model.graph.initializer)
    onnx.checker.check_model(new, full_check=True)
    return new


def _dequantized(node: NodeProto, stored: dict[str, TensorProto]) -> npt.NDArray[np.float32]:
    integers, scale = (numpy_helper.to_array(stored[name]) for name in node.input[:2])
    (axis,) = (attribute.i for attribute in node.attribute if attribute.name == "axis")
    shape = [math.prod(scale.shape) if side == axis else 1 for side in range(integers.ndim)]
    values: npt.NDArray[np.float32] = integers * scale.reshape(shape)
    return values
