"""Track one clip with one set of graphs after the other, and measure each against the first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sam2edge.bundle import Bundle, Graph
from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.closed_loop import Agreement, Run, compare, track_clip
from sam2edge.calibration.measure.davis import contour_accuracy, davis_mean, region_similarity
from sam2edge.calibration.measure.gate import Gate, Verdict
from sam2edge.calibration.measure.graph_errors import Errors, graph_errors
from sam2edge.calibration.measure.recorder import Recorded
from sam2edge.calibration.measure.targets import Prompts
from sam2edge.calibration.measure.truth import TrueMasks
from sam2edge.errors import InputError
from sam2edge.files import sha256
from sam2edge.runtime.backends.base import Backend

if TYPE_CHECKING:
    from sam2edge.bundle.engines import Engine
    from sam2edge.calibration.int8.range_ratios import RangeRatio

RECORDED_FRAMES = (0, 1, 4, 8, 16)
"""Frames whose inputs the graphs are compared on: prompts, the first memory, a bank half full, full, all pointers."""


@dataclass(frozen=True, eq=False)
class Configuration:
    """A set of graphs: a bundle's on a backend. bytes: their size on disk, None if they are no files.

    int8: names of the graphs whose INT8 ranges the gate looks at, which needs onnx.
    """

    name: str
    bundle: Bundle
    backend: str | Backend = "auto"
    bytes: int | None = None
    int8: Collection[str] = ()


def int8_graphs(graphs: Mapping[str, Graph] | Mapping[str, Engine]) -> list[str]:
    """Names of those that are INT8, of a manifest of graphs or engines."""
    return [name for name, graph in graphs.items() if graph.precision == "int8"]


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
    """What was measured of one rung.

    scores: by object id, None without true masks. comparison, verdict: None for the reference. errors: None for the
    reference, and where the graphs take other inputs than the reference's.
    """

    rung: Configuration
    run: Run
    scores: dict[int, Score] | None = None
    comparison: Agreement | None = None
    errors: Errors | None = None
    verdict: Verdict | None = None

    @property
    def j_and_f(self) -> Score | None:
        """Mean of J and of F over the objects."""
        if self.scores is None:
            return None
        values = self.scores.values()
        return Score(float(np.mean([one.j for one in values])), float(np.mean([one.f for one in values])))


class Comparison:
    """A clip tracked with a reference, and then with one set of graphs after the other.

    record: frames on whose inputs the graphs are compared one by one; they are held in memory. rows: what was measured,
    the reference first. recorded: what the reference's graphs saw.

    Raises what track_clip does, and InputError for a clip of one frame, or true masks that are not the clip's.
    """

    def __init__(
        self,
        reference: Configuration,
        clip: Clip,
        prompts: Prompts,
        gate: Gate,
        truth: TrueMasks | None = None,
        *,
        record: Iterable[int] = RECORDED_FRAMES,
        progress: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.clip, self.prompts, self.gate = clip, prompts, gate
        self._truth, self._progress = truth, progress
        self._known: dict[tuple[str, str], list[RangeRatio]] = {}
        run, self.recorded = self._track(reference, record)
        if len(run) < 2:
            raise InputError(f"{clip.name}: in one frame nothing is tracked; give a longer clip, or more --frames")
        self.rows = [Measurement(reference, run, self._score(run))]

    def measure(self, rung: Configuration) -> Measurement:
        """Track the clip with another set of graphs and compare it with the reference. Raises what track_clip does."""
        reference = self.rows[0]
        run, _ = self._track(rung)
        scores = self._score(run)
        self._progress(f"{rung.name}: comparing")
        comparable = self.recorded and rung.bundle.model == reference.rung.bundle.model
        errors = graph_errors(rung.bundle, self.recorded, rung.backend) if comparable else None
        comparison = compare(reference.run, run)
        verdict = self.gate.judge(comparison, errors, self._ratios(rung) if comparable else ())
        self.rows.append(Measurement(rung, run, scores, comparison, errors, verdict))
        return self.rows[-1]

    def _track(self, rung: Configuration, record: Iterable[int] = ()) -> tuple[Run, list[Recorded]]:
        progress = _counting(rung.name, self._progress)
        return track_clip(rung.bundle, self.clip, self.prompts, rung.backend, record=record, progress=progress)

    def _ratios(self, rung: Configuration) -> list[RangeRatio]:
        """Of all graphs, the widest range first. Rungs share graphs, which are run once: ratios are of files."""
        if not rung.int8:
            return []
        from sam2edge.calibration.int8.range_ratios import range_ratios

        found: list[RangeRatio] = []
        for name in rung.int8:
            key = name, sha256(rung.bundle.graph_path(name))
            if key not in self._known:
                self._known[key] = range_ratios(rung.bundle, name, self.recorded)
            found += self._known[key]
        return sorted(found, key=lambda one: -one.ratio)

    def _score(self, run: Run) -> dict[int, Score] | None:
        return None if self._truth is None else score(run, self._truth)


def compare_all(
    rungs: Sequence[Configuration],
    clip: Clip,
    prompts: Prompts,
    gate: Gate,
    truth: TrueMasks | None = None,
    *,
    progress: Callable[[str], None] = lambda message: None,
) -> list[Measurement]:
    """Measure every rung; the first one is the reference of the others. progress: called with what is being done.

    Raises what Comparison does.
    """
    ladder = Comparison(rungs[0], clip, prompts, gate, truth, progress=progress)
    for rung in rungs[1:]:
        ladder.measure(rung)
    return ladder.rows


def _counting(name: str, progress: Callable[[str], None]) -> Callable[[int], None]:
    return lambda frames: progress(f"{name}: {frames} frames")


def score(run: Run, truth: TrueMasks) -> dict[int, Score]:
    """J and F of the objects of a run that are on the first true mask; see davis.py.

    Raises InputError if there are none, for another number or size of true masks, and for fewer than three frames.
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
    return {
        i: Score(float(one_j), float(one_f)) for i, one_j, one_f in zip(ids, davis_mean(j), davis_mean(f), strict=True)
    }
