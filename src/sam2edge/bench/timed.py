"""Backends around another one: to take times, and to leave out what it does better than the plain interface."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sam2edge.bundle import Bundle
from sam2edge.runtime.backend import AnyArray, Array, Backend, DeviceArray, GraphRunner

STEPS = {"device arrays": "zeros", "recordings": "replay"}
"""What a backend may do better than the interface does by itself, by the method that it overrides then."""


class Timed(Backend):
    """Passes everything on and adds up the seconds for which its caller, a single thread, waited for the backend.

    bundle: None adds up all waiting under "". A bundle adds up the runs of each of its graphs by name: each waits
    until all before it is done and then for its own end, and nothing is replayed from a recording.
    """

    def __init__(self, inner: Backend, bundle: Bundle | None = None) -> None:
        self._inner, self._apart = inner, bundle is not None
        self._names = {bundle.graph_path(name): name for name in bundle.manifest.graphs} if bundle else {}
        self._depth = 0
        self._seconds: dict[str, float] = defaultdict(float)

    def take(self) -> dict[str, float]:
        """Seconds by name since the last call."""
        taken = dict(self._seconds)
        self._seconds.clear()
        return taken

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        if self._apart:
            self._inner.synchronize()
        self._depth += 1
        start = time.perf_counter()
        try:
            yield
            if self._apart:
                self._inner.synchronize()
        finally:
            self._depth -= 1
            if not self._depth:  # one may call the other
                self._seconds[name] += time.perf_counter() - start

    def open(self, graph: Path) -> GraphRunner:
        return _TimedRunner(self._inner.open(graph), self, self._names.get(graph, ""))

    def resizer(self, bundle: Path, size: tuple[int, int]) -> GraphRunner | None:
        return self._inner.resizer(bundle, size)

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> DeviceArray:
        return self._inner.zeros(shape, dtype)

    def staging(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
        return self._inner.staging(shape, dtype)

    def copy(self, source: AnyArray, to: AnyArray) -> None:
        self._inner.copy(source, to)

    def replay(self, key: Hashable, steps: Callable[[], None]) -> None:
        if self._apart:
            steps()
        else:
            self._inner.replay(key, steps)

    def forget(self) -> None:
        self._inner.forget()

    def synchronize(self) -> None:
        with self.timing(""):
            self._inner.synchronize()

    def fork(self) -> Backend:
        return self._inner.fork()


class _TimedRunner(GraphRunner):
    def __init__(self, inner: GraphRunner, timed: Timed, name: str) -> None:
        self._inner, self._timed, self._name = inner, timed, name

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        with self._timed.timing(self._name):
            return self._inner.run(inputs)

    def run_into(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        with self._timed.timing(self._name):
            self._inner.run_into(inputs, outputs)

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._inner.dtype(name)


class Unrecorded(Timed):
    """The backend without recordings: every step is queued by the host each time."""

    def replay(self, key: Hashable, steps: Callable[[], None]) -> None:
        steps()


class GraphsOnly(Backend):
    """The backend without arrays on its device: what goes between graphs comes down to the host and up again."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner

    def open(self, graph: Path) -> GraphRunner:
        return _GraphOnly(self._inner.open(graph))


class _GraphOnly(GraphRunner):
    def __init__(self, inner: GraphRunner) -> None:
        self._inner = inner

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        return self._inner.run(inputs)


def offers(backend: Backend) -> tuple[str, ...]:
    """Which of STEPS a backend does by itself."""
    return tuple(
        step for step, method in STEPS.items() if getattr(type(backend), method) is not getattr(Backend, method)
    )


def without(backend: Backend, step: str) -> Backend:
    """The backend without one of STEPS (and, without device arrays, without recordings too); "" is all of it."""
    if step == "device arrays":
        return GraphsOnly(backend)
    return Unrecorded(backend) if step == "recordings" else backend
