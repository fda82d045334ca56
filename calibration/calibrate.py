"""An FP32 bundle and clips → an INT8 bundle, whose ranges come from tracking the clips."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx

from sam2edge import bundle as bundles
from sam2edge.bundle import GRAPHS, RECIPE, Bundle, Calibration, Graph
from sam2edge.calibration import range_cache
from sam2edge.calibration.clip import Clip
from sam2edge.calibration.collect import Statistics, collect, load_graph
from sam2edge.calibration.histogram import METHODS, Histogram
from sam2edge.calibration.prompts import Prompts, automatic_prompts
from sam2edge.calibration.quantize import quantize
from sam2edge.calibration.recipe import Recipe
from sam2edge.engines.half import island_nodes
from sam2edge.errors import InputError
from sam2edge.runtime import arguments

Progress = Callable[[str, float], None]


def calibrate(
    bundle: Bundle | str | os.PathLike[str],
    out: str | os.PathLike[str],
    clips: Sequence[str | os.PathLike[str]],
    prompts: Sequence[Prompts | None] | None = None,
    *,
    frames: int = 64,
    recipe: Recipe | None = None,
    cache: Path | None = None,
    progress: Progress = lambda message, fraction: None,
) -> Bundle:
    """Write the INT8 bundle `out`.

    clips: video files, folders or patterns of images. All of their frames are tracked, on ONNX Runtime's CPU provider.
    prompts: for each clip the arguments of VideoTracker.prompt by object id, for its first frame; None: boxes around
    what the bundle finds there by itself. frames: how many are recorded, the same number in each clip, evenly spread
    from its first to its last. recipe: the default one if None. cache: directory for what the clips showed. progress:
    called with a message and the fraction done.

    Raises InputError for arguments, BundleError for the bundle or when something else lies at `out`, MediaError for a
    clip, PromptError, and BuildError for a recipe of another graph. An older bundle at `out` stays until the end.
    """
    source = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    frames = arguments.integer("frames", frames, 2)
    given = [None] * len(clips) if prompts is None else list(prompts)
    _check(source, Path(out), clips, given)
    recipe, cache = recipe or Recipe(), cache or range_cache.default_directory()
    for name in GRAPHS:
        island_nodes(load_graph(source.graph_path(name)).graph, recipe.of(name))  # now, not after an hour's tracking
    with bundles.replacing(Path(out)) as directory:
        statistics, recorded, hashes = _collect(source, clips, given, frames, cache, progress)
        _write(source, directory, recipe, statistics, progress)
        file = directory / RECIPE
        origin = {name: graph.sha256 for name, graph in source.manifest.graphs.items()}
        calibration = Calibration(RECIPE, bundles.sha256(file), file.stat().st_size, recorded, hashes, origin)
        graphs = {name: _described(graph, directory / graph.file) for name, graph in source.manifest.graphs.items()}
        manifest = dataclasses.replace(source.manifest, graphs=graphs, parity_frames="", calibration=calibration)
        bundles.write_manifest(directory, manifest)
    return Bundle.open(out)


def spread(length: int, count: int) -> list[int]:
    """At most `count` frame numbers below `length`, evenly from the first to the last."""
    return [int(number) for number in np.unique(np.linspace(0, length - 1, count).round())]


def _check(source: Bundle, out: Path, clips: Sequence[object], prompts: Sequence[object]) -> None:
    if not clips:
        raise InputError("there are no clips to calibrate on; give at least one")
    if len(prompts) != len(clips):
        raise InputError(f"prompts must be one for each of {len(clips)} clips but are {len(prompts)}")
    wrong = [
        f"{name} is {graph.precision}" for name, graph in source.manifest.graphs.items() if graph.precision != "fp32"
    ]
    if wrong:
        raise InputError(f"{source.path}: {wrong[0]}, but only fp32 graphs can be calibrated; give the exported bundle")
    if out.resolve() == source.path.resolve():
        raise InputError(f"{out}: is the bundle that is calibrated; write to another directory")


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
    cache: Path,
    progress: Progress,
) -> tuple[Statistics, int, dict[str, str]]:
    """What all clips showed, how many frames were recorded, and the hash of each clip by its name."""
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

        file = cache / f"{range_cache.key(source, hashes[clip.name], record, prompted)}.npz"
        found = range_cache.read(file)
        if found is None:
            used = automatic_prompts(source, clip.first()) if prompted is None else prompted
            found = collect(source, clip, used, frozenset(record), count)
            range_cache.write(file, found)
        _merge(statistics, found)
    return statistics, recorded, hashes


def _merge(statistics: Statistics, found: Statistics) -> None:
    for graph, histograms in found.items():
        for name, histogram in histograms.items():
            statistics[graph].setdefault(name, Histogram()).merge(histogram)


def _write(source: Bundle, directory: Path, recipe: Recipe, statistics: Statistics, progress: Progress) -> None:
    for name, graph in source.manifest.graphs.items():
        progress(f"quantising {name}", 1.0)
        ranges = {tensor: METHODS[recipe.method](histogram) for tensor, histogram in statistics[name].items()}
        quantised = quantize(load_graph(source.graph_path(name)), name, ranges, recipe.of(name))
        onnx.save(quantised, str(directory / graph.file))
    recipe.write(directory / RECIPE)


def _described(graph: Graph, file: Path) -> Graph:
    """Of an INT8 graph. The parity of the FP32 graph does not hold for it, and none was measured."""
    return dataclasses.replace(
        graph, sha256=bundles.sha256(file), bytes=file.stat().st_size, precision="int8", parity={}
    )
