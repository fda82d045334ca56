"""The precision of layers, from reports of the inspector for real engines of 8.x, 10.x and 11.x."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from sam2edge.engines.layer_precision import check_precision, count_precisions, layer_precision
from sam2edge.errors import BuildError

HALF = {"Format/Datatype": "Row major linear FP16 format"}
SINGLE = {"Format/Datatype": "Row major linear FP32"}
INT8 = {"Format/Datatype": "Row major Int8 format"}
DYNAMIC = [{"Format/Datatype": "N/A due to dynamic shapes"}]


@pytest.mark.parametrize(
    ("layer", "precision"),
    [
        ({"Outputs": [{"Format/Datatype": "Half"}]}, "fp16"),
        ({"Outputs": [HALF]}, "fp16"),
        ({"Outputs": [{"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}]}, "fp16"),
        ({"Outputs": [{"Format/Datatype": "Row major linear FP32 format (kLINEAR)"}]}, "fp32"),
        ({"Outputs": [{"Format/Datatype": "Float"}]}, "fp32"),
        ({"Outputs": [{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}]}, "int8"),
        ({"Outputs": [{"Format/Datatype": "BFloat16"}]}, "bf16"),
        ({"Outputs": [{"Format/Datatype": "Int32"}]}, "unknown"),
        ({"Weights": {"Type": "Half", "Count": 9408}, "Outputs": DYNAMIC}, "fp16"),
        ({"Weights": {"Type": "Float", "Count": 9408}, "Outputs": DYNAMIC}, "fp32"),
        ({"Outputs": DYNAMIC, "TacticName": "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc"}, "fp16"),
        ({"Outputs": DYNAMIC, "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32"}, "int8"),
        ({"Outputs": DYNAMIC, "TacticName": "sm80_xmma_gemm_f32f32_f32f32_f32_nn_n"}, "fp32"),
        ({"Outputs": DYNAMIC, "TacticName": "volta_h884gemm_64x64"}, "fp16"),
        ({"Outputs": [SINGLE], "TacticName": "sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn_n"}, "bf16"),
        ({"Outputs": [HALF], "TacticName": "sm80_xmma_gemm_i8i8_i8i32_f32_tn_n"}, "int8"),
        ({"Outputs": [SINGLE], "TacticName": "sm80_xmma_gemm_f16f16_f16f32_f32_tn"}, "fp16"),
        # of TensorRT for RTX, which chooses kernels where the engine runs
        ({"LayerType": "gemm", "Inputs": [INT8], "Outputs": [HALF], "TacticName": "__myelin_CASK_STUB"}, "int8"),
        ({"LayerType": "correlation", "Inputs": [HALF], "Outputs": [SINGLE]}, "fp16"),
        ({"LayerType": "kgen", "Inputs": [SINGLE], "Constants": [HALF], "Outputs": [INT8]}, "fp16"),
        ({"LayerType": "kgen", "Inputs": [SINGLE], "Constants": [], "Outputs": [INT8]}, "fp32"),
        ({"LayerType": "kgen", "Inputs": [INT8], "Constants": [], "Outputs": [INT8]}, "int8"),
        ({"LayerType": "kgen", "Inputs": [], "Constants": [], "Outputs": [{"Format/Datatype": "Bool"}]}, "unknown"),
        ({"LayerType": "Myelin", "Inputs": [HALF], "Outputs": [SINGLE]}, "fused fp16"),
        ({"LayerType": "Myelin", "Inputs": [SINGLE], "Outputs": [INT8, HALF]}, "fused int8"),
        ({"LayerType": "Myelin", "Inputs": [SINGLE], "Outputs": [SINGLE], "TacticValue": "0x0"}, "fused"),
        ({"Outputs": DYNAMIC}, "unknown"),
        ({"Name": "only a name"}, "unknown"),
    ],
)
def test_layer_precision(layer: dict[str, Any], precision: str) -> None:
    assert layer_precision(layer) == precision


def test_layers_that_move_data_do_not_count() -> None:
    layers = [{"Outputs": [HALF], "LayerType": kind} for kind in ("Reformat", "shape_call", "kgen")]
    assert count_precisions(layers) == {"fp16": 1}


@pytest.mark.parametrize(
    ("requested", "counts", "quantized", "message"),
    [
        ("fp16", {"fp16": 20, "fp32": 6, "unknown": 40}, 0, ""),
        ("fp16", {"fp16": 1}, 0, ""),
        ("bf16", {"bf16": 20, "fp32": 6, "unknown": 40}, 0, ""),
        ("fp32", {"fp32": 9, "unknown": 4}, 0, ""),
        ("fp16", {"fused fp16": 1, "fp32": 9}, 0, ""),
        ("fp16", {"fused": 1, "fp16": 2, "fp32": 9}, 0, ""),
        ("fp32", {"fused": 1}, 0, ""),
        ("int8", {"fused": 2, "fp16": 1, "fp32": 4}, 0, ""),
        ("int8", {"int8": 5, "fp16": 30, "fp32": 6}, 10, ""),
        ("int8", {"int8": 9, "unknown": 30}, 10, ""),
        ("fp16", {"fp32": 20}, 0, "20 fp32"),
        ("fp16", {"fp16": 6, "fp32": 20}, 0, "6 fp16, 20 fp32"),
        ("fp16", {"fp16": 6, "int8": 1}, 0, "6 fp16, 1 int8"),
        ("fp16", {"fp16": 6, "bf16": 1}, 0, "1 bf16, 6 fp16"),
        ("bf16", {"bf16": 6, "fp16": 1}, 0, "6 bf16, 1 fp16"),
        ("bf16", {"bf16": 6, "fp32": 7}, 0, "6 bf16, 7 fp32"),
        ("fp32", {"fp32": 6, "bf16": 1}, 0, "1 bf16, 6 fp32"),
        ("fp16", {"unknown": 30}, 0, "30 unknown"),
        ("fp16", {}, 0, "no layers"),
        ("fp32", {"fp32": 20, "fp16": 1}, 0, "1 fp16, 20 fp32"),
        ("fp32", {"fp32": 20, "int8": 1}, 0, "20 fp32, 1 int8"),
        ("fp32", {"unknown": 2}, 0, "2 unknown"),
        ("fp32", {"fp32": 3, "fused fp16": 1}, 0, "3 fp32, 1 fused fp16"),
        ("fp16", {"fp32": 3, "fused": 1}, 0, "3 fp32, 1 fused"),
        ("fp16", {"fp16": 3, "fused int8": 1}, 0, "3 fp16, 1 fused int8"),
        ("int8", {"fp32": 3, "fused": 1}, 0, "3 fp32, 1 fused"),
        ("int8", {"int8": 4, "fp16": 30}, 10, "30 fp16, 4 int8"),
        ("int8", {"int8": 9, "fp16": 3, "fp32": 5}, 10, "3 fp16, 5 fp32, 9 int8"),
        ("int8", {"fp16": 30}, 10, "30 fp16"),
    ],
)
def test_check_precision(requested: str, counts: dict[str, int], quantized: int, message: str) -> None:
    """Without a message it raises nothing."""
    error = pytest.raises(BuildError, match=rf"graph: {requested} was asked for, but .* \({message}\)")
    with error if message else contextlib.nullcontext():
        check_precision("graph", requested, counts, quantized)
