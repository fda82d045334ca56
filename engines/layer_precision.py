"""The precision that an engine really got, read back from its layers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from sam2edge.errors import BuildError

_FORMATS = {"int8": r"(?<!U)(?:Int8|INT8)", "fp16": r"Half|FP16", "fp32": r"Float|FP32"}
"""In "Format/Datatype" of a tensor ("Half", "Row major linear FP16 format") and "Type" of weights, in this order."""

_TACTICS = {
    "int8": r"i8i8|i8i32|int8|imma",
    "fp16": r"f16f16|h884|h1688|h16816|hmma|fp16|_f16_",
    "fp32": r"f32f32|sgemm|scudnn|ffma|fp32|_f32_",
}
"""In the name of a kernel. 8.6 tells nothing else of engines with dynamic shapes."""

MOVES = frozenset({"Cast", "Reformat", "NoOp", "Constant", "Shape", "Signal", "Wait"})
"""Types of layers that calculate nothing: at an engine's borders they have both types."""

FUSED = "Myelin"
"""Type of a region of 8.x, often the whole of a transformer, that tells the types at its borders only."""


def layer_precision(layer: Mapping[str, Any]) -> str:
    """Return fp32, fp16 or int8 as the inspector says of a layer; unknown where it does not, or of integers.

    A kernel that multiplies INT8 or FP16 is that whatever it puts out. A fused region is "fused" and the lowest
    precision at its borders, if it has one below FP32 there.
    """
    if layer.get("LayerType") == FUSED:
        borders = _formats((*layer.get("Inputs", ()), *layer.get("Outputs", ())))
        return next((f"fused {low}" for low in ("int8", "fp16") if low in borders), "fused")
    tactic = str(layer.get("TacticName", ""))
    for precision in ("int8", "fp16"):
        if re.search(_TACTICS[precision], tactic):
            return precision
    weights = layer.get("Weights")
    if isinstance(weights, dict) and (found := _format(weights.get("Type", ""))):
        return found
    if found := next(iter(_formats(layer.get("Outputs", ()))), None):
        return found
    return "fp32" if re.search(_TACTICS["fp32"], tactic) else "unknown"


def _formats(tensors: Iterable[Mapping[str, Any]]) -> list[str]:
    """Precisions of those tensors that have one."""
    return [found for tensor in tensors if (found := _format(tensor.get("Format/Datatype", "")))]


def _format(text: object) -> str | None:
    return next((precision for precision, pattern in _FORMATS.items() if re.search(pattern, str(text))), None)


def count_precisions(layers: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many calculating layers have each precision."""
    return dict(Counter(layer_precision(layer) for layer in layers if layer.get("LayerType") not in MOVES))


def check_precision(name: str, asked: str, counts: Mapping[str, int], quantized: int = 0) -> None:
    """BuildError unless an engine's layers have the precision that was asked for.

    fp32: no layer has another. fp16: more layers have it than FP32, which islands and single layers may keep. int8: at
    least half as many layers have it as tensors are `quantized` in the graph (layers that read the same tensor may
    become one), and of the others more are FP16 than FP32. Beside fused regions, which hold most of a graph, one layer
    or region below FP32 must do. An engine that tells nothing fails too: nobody would know what it is.
    """
    fp32, fp16, int8 = (counts.get(precision, 0) for precision in ("fp32", "fp16", "int8"))
    fused, fused16, fused8 = (counts.get(precision, 0) for precision in ("fused", "fused fp16", "fused int8"))
    right = {
        "fp32": fp32 + fused > 0 and not fp16 + fused16 + int8 + fused8,
        "fp16": not int8 + fused8 and fp16 + fused16 > (0 if fused + fused16 else fp32),
        "int8": int8 >= max(1, quantized / 2) and fp16 >= fp32,
    }
    if fused + fused16 + fused8:
        right["int8"] = int8 + fused8 + fp16 + fused16 > 0
    if right[asked]:
        return
    said = ", ".join(f"{count} {precision}" for precision, count in sorted(counts.items())) or "no layers"
    raise BuildError(
        f"{name}: {asked} was asked for, but the engine's layers have other types ({said}); no engines were written. "
        "Use another version of TensorRT, or build with another --precision"
    )
