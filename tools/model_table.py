"""Print the numbers of the second table in docs/how-to/choosing.md: what a frame costs in models for small boards.

`python -m tools.model_table FOLDER`. The models have random weights, which do not change what is counted; each is
exported at its full size into the folder, unless it is there already: ten minutes on a busy machine.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sam2edge import Bundle
from sam2edge.engines.estimate.devices import DEVICES
from sam2edge.engines.estimate.roofline import graph_bounds
from sam2edge.export import export
from tests.models import write_model

BOARDS = ("orin-nano", "orin-nx", "agx-orin", "thor")
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "SAM 2.1 tiny": ("tiny", {}),
    "tiny, `--memory-pool 2`": ("tiny", {"memory_pool": 2}),
    "tiny, `--image-size 512`": ("tiny", {"image_size": 512}),
    "EdgeTAM": ("edgetam", {}),
    "EfficientTAM-Ti": ("efficienttam-ti", {}),
    "EfficientTAM-Ti/2": ("efficienttam-ti_2", {}),
    "EfficientTAM-Ti 512×512": ("efficienttam-ti_512x512", {}),
}
"""For each row, the name of the model in tests/models.py, and how it is exported."""


def main(folder: Path) -> None:
    print(f"| model | GFLOP | {' | '.join(DEVICES[board].title for board in BOARDS)} |")
    print("|---" * (2 + len(BOARDS)) + "|")
    for number, (title, (name, options)) in enumerate(MODELS.items()):
        out = folder / f"{number}.bundle"
        if not out.exists():
            export(write_model(name, 1024, folder / f"{number}.model"), out, **options)
        frames = [list(graph_bounds(Bundle.open(out), DEVICES[board], 1).values()) for board in BOARDS]
        cells = [title, f"{sum(bound.flops for bound in frames[0]) / 1e9:.0f}"]
        cells += [f"{1e3 * sum(bound.fp16 for bound in frame):.1f}" for frame in frames]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
