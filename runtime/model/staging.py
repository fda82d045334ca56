"""Small arrays of the host on the device: one copy for each name and shape, allocated once."""

from __future__ import annotations

from dataclasses import dataclass

from sam2edge.runtime.backends.base import Array, Backend, DeviceArray


@dataclass(frozen=True, eq=False)
class Upload:
    """An array on both sides."""

    host: Array
    device: DeviceArray


class Uploads:
    """Pairs of arrays that are used again. A name always has the same type."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._pairs: dict[tuple[str, tuple[int, ...]], Upload] = {}

    def stage(self, name: str, value: Array) -> Upload:
        """Write a value to the host's side; the caller queues the copy. The one before must have been copied."""
        key = name, value.shape
        if key not in self._pairs:
            self._pairs[key] = self._new(value)
        self._pairs[key].host[...] = value
        return self._pairs[key]

    def constant(self, name: str, value: Array) -> DeviceArray:
        """The device's side of a value that is always the same for its shape; copied when it is new."""
        key = name, value.shape
        if key not in self._pairs:
            pair = self._new(value)
            pair.host[...] = value
            self._backend.copy(pair.host, pair.device)
            self._pairs[key] = pair  # not before, since the copy may fail
        return self._pairs[key].device

    def _new(self, value: Array) -> Upload:
        backend = self._backend
        return Upload(backend.staging(value.shape, value.dtype), backend.zeros(value.shape, value.dtype))
