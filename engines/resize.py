"""A graph that resizes frames on the GPU as runtime/model/resize.py does on the host, where it would dominate a frame.

The triangle filter is a product with a banded matrix for each axis. Of each block of output rows only the window of
input rows that it needs is multiplied, with weights that the runtime makes for the size of its frames: for 1280×720 and
S = 1024 that takes 0.7 GFLOP in FP32, where whole matrices would take ten.
"""

from __future__ import annotations

import re

from onnx import ModelProto, checker, parser

from sam2edge.bundle.engines import RESIZE, RESIZE_WINDOWS

_GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
NAME (
    uint8[H,W,3] frame,
    int32[WINDOWS,KR] used_rows, float[WINDOWS,BLOCK,KR] rows,
    int32[WINDOWS,KC] used_columns, float[WINDOWS,BLOCK,KC] columns
) => (uint8[1,SIDE,SIDE,3] image)
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
    column_windows = Gather <axis = 0> (by_column, used_columns)
    wide = MatMul (columns, column_windows)
    wide_up = Add (wide, half)
    wide_rounded = Floor (wide_up)
    resized_by_column = Reshape (wide_rounded, resized_columns)
    resized_by_row = Transpose <perm = [1, 0, 2]> (resized_by_column)
    by_row = Reshape (resized_by_row, frame_rows)
    row_windows = Gather <axis = 0> (by_row, used_rows)
    high = MatMul (rows, row_windows)
    high_up = Add (high, half)
    high_rounded = Floor (high_up)
    values = Reshape (high_rounded, image_shape)
    image = Cast <to = 2> (values)
}
"""


def resize_graph(size: int) -> ModelProto:
    """Return a model of FP32 and uint8, opset 17, which rounds after each axis, width first.

    Its inputs are frame uint8 [H,W,3] and those of `model.resize.filter_inputs`: used_rows int32 [16,KR], rows float32
    [16,S/16,KR], and used_columns and columns likewise. Its output is image uint8 [1,S,S,3].
    """
    sizes = {"NAME": RESIZE, "WINDOWS": RESIZE_WINDOWS, "BLOCK": size // RESIZE_WINDOWS, "SIDE": size, "ROW": 3 * size}
    text = re.sub("|".join(sizes), lambda found: str(sizes[found[0]]), _GRAPH)
    model = parser.parse_model(text)
    checker.check_model(model, full_check=True)
    return model
