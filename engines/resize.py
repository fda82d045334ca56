"""A graph that resizes frames on the GPU as runtime/model/resize.py does on the host, where it takes longer than SAM 2.

The triangle filter is two dense products with weights that the runtime makes for the size of its frames: for 1280×720
and S = 1024 ten GFLOP in FP32, of which most are zeros, but none of it is on the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from sam2edge.bundle.engines import RESIZE


def resize_graph(size: int) -> ModelProto:
    """A model of FP32 and uint8, opset 17.

    Inputs: frame uint8 [H,W,3], rows float32 [S,H] and columns float32 [S,W] (`preprocess.filter_weights`). Output:
    image uint8 [1,S,S,3], rounded after each axis, width first.
    """
    constants = {
        "half": np.array(0.5, np.float32),
        "frame_columns": np.array([0, -1], np.int64),  # [W, H·3]
        "resized_columns": np.array([size, -1, 3], np.int64),
        "frame_rows": np.array([-1, size * 3], np.int64),
        "image_shape": np.array([1, size, size, 3], np.int64),
    }
    steps: tuple[tuple[str, list[str], str, dict[str, Any]], ...] = (
        ("Cast", ["frame"], "pixels", {"to": TensorProto.FLOAT}),
        ("Transpose", ["pixels"], "pixels_by_column", {"perm": [1, 0, 2]}),
        ("Reshape", ["pixels_by_column", "frame_columns"], "by_column", {}),
        ("MatMul", ["columns", "by_column"], "wide", {}),
        ("Add", ["wide", "half"], "wide_up", {}),
        ("Floor", ["wide_up"], "wide_rounded", {}),
        ("Reshape", ["wide_rounded", "resized_columns"], "resized_by_column", {}),
        ("Transpose", ["resized_by_column"], "resized_by_row", {"perm": [1, 0, 2]}),
        ("Reshape", ["resized_by_row", "frame_rows"], "by_row", {}),
        ("MatMul", ["rows", "by_row"], "high", {}),
        ("Add", ["high", "half"], "high_up", {}),
        ("Floor", ["high_up"], "high_rounded", {}),
        ("Reshape", ["high_rounded", "image_shape"], "values", {}),
        ("Cast", ["values"], "image", {"to": TensorProto.UINT8}),
    )
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, [output], f"/{output}/{kind}", **more) for kind, inputs, output, more in steps],
        RESIZE,
        [
            value("frame", TensorProto.UINT8, ["H", "W", 3]),
            value("rows", TensorProto.FLOAT, [size, "H"]),
            value("columns", TensorProto.FLOAT, [size, "W"]),
        ],
        [value("image", TensorProto.UINT8, [1, size, size, 3])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    return model
