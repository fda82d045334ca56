"""The precision that an engine really got, read from its layers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from sam2edge.errors import BuildError

LOW = ("int8", "fp16", "bf16")
"""What is below FP32, the lowest first."""

_FORMATS = {
    "int8": r"(?<!U)(?:Int8|INT8)",
    "fp16": r"Half|FP16",
    "bf16": r"BFloat16|BF16",
    "fp32": r"(?<!B)Float(?!8)|FP32",
}
"""Patterns for "Format/Datatype" of tensors ("Half", "Row major linear FP16 format") and "Type" of weights."""

_TACTICS = {
    "int8": r"i8i8|i8i32|int8|imma",
    "fp16": r"(?<!b)f16f16|h884|h1688|h16816|hmma|fp16|_f16_",
    "bf16": r"bf16",
    "fp32": r"f32f32|sgemm|scudnn|ffma|fp32|_f32_",
}
"""Patterns for the name of a kernel, which is all that 8.6 reports for engines with dynamic shapes."""

_MULTIPLYING = ("gemm", "correlation")
"""Types of layers whose inputs say in which precision they multiply."""

MOVES = frozenset({"cast", "reformat", "noop", "constant", "shape", "signal", "wait", "shape_call"})
"""Types of layers that compute nothing, in lower case; those at the boundaries of an engine have both types."""


def layer_precision(layer: Mapping[str, Any]) -> str:
    """Return the precision of a layer of the inspector: "fp32", one of LOW, or "unknown", also for integers.

    A kernel that multiplies a low precision has it whatever it outputs, and one that was generated from
    several operations (`kgen`) the lower of the floating-point types that it reads or writes: beside INT8 layers it
    takes their FP32 sums and writes INT8. A fused region is "fused", followed by the lowest precision of its inputs
    and outputs if that is below FP32.
    """
    inputs, outputs = _formats(layer.get("Inputs", ())), _formats(layer.get("Outputs", ()))
    kind = layer.get("LayerType")
    # a fused region of 8.x, often a whole transformer: only its inputs and outputs are reported
    if kind == "Myelin":
        return next((f"fused {low}" for low in LOW if low in inputs + outputs), "fused")
    tactic = str(layer.get("TacticName", ""))
    for precision in LOW:
        if re.search(_TACTICS[precision], tactic):
            return precision
    if kind in _MULTIPLYING and inputs:
        return inputs[0]
    weights = layer.get("Weights")
    if isinstance(weights, dict) and (precision_of_weights := _format(weights.get("Type", ""))):
        return precision_of_weights
    if kind == "kgen":
        ends = inputs + outputs + _formats(layer.get("Constants", ()))
        return next((precision for precision in ("fp16", "bf16", "fp32", "int8") if precision in ends), "unknown")
    if outputs:
        return outputs[0]
    return "fp32" if re.search(_TACTICS["fp32"], tactic) else "unknown"


def _formats(tensors: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the precisions of the tensors that have one."""
    return [precision for tensor in tensors if (precision := _format(tensor.get("Format/Datatype", "")))]


def _format(text: object) -> str | None:
    return next((precision for precision, pattern in _FORMATS.items() if re.search(pattern, str(text))), None)


def count_precisions(layers: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Count the computing layers of each precision."""
    return dict(Counter(layer_precision(layer) for layer in layers if str(layer.get("LayerType")).lower() not in MOVES))


def check_precision(name: str, requested: str, counts: Mapping[str, int], quantized: int = 0) -> None:
    """Raise BuildError unless the layers of an engine have the requested precision.

    FP32: no layer has another one. FP16 and BF16: more layers have it than FP32, in which islands and single layers may
    stay, and none another low precision. INT8: at least half as many layers have it as tensors are `quantized` in the
    graph (layers that read the same tensor may be fused), and more of the others are FP16 than FP32. TensorRT 8.6 fuses
    most of a transformer and reports only the region's inputs and outputs; one reduced-precision layer or region is
    then enough. An engine that reports nothing fails, since its precision is unknown.
    """
    fp32, fused = counts.get("fp32", 0), counts.get("fused", 0)
    layers = {low: counts.get(low, 0) for low in LOW}
    regions = {low: counts.get(f"fused {low}", 0) for low in LOW}
    found = {low for low in LOW if layers[low] + regions[low]}
    any_fused = fused + sum(regions.values()) > 0
    if requested == "fp32":
        right = fp32 + fused > 0 and not found
    elif requested != "int8":
        right = found == {requested} and layers[requested] + regions[requested] > (0 if any_fused else fp32)
    elif any_fused:
        right = bool(found) and "bf16" not in found
    else:
        right = layers["int8"] >= max(1, quantized / 2) and layers["fp16"] >= fp32
    if right:
        return
    types = ", ".join(f"{count} {precision}" for precision, count in sorted(counts.items())) or "no layers"
    raise BuildError(
        f"{name}: {requested} was asked for, but the engine's layers have other types ({types}); no engines were "
        "written. Use another version of TensorRT, or build with another --precision"
    )
