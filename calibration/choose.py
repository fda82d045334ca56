"""Choose the precision of each graph: the fastest assignment that passes the gate, by measurements alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sam2edge.bundle import GRAPHS
from sam2edge.errors import BackendError, EngineError

Assignment = tuple[str, ...]
"""A precision for each of GRAPHS."""

SAFE = "fp32"
GAIN = 0.03
"""How much faster a lower precision must make a graph: less is not worth its errors, and may be noise."""
TRIALS = 16
"""Trials after which no more mixtures are tried; SAFE is always tried."""


@dataclass(frozen=True)
class Trial:
    """An assignment that was run."""

    assignment: Assignment
    milliseconds: tuple[float, ...]  # of each of GRAPHS; inf if it did not run
    failures: tuple[str, ...] = ()  # why it may not be used

    @property
    def passed(self) -> bool:
        """Whether the assignment may be used."""
        return not self.failures

    @property
    def total(self) -> float:
        """Milliseconds of all graphs together."""
        return sum(self.milliseconds)


Measure = Callable[[Assignment], Trial]


def choose(precisions: Sequence[str], measure: Measure) -> list[Trial]:
    """Measure assignments until the fastest that passes is known, and return all trials with that one last.

    Each precision is measured for all graphs together, then mixtures of those that make their graph faster, the one
    that should be fastest by those times first. If none passes, SAFE joins the candidates; if it fails too, its trial
    is the last. `precisions` go from the safest to the least safe, without SAFE.
    """
    trials = [_try((precision,) * len(GRAPHS), measure) for precision in precisions]
    best = _walk(precisions, trials, measure)
    if best is None:
        trials.append(safe := _try((SAFE,) * len(GRAPHS), measure))
        if safe.passed:
            best = _walk((SAFE, *precisions), trials, measure) or safe
    if best is not None:
        trials.remove(best)
        trials.append(best)
    return trials


def mixtures(precisions: Sequence[str], trials: Sequence[Trial]) -> list[Assignment]:
    """Return mixtures to try, the fastest first, by the times of trials with one precision for all graphs."""
    times = {trial.assignment[0]: trial.milliseconds for trial in trials if len(set(trial.assignment)) == 1}
    options = []
    for graph in range(len(GRAPHS)):
        worth: list[str] = []
        for precision in precisions:
            time = times[precision][graph]
            if math.isfinite(time) and all(time < (1 - GAIN) * times[safer][graph] for safer in worth):
                worth.append(precision)
        options.append(worth)

    def total(mixture: Assignment) -> float:
        return sum(times[precision][graph] for graph, precision in enumerate(mixture))

    return sorted(itertools.product(*options), key=total)


def _try(assignment: Assignment, measure: Measure) -> Trial:
    try:
        return measure(assignment)
    except (EngineError, BackendError) as error:  # memory may run out while engines are built, opened or run
        return Trial(assignment, (math.inf,) * len(GRAPHS), (str(error),))


def _walk(precisions: Sequence[str], trials: list[Trial], measure: Measure) -> Trial | None:
    """Try mixtures in turn, adding them to the trials, and return the first that passes."""
    for mixture in mixtures(precisions, trials):
        done = next((trial for trial in trials if trial.assignment == mixture), None)
        if done is None:
            if len(trials) >= TRIALS:
                break
            trials.append(done := _try(mixture, measure))
        if done.passed:
            return done
    return None
