"""Errors of single graphs on inputs that a reference's graphs got, so that errors of one do not reach the next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sam2edge.bundle import Bundle
from sam2edge.calibration.measure.recorder import Recorded
from sam2edge.runtime.backends.base import Array, Backend, GraphRunner, open_backend


@dataclass(frozen=True)
class OutputError:
    """How far an output differs from the reference's over all recorded runs; inf if either is not finite."""

    largest: float  # difference, of any run, relative to the reference's largest magnitude there (as in the manifest)
    rms: float  # root mean square of the difference, relative to that of the reference


Errors = dict[str, dict[str, OutputError]]
"""By graph and output."""


def graph_errors(bundle: Bundle, recorded: Sequence[Recorded], backend: str | Backend = "auto") -> Errors:
    """Feed the recorded inputs of a reference to a bundle's graphs and compare the outputs.

    The mask decoder's outputs `mask`, `iou` and `pointer` are not continuous: a tiny difference may select another of
    the three masks. Graphs of another model raise BackendError, since they do not take the inputs.
    """
    opened, errors = open_backend(backend), {}
    for graph in dict.fromkeys(run.graph for run in recorded):
        runner = opened.open(bundle.graph_path(graph))
        errors[graph] = output_errors(runner, [run for run in recorded if run.graph == graph])
    return errors


def output_errors(runner: GraphRunner, recorded: Iterable[Recorded]) -> dict[str, OutputError]:
    """Feed the recorded inputs of one graph to another form of it and compare the outputs."""
    sums: dict[str, _Sums] = {}
    for run in recorded:
        outputs = runner.run(run.inputs)
        for name, expected in run.outputs.items():
            sums.setdefault(name, _Sums()).add(outputs[name], expected)
    return {name: total.error() for name, total in sums.items()}


def largest(errors: dict[str, OutputError]) -> float:
    """Return the largest relative error among the outputs of a graph."""
    return max(error.largest for error in errors.values())


class _Sums:
    def __init__(self) -> None:
        self.largest = self.difference = self.expected = 0.0

    def add(self, output: Array, expected: Array) -> None:
        if not (np.isfinite(output).all() and np.isfinite(expected).all()):
            self.largest = self.difference = np.inf
            return
        difference = output.astype(np.float64) - expected
        scale = max(float(np.abs(expected).max()), 1e-6)
        self.largest = max(self.largest, float(np.abs(difference).max()) / scale)
        self.difference += float(np.square(difference).sum())
        self.expected += float(np.square(expected, dtype=np.float64).sum())

    def error(self) -> OutputError:
        return OutputError(self.largest, float(np.sqrt(self.difference / max(self.expected, 1e-12))))
