"""`sam2edge inspect`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sam2edge.commands.console import print_table

if TYPE_CHECKING:
    from sam2edge.bundle import Bundle


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = "Verify a bundle and print what its manifest says."
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.set_defaults(verb=_inspect)


def _inspect(args: argparse.Namespace) -> int:
    from sam2edge.bundle import Bundle

    bundle = Bundle.open(args.bundle)
    source, model = bundle.manifest.source, bundle.model
    numbers = {
        "source": f"{source.name}, SAM {source.version} {source.size}",
        "sha256": source.sha256,
        "image size": model.image_size,
        "dimensions": f"{model.hidden_dim}, memory {model.memory_dim}",
        "memory": f"{model.memory_frames} frames, {model.max_pointers} pointers"
        + (f", pooled {model.memory_pool}×{model.memory_pool}" if model.memory_pool > 1 else ""),
        "multimask": f"{model.multimask_min_points} to {model.multimask_max_points} points"
        + (", tracking" if model.multimask_for_tracking else ""),
    }
    print_table([(name, str(value)) for name, value in numbers.items()])
    graphs = bundle.manifest.graphs
    print()
    print_table(
        [("graph", "file", "MiB", "precision")]
        + [(name, graph.file, f"{graph.bytes / 2**20:.1f}", graph.precision) for name, graph in graphs.items()]
    )
    for name, graph in graphs.items():
        print(f"\n{name}")
        specs = [("in", spec) for spec in graph.inputs] + [("out", spec) for spec in graph.outputs]
        print_table([("", side, spec.name, spec.dtype, _shape(spec.shape)) for side, spec in specs])
    print()
    print_parity(bundle)
    return 0


def _shape(shape: tuple[int | str, ...]) -> str:
    return " × ".join(map(str, shape))


def print_parity(bundle: Bundle) -> None:
    if calibration := bundle.manifest.calibration:
        clips = ", ".join(calibration.clips)
        print(f"INT8 by the ranges of {calibration.frames} frames of {clips}; not compared with PyTorch")
        for clip, iou in calibration.iou.items():
            print(f"mean IoU with FP32 on {clip}: {iou:.4f}")
        return
    print(f"difference from PyTorch on: {bundle.manifest.parity_frames}")
    print_table(
        [("graph", "output", "max error", "relative error")]
        + [
            (name, output, f"{parity.max_error:.1e}", f"{parity.relative_error:.1e}")
            for name, graph in bundle.manifest.graphs.items()
            for output, parity in graph.parity.items()
        ]
    )
