"""`sam2edge verify`."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sam2edge.commands.console import StatusLine, print_table
from sam2edge.commands.prompts import add_prompts, prompts_by_id
from sam2edge.errors import InputError
from sam2edge.runtime import BACKENDS

if TYPE_CHECKING:
    from sam2edge.bundle import Bundle
    from sam2edge.calibration.measure.clip import Clip
    from sam2edge.calibration.measure.comparison import Configuration
    from sam2edge.calibration.measure.targets import Prompts
    from sam2edge.calibration.measure.truth import TrueMasks

_FAILED = 1


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Track a clip with PyTorch, the bundle, its engines and others made from it, and compare each with the first: "
        "error of every graph, IoU in closed loop, J&F, time and size. Without prompts the true masks of the first "
        "frame are followed, or else what the bundle finds by itself. Exit code 1 if the gate fails (docs/accuracy.md)."
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="directory that `sam2edge export` wrote")
    parser.add_argument(
        "--clip", metavar="CLIP", required=True, help="a video, or a folder or 'pattern' of images; prompted on frame 0"
    )
    parser.add_argument("--against", metavar="SOURCE", help="the checkpoint it was exported from: PyTorch comes first")
    parser.add_argument(
        "--candidate", type=Path, metavar="BUNDLE", action="append", default=[], help="another bundle; may be repeated"
    )
    parser.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="true masks, for J&F: a folder of PNGs whose pixels are object ids, the root of a DAVIS data set, or .npz",
    )
    add_prompts(parser)
    parser.add_argument("--frames", type=int, metavar="N", help="only the first N frames (default: all)")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write report.json and report.html with pictures")
    parser.add_argument("--min-iou", type=float, default=0.97, metavar="IOU", help="lowest mean IoU (default: 0.97)")
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="default: auto")
    parser.set_defaults(verb=_verify)


def _verify(args: argparse.Namespace) -> int:
    from sam2edge.bundle import Bundle
    from sam2edge.calibration.measure.clip import Clip
    from sam2edge.calibration.measure.comparison import compare_all
    from sam2edge.calibration.measure.gate import Gate
    from sam2edge.calibration.measure.report import table, write_report
    from sam2edge.calibration.measure.truth import TrueMasks

    gate, clip = Gate(min_mean_iou=args.min_iou), Clip(args.clip, args.frames)
    bundle = Bundle.open(args.bundle)
    truth = TrueMasks(args.masks, args.clip) if args.masks else None
    rungs, missing = _rungs(bundle, args)
    if truth is None:
        if len(rungs) == 1:
            raise InputError(f"nothing to compare {args.bundle} with: {'; '.join(missing)}; or give --masks")
        missing.append("J&F (give --masks)")
    status = StatusLine()
    try:
        rows = compare_all(rungs, clip, _prompts(bundle, clip, truth, args), gate, truth, progress=status.show)
    finally:
        status.clear()
    print_table(table(rows))
    missing += [
        f"single graphs of {row.rung.name} (another model than {rows[0].rung.name}'s)"
        for row in rows[1:]
        if row.errors is None
    ]
    if missing:
        print(f"not measured: {'; '.join(missing)}")
    if args.report:
        print("wrote " + ", ".join(map(str, write_report(args.report, clip, gate, rows))))
    failed = [(row.rung.name, row.verdict) for row in rows if row.verdict and not row.verdict.passed]
    for name, verdict in failed:
        hint = f"; {verdict.sensitive} differs most" if verdict.sensitive else ""
        print(f"{name}: {'; '.join(verdict.failures)}{hint}")
    return _FAILED if failed else 0


def _rungs(bundle: Bundle, args: argparse.Namespace) -> tuple[list[Configuration], list[str]]:
    """What can be measured here, the reference first, and what cannot, with the reason."""
    from sam2edge.bundle import Bundle
    from sam2edge.calibration.measure.comparison import Configuration, int8_graphs

    rungs, missing = [], []
    absent = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if args.against is None:
        missing.append("PyTorch (give --against SOURCE)")
    elif absent:
        missing.append(f'PyTorch ({absent[0]} is not installed: pip install "sam2edge[export]")')
    else:
        from sam2edge.export.reference import TorchBackend

        rungs.append(Configuration("PyTorch", bundle, TorchBackend(bundle, args.against)))
    bundles = [bundle, *map(Bundle.open, args.candidate)]
    for one in bundles:
        graphs = one.manifest.graphs.values()
        precisions = "/".join(dict.fromkeys(graph.precision for graph in graphs))
        name = one.path.name if [other.path.name for other in bundles].count(one.path.name) == 1 else one.path
        size = sum(graph.bytes for graph in graphs)
        rungs.append(Configuration(f"{name} {precisions}", one, args.backend, size, int8_graphs(one.manifest.graphs)))
        for found in _engines(one):
            if isinstance(found, str):
                missing.append(found)
            else:
                rungs.append(dataclasses.replace(found, name=f"{name} {found.name}"))
    if importlib.util.find_spec("onnx") is None and any(rung.int8 for rung in rungs):
        missing.append("ranges of INT8 graphs (onnx is not installed: pip install onnx)")
        rungs = [dataclasses.replace(rung, int8=()) for rung in rungs]
    if not args.candidate:
        missing.append("other precisions (give their bundles as --candidate)")
    return rungs, missing


def _engines(bundle: Bundle) -> Iterator[Configuration | str]:
    """The engines that were built of a bundle; why they cannot be measured, for those that do not run here."""
    from sam2edge.bundle.engines import engine_directories, read_manifest
    from sam2edge.calibration.measure.comparison import Configuration, int8_graphs
    from sam2edge.errors import BackendError, EngineError
    from sam2edge.runtime.backends.tensorrt import TensorRTBackend

    for directory in engine_directories(bundle.path):
        try:
            backend = TensorRTBackend(directory)
            backend.open(bundle.graph_path("mask_decoder"))
            engines = read_manifest(directory, bundle).engines
            size = sum(engine.bytes for engine in engines.values())
            yield Configuration(f"{directory.name} engines", bundle, backend, size, int8_graphs(engines))
        except (BackendError, EngineError) as error:
            yield f"{directory} ({error})"


def _prompts(bundle: Bundle, clip: Clip, truth: TrueMasks | None, args: argparse.Namespace) -> Prompts:
    from sam2edge.calibration.measure.targets import automatic_prompts, prompts_from_truth

    if args.prompts:
        return prompts_by_id(args.prompts)
    if truth is not None:
        return prompts_from_truth(truth)
    return automatic_prompts(bundle, clip.first(), args.backend)
