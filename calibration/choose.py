"""Which precision each graph gets: the fastest assignment that passes the gate, by measurements alone."""

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
"""A lower precision must make a graph faster by so much, or it is not worth its errors and the noise of a clock."""
TRIALS = 16
"""Runs after which no more mixtures are tried; SAFE is run all the same."""


@dataclass(frozen=True)
class Trial:
    """An assignment that was run. milliseconds: of each of GRAPHS, inf if it did not run. failures: why not."""

    assignment: Assignment
    milliseconds: tuple[float, ...]
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether it may be used."""
        return not self.failures

    @property
    def total(self) -> float:
        """Milliseconds of all graphs."""
        return sum(self.milliseconds)


Measure = Callable[[Assignment], Trial]


def choose(precisions: Sequence[str], measure: Measure) -> list[Trial]:
    """Measure assignments until the fastest that passes is known; all trials, that one last.

    precisions: candidates, from the safest to the least safe, without SAFE. Each is measured for all graphs together,
    then mixtures follow, the one that should be fastest by those times first. A mixture is made only of what makes its
    graph faster. If none passes, SAFE joins the candidates. measure: builds and runs an assignment; what ends in an
    EngineError or BackendError failed.

    If nothing passed, neither does the last trial, which is SAFE's.
    """
    trials = [_try((one,) * len(GRAPHS), measure) for one in precisions]
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
    """What to try, the fastest first, by the times of trials with one precision for all graphs."""
    times = {trial.assignment[0]: trial.milliseconds for trial in trials if len(set(trial.assignment)) == 1}
    options = []
    for graph in range(len(GRAPHS)):
        worth: list[str] = []
        for one in precisions:
            if math.isfinite(times[one][graph]) and all(
                times[one][graph] < (1 - GAIN) * times[safer][graph] for safer in worth
            ):
                worth.append(one)
        options.append(worth)
    index = {precision: times[precision] for precision in precisions}
    found = itertools.product(*options)
    return sorted(found, key=lambda mixture: sum(index[one][graph] for graph, one in enumerate(mixture)))


def _try(assignment: Assignment, measure: Measure) -> Trial:
    try:
        return measure(assignment)
    except (EngineError, BackendError) as error:  # of any kind: memory may run out while it is built, opened or run
        return Trial(assignment, (math.inf,) * len(GRAPHS), (str(error),))


def _walk(precisions: Sequence[str], trials: list[Trial], measure: Measure) -> Trial | None:
    """Try mixtures in turn, adding them to the trials, until one passes: that one."""
    for mixture in mixtures(precisions, trials):
        done = next((trial for trial in trials if trial.assignment == mixture), None)
        if done is None:
            if len(trials) >= TRIALS:
                break
            trials.append(done := _try(mixture, measure))
        if done.passed:
            return done
    return None
