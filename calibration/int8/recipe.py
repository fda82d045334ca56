"""Which layers stay out of INT8: a recipe, which is a small JSON file to edit and use again, and blocks of layers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from onnx import ModelProto

from sam2edge.bundle import GRAPHS
from sam2edge.bundle.words import DETECTOR
from sam2edge.calibration.int8.quantize import layers
from sam2edge.engines.low_precision import Fp32Island, island_nodes
from sam2edge.errors import InputError
from sam2edge.files import user_path

KEPT = (
    Fp32Island(
        "image_encoder", r"/patches/", "reads pixels; in INT8 the layer that changes outputs most, and a small one"
    ),
    Fp32Island(
        "image_encoder",
        r"/blocks\.\d+/(mix|spatial|squeeze)/",
        "depthwise convolutions and the weights of channels: 1.4 % of the operations",
        optional=True,  # only RepViT has them
    ),
    Fp32Island("mask_decoder", r"/prompts/", "positions of points, in pixels"),
    Fp32Island(
        "memory_attention",
        r"/pointer_code/",
        "ages of pointers, which exceed those of any clip",
        optional=True,  # SAM 2.0 has no temporal codes of pointers
    ),
    Fp32Island(
        "mask_decoder", r"/mask_embed/", "reads a mask or earlier logits, which a clip tracked from boxes never shows"
    ),
    Fp32Island("mask_decoder", r"/(iou|score)_head/", "few weights; their outputs are compared with thresholds"),
    Fp32Island(DETECTOR, r"/patches/", "reads pixels, as that of the image encoder"),
    Fp32Island(DETECTOR, r"/head_", "few weights; boxes and scores are read from them"),
)
"""Layers that stay in floating point by default."""

_GRAPHS = (*GRAPHS, DETECTOR)

_PATTERNS = {
    "image_encoder": (r"/blocks\.(\d+)/", r"/(?:level|high_res)_"),
    "memory_attention": (
        r"/layers\.(\d+)/(?:query|key|value|output)/",
        r"/layers\.(\d+)/memory_",
        r"/layers\.(\d+)/linear",
    ),
    "mask_decoder": (r"/layers\.(\d+)/", r"/hypernetworks\."),
    DETECTOR: (r"/blocks\.(\d+)/",),
}
"""Beginnings of node names, with the number of a block. Other layers form a block with their module."""


MAX_EXCLUDED = 8
"""Blocks that may be kept out of INT8. If more would be needed, the clips, the ranges or the threshold are at fault."""


@dataclass(frozen=True)
class Recipe:
    """How a bundle becomes INT8.

    Args:
        kept: layers whose name matches stay in floating point.

    Raises:
        InputError: a graph does not exist.
    """

    kept: tuple[Fp32Island, ...] = KEPT

    def __post_init__(self) -> None:
        for island in self.kept:
            if island.graph not in _GRAPHS:
                raise InputError(f"recipe: no graph is called {island.graph!r}; choose from {', '.join(_GRAPHS)}")

    def of(self, graph: str) -> tuple[Fp32Island, ...]:
        """Return what stays in floating point in a graph."""
        return tuple(island for island in self.kept if island.graph == graph)

    def write(self, file: Path) -> None:
        """Write the recipe as JSON."""
        file.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe that `write` or a person wrote; InputError says what is wrong with it."""
        file = user_path(path)
        try:
            kept = [Fp32Island(**entry) for entry in json.loads(file.read_bytes())["kept"]]
            for island in kept:
                re.compile(island.nodes)
            return Recipe(tuple(kept))
        except OSError as error:
            raise InputError(f"{file}: cannot be read: {error.strerror}") from error
        except (KeyError, TypeError, ValueError, RecursionError, re.error) as error:
            raise InputError(
                f"{file}: not a recipe ({error}); it must be "
                '{"kept": [{"graph": …, "nodes": regular expression, "reason": …, "optional": false}]}'
            ) from error


@dataclass(frozen=True)
class Block:
    """Layers of a graph that are measured alone and kept out of INT8 together."""

    graph: str
    nodes: str  # matches the beginning of their nodes' names, as in an Fp32Island
    layers: int  # the number of them

    def kept(self, reason: str) -> Fp32Island:
        """Return the block as an entry of a recipe."""
        return Fp32Island(self.graph, self.nodes, reason)

    def others(self) -> Fp32Island:
        """Return everything else in the graph as an entry of a recipe."""
        return Fp32Island(self.graph, f"(?!{self.nodes})", "another block is measured")


def blocks(
    model: ModelProto, graph: str, kept: Iterable[Fp32Island] = (), activation: str | None = None
) -> list[Block]:
    """Return the blocks of a graph in its order without the layers `kept`, or only those that read an activation."""
    stays = island_nodes(model.graph, kept)
    members: dict[str, list[str]] = {}
    for layer in layers(model):
        if layer.node not in stays:
            members.setdefault(_nodes(layer.node, graph), []).append(layer.activation)
    return [
        Block(graph, nodes, len(read)) for nodes, read in members.items() if activation is None or activation in read
    ]


def _nodes(name: str, graph: str) -> str:
    for pattern in _PATTERNS.get(graph, ()):
        if match := re.match(pattern, name):
            return pattern.replace(r"(\d+)", match[1]) if match.groups() else pattern
    module = re.match(r"/[^/]+/?", name)
    return re.escape(module[0]) if module else re.escape(name)
