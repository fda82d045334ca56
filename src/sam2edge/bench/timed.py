"""Backends around another one: to take times, and to leave out what it does better than the plain interface."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager
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
)

STEPS = {"device arrays": "zeros", "recordings": "replay"}
"""What a backend may do better than the interface does by itself, by the method that it overrides then."""


class Timed(WrappedBackend):
    """Adds up the seconds for which its caller, a single thread, waited for the backend.

    bundle: None adds up all waiting under "". A bundle adds up the runs of each of its graphs by name: each waits
    until all before it is done and then for its own end, and nothing is replayed from a recording.
    """

    def __init__(self, inner: Backend, bundle: Bundle | None = None) -> None:
        super().__init__(inner)
        self._apart = bundle is not None
        self._names = {bundle.graph_path(name): name for name in bundle.manifest.graphs} if bundle else {}
        self._seconds: dict[str, float] = defaultdict(float)

    def take(self) -> dict[str, float]:
        """Seconds by name since the last call."""
        taken = dict(self._seconds)
        self._seconds.clear()
        return taken

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        if self._apart:
            self.inner.synchronize()
        start = time.perf_counter()
        yield
        if self._apart:
            self.inner.synchronize()
        self._seconds[name] += time.perf_counter() - start

    def open(self, graph: Path) -> GraphRunner:
        return _TimedRunner(self.inner.open(graph), self, self._names.get(graph, ""))

    def download(self, array: AnyArray) -> Array:
        with self.timing(""):
            return self.inner.download(array)

    def replay(self, key: Hashable, steps: Callable[[], None]) -> None:
        if self._apart:
            steps()
        else:
            self.inner.replay(key, steps)

    def synchronize(self) -> None:
        with self.timing(""):
            self.inner.synchronize()


class _TimedRunner(WrappedRunner):
    def __init__(self, inner: GraphRunner, timed: Timed, name: str) -> None:
        super().__init__(inner)
        self._timed, self._name = timed, name

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        with self._timed.timing(self._name):
            return self.inner.run(inputs)

    def run_outputs(self, inputs: Mapping[str, Any], wanted: Collection[str]) -> dict[str, Array]:
        with self._timed.timing(self._name):
            return self.inner.run_outputs(inputs, wanted)

    def run_into(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        with self._timed.timing(self._name):
            self.inner.run_into(inputs, outputs)


class Unrecorded(WrappedBackend):
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
