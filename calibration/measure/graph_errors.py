"""Errors of single graphs on inputs that a reference saw, so that errors of one do not reach the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sam2edge.bundle import Bundle
from sam2edge.calibration.measure.recorder import Recorded
from sam2edge.runtime.backends.base import Array, Backend, open_backend


@dataclass(frozen=True)
class OutputError:
    """Difference of an output from the reference's over all recorded runs.

    largest: largest difference relative to the reference's largest magnitude, of the worst run, as in the manifest.
    rms: root of the mean squared difference relative to the root of the mean square. inf for what is not finite.
    """

    largest: float
    rms: float


Errors = dict[str, dict[str, OutputError]]
"""By graph and output."""


def graph_errors(bundle: Bundle, recorded: Sequence[Recorded], backend: str | Backend = "auto") -> Errors:
    """Feed the recorded inputs of a reference to a bundle's graphs and compare the outputs.

    Outputs that choose have steps: `mask`, `iou` and `pointer` of the mask decoder may come from another of the three
    masks for a tiny difference.

    Raises BackendError, also for graphs that do not take the inputs because they are of another model.
    """
    engine, errors = open_backend(backend), {}
    for graph in dict.fromkeys(one.graph for one in recorded):
        runner = engine.open(bundle.graph_path(graph))
        sums: dict[str, _Sums] = {}
        for one in recorded:
            if one.graph == graph:
                outputs = runner.run(one.inputs)
                for name, expected in one.outputs.items():
                    sums.setdefault(name, _Sums()).add(outputs[name], expected)
        errors[graph] = {name: total.error() for name, total in sums.items()}
    return errors


def largest(errors: dict[str, OutputError]) -> float:
    """The largest relative error among the outputs of a graph."""
    return max(error.largest for error in errors.values())


def most_sensitive(errors: Errors) -> str:
    """The graph with the largest relative RMS error of an output.

    RMS, because single values say little: one that is far off among a million is harmless, and common in INT8.
    """
    return max(errors, key=lambda graph: max(error.rms for error in errors[graph].values()))


class _Sums:
    def __init__(self) -> None:
        self.largest = self.difference = self.expected = 0.0

    def add(self, found: Array, expected: Array) -> None:
        if not (np.isfinite(found).all() and np.isfinite(expected).all()):
            self.largest = self.difference = np.inf
            return
        difference = found.astype(np.float64) - expected
        scale = max(float(np.abs(expected).max()), 1e-6)
        self.largest = max(self.largest, float(np.abs(difference).max()) / scale)
        self.difference += float(np.square(difference).sum())
        self.expected += float(np.square(expected, dtype=np.float64).sum())

    def error(self) -> OutputError:
        return OutputError(self.largest, float(np.sqrt(self.difference / max(self.expected, 1e-12))))
