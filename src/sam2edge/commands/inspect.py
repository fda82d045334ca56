"""`sam2edge inspect`."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sam2edge.commands.console import print_table
from sam2edge.commands.options import add_bundle, refuse_ignored

if TYPE_CHECKING:
    from sam2edge.bundle import Bundle, Graph


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Verify a bundle and print what its manifest says, and those of engines built from it; with --device, print "
        "instead the least time that a frame can take on a board or card."
    )
    add_bundle(parser)
    parser.add_argument("--device", metavar="NAME", help="orin-nx, rtx-4090, …; an unknown name lists all")
    parser.add_argument("--objects", type=int, metavar="N", help="with --device: tracked objects (default: 1)")
    parser.add_argument(
        "--parts", type=int, metavar="N", help="with --device: also the N most expensive parts (default: 0)"
    )
    parser.set_defaults(verb=_inspect)


def _inspect(args: argparse.Namespace) -> int:
    if args.device is None:
        refuse_ignored(args, "objects", "parts", without="--device")
    from sam2edge.bundle import Bundle

    bundle = Bundle.open(args.bundle)
    if args.device is not None:
        return _print_floor(bundle, args)
    source, model = bundle.manifest.source, bundle.model
    numbers = {
        "source": f"{source.name}, {source.title}",
        "sha256": source.sha256,
        "image size": model.image_size,
        "dimensions": f"{model.hidden_dim}, memory {model.memory_dim}",
        "memory": f"{model.memory_frames} frames, {model.max_pointers} pointers"
        + (f", pooled {model.memory_pool}×{model.memory_pool}" if model.memory_pool > 1 else "")
        + (f", {model.memory_latents} latents each" if model.memory_latents else ""),
        "multimask": f"{model.multimask_min_points} to {model.multimask_max_points} points"
        + (", tracking" if model.multimask_for_tracking else ""),
    }
    print_table([(name, str(value)) for name, value in numbers.items()])
    _print_graphs(bundle.manifest.graphs)
    print()
    print_parity(bundle)
    if bundle.words:
        _print_graphs(bundle.words.manifest.graphs)
        print_words(bundle)
    _print_engines(bundle)
    return 0


def _print_graphs(graphs: Mapping[str, Graph]) -> None:
    print()
    print_table(
        [("graph", "file", "MiB", "precision")]
        + [(name, graph.file, f"{graph.bytes / 2**20:.1f}", graph.precision) for name, graph in graphs.items()]
    )
    for name, graph in graphs.items():
        print(f"\n{name}")
        specs = [("in", spec) for spec in graph.inputs] + [("out", spec) for spec in graph.outputs]
        print_table([("", side, spec.name, spec.dtype, " × ".join(map(str, spec.shape))) for side, spec in specs])


def _print_floor(bundle: Bundle, args: argparse.Namespace) -> int:
    from sam2edge.bundle.words import DETECTOR
    from sam2edge.checks import integer
    from sam2edge.engines.estimate.devices import find_device
    from sam2edge.errors import BackendError

    device = find_device(args.device)
    objects = 1 if args.objects is None else integer("--objects", args.objects, 1)
    part_count = 0 if args.parts is None else integer("--parts", args.parts, 0)
    if importlib.util.find_spec("onnx") is None:
        raise BackendError("--device reads the graphs with onnx, which is not installed: pip install onnx")
    from sam2edge.engines.estimate.roofline import graph_bounds, parts

    bounds = graph_bounds(bundle, device, objects)
    origin = f"{device.source} ({device.note})" if device.note else device.source
    counted = "1 object" if objects == 1 else f"{objects} objects"
    detector = bounds.pop(DETECTOR, None)
    frame = functools.reduce(operator.add, bounds.values())
    rows = [*bounds.items(), ("frame", frame), *([("word detector", detector)] if detector else [])]
    print(
        f"{device.title}: {device.fp16:g} TFLOP/s FP16 and {device.int8:g} TOPS INT8, dense; "
        f"{device.bandwidth:g} GB/s, {device.memory} GB\n{origin}\n\n"
        f"A bound, not a measurement: no frame with {counted} and a full memory bank\n"
        "is faster, unless a cache keeps weights from frame to frame; most are several times slower."
    )
    print_table(
        [("", "GFLOP", "MB", "FP16 floor ms", "INT8 floor ms", "as written: MB", "ms")]
        + [
            (
                name,
                f"{bound.flops / 1e9:.2f}",
                f"{bound.least / 1e6:.1f}",
                f"{1e3 * bound.fp16:.3f}",
                f"{1e3 * bound.int8:.3f}",
                f"{bound.moved / 1e6:.1f}",
                f"{1e3 * bound.written:.3f}",
            )
            for name, bound in rows
        ]
    )
    print(f"at most {1 / frame.fp16:.0f} frames a second in FP16, {1 / frame.int8:.0f} in INT8")
    if detector:
        print("the word detector runs on few frames, and is not part of these numbers")
    if part_count:
        print()
        slowest = parts(bundle, device, objects, part_count)
        print_table(
            [("graph", "part", "GFLOP", "MB", "as written ms")]
            + [(*names, f"{f / 1e9:.2f}", f"{b / 1e6:.1f}", f"{1e3 * s:.3f}") for *names, f, b, s in slowest]
        )
    return 0


def _print_engines(bundle: Bundle) -> None:
    from sam2edge.bundle.engines import RTX, TENSORRT, engine_directories, read_manifest
    from sam2edge.errors import DamagedEngineError

    for directory in (found for product in (TENSORRT, RTX) for found in engine_directories(bundle.path, product)):
        try:
            manifest = read_manifest(directory, bundle)
        except DamagedEngineError as error:
            print(f"\n{error}")
            continue
        print(f"\n{manifest.precision} engines in {directory}\nfor {manifest.target}")
        print_table(
            [("engine", "MiB", "activations MiB", "precision")]
            + [
                (name, f"{engine.bytes / 2**20:.1f}", f"{engine.activation_bytes / 2**20:.1f}", engine.precision)
                for name, engine in manifest.engines.items()
            ]
        )


def print_parity(bundle: Bundle) -> None:
    if calibration := bundle.manifest.calibration:
        clips = ", ".join(calibration.clips)
        print(f"INT8 with ranges from {calibration.frames} frames of {clips}; not compared with PyTorch")
        for clip, iou in calibration.iou.items():
            print(f"mean IoU with FP32 on {clip}: {iou:.4f}")
        return
    _print_errors(bundle.manifest.parity_frames, bundle.manifest.graphs)


def print_words(bundle: Bundle) -> None:
    """Print what the word detector of a bundle is and how far it is from PyTorch; nothing without one."""
    if bundle.words is None:
        return
    manifest, model = bundle.words.manifest, bundle.words.model
    source, side = manifest.source, model.image_size
    numbers = {
        "word detector": f"{source.name}, {source.title}",
        "sha256": source.sha256,
        "licence": manifest.licence or "not stated",
        "images": f"{'padded' if model.letterbox else 'stretched'} to {side}×{side}",
        "boxes": f"{model.boxes}, one for each {model.patch}×{model.patch}",
        "queries": f"{model.dim} numbers; texts of at most {model.context} tokens",
    }
    print()
    print_table(list(numbers.items()))
    _print_errors(manifest.parity_frames, manifest.graphs)


def _print_errors(frames: str, graphs: Mapping[str, Graph]) -> None:
    print(f"difference from PyTorch on: {frames}")
    print_table(
        [("graph", "output", "max error", "relative error")]
        + [
            (name, output, f"{parity.max_error:.1e}", f"{parity.relative_error:.1e}")
            for name, graph in graphs.items()
            for output, parity in graph.parity.items()
        ]
    )
