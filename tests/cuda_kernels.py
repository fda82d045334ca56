"""The nodes of a graph for which ONNX Runtime's CUDA provider has no kernel, so that the CPU would run them.

The types are those called T in onnxruntime's docs/OperatorKernels.md, for opset 17 and version 1.21 and later.
"""

from __future__ import annotations

import functools
from tempfile import TemporaryDirectory

import onnx
import onnxruntime

ANY = "FLOAT FLOAT16 INT64 INT32 INT8 UINT8 BOOL"
NUMBERS = "FLOAT FLOAT16 INT64 INT32"
FLOATS = "FLOAT FLOAT16"
KERNELS = {
    **dict.fromkeys(
        ("Cast", "Concat", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"), ANY
    ),
    **dict.fromkeys(("Add", "Div", "Mul", "Sub"), NUMBERS),
    **dict.fromkeys(("Greater", "GreaterOrEqual", "Less", "ReduceMax", "ReduceSum"), NUMBERS),
    **dict.fromkeys(("ArgMax", "AveragePool", "Conv", "ConvTranspose", "Cos", "Erf", "Gemm", "MatMul"), FLOATS),
    **dict.fromkeys(("LayerNormalization", "Relu", "Sigmoid", "Sin", "Softmax"), FLOATS),
    "Clip": "FLOAT FLOAT16 INT64 INT8 UINT8",
    "DequantizeLinear": "INT8 UINT8",
    "Equal": f"{NUMBERS} BOOL",
    "Pad": f"{FLOATS} BOOL",
    "QuantizeLinear": "FLOAT",
    "Resize": "FLOAT FLOAT16 INT32 UINT8",
    "Where": f"{NUMBERS} UINT8",
}


@functools.cache
def without_kernel(file: str, disable_quant_qdq: str) -> frozenset[str]:
    """Return operators with their types, such as "Clip INT32", as ONNX Runtime has them when it assigns nodes."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.disable_quant_qdq", disable_quant_qdq)
    with TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/graph.onnx"
        onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        graph = onnx.shape_inference.infer_shapes(onnx.load(options.optimized_model_filepath)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    types |= {constant.name: constant.data_type for constant in graph.initializer}
    nodes = {
        (node.op_type, onnx.TensorProto.DataType.Name(types[node.input[node.op_type == "Where"]]))
        for node in graph.node
    }
    return frozenset(f"{name} {kind}" for name, kind in nodes if kind not in KERNELS.get(name, "").split())
