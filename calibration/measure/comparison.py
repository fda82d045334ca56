"""Track one clip with one configuration after the other, and measure each against the first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sam2edge.bundle import Bundle
from sam2edge.calibration.measure.clip import Clip, TrueMasks
from sam2edge.calibration.measure.closed_loop import Agreement, Run, compare, track_clip
from sam2edge.calibration.measure.configurations import Configuration
from sam2edge.calibration.measure.davis import contour_accuracy, davis_mean, region_similarity
from sam2edge.calibration.measure.gate import Gate, RangeRatio, Verdict
from sam2edge.calibration.measure.graph_errors import Errors, graph_errors
from sam2edge.calibration.measure.recorder import Recorded
from sam2edge.calibration.measure.targets import Prompts
from sam2edge.errors import InputError
from sam2edge.files import sha256
from sam2edge.types import Progress

RECORDED_FRAMES = (0, 1, 4, 8, 16)
"""Frames on whose inputs graphs are compared: prompts, the first memory, a half full bank, a full one, all pointers."""

RangeRatios = Callable[[Bundle, str, Sequence[Recorded]], list[RangeRatio]]
"""Measures the INT8 ranges of a graph on recorded inputs: `int8.ranges.range_ratios`, which needs onnx."""


@dataclass(frozen=True)
class Score:
    """J and F of an object, each the mean over the frames that DAVIS counts."""

    j: float
    f: float

    @property
    def j_and_f(self) -> float:
        """The mean of the two."""
        return (self.j + self.f) / 2


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was measured of one configuration; of the reference there is no agreement, error or verdict."""

    configuration: Configuration
    run: Run
    scores: dict[int, Score] | None = None  # by object id; None without true masks
    agreement: Agreement | None = None
    errors: Errors | None = None  # None, too, for graphs whose inputs differ from the reference's
    verdict: Verdict | None = None

    @property
    def j_and_f(self) -> Score | None:
        """Mean of J and of F over the objects."""
        if self.scores is None:
            return None
        scores = self.scores.values()
        return Score(float(np.mean([score.j for score in scores])), float(np.mean([score.f for score in scores])))


class Comparison:
    """A clip tracked with a reference, and then with one configuration after the other.

    Single graphs are compared on the inputs that the reference's graphs got on the frames `record`, which are held in
    memory. Without `range_ratios` INT8 ranges are not judged.

    Attributes:
        measurements: what was measured, the reference first.
        recorded: the runs of the reference's graphs on the frames `record`.

    Raises:
        InputError: the clip has one frame, or the true masks are not of this clip. Also raises what track_clip does.
    """

    def __init__(
        self,
        reference: Configuration,
        clip: Clip,
        prompts: Prompts,
        gate: Gate,
        truth: TrueMasks | None = None,
        *,
        range_ratios: RangeRatios | None = None,
        record: Iterable[int] = RECORDED_FRAMES,
        progress: Progress = lambda message, fraction: None,
    ) -> None:
        self.clip, self.prompts, self.gate = clip, prompts, gate
        self._truth, self._range_ratios, self._progress = truth, range_ratios, progress
        self._known: dict[tuple[str, str], list[RangeRatio]] = {}
        run, self.recorded = self._track(reference, record)
        if len(run) < 2:
            raise InputError(f"{clip.name}: nothing is tracked in a single frame; give a longer clip, or more --frames")
        self.measurements = [Measurement(reference, run, self._score(run))]

    def measure(self, configuration: Configuration) -> Measurement:
        """Track the clip with another configuration and compare it with the reference; raises what track_clip does."""
        reference = self.measurements[0]
        run, _ = self._track(configuration)
        scores = self._score(run)
        self._progress(f"{configuration.name}: comparing", 1.0)
        agreement, errors, ratios = compare(reference.run, run), None, []
        if self.recorded and configuration.bundle.model == reference.configuration.bundle.model:
            errors = graph_errors(configuration.bundle, self.recorded, configuration.backend)
            ratios = self._ratios(configuration)
        verdict = self.gate.judge(agreement, errors, ratios)
        self.measurements.append(Measurement(configuration, run, scores, agreement, errors, verdict))
        return self.measurements[-1]

    def _track(self, configuration: Configuration, record: Iterable[int] = ()) -> tuple[Run, list[Recorded]]:
        return track_clip(
            configuration.bundle,
            self.clip,
            self.prompts,
            configuration.backend,
            record=record,
            progress=lambda message, fraction: self._progress(f"{configuration.name}: {message}", fraction),
        )

    def _ratios(self, configuration: Configuration) -> list[RangeRatio]:
        """Return the ratios of all INT8 graphs, the widest range first; a graph that several share is run only once."""
        if self._range_ratios is None:
            return []
        ratios: list[RangeRatio] = []
        for name in configuration.int8:
            key = name, sha256(configuration.bundle.graph_path(name))
            if key not in self._known:
                self._known[key] = self._range_ratios(configuration.bundle, name, self.recorded)
            ratios += self._known[key]
        return sorted(ratios, key=lambda ratio: -ratio.ratio)

    def _score(self, run: Run) -> dict[int, Score] | None:
        return None if self._truth is None else score(run, self._truth)


def score(run: Run, truth: TrueMasks) -> dict[int, Score]:
    """Return J and F (davis.py) by object id, of the objects of a run that are on the first true mask.

    Raises:
        InputError: there are no such objects, too few true masks or ones of another size, or fewer than three frames.
    """
    ids = tuple(i for i in run.object_ids if i in truth.object_ids)
    if not ids:
        raise InputError(
            f"{truth.path}: has objects {truth.object_ids} on its first mask but tracked were {run.object_ids}; "
            "give prompts the ids of the true masks"
        )
    if len(truth) < len(run) or len(run) < 3:
        raise InputError(
            f"{truth.path}: J&F needs a true mask for each frame and at least 3, but there are {len(truth)} masks and "
            f"{len(run)} frames; see --frames"
        )
    rows = [run.object_ids.index(i) for i in ids]
    j, f = np.empty((2, len(run), len(ids)), np.float32)
    for frame in range(len(run)):
        predicted, true = run.masks(frame)[rows], truth.masks(frame, ids, run.frame_size)
        j[frame], f[frame] = region_similarity(predicted, true), contour_accuracy(predicted, true)
    means = zip(ids, davis_mean(j).tolist(), davis_mean(f).tolist(), strict=True)
    return {i: Score(mean_j, mean_f) for i, mean_j, mean_f in means}
