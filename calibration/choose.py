"""Choose how each graph is built: the fastest assignment that passes the gate, by measurements alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sam2edge.bundle import GRAPHS
from sam2edge.errors import BackendError, EngineError

GAIN = 0.03
"""How much faster a less safe variant must make a graph: less is not worth its errors, and may be noise."""
MIXTURES = 8
"""Mixtures after which a round tries no more."""


@dataclass(frozen=True)
class Variant:
    """What a graph is built as: its precision, and the form of the memory attention ("" for other graphs)."""

    precision: str
    attention: str = ""

    def __str__(self) -> str:
        return f"{self.precision} {self.attention}".rstrip()


Assignment = tuple[Variant, ...]
"""A variant for each of GRAPHS."""


@dataclass(frozen=True)
class Trial:
    """An assignment that was run."""

    assignment: Assignment
    milliseconds: tuple[float, ...]  # of each of GRAPHS; inf if it did not run
    failures: tuple[str, ...] = ()  # why it may not be used

    @property
    def name(self) -> str:
        """The variants, as in reports: "fp16/fp16 fused/int8/fp16"."""
        return name(self.assignment)

    @property
    def passed(self) -> bool:
        """Whether the assignment may be used."""
        return not self.failures

    @property
    def total(self) -> float:
        """Milliseconds of all graphs together."""
        return sum(self.milliseconds)


Measure = Callable[[Assignment], Trial]


def name(assignment: Assignment) -> str:
    """Return the name of an assignment in reports."""
    return "/".join(map(str, assignment))


def choose(rounds: Sequence[Sequence[Assignment]], measure: Measure) -> list[Trial]:
    """Measure assignments until the fastest that passes is known, and return all trials with that one last.

    The assignments of a round are measured first. If one of them passes, mixtures of all measured so far are tried, the
    one that should be fastest by those times first. The next round comes only if none passes; if none of the last round
    does, its last trial is the last. Assignments of a round go from the safest to the least safe, and later rounds are
    safer than earlier ones.
    """
    trials: list[Trial] = []
    measured: list[Trial] = []
    for assignments in rounds:
        fresh = [_try(assignment, measure) for assignment in assignments]
        trials += fresh
        measured = [*fresh, *measured]
        if any(trial.passed for trial in fresh):
            best = _walk(measured, trials, measure)
            trials.remove(best)
            return [*trials, best]
    return trials


def mixtures(measured: Sequence[Trial]) -> list[Assignment]:
    """Return mixtures of measured assignments, the safest first, that are worth trying; the fastest comes first."""
    options: list[dict[Variant, float]] = []
    for graph in range(len(GRAPHS)):
        times: dict[Variant, float] = {}
        for trial in measured:
            variant = trial.assignment[graph]
            times[variant] = min(times.get(variant, math.inf), trial.milliseconds[graph])
        worth: dict[Variant, float] = {}
        for variant, time in times.items():
            if math.isfinite(time) and all(time < (1 - GAIN) * safer for safer in worth.values()):
                worth[variant] = time
        options.append(worth)

    def total(mixture: Assignment) -> float:
        return sum(times[variant] for times, variant in zip(options, mixture, strict=True))

    return sorted(itertools.product(*options), key=total)


def _try(assignment: Assignment, measure: Measure) -> Trial:
    try:
        return measure(assignment)
    except (EngineError, BackendError) as error:  # memory may run out while engines are built, opened or run
        return Trial(assignment, (math.inf,) * len(GRAPHS), (str(error),))


def _walk(measured: Sequence[Trial], trials: list[Trial], measure: Measure) -> Trial:
    """Try mixtures in turn, adding them to the trials; return the first that passes, or the fastest one measured."""
    more = MIXTURES
    for mixture in mixtures(measured):
        done = next((trial for trial in trials if trial.assignment == mixture), None)
        if done is None and more:
            more -= 1
            trials.append(done := _try(mixture, measure))
        if done is not None and done.passed:
            return done
    return min((trial for trial in measured if trial.passed), key=lambda trial: trial.total)
