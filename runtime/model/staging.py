"""Host arrays on their way to the device, in memory that is allocated once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sam2edge.runtime.backends.base import Array, Backend, DeviceArray
from sam2edge.runtime.model.resize import filter_inputs, resize
from sam2edge.types import Frame


@dataclass(frozen=True, eq=False)
class Staged:
    """An array on the host and its counterpart on the device."""

    host: Array
    device: DeviceArray


class Staging:
    """Reusable pairs of arrays, one for each name and shape. A name always has the same type."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._pairs: dict[tuple[str, tuple[int, ...]], Staged] = {}

    def stage(self, name: str, value: Array) -> Staged:
        """Write a value to the host's side; the caller queues the copy. The previous value must have been copied."""
        key = name, value.shape
        if key not in self._pairs:
            self._pairs[key] = self._new(value)
        self._pairs[key].host[...] = value
        return self._pairs[key]

    def constant(self, name: str, value: Array) -> DeviceArray:
        """Return the device's side of a value that is always the same for its shape; it is copied the first time."""
        key = name, value.shape
        if key not in self._pairs:
            pair = self._new(value)
            pair.host[...] = value
            self._backend.copy(pair.host, pair.device)
            self._pairs[key] = pair  # not before, since the copy may fail
        return self._pairs[key].device

    def _new(self, value: Array) -> Staged:
        backend = self._backend
        return Staged(backend.staging(value.shape, value.dtype), backend.zeros(value.shape, value.dtype))


class FrameLoader:
    """Brings frames to the image encoder, resized to `size` on the device where the backend can, else on the host.

    `generation` counts the changes of the frames' size, each of which needs new arrays.
    """

    def __init__(self, backend: Backend, bundle: Path, size: int) -> None:
        self._backend, self._bundle, self._size = backend, bundle, size
        self._shape: tuple[int, ...] = ()
        self.generation = 0

    def stage(self, frame: Frame) -> None:
        """Take a frame; work queued on the previous one must be done."""
        if frame.shape != self._shape:
            self._shape, self.generation = (), self.generation + 1
            self._staging = Staging(self._backend)
            self._resizer = self._backend.resizer(self._bundle, frame.shape[:2])
            if self._resizer:
                self._image = self._backend.zeros((1, self._size, self._size, 3), np.uint8)
                inputs = filter_inputs(frame.shape[:2], self._size)
                self._filter = {name: self._staging.constant(name, value) for name, value in inputs.items()}
            self._shape = frame.shape  # not before, since memory may run out
        name, value = ("frame", frame) if self._resizer else ("image", resize(frame, self._size)[None])
        self._staged = self._staging.stage(name, value)

    def load(self) -> DeviceArray:
        """Queue the upload and return the image on the device, uint8 [1,S,S,3]."""
        self._backend.copy(self._staged.host, self._staged.device)
        if not self._resizer:
            return self._staged.device
        self._resizer.run_into({"frame": self._staged.device, **self._filter}, {"image": self._image})
        return self._image
