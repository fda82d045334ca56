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

MOVES = frozenset({"Reformat", "NoOp", "Constant", "Shape", "Signal", "Wait"})
"""Types of layers that calculate nothing: at an engine's borders they have both types."""


def layer_precision(layer: Mapping[str, Any]) -> str:
    """Return fp32, fp16 or int8 as the inspector says of a layer; unknown where it does not, or of integers.

    A kernel that multiplies INT8 is INT8 whatever it puts out.
    """
    if re.search(_TACTICS["int8"], str(layer.get("TacticName", ""))):
        return "int8"
    weights = layer.get("Weights")
    described = [weights.get("Type", "")] if isinstance(weights, dict) else []
    described += [tensor.get("Format/Datatype", "") for tensor in layer.get("Outputs", ())]
    for text in described:
        for precision, pattern in _FORMATS.items():
            if re.search(pattern, str(text)):
                return precision
    for precision, pattern in _TACTICS.items():
        if re.search(pattern, str(layer.get("TacticName", ""))):
            return precision
    return "unknown"


def count_precisions(layers: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many calculating layers have each precision."""
    return dict(Counter(layer_precision(layer) for layer in layers if layer.get("LayerType") not in MOVES))


def check_precision(name: str, asked: str, counts: Mapping[str, int], quantized: int = 0) -> None:
    """BuildError unless an engine's layers have the precision that was asked for.

    fp32: no layer has another. fp16: more layers have it than FP32, which islands and single layers may keep. int8: at
    least half as many layers have it as tensors are `quantized` in the graph (layers that read the same tensor may
    become one), and of the others more are FP16 than FP32. An engine that tells nothing fails too: nobody would know
    what it is.
    """
    fp32, fp16, int8 = (counts.get(precision, 0) for precision in ("fp32", "fp16", "int8"))
    right = {
        "fp32": fp32 > 0 and not fp16 and not int8,
        "fp16": fp16 > fp32 and not int8,
        "int8": int8 >= max(1, quantized / 2) and fp16 >= fp32,
    }
    if right[asked]:
        return
    said = ", ".join(f"{count} {precision}" for precision, count in sorted(counts.items())) or "no layers"
    raise BuildError(
        f"{name}: {asked} was asked for, but the engine's layers have other types ({said}); no engines were written. "
        "Use another version of TensorRT, or build with another --precision"
    )
