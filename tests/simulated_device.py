"""A device that behaves as a GPU does, on the CPU: its arrays cannot be read, its work waits, recordings are replayed.

What is queued happens in `synchronize` and not before, so that a caller who does not wait reads old values. From the
third time on, `replay` does what was recorded with the arrays of then, and does not call its steps.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sam2edge.runtime.backends.base import Array, Backend, GraphRunner, open_backend


class SimulatedArray:
    """Memory that only the device reads."""

    def __init__(self, values: Array) -> None:
        assert values.flags.c_contiguous, "a view of a device array must be contiguous"
        self.values = values
        self.shape, self.dtype = values.shape, values.dtype

    def __getitem__(self, index: int | slice) -> SimulatedArray:
        assert isinstance(index, (int, np.integer, slice)), "device arrays are indexed along their first axis"
        return SimulatedArray(self.values[index])


class SimulatedDevice(Backend):
    """Runs graphs with ONNX Runtime.

    half: device arrays between graphs are FP16, as of FP16 engines. resize: an ONNX file that resizes frames up to 320.
    """

    def __init__(self, half: bool = False, resize: Path | None = None) -> None:
        self.half, self.resize, self._inner = half, resize, open_backend("onnx")
        self._queue: list[Callable[[], None]] = []
        self._recordings: dict[Hashable, list[Callable[[], None]]] = {}
        self._seen: dict[Hashable, int] = {}
        self.allocated = self.replayed = self.waits = 0

    def open(self, graph: Path) -> GraphRunner:
        return _Runner(self, self._inner.open(graph))

    def resizer(self, bundle: Path, size: tuple[int, int]) -> GraphRunner | None:
        return self.open(self.resize) if self.resize and max(size) <= 320 else None

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Any:
        self.allocated += 1
        return SimulatedArray(np.zeros(shape, dtype))

    def staging(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
        self.allocated += 1
        return np.zeros(shape, dtype)

    def copy(self, source: Any, to: Any) -> None:
        assert source.shape == to.shape, (source.shape, to.shape)
        assert source.dtype == to.dtype, (source.dtype, to.dtype)
        assert isinstance(source, SimulatedArray) or isinstance(to, SimulatedArray), "both are on the host"
        self.queue(lambda: np.copyto(_values(to), _values(source)))

    def queue(self, work: Callable[[], None]) -> None:
        self._queue.append(work)

    def replay(self, key: Hashable, steps: Callable[[], None]) -> None:
        self._seen[key] = self._seen.get(key, 0) + 1
        if key in self._recordings:
            self.replayed += 1
            self._queue += self._recordings[key]
            return
        before = len(self._queue)
        steps()
        if self._seen[key] == 3:
            self._recordings[key] = self._queue[before:]

    def forget(self) -> None:
        self._recordings.clear()
        self._seen.clear()

    def synchronize(self) -> None:
        self.waits += 1
        for work in self._queue:
            work()
        self._queue.clear()

    def new_stream(self) -> SimulatedDevice:
        return SimulatedDevice(self.half, self.resize)


class _Runner(GraphRunner):
    _HOST = frozenset({"points", "mask_input", "mask", "masks", "iou", "ious", "object_score"})

    def __init__(self, device: SimulatedDevice, inner: GraphRunner) -> None:
        self._device, self._inner = device, inner

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(np.float16 if self._device.half and name not in self._HOST else np.float32)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        self._device.synchronize()
        return self._inner.run({name: _float32(_values(value)) for name, value in inputs.items()})

    def run_into(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        for name, array in {**inputs, **outputs}.items():
            assert isinstance(array, SimulatedArray), f"{name} is not on the device"
            if array.dtype.kind == "f":
                assert array.dtype == self.dtype(name), f"{name} is {array.dtype}"

        def work() -> None:
            found = self._inner.run({name: _float32(array.values) for name, array in inputs.items()})
            for name, array in outputs.items():
                assert array.shape == found[name].shape
                array.values[...] = found[name]

        self._device.queue(work)


def _values(array: Any) -> Array:
    values: Array = array.values if isinstance(array, SimulatedArray) else array
    return values


def _float32(values: Array) -> Array:
    return values.astype(np.float32) if values.dtype == np.float16 else values
