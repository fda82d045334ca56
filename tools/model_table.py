"""Print the table of docs/how-to/choosing.md: what a frame costs in the models that fit small boards.

`python -m tools.model_table FOLDER`. The models have random weights, which do not change what is counted; each is
exported at its full size into the folder, unless it is there already: half an hour, 6 GiB.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sam2edge import Bundle
from sam2edge.engines.estimate.devices import DEVICES
from sam2edge.engines.estimate.roofline import graph_bounds
from sam2edge.export import export
from sam2edge.export.source import load_source
from tests.models import write_edgetam, write_random
from tests.unit.export.efficienttam_layout import write_checkpoint

BOARDS = ("orin-nano", "orin-nx", "agx-orin", "thor")


def tiny(folder: Path) -> Path:
    return write_random(folder / "tiny", 1024)


def edgetam(folder: Path) -> Path:
    return write_edgetam(folder / "edgetam", 1024)


MODELS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "SAM 2.1 tiny": (tiny, {}),
    "`--memory-pool 2`": (tiny, {"memory_pool": 2}),
    "`--image-size 512`": (tiny, {"image_size": 512}),
    "EdgeTAM": (edgetam, {}),
    "EfficientTAM-Ti": (lambda folder: write_checkpoint(folder, "ti"), {}),
    "EfficientTAM-Ti/2": (lambda folder: write_checkpoint(folder, "ti_2"), {}),
    "EfficientTAM-Ti 512×512": (lambda folder: write_checkpoint(folder, "ti_512x512"), {}),
}
"""For each row, what writes a checkpoint, and how it is exported."""


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    titles = ("model", "parameters", "memory tokens", "GFLOP", "attention", *(DEVICES[name].title for name in BOARDS))
    print(f"| {' | '.join(titles)} |")
    print("|---" * (5 + len(BOARDS)) + "|")
    for number, (name, (write, options)) in enumerate(MODELS.items()):
        out = folder / f"{number}.bundle"
        checkpoint = write(folder)
        if not out.exists():
            export(checkpoint, out, **options)
        bundle = Bundle.open(out)
        weights = sum(parameter.numel() for parameter in load_source(checkpoint).model.parameters())
        bounds = graph_bounds(bundle, DEVICES[BOARDS[0]], 1)
        frame = functools.reduce(operator.add, bounds.values())
        cells = [name, f"{weights / 1e6:.1f} M", f"{bundle.model.memory_tokens}"]
        cells += [f"{bound.flops / 1e9:.1f}" for bound in (frame, bounds["memory_attention"])]
        for board in BOARDS:
            one = functools.reduce(operator.add, graph_bounds(bundle, DEVICES[board], 1).values())
            cells.append(f"{1e3 * one.fp16:.1f}")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
