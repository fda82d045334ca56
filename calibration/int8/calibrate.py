"""From an FP32 bundle and clips to an INT8 bundle that passed the gate, with ranges from tracking the clips."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx

from sam2edge import bundle as bundles, checks
from sam2edge.bundle import GRAPHS, RECIPE, Bundle, Calibration
from sam2edge.bundle.words import DETECTOR, carry_words
from sam2edge.calibration.int8.detector import WordSearch, calibrate_detector
from sam2edge.calibration.int8.quantize import quantize
from sam2edge.calibration.int8.ranges import (
    Ranges,
    cache_key,
    collect,
    load_graph,
    prepare_cache,
    range_ratios,
    read_ranges,
    write_ranges,
)
from sam2edge.calibration.int8.recipe import MAX_EXCLUDED, Recipe, blocks
from sam2edge.calibration.int8.sensitivity import Effect, block_effects, sensitivity
from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.comparison import RECORDED_FRAMES, Comparison
from sam2edge.calibration.measure.configurations import Configuration
from sam2edge.calibration.measure.gate import DEFAULT_GATE, Gate
from sam2edge.calibration.measure.report import report_directory, write_report
from sam2edge.calibration.measure.targets import Prompts, automatic_prompts
from sam2edge.engines.low_precision import island_nodes
from sam2edge.errors import GateError, InputError
from sam2edge.files import sha256, user_path
from sam2edge.runtime.media.image_files import ValueRange
from sam2edge.types import Progress

StrPath = str | os.PathLike[str]


def calibrate(
    bundle: Bundle | StrPath,
    out: StrPath,
    clips: Sequence[StrPath],
    prompts: Sequence[Prompts | None] | None = None,
    *,
    frames: int = 64,
    value_range: ValueRange | None = None,
    recipe: Recipe | None = None,
    gate: Gate | None = DEFAULT_GATE,
    search: WordSearch | None = None,
    cache: Path | None = None,
    progress: Progress = lambda message, fraction: None,
) -> Bundle:
    """Write an INT8 bundle. An older one stays in place until the new one is complete.

    Args:
        bundle: the FP32 bundle.
        out: directory of the INT8 bundle.
        clips: video files, and folders or patterns of images. All their frames are tracked on ONNX Runtime's CPU
            provider.
        prompts: for each clip the prompts of its first frame by object id; None: boxes around the objects that the
            bundle finds there.
        frames: the number of recorded frames of all clips together: equally many of each, evenly spaced from its first
            to its last, and its second one as well.
        value_range: the two values of images that become black and white, as for `read_image`.
        recipe: which layers stay in floating point; None for the default one.
        gate: what INT8 must pass on every clip, compared with `bundle` in closed loop. As long as it fails, blocks are
            kept out of INT8. Reports are written into OUT.report. None: nothing is measured.
        search: the words with which the word detector becomes INT8 too; None: it stays as it is.
        cache: directory for the ranges of each clip.
        progress: called with what is being done.

    Returns:
        The INT8 bundle.

    Raises:
        InputError: an argument is wrong.
        BundleError: `bundle` cannot be used, has no word detector for a `search`, or something other than a bundle
            lies at `out`.
        MediaError: a clip cannot be read.
        PromptError: a prompt is wrong, or no object was found in a clip.
        BuildError: the recipe is of another graph.
        GateError: the gate still fails with blocks kept out.
    """
    source, opened, given, recipe = _checked(bundle, clips, prompts, frames, value_range, recipe)
    words = None
    if search is not None:
        _check_graph(source, DETECTOR, recipe)
        words = search.words(source)
    out = user_path(out)
    if out.resolve() == source.path.resolve():
        raise InputError(f"{out}: is the bundle that is calibrated; write to another directory")
    with bundles.replacing(out) as directory:
        carry_words(directory, source.path, out)
        ranges, records, hashes = _collect(source, opened, given, frames, cache, progress)
        detections: dict[str, float] = {}
        if search is not None and words is not None:
            recipe, differing = calibrate_detector(source, directory, opened, records, words, search, recipe, progress)
            detections = differing.numbers() if differing else {}
        iou: dict[str, float] = {}
        if gate is None:
            int8 = write_graphs(source, directory, ranges, recipe, progress)
        else:
            comparisons = [
                Comparison(
                    Configuration("FP32", source, "onnx"),
                    clip,
                    _prompts(source, clip, prompted),
                    gate,
                    range_ratios=range_ratios,
                    # graphs are compared one by one only on the first clip, since their inputs are held in memory
                    record=RECORDED_FRAMES if clip is opened[0] else (),
                    progress=progress,
                )
                for clip, prompted in zip(opened, given, strict=True)
            ]
            int8, recipe = exclude_blocks(
                source, directory, ranges, recipe, comparisons, report_directory(out), progress
            )
            latest = [(comparison.clip.name, comparison.measurements[-1].agreement) for comparison in comparisons]
            iou = {name: agreement.mean for name, agreement in latest if agreement}
        recipe.write(file := directory / RECIPE)
        origin = {name: graph.sha256 for name, graph in source.manifest.graphs.items()}
        recorded = sum(map(len, records))
        calibration = Calibration(RECIPE, sha256(file), file.stat().st_size, recorded, hashes, origin, iou, detections)
        bundles.write_manifest(directory, dataclasses.replace(int8.manifest, calibration=calibration))
    return Bundle.open(out)


def calibrated_sensitivity(
    bundle: Bundle | StrPath,
    clips: Sequence[StrPath],
    prompts: Sequence[Prompts | None] | None = None,
    *,
    frames: int = 64,
    value_range: ValueRange | None = None,
    recipe: Recipe | None = None,
    cache: Path | None = None,
    progress: Progress = lambda message, fraction: None,
) -> list[Effect]:
    """Measure each block alone in INT8 (sensitivity.py) on the first clip; arguments and errors are `calibrate`'s."""
    source, opened, given, recipe = _checked(bundle, clips, prompts, frames, value_range, recipe)
    ranges, _, _ = _collect(source, opened, given, frames, cache, progress)
    return sensitivity(source, ranges, recipe, opened[0], _prompts(source, opened[0], given[0]), progress)


def _checked(
    bundle: Bundle | StrPath,
    clips: Sequence[StrPath],
    prompts: Sequence[Prompts | None] | None,
    frames: int,
    value_range: ValueRange | None,
    recipe: Recipe | None,
) -> tuple[Bundle, list[Clip], list[Prompts | None], Recipe]:
    """Return the bundle, the clips, their prompts and the recipe, after all checks that need no tracking."""
    source = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    checks.integer("frames", frames, 2)
    given: list[Prompts | None] = list(prompts) if prompts is not None else [None] * len(clips)
    if not clips:
        raise InputError("there are no clips to calibrate on; give at least one")
    if len(given) != len(clips):
        raise InputError(f"prompts must be one for each of {len(clips)} clips but are {len(given)}")
    recipe = recipe or Recipe()
    for name in GRAPHS:
        _check_graph(source, name, recipe)
    return source, [Clip(path, value_range=value_range) for path in clips], given, recipe


def _check_graph(source: Bundle, name: str, recipe: Recipe) -> None:
    """Raise InputError for a graph that is not FP32, BuildError for layers in the recipe that do not exist."""
    if (precision := source.graph(name).precision) != "fp32":
        raise InputError(
            f"{source.path}: {name} is {precision}, but only fp32 graphs can be calibrated; give the exported bundle"
        )
    island_nodes(load_graph(source.graph_path(name)).graph, recipe.of(name))


def _prompts(source: Bundle, clip: Clip, given: Prompts | None) -> Prompts:
    return automatic_prompts(source, clip.first()) if given is None else given


def _collect(
    source: Bundle,
    clips: Sequence[Clip],
    prompts: Sequence[Prompts | None],
    frames: int,
    cache: Path | None,
    progress: Progress,
) -> tuple[Ranges, list[list[int]], dict[str, str]]:
    """Return the ranges over all clips, the recorded frames of each, and the hash of each clip by its name."""
    directory = prepare_cache(cache)
    ranges: Ranges = {name: {} for name in GRAPHS}
    hashes: dict[str, str] = {}
    records = []
    for number, (clip, given) in enumerate(zip(clips, prompts, strict=True)):

        def show(message: str, fraction: float, number: int = number) -> None:
            progress(message, (number + fraction) / len(clips))

        show(f"reading {clip.name}", 0.0)
        length, hashes[clip.name] = _read(clip)
        record = spread(length, max(2, frames // len(clips)))
        records.append(record)
        file = directory / f"{cache_key(source, hashes[clip.name], record, given)}.npz"
        of_clip = read_ranges(file)
        if of_clip is None:
            # with frame 1 too, since the memories of prompts are encoded when it comes
            with _named(clip):
                of_clip = collect(source, clip, _prompts(source, clip, given), {1, *record}, show)
            write_ranges(file, of_clip)
        for graph, largest in of_clip.items():
            for name, value in largest.items():
                ranges[graph][name] = max(value, ranges[graph].get(name, 0.0))
    return ranges, records, hashes


@contextlib.contextmanager
def _named(clip: Clip) -> Iterator[None]:
    """Say in errors about a clip's prompts and frames which of several clips it is."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{clip.name}: {error}") from error


def _read(clip: Clip) -> tuple[int, str]:
    """Return the number of a clip's frames and the sha256 of its pixels; InputError for a single frame."""
    length, digest = 0, hashlib.sha256()
    for frame in clip:
        digest.update(f"{frame.shape}".encode())
        digest.update(frame.tobytes())
        length += 1
    if length < 2:
        raise InputError(f"{clip.name}: a clip needs two frames or more, since memory is read from the second on")
    return length, digest.hexdigest()


def spread(length: int, count: int) -> list[int]:
    """Return at most `count` frame numbers below `length`, evenly from the first to the last."""
    return [int(number) for number in np.unique(np.linspace(0, length - 1, count).round())]


def write_graphs(source: Bundle, directory: Path, ranges: Ranges, recipe: Recipe, progress: Progress) -> Bundle:
    """Write all graphs in INT8 into a directory; the bundle can be run, but its manifest is not written yet."""
    graphs = {}
    for number, (name, graph) in enumerate(source.manifest.graphs.items()):
        progress(f"quantising {name}", number / len(source.manifest.graphs))
        model = quantize(load_graph(source.graph_path(name)), name, ranges[name], recipe.of(name))
        onnx.save(model, str(file := directory / graph.file))
        size = file.stat().st_size
        # the parity of FP32 does not hold for INT8, and none is measured
        graphs[name] = dataclasses.replace(graph, sha256=sha256(file), bytes=size, precision="int8", parity={})
    return Bundle(directory, dataclasses.replace(source.manifest, graphs=graphs, parity_frames=""))


def exclude_blocks(
    source: Bundle,
    directory: Path,
    ranges: Ranges,
    recipe: Recipe,
    comparisons: Sequence[Comparison],
    report: Path,
    progress: Progress,
) -> tuple[Bundle, Recipe]:
    """Write INT8 graphs that pass the gate on every clip, keeping blocks out of INT8 one by one as long as they fail.

    First come blocks with a range that is too wide, then those with the largest errors on what the first clip showed
    (block_effects). Reports are written in any case: REPORT/1 of the first clip, and so on.

    Returns:
        The graphs, and the recipe with an entry and the reason for each block that is kept out.

    Raises:
        GateError: the gate fails with MAX_EXCLUDED blocks kept out. Also raises what quantize and track_clip do.
    """
    ranked: list[Effect] | None = None
    for excluded in range(MAX_EXCLUDED + 1):
        bundle = write_graphs(source, directory, ranges, recipe, progress)
        kept_out = f"{excluded} block{'s' * (excluded != 1)} kept out"
        name = f"INT8, {kept_out}" if excluded else "INT8"
        measurements = [comparison.measure(Configuration(name, bundle, "onnx")) for comparison in comparisons]
        verdicts = [measurement.verdict for measurement in measurements if measurement.verdict]
        failures = [
            f"{Path(comparison.clip.name).name}: {failure}"
            for comparison, verdict in zip(comparisons, verdicts, strict=True)
            for failure in verdict.failures
        ]
        if excluded == MAX_EXCLUDED or not failures:
            break
        reason = f"the gate failed: {failures[0]}"
        if wide := [ratio for verdict in verdicts for ratio in verdict.wide]:
            graph = wide[0].graph
            block = blocks(load_graph(source.graph_path(graph)), graph, recipe.of(graph), wide[0].activation)[0]
        else:
            if ranked is None:
                ranked = block_effects(source, ranges, recipe, comparisons[0].recorded, progress=progress)
            if not ranked:
                break
            effect = ranked.pop(0)
            block = effect.block
            reason += f"; alone, this block changes {effect.output} by {effect.error:.1e} RMS"
        progress(f"keeping {block.graph} {block.nodes} out of INT8", 1.0)
        recipe = dataclasses.replace(recipe, kept=(*recipe.kept, block.kept(reason)))
    for number, comparison in enumerate(comparisons, 1):
        write_report(report / str(number), comparison.clip, comparison.gate, comparison.measurements)
    if failures:
        raise GateError(
            f"INT8 does not pass the gate, even with {kept_out}: {'; '.join(failures)}. The report is "
            f"in {report}. Calibrate on more or other clips, look at --sensitivity, or lower --min-iou"
        )
    return bundle, recipe
