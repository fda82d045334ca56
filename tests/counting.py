"""A backend that counts how often each graph runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam2edge.runtime.backends.base import Array, Backend, GraphRunner, open_backend


class Counting(Backend):
    """ONNX Runtime on the CPU; `runs` by the graph's name."""

    def __init__(self) -> None:
        self._inner = open_backend("onnx")
        self.runs: Counter[str] = Counter()

    def open(self, graph: Path) -> GraphRunner:
        return _Counted(self._inner.open(graph), graph.stem, self)

    def ran(self, graph: str, inputs: Mapping[str, Any]) -> None:
        """Called before each run."""
        self.runs[graph] += 1


class _Counted(GraphRunner):
    def __init__(self, inner: GraphRunner, name: str, counting: Counting) -> None:
        self._inner, self._name, self._counting = inner, name, counting

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        self._counting.ran(self._name, inputs)
        return self._inner.run(inputs)
