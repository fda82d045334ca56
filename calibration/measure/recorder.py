"""A backend around another one that takes the time of every run and keeps some of them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2edge.bundle import Bundle
from sam2edge.runtime.backends.base import (
    AnyArray,
    Array,
    Backend,
    DeviceArray,
    GraphRunner,
    WrappedBackend,
    WrappedRunner,
    open_backend,
)

RECORDING = "recording"
"""What the time of keeping runs is added to: work of whoever looks on, and no part of a frame."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """One run of a graph: its inputs and outputs by name, as the contract says."""

    graph: str
    inputs: dict[str, Array]
    outputs: dict[str, Array]


class Recorder(WrappedBackend):
    """Runs graphs of a bundle on a backend and looks on. What is queued is waited for, and nothing is replayed.

    seconds: of each graph, and of RECORDING, since they were last cleared. recorded: runs that were kept. recording:
    whether to keep the next ones; they hold all their arrays, some 100 MB a frame with three objects at S = 1024.
    """

    new_stream = Backend.new_stream  # itself: what another queue does would not be seen

    def __init__(self, bundle: Bundle, backend: str | Backend) -> None:
        super().__init__(open_backend(backend))
        self._names = {bundle.graph_path(name): name for name in bundle.manifest.graphs}
        self.seconds: dict[str, float] = defaultdict(float)
        self.recorded: list[Recorded] = []
        self.recording = False

    def open(self, graph: Path) -> GraphRunner:
        """Load a graph with the backend that is watched."""
        return _Watched(self.inner.open(graph), self._names[graph], self)

    def replay(self, key: Hashable, steps: Callable[[], None]) -> None:
        """Queue the steps, each of which is watched."""
        steps()

    @contextmanager
    def timed(self, graph: str) -> Iterator[None]:
        """Add the time of what is queued inside to that of a graph."""
        self.inner.synchronize()
        start = time.perf_counter()
        yield
        self.inner.synchronize()
        self.seconds[graph] += time.perf_counter() - start


class _Watched(WrappedRunner):
    run_outputs = GraphRunner.run_outputs  # a run, of which all outputs are kept

    def __init__(self, inner: GraphRunner, name: str, watch: Recorder) -> None:
        super().__init__(inner)
        self._name, self._watch = name, watch

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        with self._watch.timed(RECORDING):
            kept = self._kept(inputs)
        with self._watch.timed(self._name):
            outputs = self.inner.run(inputs)
        if self._watch.recording:
            with self._watch.timed(RECORDING):
                self._watch.recorded.append(Recorded(self._name, kept, self._kept(outputs)))
        return outputs

    def run_into(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        if self._watch.recording:  # all outputs, also those that are dropped here
            with self._watch.timed(RECORDING):
                self._watch.recorded.append(Recorded(self._name, self._kept(inputs), self.inner.run(inputs)))
        with self._watch.timed(self._name):
            self.inner.run_into(inputs, outputs)

    def _kept(self, arrays: Mapping[str, AnyArray]) -> dict[str, Array]:
        """Copies, since the arrays of the tracker are written again."""
        return {name: self._watch.download(array) for name, array in arrays.items()} if self._watch.recording else {}
