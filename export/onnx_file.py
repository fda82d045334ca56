"""Write one graph as an ONNX file that keeps the contract."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from sam2edge.bundle import TensorSpec
from sam2edge.errors import ExportError

OPSET = 17
"""The first with LayerNormalization, and TensorRT 8.6 reads it. Opset 23's Attention breaks several TensorRT builds."""

_EXAMPLE = {"B": 1, "N": 2, "T": 2, "K": 3, "P": 2, "Q": 2}


def write_onnx(module: nn.Module, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], file: Path) -> None:
    """Trace a graph module and write it; raise ExportError if the file does not keep the contract."""
    specs = (*inputs, *outputs)
    dynamic = {t.name: {i: d for i, d in enumerate(t.shape) if isinstance(d, str)} for t in specs}
    with warnings.catch_warnings(), torch.no_grad():
        # dynamo=False, because the tracing exporter writes constant shapes as they stand in the code; the newer one
        # reads dynamic dimensions back through Shape and Concat.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(_example(spec) for spec in inputs),
            str(file),
            dynamo=False,
            opset_version=OPSET,
            input_names=[t.name for t in inputs],
            output_names=[t.name for t in outputs],
            dynamic_axes={name: axes for name, axes in dynamic.items() if axes},
        )
    model = onnx.load(str(file))
    _name_weights(model.graph)
    _declare(model, inputs, outputs)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(file))


def _example(spec: TensorSpec) -> torch.Tensor:
    shape = [_EXAMPLE[d] if isinstance(d, str) else d for d in spec.shape]
    return torch.zeros(shape, dtype=getattr(torch, spec.dtype))


def _name_weights(graph: onnx.GraphProto) -> None:
    """Let nodes read weights directly.

    Of several equal weights the exporter keeps one and passes it on through Identity nodes, but TensorRT 8.6 refuses a
    convolution whose bias is the output of a node.
    """
    roots = {tensor.name: tensor.name for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in roots:
            roots[node.output[0]] = roots[node.input[0]]
        else:
            node.input[:] = [roots.get(name, name) for name in node.input]
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _declare(model: onnx.ModelProto, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    """Declare the contract's types on the graph; the checker's shape inference then proves them."""
    for values, specs in ((model.graph.input, inputs), (model.graph.output, outputs)):
        names = [value.name for value in values]
        if names != [spec.name for spec in specs]:
            raise ExportError(f"the exporter wrote {names} where the contract says {[t.name for t in specs]}")
        for value, spec in zip(values, specs, strict=True):
            dtype = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
            value.CopyFrom(onnx.helper.make_tensor_value_info(spec.name, dtype, spec.shape))
