"""Each block of layers in INT8 alone, with everything else in FP32: what it does to the outputs and to the masks.

Errors of the outputs are taken on recorded inputs (graph_errors.py) and rank the blocks, since they hardly depend on
the clip. Closed-loop IoU says what matters, but of single blocks it mostly shows a few pixels at the masks' edges.
"""

from __future__ import annotations

import csv
import html
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sam2edge.bundle import GRAPHS, Bundle
from sam2edge.calibration.int8.activations import load_graph
from sam2edge.calibration.int8.blocks import Block, blocks
from sam2edge.calibration.int8.quantize import quantize
from sam2edge.calibration.int8.recipe import Recipe
from sam2edge.calibration.int8.write import Ranges, write_one_graph
from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.closed_loop import Agreement, compare, track_clip
from sam2edge.calibration.measure.comparison import RECORDED_FRAMES
from sam2edge.calibration.measure.graph_errors import graph_errors
from sam2edge.calibration.measure.page import html_table, page
from sam2edge.calibration.measure.recorder import Recorded
from sam2edge.calibration.measure.targets import Prompts
from sam2edge.errors import MediaError
from sam2edge.files import write_text
from sam2edge.types import Progress

FRAMES = 24
"""Tracked for each block: the memory bank is full after 7, the pointers after 16."""
_COLOURS = dict(zip(GRAPHS, ("#4878a8", "#d08030", "#509050", "#a05090"), strict=True))
_BAR = 420


@dataclass(frozen=True, eq=False)
class Effect:
    """What one block in INT8 does.

    error: the largest RMS error of an output of its graph, relative to the RMS of the output. output: which one.
    comparison: with FP32 in closed loop, None if it was not tracked.
    """

    block: Block
    error: float
    output: str
    comparison: Agreement | None = None


def block_effects(
    source: Bundle,
    ranges: Ranges,
    recipe: Recipe,
    recorded: Sequence[Recorded],
    track: Callable[[Bundle], Agreement] | None = None,
    progress: Progress = lambda message, fraction: None,
) -> list[Effect]:
    """Measure the blocks that a recipe has in INT8, the largest error first, on ONNX Runtime's CPU provider.

    recorded: inputs and FP32 outputs of all four graphs. track: compares a bundle with FP32 in closed loop.
    """
    found: list[Effect] = []
    models = {name: load_graph(source.graph_path(name)) for name in GRAPHS}
    todo = [block for name, model in models.items() for block in blocks(model, name, recipe.of(name))]
    for number, block in enumerate(todo):
        progress(f"measuring {block.graph} {block.nodes}", number / len(todo))
        name = block.graph
        model = quantize(models[name], name, ranges[name], (*recipe.of(name), block.alone()))
        with tempfile.TemporaryDirectory(prefix="sam2edge-") as directory:
            bundle = write_one_graph(source, Path(directory), name, model)
            inputs = [one for one in recorded if one.graph == name]
            errors = graph_errors(bundle, inputs, "onnx")[name]
            output = max(errors, key=lambda output: errors[output].rms)
            comparison = track(bundle) if track else None
        found.append(Effect(block, errors[output].rms, output, comparison))
    return sorted(found, key=lambda effect: -effect.error)


def sensitivity(
    source: Bundle,
    ranges: Ranges,
    recipe: Recipe,
    clip: Clip,
    prompts: Prompts,
    progress: Progress = lambda message, fraction: None,
) -> list[Effect]:
    """Errors and closed-loop IoU of every block over the first FRAMES frames of a clip. Raises what track_clip does."""
    clip = Clip(clip.name, FRAMES)
    reference, recorded = track_clip(source, clip, prompts, "onnx", record=RECORDED_FRAMES)

    def track(bundle: Bundle) -> Agreement:
        return compare(reference, track_clip(bundle, clip, prompts, "onnx")[0])

    return block_effects(source, ranges, recipe, recorded, track, progress)


def table(effects: Sequence[Effect]) -> list[list[str]]:
    """The effects as text, a line each after the head."""
    lines = [["graph", "block", "layers", "output", "RMS error", "mean IoU", "worst IoU"]]
    for effect in effects:
        block, comparison = effect.block, effect.comparison
        measured = (f"{comparison.mean:.4f}", f"{comparison.worst[0]:.4f}") if comparison else ("–", "–")
        lines.append([block.graph, block.nodes, str(block.layers), effect.output, f"{effect.error:.2e}", *measured])
    return lines


def write_sensitivity(directory: Path, clip: Clip, effects: Sequence[Effect]) -> tuple[Path, Path]:
    """Write sensitivity.csv and sensitivity.html, with bars; their paths. Raises MediaError."""
    data, shown = directory / "sensitivity.csv", directory / "sensitivity.html"
    lines = table(effects)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    parts = [
        "<h1>Sensitivity</h1>",
        "<p>Each block in INT8 alone, everything else in FP32. Bars: the largest RMS error of an output of its graph, "
        f"on what FP32 saw. IoU with FP32 in closed loop: the first {FRAMES} frames of {html.escape(clip.name)}.</p>",
        "".join(_bars(effects)),
        html_table(lines),
    ]
    try:
        write_text(data, text.getvalue())
        write_text(shown, page("sam2edge: sensitivity", parts))
    except OSError as error:
        raise MediaError(f"{directory}: the table cannot be written: {error.strerror or error}") from error
    return data, shown


def _bars(effects: Sequence[Effect]) -> Iterator[str]:
    """SVG with a bar for each block, as long as its error."""
    largest = max((effect.error for effect in effects), default=0) or 1
    left, right = 330, 330 + _BAR
    yield f'<svg width="{right + 230}" height="{18 * len(effects) + 4}" font-family="sans-serif" font-size="11">'
    for row, effect in enumerate(effects):
        y, length, block = 18 * row, max(1, _BAR * effect.error / largest), effect.block
        iou = f", IoU {effect.comparison.mean:.4f}" if effect.comparison else ""
        yield f'<text x="0" y="{y + 13}">{html.escape(f"{block.graph} {block.nodes}")}</text>'
        yield f'<rect x="{left}" y="{y + 3}" width="{length:.1f}" height="12" fill="{_COLOURS[block.graph]}"/>'
        yield f'<text x="{left + length + 6:.1f}" y="{y + 13}">{effect.error:.2e} {effect.output}{iou}</text>'
    yield "</svg>"
