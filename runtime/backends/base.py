"""The small interface behind which graphs run: a backend opens graphs, and holds the arrays that go between them.

On a GPU those arrays stay there (`DeviceArray`), and work is only queued: `copy`, `run_into` and `replay` are done in
the order in which they were called, and `synchronize` waits for them. On the CPU device arrays are numpy arrays and all
is done at once; a backend that only opens graphs that run on numpy arrays has nothing else to write.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from sam2edge.errors import BackendError
from sam2edge.runtime import BACKENDS

Array = npt.NDArray[Any]


class DeviceArray(Protocol):
    """A contiguous array in a device's memory; a numpy array is one of the CPU's."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As numpy's."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """As numpy's."""

    def __getitem__(self, index: Any, /) -> Any:
        """A view: one entry of the first axis, or contiguous entries of it."""


AnyArray = Array | DeviceArray


class GraphRunner(ABC):
    """One graph, ready to run."""

    @abstractmethod
    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Outputs by name for inputs by name, contiguous arrays as the contract says (sam2edge.bundle.contract).

        Inputs may be the backend's device arrays, too. The outputs are new numpy arrays that the caller may keep; what
        the backend has in another precision is converted. Raises BackendError when the engine fails.
        """

    def run_outputs(self, inputs: Mapping[str, Any], wanted: Collection[str]) -> dict[str, Array]:
        """As `run`, with no other outputs than those that are wanted: the others need not leave the device."""
        found = self.run(inputs)
        return {name: found[name] for name in wanted}

    def run_into(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        """Queue a run on device arrays of the types that `dtype` says. Outputs that are not given are dropped.

        An output array is no input of the same run. Raises BackendError when the engine fails.
        """
        found = self.run(inputs)
        for name, to in outputs.items():
            cast("Array", to)[...] = found[name]

    def dtype(self, name: str) -> np.dtype[Any]:
        """Type of a floating-point input or output as device array."""
        return np.dtype(np.float32)

    def max_size(self, name: str, axis: int = 0) -> int | None:
        """How many entries an axis of an input may have; None: any number."""
        return None


class Backend(ABC):
    """A way to run graphs on a device."""

    @abstractmethod
    def open(self, graph: Path) -> GraphRunner:
        """Load a graph file of a bundle; BackendError when the backend cannot read it."""

    def resizer(self, bundle: Path, size: tuple[int, int]) -> GraphRunner | None:
        """What resizes frames of a size (H,W) on the device (engines/resize.py); None if that is done on the host."""
        return None

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> DeviceArray:
        """A new array on the device."""
        return np.zeros(shape, dtype)

    def staging(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
        """A new numpy array of zeros that `copy` may read or write later, when the caller has gone on (page-locked)."""
        return np.zeros(shape, dtype)

    def copy(self, source: AnyArray, to: AnyArray) -> None:
        """Queue a copy between arrays of one shape and dtype; each is a device array or from `staging`."""
        cast("Array", to)[...] = cast("Array", source)

    def download(self, array: AnyArray) -> Array:
        """A new numpy array with the values of one on the device, in float32 if it is of floats; waits for it."""
        staging = self.staging(array.shape, array.dtype)
        if isinstance(array, np.ndarray):
            staging[...] = array
        else:
            self.copy(array, staging)
            self.synchronize()
        return staging.astype(np.float32, copy=False) if staging.dtype.kind == "f" else staging

    def replay(self, key: Hashable, steps: Callable[[], None]) -> None:
        """Queue `steps`, which only call `copy` and `run_into`; later ones of the same key may be queued as recorded.

        So with one key, steps use the same arrays (with other content) in the same order every time.
        """
        steps()

    def forget(self) -> None:  # noqa: B027  nothing is recorded on the CPU
        """Drop all recordings, which hold their arrays."""

    def synchronize(self) -> None:  # noqa: B027  nothing is queued on the CPU
        """Wait until all that was queued is done. Raises BackendError if it failed."""

    def new_stream(self) -> Backend:
        """The same device and arrays with a queue of its own, for another thread."""
        return self


def open_backend(name: str | Backend) -> Backend:
    """The backend called `name`, one of sam2edge.runtime.BACKENDS.

    onnx: ONNX Runtime on the CPU. onnx-cuda: its CUDA provider. tensorrt: the engines that `sam2edge build` made of the
    bundle. auto: what is right without any preparation, which is onnx. A Backend of the caller's own is taken as it is.
    Raises BackendError for an unknown name, and when what the name promises is not on this machine.
    """
    if isinstance(name, Backend):
        return name
    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}; choose from {', '.join(BACKENDS)}")
    module, _, kind = BACKENDS[name].partition(":")
    return cast("Backend", getattr(importlib.import_module(f"sam2edge.runtime.backends.{module}"), kind)())
