"""The interface behind which graphs run: a backend opens graphs, and holds the arrays that are passed between them.

On a GPU those arrays stay there (`DeviceArray`) and work is only queued: `copy`, `run_into` and `replay` happen in the
order of the calls; `synchronize` waits for all of them, a `fence` for those before it. On the CPU device arrays are
numpy arrays, and everything happens at once. A backend whose graphs run on numpy arrays has to define nothing but
`open`.
"""

from __future__ import annotations

import importlib
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from sam2edge import checks
from sam2edge.errors import BackendError, InputError
from sam2edge.runtime import BACKENDS

Array = npt.NDArray[Any]


class DeviceArray(Protocol):
    """A contiguous array in a device's memory; for the CPU, a numpy array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As of a numpy array."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """As of a numpy array."""

    def __getitem__(self, index: Any, /) -> Any:
        """Return a view of one entry of the first axis, or of contiguous entries."""


AnyArray = Array | DeviceArray


class GraphRunner(ABC):
    """One graph, ready to run."""

    @abstractmethod
    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Run the graph and wait for its outputs; BackendError if the engine fails.

        Args:
            inputs: Contiguous numpy arrays, or device arrays of the backend, by name as in the contract
                (sam2edge.bundle.contract).

        Returns:
            New numpy arrays by name, in the types of the contract, which the caller may keep.
        """

    def run_outputs(self, inputs: Mapping[str, Any], wanted: Collection[str]) -> dict[str, Array]:
        """As `run`, with only the wanted outputs: the others need not leave the device."""
        outputs = self.run(inputs)
        return {name: outputs[name] for name in wanted}

    def run_into(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        """Queue a run on device arrays, none of which may be both input and output; BackendError if that fails.

        Arrays of floats have the type that `dtype` returns. Outputs for which there is no array are dropped.
        """
        values = self.run(inputs)
        for name, array in outputs.items():
            cast("Array", array)[...] = values[name]

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type of a floating-point input or output as device array."""
        return np.dtype(np.float32)

    def max_size(self, name: str, axis: int = 0) -> int | None:
        """Return the largest size of an axis of an input; None for no limit."""
        return None


class Backend(ABC):
    """A way to run graphs on a device. The defaults are for backends that run on numpy arrays."""

    @abstractmethod
    def open(self, graph: Path) -> GraphRunner:
        """Load a graph file of a bundle; BackendError if the backend cannot."""

    def resizer(self, bundle: Path, size: tuple[int, int]) -> GraphRunner | None:
        """Load the graph that resizes frames of a size (H,W), see engines/resize.py; None to resize on the host."""
        return None

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> DeviceArray:
        """Make an array on the device."""
        return np.zeros(shape, dtype)

    def staging(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
        """Make a numpy array of zeros that a queued `copy` can read or write later (page-locked)."""
        return np.zeros(shape, dtype)

    def copy(self, source: AnyArray, to: AnyArray) -> None:
        """Queue a copy between arrays of one shape and dtype, each on the device or made by `staging`."""
        cast("Array", to)[...] = cast("Array", source)

    def download(self, array: AnyArray) -> Array:
        """Wait for an array of the device and return its values as a new numpy array, floats as float32."""
        staging = self.staging(array.shape, array.dtype)
        if isinstance(array, np.ndarray):
            staging[...] = array
        else:
            self.copy(array, staging)
            self.synchronize()
        return staging.astype(np.float32, copy=False) if staging.dtype.kind == "f" else staging

    def replay(self, key: Hashable, steps: Callable[[], None]) -> None:
        """Queue the work of `steps`, by calling it or by repeating what it queued before under the same key.

        `steps` calls only `copy` and `run_into`, under one key with the same arrays in the same order every time.
        """
        steps()

    def forget(self) -> None:  # noqa: B027  nothing is recorded on the CPU
        """Drop all recordings of `replay`, which keep their arrays alive; those of other users stay."""

    def synchronize(self) -> None:  # noqa: B027  nothing is queued on the CPU
        """Wait until all queued work is done; BackendError if it failed."""

    def fence(self) -> Callable[[], None]:
        """Return a function that waits until what is queued now is done, but need not wait for what is queued later.

        It raises BackendError if that work failed. An error of later work is raised by what waits for it.
        """
        return self.synchronize

    def new_stream(self) -> Backend:
        """Return a backend for another thread: the same device and arrays, with a stream of its own."""
        return self

    def for_user(self) -> Backend:
        """Return this backend for one of several users, as trackers that share it, with recordings of its own.

        The device, the stream and what is open there are the same: users in several threads take turns.
        """
        return self


def open_backend(name: str | Backend, *, threads: int | None = None, gpu: int | None = None) -> Backend:
    """Open a backend by its name; a Backend is returned as it is.

    Trackers and predictors that are given one Backend share what they open: weights are in memory once.

    Args:
        name: "onnx" (ONNX Runtime on the CPU), "onnx-cuda" (its CUDA provider), "tensorrt" or "tensorrt-rtx" (the
            engines that `sam2edge build`, for RTX with `--for rtx`, made of the bundle), or "auto": what works without
            any preparation, which is "onnx".
        threads: Of the CPU, for "onnx"; as many as there are cores by default.
        gpu: The GPU's number, for all others: from 0, as CUDA counts those of CUDA_VISIBLE_DEVICES; 0 by default.

    Raises:
        BackendError: The name is unknown, or this machine lacks what the backend needs.
        InputError: `threads` or `gpu` is not such an integer, or is given for a backend that has none.
    """
    given = {
        **({} if threads is None else {"threads": checks.integer("threads", threads, 1)}),
        **({} if gpu is None else {"gpu": checks.integer("gpu", gpu, 0)}),
    }
    if not isinstance(name, Backend) and name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}; choose from {', '.join(BACKENDS)}")
    on_cpu = not isinstance(name, Backend) and BACKENDS[name] == BACKENDS["onnx"]
    if threads is not None and not on_cpu:
        raise InputError(f"threads must be left out for the backend {name}: they are those of the CPU, for onnx")
    if gpu is not None and (on_cpu or isinstance(name, Backend)):
        others = ", ".join(other for other in BACKENDS if BACKENDS[other] != BACKENDS["onnx"])
        raise InputError(f"gpu must be left out for the backend {name}: it is for {others}")
    if isinstance(name, Backend):
        return name
    module, _, kind = BACKENDS[name].partition(":")
    make = operator.attrgetter(kind)(importlib.import_module(f"sam2edge.runtime.backends.{module}"))
    return cast("Backend", make(**given))
