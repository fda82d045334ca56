"""INT8 graphs that pass the gate: as long as they fail, a block goes back to floating point, the worst one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from sam2edge.bundle import GRAPHS, Bundle
from sam2edge.calibration.int8.activations import load_graph
from sam2edge.calibration.int8.blocks import Block, reader
from sam2edge.calibration.int8.range_ratios import RangeRatio
from sam2edge.calibration.int8.recipe import Recipe
from sam2edge.calibration.int8.sensitivity import block_effects
from sam2edge.calibration.int8.write import Ranges, write_graphs
from sam2edge.calibration.measure.comparison import Comparison, Configuration, Measurement
from sam2edge.calibration.measure.report import write_report
from sam2edge.errors import GateError

STEPS = 8
"""Blocks that may go back. With more of them the fault lies elsewhere: in the clips, the ranges or the threshold."""


def settle(
    source: Bundle,
    directory: Path,
    ranges: Ranges,
    recipe: Recipe,
    ladders: Sequence[Comparison],
    report: Path,
    progress: Callable[[str], None] = lambda message: None,
) -> tuple[Recipe, dict[str, float]]:
    """Write INT8 graphs into a directory that pass the gate on every clip, and a report in `report`/1, 2, ...

    ladders: a clip each, with the FP32 graphs as the reference. Blocks are kept out one by one, STEPS at most: those
    with a range that is too wide, then by the errors they make alone (block_effects) on what the first clip showed.

    Returns the recipe that passed, with an entry and the numbers for each block that was kept out, and the mean IoU
    of each clip by its name. Raises GateError, with the report written, and what quantize and track_clip do.
    """
    waiting = None
    for step in range(STEPS + 1):
        bundle = write_graphs(source, directory, ranges, recipe, progress)
        size = sum(bundle.graph_path(name).stat().st_size for name in bundle.manifest.graphs)
        name = f"INT8, {step} blocks kept out" if step else "INT8"
        rows = [ladder.measure(Configuration(name, bundle, "onnx", size, GRAPHS)) for ladder in ladders]
        failed = _failures(rows, ladders)
        if step == STEPS or not failed:
            break
        reason = f"the gate failed: {failed[0]}"
        if wide := [one for row in rows if row.verdict for one in row.verdict.wide]:
            block = _reader(source, wide[0], recipe)
        else:
            if waiting is None:
                progress("INT8 fails the gate: looking for the block that differs most")
                waiting = block_effects(source, ranges, recipe, ladders[0].recorded)
            if not waiting:
                break
            effect = waiting.pop(0)
            block = effect.block
            reason += f"; alone, this block changes {effect.output} by {effect.error:.1e} RMS"
        progress(f"keeping {block.graph} {block.nodes} out of INT8")
        recipe = dataclasses.replace(recipe, kept=(*recipe.kept, block.kept(reason)))
    for number, ladder in enumerate(ladders, 1):
        write_report(report / str(number), ladder.clip, ladder.gate, ladder.rows)
    if failed:
        raise GateError(
            f"INT8 does not pass the gate, not with {step} blocks kept out either: {'; '.join(failed)}. The report is "
            f"in {report}. Calibrate on more or other clips, by another --method, look at --sensitivity, or lower "
            "--min-iou"
        )
    ious = [row.comparison.mean for row in rows if row.comparison]
    return recipe, {ladder.clip.name: iou for ladder, iou in zip(ladders, ious, strict=True)}


def _reader(source: Bundle, wide: RangeRatio, recipe: Recipe) -> Block:
    model = load_graph(source.graph_path(wide.graph))
    return reader(model, wide.graph, wide.activation, recipe.of(wide.graph))


def _failures(rows: Sequence[Measurement], ladders: Sequence[Comparison]) -> list[str]:
    return [
        f"{Path(ladder.clip.name).name}: {failure}"
        for row, ladder in zip(rows, ladders, strict=True)
        if row.verdict
        for failure in row.verdict.failures
    ]
