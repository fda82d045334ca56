"""A backend around another one: it passes everything on, so that a subclass is only what it changes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sam2edge.runtime.backends.base import AnyArray, Array, Backend, DeviceArray, GraphRunner


class WrappedRunner(GraphRunner):
    """Runs what `inner` runs. None of the three ways to run goes through another one here."""

    def __init__(self, inner: GraphRunner) -> None:
        self.inner = inner

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        return self.inner.run(inputs)

    def run_outputs(self, inputs: Mapping[str, Any], wanted: Collection[str]) -> dict[str, Array]:
        return self.inner.run_outputs(inputs, wanted)

    def run_into(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        self.inner.run_into(inputs, outputs)

    def dtype(self, name: str) -> np.dtype[Any]:
        return self.inner.dtype(name)

    def max_size(self, name: str, axis: int = 0) -> int | None:
        return self.inner.max_size(name, axis)


class WrappedBackend(Backend):
    """Does what `inner` does. Its runners, the resizer's too, and its forks are the inner ones, not wrapped."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner

    def open(self, graph: Path) -> GraphRunner:
        return self.inner.open(graph)

    def resizer(self, bundle: Path, size: tuple[int, int]) -> GraphRunner | None:
        return self.inner.resizer(bundle, size)

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> DeviceArray:
        return self.inner.zeros(shape, dtype)

    def staging(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
        return self.inner.staging(shape, dtype)

    def copy(self, source: AnyArray, to: AnyArray) -> None:
        self.inner.copy(source, to)

    def download(self, array: AnyArray) -> Array:
        return self.inner.download(array)

    def replay(self, key: Hashable, steps: Callable[[], None]) -> None:
        self.inner.replay(key, steps)

    def forget(self) -> None:
        self.inner.forget()

    def synchronize(self) -> None:
        self.inner.synchronize()

    def new_stream(self) -> Backend:
        return self.inner.new_stream()
