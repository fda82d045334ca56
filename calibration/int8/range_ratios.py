"""How far INT8 ranges go beyond what a clip shows: what lies between is steps that no number takes.

A range eight times too wide leaves five of eight bits. A single one seldom changes masks of one clip enough to be seen
there, so it is looked for where it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, numpy_helper

from sam2edge.bundle import Bundle
from sam2edge.calibration.int8.activations import load_graph, observed
from sam2edge.calibration.int8.quantize import LARGEST
from sam2edge.calibration.measure.recorder import Recorded
from sam2edge.runtime.backends.base import open_backend


@dataclass(frozen=True)
class RangeRatio:
    """ratio: the range of an activation by the largest magnitude that it had."""

    graph: str
    activation: str
    ratio: float


def range_ratios(bundle: Bundle, graph: str, recorded: Iterable[Recorded]) -> list[RangeRatio]:
    """Feed recorded inputs to an INT8 graph and compare its ranges with the magnitudes.

    The graph runs on ONNX Runtime's CPU provider, whatever runs it later: Q/DQ nodes say the same everywhere. What was
    zero all the time is left out. Raises CorruptFileError, and BackendError for inputs of another model.
    """
    model = load_graph(bundle.graph_path(graph))
    ranges = _ranges(model)
    seen = dict.fromkeys(ranges, 0.0)
    with tempfile.TemporaryDirectory(prefix="sam2edge-") as directory:
        file = Path(directory) / f"{graph}.onnx"
        onnx.save(observed(model, ranges), str(file))
        runner = open_backend("onnx").open(file)
        for inputs in (one.inputs for one in recorded if one.graph == graph):
            outputs = runner.run(inputs)
            seen = {name: max(largest, float(outputs[f"{name}/largest"])) for name, largest in seen.items()}
    return [RangeRatio(graph, name, ranges[name] / largest) for name, largest in seen.items() if largest]


def _ranges(model: ModelProto) -> dict[str, float]:
    """The range of every activation that a graph quantises."""
    scales = {tensor.name: tensor for tensor in model.graph.initializer}
    return {
        node.input[0]: LARGEST * float(numpy_helper.to_array(scales[node.input[1]]))
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }
