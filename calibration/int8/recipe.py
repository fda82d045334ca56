"""Which layers of which graph stay out of INT8, and how ranges are chosen: a small JSON file to edit and use again."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sam2edge.bundle import GRAPHS
from sam2edge.calibration.int8.histogram import METHODS
from sam2edge.engines.fp16 import Fp32Island
from sam2edge.errors import InputError

METHOD = "minmax"
KEPT = (
    Fp32Island(
        "image_encoder", r"/patches/", "reads pixels; in INT8 the layer that changes outputs most, and a small one"
    ),
    Fp32Island("mask_decoder", r"/prompts/", "positions of points, in pixels"),
    Fp32Island(
        "memory_attention",
        r"/pointer_code/",
        "ages of pointers, which grow beyond those of any clip",
        optional=True,  # SAM 2.0 has no temporal codes of pointers
    ),
    Fp32Island(
        "mask_decoder", r"/mask_embed/", "reads a mask or earlier logits, which a clip tracked from boxes never shows"
    ),
    Fp32Island("mask_decoder", r"/(iou|score)_head/", "few weights; their outputs are compared with thresholds"),
)
"""Layers that stay as they are by default."""


@dataclass(frozen=True)
class Recipe:
    """How a bundle becomes INT8.

    method: "minmax", "percentile" or "entropy". kept: layers whose name matches stay in floating point.
    """

    method: str = METHOD
    kept: tuple[Fp32Island, ...] = KEPT

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"unknown method {self.method!r}; choose from {', '.join(METHODS)}")
        for island in self.kept:
            if island.graph not in GRAPHS:
                raise InputError(f"recipe: no graph is called {island.graph!r}; choose from {', '.join(GRAPHS)}")

    def of(self, graph: str) -> tuple[Fp32Island, ...]:
        """What stays in a graph."""
        return tuple(island for island in self.kept if island.graph == graph)

    def write(self, file: Path) -> None:
        """Write the recipe as JSON."""
        file.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Recipe:
        """Read what `write` wrote, or a person. InputError says what is wrong with it."""
        file = Path(path)
        try:
            data = json.loads(file.read_bytes())
            return Recipe(str(data["method"]), tuple(_island(entry) for entry in data["kept"]))
        except OSError as error:
            raise InputError(f"{file}: cannot be read: {error.strerror}") from error
        except (KeyError, TypeError, ValueError, RecursionError, re.error) as error:
            raise InputError(
                f"{file}: no recipe ({error}); it must be "
                '{"method": …, "kept": [{"graph": …, "nodes": regular expression, "reason": …, "optional": false}]}'
            ) from error


def _island(entry: dict[str, Any]) -> Fp32Island:
    island = Fp32Island(**entry)
    re.compile(island.nodes)
    return island
