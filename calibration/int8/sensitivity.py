"""What each block of layers does to outputs and masks when it alone is in INT8 and everything else in FP32.

Errors of the outputs, on recorded inputs (graph_errors.py), rank the blocks, since they hardly depend on the clip.
Closed-loop IoU shows what matters, but for a single block mostly a few pixels at the masks' edges.
"""

from __future__ import annotations

import html
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from sam2edge.bundle import GRAPHS, Bundle
from sam2edge.calibration.int8.quantize import quantize
from sam2edge.calibration.int8.ranges import Ranges, load_graph
from sam2edge.calibration.int8.recipe import Block, Recipe, blocks
from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.closed_loop import Agreement, compare, track_clip
from sam2edge.calibration.measure.comparison import RECORDED_FRAMES
from sam2edge.calibration.measure.graph_errors import output_errors
from sam2edge.calibration.measure.page import bars, csv_text, html_table, page, write
from sam2edge.calibration.measure.recorder import Recorded
from sam2edge.calibration.measure.targets import Prompts
from sam2edge.runtime.backends.base import open_backend
from sam2edge.types import Progress

FRAMES = 24
"""Frames that are tracked for each block: the memory bank is full after 7, the pointers after 16."""


@dataclass(frozen=True, eq=False)
class Effect:
    """What one block in INT8 does."""

    block: Block
    error: float  # the largest RMS error of an output of its graph, relative to the RMS of the output
    output: str  # the output with that error
    agreement: Agreement | None = None  # with FP32 in closed loop; None if it was not tracked


def block_effects(
    source: Bundle,
    ranges: Ranges,
    recipe: Recipe,
    recorded: Sequence[Recorded],
    track: Callable[[Bundle], Agreement] | None = None,
    progress: Progress = lambda message, fraction: None,
    graphs: Sequence[str] = GRAPHS,
) -> list[Effect]:
    """Measure the blocks that a recipe has in INT8, the largest error first, on ONNX Runtime's CPU provider.

    Errors are those on the recorded FP32 runs of these graphs; `track` compares a bundle with FP32 in closed loop.
    """
    effects: list[Effect] = []
    models = {name: load_graph(source.graph_path(name)) for name in graphs}
    todo = [block for name, model in models.items() for block in blocks(model, name, recipe.of(name))]
    for number, block in enumerate(todo):
        progress(f"measuring {block.graph} {block.nodes}", number / len(todo))
        name = block.graph
        model = quantize(models[name], name, ranges[name], (*recipe.of(name), block.others()))
        with tempfile.TemporaryDirectory(prefix="sam2edge-") as directory:
            file = Path(directory) / source.graph_path(name).name
            onnx.save(model, str(file))
            runner = open_backend("onnx").open(file)
            errors = output_errors(runner, (run for run in recorded if run.graph == name))
            output = max(errors, key=lambda output: errors[output].rms)
            agreement = track(_with_graph(source, file)) if track else None
        effects.append(Effect(block, errors[output].rms, output, agreement))
    return sorted(effects, key=lambda effect: -effect.error)


def _with_graph(source: Bundle, file: Path) -> Bundle:
    """Return a bundle with a graph alone in its directory in place of the source's; its manifest is not written."""
    for name, graph in source.manifest.graphs.items():
        if graph.file != file.name:
            (file.parent / graph.file).symlink_to(source.graph_path(name).resolve())
    return Bundle(file.parent, source.manifest)


def sensitivity(
    source: Bundle,
    ranges: Ranges,
    recipe: Recipe,
    clip: Clip,
    prompts: Prompts,
    progress: Progress = lambda message, fraction: None,
) -> list[Effect]:
    """Measure errors and closed-loop IoU of every block over the first FRAMES frames; raises what track_clip does."""
    clip = Clip(clip.name, FRAMES, clip.value_range)
    reference, recorded = track_clip(source, clip, prompts, "onnx", record=RECORDED_FRAMES)

    def track(bundle: Bundle) -> Agreement:
        return compare(reference, track_clip(bundle, clip, prompts, "onnx")[0])

    return block_effects(source, ranges, recipe, recorded, track, progress)


def table(effects: Sequence[Effect]) -> list[list[str]]:
    """Return the effects as text, a line for each after the head."""
    lines = [["graph", "block", "layers", "output", "RMS error", "mean IoU", "worst IoU"]]
    for effect in effects:
        block, agreement = effect.block, effect.agreement
        ious = (f"{agreement.mean:.4f}", f"{agreement.worst[0]:.4f}") if agreement else ("–", "–")
        lines.append([block.graph, block.nodes, str(block.layers), effect.output, f"{effect.error:.2e}", *ious])
    return lines


def write_sensitivity(directory: Path, clip: Clip, effects: Sequence[Effect]) -> tuple[Path, Path]:
    """Write sensitivity.csv and sensitivity.html, with bars, and return their paths; MediaError if that fails."""
    data, shown = directory / "sensitivity.csv", directory / "sensitivity.html"
    lines = table(effects)
    rows = [
        (
            effect.block.nodes,
            [effect.error * (graph == effect.block.graph) for graph in GRAPHS],
            f"{effect.error:.2e} {effect.output}" + (f", IoU {effect.agreement.mean:.4f}" if effect.agreement else ""),
        )
        for effect in effects
    ]
    parts = [
        "<h1>Sensitivity</h1>",
        "<p>Each block alone in INT8, everything else in FP32. Bars: the largest RMS error of an output of the block's "
        f"graph, on the inputs that FP32 saw. IoU with FP32 in closed loop: the first {FRAMES} frames of "
        f"{html.escape(clip.name)}.</p>",
        bars("RMS error by block", GRAPHS, rows),
        html_table(lines),
    ]
    write(data, csv_text(lines))
    write(shown, page("sam2edge: sensitivity", parts))
    return data, shown
