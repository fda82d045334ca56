"""The word detector in INT8, with ranges from the frames of clips and a gate on what it finds there."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import onnx

from sam2edge.bundle import Bundle
from sam2edge.bundle.words import DETECTOR, WORDS, write_words_manifest
from sam2edge.calibration.int8.quantize import quantize
from sam2edge.calibration.int8.ranges import Observer, load_graph
from sam2edge.calibration.int8.recipe import MAX_EXCLUDED, Recipe
from sam2edge.calibration.int8.sensitivity import Effect, block_effects
from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.detections import (
    DEFAULT_DETECTION_GATE,
    DetectionComparison,
    DetectionErrors,
    DetectionGate,
    nothing_found,
)
from sam2edge.calibration.measure.recorder import Recorded
from sam2edge.errors import GateError
from sam2edge.files import sha256
from sam2edge.runtime.backends.base import Array, open_backend
from sam2edge.runtime.words import SCORE
from sam2edge.runtime.words.detections import Detections
from sam2edge.runtime.words.detector import WordDetector
from sam2edge.runtime.words.pixels import square_image
from sam2edge.runtime.words.words import Words
from sam2edge.types import Frame, Progress

_RANKED_FRAMES = 3
"""Frames on which blocks are ranked; their arrays are held in memory."""


@dataclasses.dataclass(frozen=True)
class WordSearch:
    """What a detector is calibrated with.

    Args:
        texts: What to look for in the clips.
        others: What to reject.
        score: The score above which a detection counts.
        gate: What INT8 must pass; None: nothing is measured.
    """

    texts: Sequence[str]
    others: Sequence[str] = ()
    score: float = SCORE
    gate: DetectionGate | None = DEFAULT_DETECTION_GATE

    def words(self, source: Bundle) -> Words:
        """Return the words as a bundle's detector looks for them; InputError for those that cannot be encoded."""
        with WordDetector(source, "onnx") as detector:
            return detector.words(self.texts, self.others)


def calibrate_detector(
    source: Bundle,
    directory: Path,
    clips: Sequence[Clip],
    numbers: Sequence[Sequence[int]],
    words: Words,
    search: WordSearch,
    recipe: Recipe,
    progress: Progress,
) -> tuple[Recipe, DetectionErrors | None]:
    """Put an INT8 detector in the place of the FP32 one in `directory`/words.

    As long as it fails, blocks are kept out of INT8, those with the largest errors first.

    Args:
        source: The FP32 bundle.
        directory: Has a copy of its words.
        clips: What to look at.
        numbers: The frames of each clip to look at.
        words: What to look for, as `search.words` returns it.
        search: How to judge what is found.
        recipe: Which layers stay in floating point.
        progress: Called with what is being done.

    Returns:
        The recipe with what was kept out, and the last errors.

    Raises:
        InputError: Nothing is found.
        GateError: The gate still fails with MAX_EXCLUDED blocks kept out.
    """

    def frames() -> Iterator[Frame]:
        for clip, chosen in zip(clips, map(set, numbers), strict=True):
            yield from (frame for number, frame in enumerate(clip) if number in chosen)

    count = sum(map(len, numbers))

    def look(detector: WordDetector, what: str) -> list[Detections]:
        found = []
        for number, frame in enumerate(frames()):
            found.append(detector.detect(frame, words, search.score / 2))
            progress(what, (number + 1) / count)
        return found

    with tempfile.TemporaryDirectory(prefix="sam2edge-") as folder:
        observer = Observer(source, Path(folder), (DETECTOR,))
        observer.recording = True
        with WordDetector(source, observer) as detector:
            reference = look(detector, "looking for words in FP32")
    ranges = observer.ranges[DETECTOR]
    if search.gate is None:
        _write(source, directory, ranges, recipe)
        return recipe, None
    if not any((found.scores > search.score).any() for found in reference):
        raise nothing_found(search.texts, search.score)
    ranked: list[Effect] | None = None
    for excluded in range(MAX_EXCLUDED + 1):
        _write(source, directory, ranges, recipe)
        comparison = DetectionComparison(search.score)
        with WordDetector(Bundle(directory, source.manifest), "onnx") as detector:
            kept_out = f"{excluded} block{'s' * (excluded != 1)} kept out"
            for expected, found in zip(reference, look(detector, f"INT8, {kept_out}"), strict=True):
                comparison.add(expected, found)
        errors = comparison.errors()
        failures = search.gate.failures(errors)
        if not failures:
            return recipe, errors
        if ranked is None:
            runs = _recorded(source, frames, words)
            ranked = block_effects(source, {DETECTOR: ranges}, recipe, runs, graphs=(DETECTOR,), progress=progress)
        if not ranked:
            break
        effect = ranked.pop(0)
        reason = f"the gate failed: {failures[0]}; alone, this block changes {effect.output} by {effect.error:.1e} RMS"
        recipe = dataclasses.replace(recipe, kept=(*recipe.kept, effect.block.kept(reason)))
    raise GateError(
        f"the word detector in INT8 does not pass the gate, even with {kept_out}: {'; '.join(failures)}. Calibrate "
        "with more or other clips or words, or without --words: the detector then stays as it is"
    )


def _recorded(source: Bundle, frames: Callable[[], Iterator[Frame]], words: Words) -> list[Recorded]:
    """Return runs of the FP32 detector on frames from the first to the last."""
    model, runner = source.word_detector().model, open_backend("onnx").open(source.graph_path(DETECTOR))
    images = [square_image(frame, model)[None] for frame, _ in zip(frames(), range(_RANKED_FRAMES), strict=False)]
    inputs: list[dict[str, Array]] = [{"image": image, "queries": words.queries} for image in images]
    return [Recorded(DETECTOR, given, runner.run(given)) for given in inputs]


def _write(source: Bundle, directory: Path, ranges: dict[str, float], recipe: Recipe) -> None:
    """Write the detector in INT8 and its manifest."""
    model = quantize(load_graph(source.graph_path(DETECTOR)), DETECTOR, ranges, recipe.of(DETECTOR))
    words = source.word_detector().manifest
    graph = words.graphs[DETECTOR]
    file = directory / WORDS / graph.file
    file.unlink()  # it may be another name of the source's file
    onnx.save(model, str(file))
    changed = dataclasses.replace(graph, sha256=sha256(file), bytes=file.stat().st_size, precision="int8", parity={})
    write_words_manifest(directory / WORDS, dataclasses.replace(words, graphs={**words.graphs, DETECTOR: changed}))
