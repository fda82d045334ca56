"""A backend around another one that takes the time of every run and keeps some of them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sam2edge.bundle import Bundle
from sam2edge.runtime.backend import Array, Backend, GraphRunner, open_backend


@dataclass(frozen=True, eq=False)
class Recorded:
    """One run of a graph: its inputs and outputs by name, as the contract says."""

    graph: str
    inputs: dict[str, Array]
    outputs: dict[str, Array]


class Watch(Backend):
    """Runs graphs of a bundle on a backend and looks on.

    seconds: of each graph since they were last cleared. recorded: runs that were kept. recording: whether to keep the
    next ones; they hold all their arrays, some 100 MB a frame with three objects at S = 1024.
    """

    def __init__(self, bundle: Bundle, backend: str | Backend) -> None:
        self._inner = open_backend(backend)
        self._names = {bundle.graph_path(name): name for name in bundle.manifest.graphs}
        self.seconds: dict[str, float] = defaultdict(float)
        self.recorded: list[Recorded] = []
        self.recording = False

    def open(self, graph: Path) -> GraphRunner:
        """Load a graph with the backend that is watched."""
        return _Watched(self._inner.open(graph), self._names[graph], self)


class _Watched(GraphRunner):
    def __init__(self, inner: GraphRunner, name: str, watch: Watch) -> None:
        self._inner, self._name, self._watch = inner, name, watch

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        # The memory bank and the rows of the tracker are written again: what is kept must be a copy.
        kept = {name: array.copy() for name, array in inputs.items()} if self._watch.recording else {}
        start = time.perf_counter()
        outputs = self._inner.run(inputs)
        self._watch.seconds[self._name] += time.perf_counter() - start
        if self._watch.recording:
            copies = {name: array.copy() for name, array in outputs.items()}
            self._watch.recorded.append(Recorded(self._name, kept, copies))
        return outputs
