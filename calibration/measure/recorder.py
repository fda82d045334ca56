"""A backend around another one that takes the time of its work and keeps runs of its graphs."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sam2edge.bundle import Bundle
from sam2edge.runtime.backends.base import AnyArray, Array, Backend, DeviceArray, GraphRunner, open_backend

WAITING = "waiting"
"""Name under which time is added up that belongs to no graph."""
RECORDING = "recording"
"""Name under which the time of keeping runs is added up, which is no part of a frame."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """One run of a graph: its inputs and outputs by name, as in the contract."""

    graph: str
    inputs: dict[str, Array]
    outputs: dict[str, Array]


class Recorder(Backend):
    """Adds up the seconds for which its caller, a single thread, waits for a backend, and keeps runs on request.

    Each graph of a bundle is timed by itself: a run starts when all earlier work is done and is waited for, so nothing
    is replayed from a recording. Without a bundle, all time is added up under WAITING. While `recording` is set, runs
    are kept in `recorded` with all their arrays, some 100 MB a frame with three objects at S = 1024.
    """

    def __init__(self, backend: str | Backend, bundle: Bundle | None = None) -> None:
        self.inner = open_backend(backend)
        self._separate = bundle is not None
        self._names = {bundle.graph_path(name): name for name in bundle.manifest.graphs} if bundle else {}
        self._seconds: dict[str, float] = defaultdict(float)
        self.recorded: list[Recorded] = []
        self.recording = False

    def take(self) -> dict[str, float]:
        """Return the seconds by name since the last call."""
        taken = dict(self._seconds)
        self._seconds.clear()
        return taken

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Add the time of what is done inside to that of a name."""
        if self._separate:
            self.inner.synchronize()
        start = time.perf_counter()
        yield
        if self._separate:
            self.inner.synchronize()
        self._seconds[name] += time.perf_counter() - start

    def open(self, graph: Path) -> GraphRunner:
        return _RecordedRunner(self.inner.open(graph), self._names.get(graph, WAITING), self)

    def resizer(self, bundle: Path, size: tuple[int, int]) -> GraphRunner | None:
        return self.inner.resizer(bundle, size)

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> DeviceArray:
        return self.inner.zeros(shape, dtype)

    def staging(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
        return self.inner.staging(shape, dtype)

    def copy(self, source: AnyArray, to: AnyArray) -> None:
        self.inner.copy(source, to)

    def download(self, array: AnyArray) -> Array:
        with self.timing(WAITING):
            return self.inner.download(array)

    def replay(self, key: Hashable, steps: Callable[[], None]) -> None:
        if self._separate:
            steps()
        else:
            self.inner.replay(key, steps)

    def forget(self) -> None:
        self.inner.forget()

    def synchronize(self) -> None:
        with self.timing(WAITING):
            self.inner.synchronize()

    def fence(self) -> Callable[[], None]:
        wait = self.inner.fence()

        def timed() -> None:
            with self.timing(WAITING):
                wait()

        return timed

    def new_stream(self) -> Backend:
        return self  # work on another stream would go unnoticed


class _RecordedRunner(GraphRunner):
    def __init__(self, inner: GraphRunner, name: str, recorder: Recorder) -> None:
        self.inner, self._name, self._recorder = inner, name, recorder

    def dtype(self, name: str) -> np.dtype[Any]:
        return self.inner.dtype(name)

    def max_size(self, name: str, axis: int = 0) -> int | None:
        return self.inner.max_size(name, axis)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        kept = self._copies(inputs)
        with self._recorder.timing(self._name):
            outputs = self.inner.run(inputs)
        if self._recorder.recording:
            self._recorder.recorded.append(Recorded(self._name, kept, self._copies(outputs)))
        return outputs

    def run_outputs(self, inputs: Mapping[str, Any], wanted: Collection[str]) -> dict[str, Array]:
        if self._recorder.recording:  # a run whose outputs are all kept
            return GraphRunner.run_outputs(self, inputs, wanted)
        with self._recorder.timing(self._name):
            return self.inner.run_outputs(inputs, wanted)

    def run_into(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        if self._recorder.recording:  # with the outputs that the caller drops
            kept = self._copies(inputs)
            with self._recorder.timing(RECORDING):
                self._recorder.recorded.append(Recorded(self._name, kept, self.inner.run(inputs)))
        with self._recorder.timing(self._name):
            self.inner.run_into(inputs, outputs)

    def _copies(self, arrays: Mapping[str, AnyArray]) -> dict[str, Array]:
        """Copy arrays while recording, since the tracker overwrites its own."""
        if not self._recorder.recording:
            return {}
        with self._recorder.timing(RECORDING):
            return {name: self._recorder.inner.download(array) for name, array in arrays.items()}
