"""The blocks that the layers of a graph are grouped into: what is measured alone, and kept out of INT8 together."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from onnx import ModelProto

from sam2edge.calibration.int8.quantize import layers
from sam2edge.engines.fp16 import Fp32Island, island_nodes

_PATTERNS = {
    "image_encoder": (r"/blocks\.(\d+)/", r"/(?:level|high_res)_"),
    "memory_attention": (
        r"/layers\.(\d+)/(?:query|key|value|output)/",
        r"/layers\.(\d+)/memory_",
        r"/layers\.(\d+)/linear",
    ),
    "mask_decoder": (r"/layers\.(\d+)/", r"/hypernetworks\."),
}
"""Beginnings of node names, with the number of a block. Other layers belong together by the module they lie in."""


@dataclass(frozen=True)
class Block:
    """Layers of a graph whose nodes' names match `nodes`, as in an Fp32Island. layers: how many they are."""

    graph: str
    nodes: str
    layers: int

    def kept(self, reason: str) -> Fp32Island:
        """The block as an entry of a recipe."""
        return Fp32Island(self.graph, self.nodes, reason)

    def alone(self) -> Fp32Island:
        """Everything else in the graph."""
        return Fp32Island(self.graph, f"(?!{self.nodes})", "another block is measured")


def blocks(model: ModelProto, graph: str, kept: Iterable[Fp32Island] = ()) -> list[Block]:
    """The blocks of a graph in its order, without the layers that a recipe keeps. graph: its name in the bundle."""
    stays = island_nodes(model.graph, kept)
    counts: dict[str, int] = {}
    for layer in layers(model):
        if layer.node not in stays:
            nodes = _nodes(layer.node, graph)
            counts[nodes] = counts.get(nodes, 0) + 1
    return [Block(graph, nodes, count) for nodes, count in counts.items()]


def reader(model: ModelProto, graph: str, activation: str, kept: Iterable[Fp32Island] = ()) -> Block:
    """The first of these blocks that reads an activation."""
    stays = island_nodes(model.graph, kept := tuple(kept))
    readers = [layer.node for layer in layers(model) if layer.activation == activation and layer.node not in stays]
    return next(block for block in blocks(model, graph, kept) if re.match(block.nodes, readers[0]))


def _nodes(name: str, graph: str) -> str:
    for pattern in _PATTERNS.get(graph, ()):
        if match := re.match(pattern, name):
            return pattern.replace(r"(\d+)", match[1]) if match.groups() else pattern
    module = re.match(r"/[^/]+/?", name)
    return re.escape(module[0]) if module else re.escape(name)
