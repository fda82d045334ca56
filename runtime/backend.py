"""The small interface behind which graphs run. A backend is named, opened by name, and opens graph files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from sam2edge.errors import BackendError

Array = npt.NDArray[Any]


class GraphRunner(ABC):
    """One graph, ready to run."""

    @abstractmethod
    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name for inputs by name, contiguous arrays as the contract says (sam2edge.bundle.contract).

        The outputs are new arrays that the caller may keep. Raises BackendError when the engine fails.
        """


class Backend(ABC):
    """A way to run graphs on a device."""

    @abstractmethod
    def open(self, graph: Path) -> GraphRunner:
        """Load a graph file; BackendError when the backend cannot read it."""


def open_backend(name: str | Backend) -> Backend:
    """The backend called `name`: onnx (CPU), onnx-cuda, or auto for the fastest that is always right (onnx).

    A Backend of the caller's own is taken as it is. Raises BackendError for an unknown name, and when what the name
    promises is not on this machine.
    """
    if isinstance(name, Backend):
        return name
    if name not in _BACKENDS:
        raise BackendError(f"unknown backend {name!r}; choose from {', '.join(sorted(_BACKENDS))}")
    return _BACKENDS[name]()


def _onnx() -> Backend:
    from sam2edge.runtime.onnx_backend import OnnxBackend

    return OnnxBackend("CPUExecutionProvider")


def _onnx_cuda() -> Backend:
    from sam2edge.runtime.onnx_backend import OnnxBackend

    return OnnxBackend("CUDAExecutionProvider")


_BACKENDS: dict[str, Callable[[], Backend]] = {"auto": _onnx, "onnx": _onnx, "onnx-cuda": _onnx_cuda}
