"""Precision read back from what the inspector says; the texts are of real engines of 8.x, 10.x and 11.x."""

from __future__ import annotations

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
        ({"Outputs": [{"Format/Datatype": "Row major linear FP16 format"}]}, "fp16"),
        ({"Outputs": [{"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}]}, "fp16"),
        ({"Outputs": [{"Format/Datatype": "Row major linear FP32 format (kLINEAR)"}]}, "fp32"),
        ({"Outputs": [{"Format/Datatype": "Float"}]}, "fp32"),
        ({"Outputs": [{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}]}, "int8"),
        ({"Outputs": [{"Format/Datatype": "Int32"}]}, "unknown"),
        ({"Weights": {"Type": "Half", "Count": 9408}, "Outputs": DYNAMIC}, "fp16"),
        ({"Weights": {"Type": "Float", "Count": 9408}, "Outputs": DYNAMIC}, "fp32"),
        ({"Outputs": DYNAMIC, "TacticName": "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc"}, "fp16"),
        ({"Outputs": DYNAMIC, "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32"}, "int8"),
        ({"Outputs": DYNAMIC, "TacticName": "sm80_xmma_gemm_f32f32_f32f32_f32_nn_n"}, "fp32"),
        ({"Outputs": DYNAMIC, "TacticName": "volta_h884gemm_64x64"}, "fp16"),
        (
            {"Outputs": [{"Format/Datatype": "Half"}], "TacticName": "sm80_xmma_gemm_i8i8_i8i32_f32_tn_n"},
            "int8",
        ),
        (
            {
                "Outputs": [{"Format/Datatype": "Row major linear FP32"}],
                "TacticName": "sm80_xmma_gemm_f16f16_f16f32_f32_tn",
            },
            "fp16",
        ),
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
    half = {"Outputs": [{"Format/Datatype": "Half"}]}
    assert count_precisions([{**half, "LayerType": "Reformat"}, {**half, "LayerType": "kgen"}]) == {"fp16": 1}


@pytest.mark.parametrize(
    ("asked", "counts"),
    [
        ("fp16", {"fp16": 20, "fp32": 6, "unknown": 40}),
        ("fp16", {"fp16": 1}),
        ("fp32", {"fp32": 9, "unknown": 4}),
        ("fp16", {"fused fp16": 1, "fp32": 9}),
        ("fp16", {"fused": 1, "fp16": 2, "fp32": 9}),
        ("fp32", {"fused": 1}),
        ("int8", {"fused": 2, "fp16": 1, "fp32": 4}),
    ],
)
def test_what_was_asked_for(asked: str, counts: dict[str, int]) -> None:
    check_precision("graph", asked, counts)


@pytest.mark.parametrize("counts", [{"int8": 5, "fp16": 30, "fp32": 6}, {"int8": 9, "unknown": 30}])
def test_int8_with_10_tensors_quantized(counts: dict[str, int]) -> None:
    check_precision("graph", "int8", counts, 10)


@pytest.mark.parametrize("counts", [{"int8": 4, "fp16": 30}, {"int8": 9, "fp16": 3, "fp32": 5}, {"fp16": 30}])
def test_too_little_int8(counts: dict[str, int]) -> None:
    with pytest.raises(BuildError, match="graph: int8 was asked for"):
        check_precision("graph", "int8", counts, 10)


@pytest.mark.parametrize(
    ("asked", "counts", "said"),
    [
        ("fp16", {"fp32": 20}, "20 fp32"),
        ("fp16", {"fp16": 6, "fp32": 20}, "6 fp16, 20 fp32"),
        ("fp16", {"fp16": 6, "int8": 1}, "6 fp16, 1 int8"),
        ("fp16", {"unknown": 30}, "30 unknown"),
        ("fp16", {}, "no layers"),
        ("fp32", {"fp32": 20, "fp16": 1}, "1 fp16, 20 fp32"),
        ("fp32", {"fp32": 20, "int8": 1}, "20 fp32, 1 int8"),
        ("fp32", {"unknown": 2}, "2 unknown"),
        ("fp32", {"fp32": 3, "fused fp16": 1}, "3 fp32, 1 fused fp16"),
        ("fp16", {"fp32": 3, "fused": 1}, "3 fp32, 1 fused"),
        ("fp16", {"fp16": 3, "fused int8": 1}, "3 fp16, 1 fused int8"),
        ("int8", {"fp32": 3, "fused": 1}, "3 fp32, 1 fused"),
    ],
)
def test_what_was_not(asked: str, counts: dict[str, int], said: str) -> None:
    with pytest.raises(BuildError, match=rf"graph: {asked} was asked for, but .* \({said}\)"):
        check_precision("graph", asked, counts)
