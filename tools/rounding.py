"""Emulate on the CPU an FP16 or BF16 graph whose operators compute in FP32 and store 16 bits, and an FP8 graph.

ONNX Runtime has few 16-bit operators on the CPU. It adds casts around the others and removes casts that cancel, even
with all optimisations disabled: then Log(Exp(x)) is x where FP16 overflows. Explicit casts in an FP32 graph stay.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from sam2edge.engines.low_precision import tensor_types

FLOAT, LOW = TensorProto.FLOAT, (TensorProto.FLOAT16, TensorProto.BFLOAT16)
E4M3_LARGEST = 448


def with_rounding(model: ModelProto) -> ModelProto:
    """Return a 16-bit graph as an FP32 graph in which each 16-bit tensor is rounded; inputs and outputs are FP32."""
    low = {name: kind for name, kind in tensor_types(model).items() if kind in LOW}
    graph = ModelProto.FromString(model.SerializeToString()).graph
    nodes = []
    for value in graph.input:
        if value.name in low:
            nodes += _round(value.name, f"{value.name}/rounded", low[value.name])
    given = {value.name: f"{value.name}/rounded" for value in graph.input if value.name in low}
    for source in graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(source)
        node.input[:] = [given.get(name, name) for name in node.input]
        for attribute in node.attribute:
            if attribute.t.data_type in LOW:
                attribute.t.CopyFrom(_float(attribute.t))
            if node.op_type == "Cast" and attribute.i in LOW:
                attribute.i = FLOAT
        rounded = [name for name in source.output if name in low]
        node.output[:] = [f"{name}/raw" if name in low else name for name in node.output]
        nodes.append(node)
        for name in rounded:
            nodes += _round(f"{name}/raw", name, low[name])
    for value in (*graph.input, *graph.output):
        if value.name in low:
            value.type.tensor_type.elem_type = FLOAT
    weights = [_float(tensor) if tensor.data_type in LOW else tensor for tensor in graph.initializer]
    new = helper.make_graph(nodes, graph.name, graph.input, graph.output, weights)
    new = helper.make_model(new, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(new, full_check=True)
    return new


def with_e4m3(int8: ModelProto, source: ModelProto) -> ModelProto:
    """Return an INT8 graph of `quantize` with FP8 (E4M3) in the same ranges; `source` is its FP32 graph.

    It has casts in place of Q/DQ nodes, which ONNX Runtime would fuse with operators that have no FP8 on the CPU.
    """
    model = onnx.version_converter.convert_version(int8, 19)
    constants = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in (*source.graph.initializer, *int8.graph.initializer)
    }
    nodes, tensors = [], {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            nodes.append(node)
            continue
        read, scale, (output,) = node.input[0], node.input[1], node.output
        step = constants[scale] * np.float32(127 / E4M3_LARGEST)
        tensors[scale] = numpy_helper.from_array(step, scale)
        if read in constants:
            name, axis = read.rpartition("/axis")[0], node.attribute[0].i
            weights = np.moveaxis(constants[name], axis, -1)
            rounded = (weights / step).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * step
            tensors[output] = numpy_helper.from_array(np.moveaxis(rounded, -1, axis), output)
        elif node.op_type == "QuantizeLinear":
            nodes.append(helper.make_node("Div", [read, scale], [f"{output}/steps"]))
            nodes.append(helper.make_node("Cast", [f"{output}/steps"], [output], to=TensorProto.FLOAT8E4M3FN))
        else:
            nodes.append(helper.make_node("Cast", [read], [f"{output}/steps"], to=FLOAT))
            nodes.append(helper.make_node("Mul", [f"{output}/steps", scale], [output]))
    graph = helper.make_graph(nodes, "e4m3", model.graph.input, model.graph.output, list(tensors.values()))
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=9)


def _round(name: str, rounded: str, kind: int) -> list[onnx.NodeProto]:
    low = f"{rounded}/low"
    return [
        helper.make_node("Cast", [name], [low], to=kind),
        helper.make_node("Cast", [low], [rounded], to=FLOAT),
    ]


def _float(tensor: TensorProto) -> TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name)
