"""What a word detector finds, compared with what a reference finds in the same frames, and the gate on that."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field

import numpy as np

from sam2edge import checks
from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.configurations import Configuration
from sam2edge.errors import InputError
from sam2edge.runtime.model.boxes import overlaps
from sam2edge.runtime.words import SCORE
from sam2edge.runtime.words.detections import Detections
from sam2edge.runtime.words.detector import WordDetector

SAME = 0.5
"""IoU of two boxes of one word from which they are the same object's."""


@dataclass(frozen=True)
class DetectionErrors:
    """How two detectors differ.

    Attributes:
        found: What the reference found, with scores above the threshold.
        kept: The share of that which the other finds too.
        new: What the other found beside it, as a share of `found`.
        box: 1 - IoU of the boxes of what both found, on average.
        score: Difference of their scores, on average.
        worst_box, worst_score: The same of the worst.
    """

    found: float
    kept: float
    new: float
    box: float
    score: float
    worst_box: float
    worst_score: float

    def __str__(self) -> str:
        return (
            f"{self.kept:.3f} of {self.found:.0f} detections kept, {self.new:.3f} new; "
            f"error of boxes {self.box:.3f}, of scores {self.score:.3f}"
        )

    def numbers(self) -> dict[str, float]:
        """Return them by name."""
        return {name: float(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class DetectionGate:
    """What a detector must keep to stand in for the reference; InputError for a limit that is not from 0 to 1.

    Single boxes may differ by anything: at the edge of what a detector recognises, rounding decides which of two
    patches speaks for an object.
    """

    min_kept: float = 0.95
    max_new: float = 0.05
    max_box: float = 0.05
    max_score: float = 0.05

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            checks.number(name, value, 0, 1)

    def failures(self, errors: DetectionErrors) -> list[str]:
        """Return each condition that was not met, with its numbers."""
        failures = []
        if errors.kept < self.min_kept:
            failures.append(f"{errors.kept:.3f} of {errors.found} detections are kept, below {self.min_kept:g}")
        limited = {"new": "share of new detections", "box": "mean box error", "score": "mean score error"}
        for name, what in limited.items():
            if (value := getattr(errors, name)) > (most := getattr(self, f"max_{name}")):
                failures.append(f"the {what} {value:.3f} is above {most:g}")
        return failures


DEFAULT_DETECTION_GATE = DetectionGate()


@dataclass
class DetectionComparison:
    """Adds up differences frame by frame.

    Both sets of detections begin at half of the threshold, so that a score that crosses it by little loses no object.
    """

    threshold: float
    _found: int = 0
    _lost: int = 0
    _new: int = 0
    _pairs: list[tuple[float, float]] = field(default_factory=list)

    def add(self, reference: Detections, other: Detections) -> None:
        """Compare what was found in one frame."""
        pairs = _matched(reference, other)
        self._found += int((reference.scores > self.threshold).sum())
        self._lost += self._unmatched(reference, {row for row, _, _ in pairs})
        self._new += self._unmatched(other, {row for _, row, _ in pairs})
        self._pairs += [
            (1 - iou, abs(float(reference.scores[row] - other.scores[column])))
            for row, column, iou in pairs
            if max(reference.scores[row], other.scores[column]) > self.threshold
        ]

    def _unmatched(self, detections: Detections, matched: set[int]) -> int:
        return sum(row not in matched for row in np.flatnonzero(detections.scores > self.threshold).tolist())

    def errors(self) -> DetectionErrors:
        """Return how they differ so far."""
        pairs = np.array(self._pairs or [(0.0, 0.0)])
        (box, score), (worst_box, worst_score) = pairs.mean(axis=0).tolist(), pairs.max(axis=0).tolist()
        found = max(self._found, 1)
        return DetectionErrors(
            self._found, 1 - self._lost / found, self._new / found, box, score, worst_box, worst_score
        )


def compare_detectors(
    reference: Configuration, others: Sequence[Configuration], clip: Clip, texts: Sequence[str]
) -> list[DetectionErrors]:
    """Look for words in every frame of a clip with several detectors, and compare each with the first.

    Raises:
        InputError: Words cannot be encoded, or the reference finds none.
        BackendError: A detector cannot be run. BundleError: A bundle has none.
    """
    with ExitStack() as stack:
        first, *rest = (
            stack.enter_context(WordDetector(configuration.bundle, configuration.backend))
            for configuration in (reference, *others)
        )
        words, comparisons = first.words(texts), [DetectionComparison(SCORE) for _ in others]
        for frame in clip:
            expected = first.detect(frame, words, SCORE / 2)
            for detector, comparison in zip(rest, comparisons, strict=True):
                comparison.add(expected, detector.detect(frame, words, SCORE / 2))
    errors = [comparison.errors() for comparison in comparisons]
    if errors and not errors[0].found:
        raise nothing_found(texts, SCORE)
    return errors


def nothing_found(texts: Sequence[str], score: float) -> InputError:
    """Return the error for words that name nothing in clips, which so cannot be compared."""
    return InputError(
        f"the word detector finds nothing in the clips that is {' or '.join(map(repr, texts))} with a score above "
        f"{score:g}, so there is nothing to compare; give words for what they show, or other clips"
    )


def _matched(first: Detections, second: Detections) -> Sequence[tuple[int, int, float]]:
    """Pair detections of one word, the pair with the largest IoU first: rows in both, and the IoU."""
    candidates = sorted(
        (
            (float(iou), row, column)
            for row, box in enumerate(first.boxes)
            for column, iou in enumerate(overlaps(box, second.boxes).tolist())
            if iou >= SAME and first.words[row] == second.words[column]
        ),
        reverse=True,
    )
    pairs: list[tuple[int, int, float]] = []
    rows, columns = set(), set()
    for iou, row, column in candidates:
        if row not in rows and column not in columns:
            pairs.append((row, column, iou))
            rows.add(row)
            columns.add(column)
    return pairs
