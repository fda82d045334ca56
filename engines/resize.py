"""A graph that resizes frames on the GPU as runtime/model/resize.py does on the host, where it would dominate a frame.

The triangle filter is two dense products with weights that the runtime makes for the size of its frames: for 1280×720
and S = 1024 ten GFLOP in FP32, most of them with zeros, but none of them on the host.
"""

from __future__ import annotations

from onnx import ModelProto, checker, parser

from sam2edge.bundle.engines import RESIZE

_GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
NAME (uint8[H,W,3] frame, float[SIDE,H] rows, float[SIDE,W] columns) => (uint8[1,SIDE,SIDE,3] image)
<
    float half = {0.5},
    int64[2] frame_columns = {0, -1},
    int64[3] resized_columns = {SIDE, -1, 3},
    int64[2] frame_rows = {-1, ROW},
    int64[4] image_shape = {1, SIDE, SIDE, 3}
>
{
    pixels = Cast <to = 1> (frame)
    pixels_by_column = Transpose <perm = [1, 0, 2]> (pixels)
    by_column = Reshape (pixels_by_column, frame_columns)
    wide = MatMul (columns, by_column)
    wide_up = Add (wide, half)
    wide_rounded = Floor (wide_up)
    resized_by_column = Reshape (wide_rounded, resized_columns)
    resized_by_row = Transpose <perm = [1, 0, 2]> (resized_by_column)
    by_row = Reshape (resized_by_row, frame_rows)
    high = MatMul (rows, by_row)
    high_up = Add (high, half)
    high_rounded = Floor (high_up)
    values = Reshape (high_rounded, image_shape)
    image = Cast <to = 2> (values)
}
"""


def resize_graph(size: int) -> ModelProto:
    """Return a model of FP32 and uint8, opset 17, which rounds after each axis, width first.

    Its inputs are frame uint8 [H,W,3], rows float32 [S,H] and columns float32 [S,W] (`model.resize.filter_weights`),
    its output is image uint8 [1,S,S,3].
    """
    text = _GRAPH.replace("NAME", RESIZE).replace("SIDE", str(size)).replace("ROW", str(3 * size))
    model = parser.parse_model(text)
    checker.check_model(model, full_check=True)
    return model
