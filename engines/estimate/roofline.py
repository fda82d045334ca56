"""Lower bounds of the time of a frame on a device, from counted operations and bytes. Nothing is run."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import ModelProto, TensorProto

from sam2edge.bundle import Bundle
from sam2edge.engines.estimate.cost import Cost, graph_cost, least_bytes, seconds
from sam2edge.engines.estimate.devices import Device
from sam2edge.engines.low_precision import FP16, lowered


@dataclass(frozen=True)
class Bound:
    """Lower bounds for a graph, or a sum of graphs; `fp16` and `int8` in seconds.

    Attributes:
        flops: 2 for each multiply-add of a product or convolution.
        least: Bytes of inputs, outputs and weights in FP16, once each.
        moved: Bytes that the kernels of the FP16 graph move as it is written.
        written: Seconds of these kernels in sequence; a compiler that fuses attention may do better.
    """

    flops: int
    least: int
    fp16: float
    int8: float
    moved: int
    written: float

    def __add__(self, other: Bound) -> Bound:
        return Bound(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


_WORDS = 4
"""Words that a word detector looks for; 30 more change its cost by less than one hundredth."""


def frame_sizes(bundle: Bundle, objects: int) -> dict[str, int]:
    """Return the sizes of the graphs' dynamic axes for a frame on which all objects have a full bank."""
    model = bundle.model
    return {"B": 1, "N": objects, "T": model.memory_frames + 1, "K": model.max_pointers, "P": 2, "Q": _WORDS}


def graph_bounds(bundle: Bundle, device: Device, objects: int) -> dict[str, Bound]:
    """Return the lower bounds of each graph for a frame with this number of objects, and of the word detector.

    FP16 takes at least the time of its arithmetic at full speed, and of moving inputs, outputs and weights once. INT8
    is for products with weights, as in `sam2edge calibrate`: the other products of attention and what passes between
    layers stay FP16. Raises InputError as `graph_cost` does.
    """
    sizes, bandwidth, speed = frame_sizes(bundle, objects), device.bandwidth * 1e9, device.fp16 * 1e12
    bounds = {}
    for name in bundle.graph_names:
        model = onnx.load(bundle.graph_path(name))
        weights, factors = _weights(model)
        alone = graph_cost(model, sizes)
        flops = sum(cost.flops for cost in alone)
        weighted = sum(cost.flops for cost in alone if cost.name in factors)
        halved = lowered(model, FP16)
        least, written = least_bytes(halved, sizes), graph_cost(halved, sizes, fused=True)
        bounds[name] = Bound(
            flops,
            least,
            max(flops / speed, least / bandwidth),
            max(weighted / (device.int8 * 1e12) + (flops - weighted) / speed, (least - weights) / bandwidth),
            sum(cost.moved for cost in written),
            seconds(written, speed, bandwidth),
        )
    return bounds


def parts(bundle: Bundle, device: Device, objects: int, count: int) -> Iterator[tuple[str, str, int, int, float]]:
    """Yield the slowest parts of each graph as it is written: graph, part, FLOP, bytes moved, seconds."""
    flops, bandwidth = device.fp16 * 1e12, device.bandwidth * 1e9
    for name in bundle.graph_names:
        costs_of: dict[str, list[Cost]] = defaultdict(list)
        model = lowered(onnx.load(bundle.graph_path(name)), FP16)
        for cost in graph_cost(model, frame_sizes(bundle, objects), fused=True):
            module = re.match(r"/([^/]+)/", cost.name)
            costs_of[f"{module[1] if module else 'in between'}, {cost.operator}"].append(cost)
        for part, costs in sorted(costs_of.items(), key=lambda item: -seconds(item[1], flops, bandwidth))[:count]:
            moved = sum(cost.moved for cost in costs)
            yield name, part, sum(cost.flops for cost in costs), moved, seconds(costs, flops, bandwidth)


def _weights(model: ModelProto) -> tuple[int, set[str]]:
    """Return the bytes that INT8 saves on the FP16 weights of products, and the names of these products."""
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    float32 = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    # the weights of a graph that is quantised already
    stored = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm", "Conv", "ConvTranspose")]
    named = {node.name for node in products if {*node.input[:2]} & (sizes.keys() | stored)}
    return sum(sizes[name] for name in {node.input[1] for node in products} & float32), named
