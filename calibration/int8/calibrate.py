"""An FP32 bundle and clips → an INT8 bundle, whose ranges come from tracking the clips, and which passed the gate."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from sam2edge import bundle as bundles, checks
from sam2edge.bundle import GRAPHS, RECIPE, Bundle, Calibration, Graph
from sam2edge.calibration.int8 import range_cache
from sam2edge.calibration.int8.activations import Statistics, collect, load_graph
from sam2edge.calibration.int8.exclude import settle
from sam2edge.calibration.int8.histogram import METHODS, Histogram
from sam2edge.calibration.int8.recipe import Recipe
from sam2edge.calibration.int8.sensitivity import Effect, sensitivity
from sam2edge.calibration.int8.write import Ranges, write_graphs
from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.comparison import RECORDED_FRAMES, Comparison, Configuration
from sam2edge.calibration.measure.gate import DEFAULT_GATE, Gate
from sam2edge.calibration.measure.report import report_directory
from sam2edge.calibration.measure.targets import Prompts, automatic_prompts
from sam2edge.engines.fp16 import island_nodes
from sam2edge.errors import InputError
from sam2edge.files import cache_directory, sha256
from sam2edge.types import Progress


def calibrate(
    bundle: Bundle | str | os.PathLike[str],
    out: str | os.PathLike[str],
    clips: Sequence[str | os.PathLike[str]],
    prompts: Sequence[Prompts | None] | None = None,
    *,
    frames: int = 64,
    recipe: Recipe | None = None,
    gate: Gate | None = DEFAULT_GATE,
    cache: Path | None = None,
    progress: Progress = lambda message, fraction: None,
) -> Bundle:
    """Write the INT8 bundle `out`.

    clips: video files, folders or patterns of images. All of their frames are tracked, on ONNX Runtime's CPU provider.
    prompts: for each clip the prompts of its first frame by object id; None: boxes around
    what the bundle finds there by itself. frames: how many are recorded of all clips together, as many of each, evenly
    spread from its first to its last, and its second one besides. recipe: the default one if None. gate: what INT8 must
    pass on every clip, compared with `bundle` in closed loop; blocks that it fails by are kept out of INT8,
    and reports are written into OUT.report. None: nothing is measured. cache: directory for what the clips showed.
    progress: called with a message and the fraction done.

    Raises InputError for arguments, BundleError for the bundle or when something else lies at `out`, MediaError for a
    clip, PromptError, BuildError for a recipe of another graph, and GateError if the gate fails all the same. An older
    bundle at `out` stays until the end.
    """
    source, given, recipe = _checked(bundle, clips, prompts, frames, recipe)
    if Path(out).resolve() == source.path.resolve():
        raise InputError(f"{out}: is the bundle that is calibrated; write to another directory")
    with bundles.replacing(Path(out)) as directory:
        statistics, recorded, hashes = _collect(source, clips, given, frames, cache, progress)
        ranges, iou = _ranges(statistics, recipe), dict[str, float]()
        if gate is None:
            write_graphs(source, directory, ranges, recipe, lambda message: progress(message, 1.0))
        else:
            ladders = [
                # the graphs are compared one by one on the first clip only, whose inputs are held in memory
                _ladder(source, path, one, gate, () if number else RECORDED_FRAMES, progress)
                for number, (path, one) in enumerate(zip(clips, given, strict=True))
            ]
            report = report_directory(out)
            recipe, iou = settle(
                source, directory, ranges, recipe, ladders, report, lambda message: progress(message, 1.0)
            )
        recipe.write(file := directory / RECIPE)
        origin = {name: graph.sha256 for name, graph in source.manifest.graphs.items()}
        calibration = Calibration(RECIPE, sha256(file), file.stat().st_size, recorded, hashes, origin, iou)
        graphs = {name: _described(graph, directory / graph.file) for name, graph in source.manifest.graphs.items()}
        manifest = dataclasses.replace(source.manifest, graphs=graphs, parity_frames="", calibration=calibration)
        bundles.write_manifest(directory, manifest)
    return Bundle.open(out)


def calibrated_sensitivity(
    bundle: Bundle | str | os.PathLike[str],
    clips: Sequence[str | os.PathLike[str]],
    prompts: Sequence[Prompts | None] | None = None,
    *,
    frames: int = 64,
    recipe: Recipe | None = None,
    cache: Path | None = None,
    progress: Progress = lambda message, fraction: None,
) -> list[Effect]:
    """What each block does in INT8 alone (sensitivity.py), with the ranges that `calibrate` takes, on the first clip.

    Arguments and errors as of calibrate; what the clips showed is kept for it in the cache.
    """
    source, given, recipe = _checked(bundle, clips, prompts, frames, recipe)
    statistics, _, _ = _collect(source, clips, given, frames, cache, progress)
    clip = Clip(clips[0])
    found = _prompts(source, clip, given[0])
    return sensitivity(source, _ranges(statistics, recipe), recipe, clip, found, progress)


def spread(length: int, count: int) -> list[int]:
    """At most `count` frame numbers below `length`, evenly from the first to the last."""
    return [int(number) for number in np.unique(np.linspace(0, length - 1, count).round())]


def _checked(
    bundle: Bundle | str | os.PathLike[str],
    clips: Sequence[object],
    prompts: Sequence[Prompts | None] | None,
    frames: int,
    recipe: Recipe | None,
) -> tuple[Bundle, list[Prompts | None], Recipe]:
    """The bundle, prompts or None for each clip, and the recipe; all that can be checked before an hour's tracking."""
    source = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    checks.integer("frames", frames, 2)
    given: list[Prompts | None] = list(prompts) if prompts is not None else [None] * len(clips)
    if not clips:
        raise InputError("there are no clips to calibrate on; give at least one")
    if len(given) != len(clips):
        raise InputError(f"prompts must be one for each of {len(clips)} clips but are {len(given)}")
    wrong = [
        f"{name} is {graph.precision}" for name, graph in source.manifest.graphs.items() if graph.precision != "fp32"
    ]
    if wrong:
        raise InputError(f"{source.path}: {wrong[0]}, but only fp32 graphs can be calibrated; give the exported bundle")
    recipe = recipe or Recipe()
    for name in GRAPHS:  # for what it raises
        island_nodes(load_graph(source.graph_path(name)).graph, recipe.of(name))
    return source, given, recipe


def _prompts(source: Bundle, clip: Clip, given: Prompts | None) -> Prompts:
    return automatic_prompts(source, clip.first()) if given is None else given


def _ladder(
    source: Bundle,
    path: str | os.PathLike[str],
    given: Prompts | None,
    gate: Gate,
    record: Iterable[int],
    progress: Progress,
) -> Comparison:
    """A clip tracked with FP32, ready for INT8."""
    clip, size = Clip(path), sum(graph.bytes for graph in source.manifest.graphs.values())
    rung = Configuration("FP32", source, "onnx", size)
    prompts = _prompts(source, clip, given)
    return Comparison(rung, clip, prompts, gate, record=record, progress=lambda message: progress(message, 1.0))


def _ranges(statistics: Statistics, recipe: Recipe) -> Ranges:
    return {
        name: {tensor: METHODS[recipe.method](histogram) for tensor, histogram in found.items()}
        for name, found in statistics.items()
    }


def _read(clip: Clip) -> tuple[int, str]:
    """How many frames a clip has, and the sha256 of its pixels. InputError for a single frame."""
    length, digest = 0, hashlib.sha256()
    for frame in clip:
        digest.update(f"{frame.shape}".encode())
        digest.update(frame.tobytes())
        length += 1
    if length < 2:
        raise InputError(f"{clip.name}: a clip needs two frames or more, since memory is read from the second on")
    return length, digest.hexdigest()


def _collect(
    source: Bundle,
    clips: Sequence[str | os.PathLike[str]],
    prompts: Sequence[Prompts | None],
    frames: int,
    cache: Path | None,
    progress: Progress,
) -> tuple[Statistics, int, dict[str, str]]:
    """What all clips showed, how many frames were recorded, and the hash of each clip by its name."""
    directory = cache or cache_directory() / "calibration"
    range_cache.prepare(directory)
    statistics: Statistics = {name: {} for name in GRAPHS}
    hashes: dict[str, str] = {}
    recorded = 0
    for number, (path, prompted) in enumerate(zip(clips, prompts, strict=True)):
        clip, begin = Clip(path), number / len(clips)
        progress(f"reading {clip.name}", begin)
        length, hashes[clip.name] = _read(clip)
        record = spread(length, max(2, frames // len(clips)))
        recorded += len(record)

        def count(done: int, clip: Clip = clip, length: int = length, begin: float = begin) -> None:
            progress(f"tracked {done}/{length} frames of {clip.name}", begin + done / length / len(clips))

        file = directory / f"{range_cache.key(source, hashes[clip.name], record, prompted)}.npz"
        found = range_cache.read(file)
        if found is None:
            # with frame 1 too, since the memories of prompts are encoded when it comes
            found = collect(source, clip, _prompts(source, clip, prompted), frozenset({1, *record}), count)
            range_cache.write(file, found)
        _merge(statistics, found)
    return statistics, recorded, hashes


def _merge(statistics: Statistics, found: Statistics) -> None:
    for graph, histograms in found.items():
        for name, histogram in histograms.items():
            statistics[graph].setdefault(name, Histogram()).merge(histogram)


def _described(graph: Graph, file: Path) -> Graph:
    """Of an INT8 graph. The parity of the FP32 graph does not hold for it, and none was measured."""
    return dataclasses.replace(graph, sha256=sha256(file), bytes=file.stat().st_size, precision="int8", parity={})
