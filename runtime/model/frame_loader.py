"""Frames on their way to the image encoder: resized on the host, or on the device where the backend can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from sam2edge.runtime.backends.base import Backend, DeviceArray
from sam2edge.runtime.model.resize import filter_weights, resize
from sam2edge.runtime.model.staging import Upload, Uploads


class FrameLoader:
    """Frames of one size after the other in the same arrays; `generation` counts the sizes, which need others.

    bundle: its path. size: S of the model.
    """

    def __init__(self, backend: Backend, bundle: Path, size: int) -> None:
        self._backend, self._bundle, self._size = backend, bundle, size
        self._shape: tuple[int, ...] = ()
        self.generation = 0

    def stage(self, frame: npt.NDArray[np.uint8]) -> None:
        """Take a frame, RGB uint8 [H,W,3]; what was queued with the one before must be done."""
        if frame.shape != self._shape:
            self._shape, self.generation = (), self.generation + 1
            self._uploads = Uploads(self._backend)
            self._resizer = self._backend.resizer(self._bundle, frame.shape[:2])
            if self._resizer:
                self._image = self._backend.zeros((1, self._size, self._size, 3), np.uint8)
                sides = {"rows": frame.shape[0], "columns": frame.shape[1]}
                weights = {name: filter_weights(length, self._size) for name, length in sides.items()}
                self._filter = {name: self._uploads.constant(name, matrix) for name, matrix in weights.items()}
            self._shape = frame.shape  # not before, since memory may run out
        if self._resizer:
            self._upload: Upload = self._uploads.stage("frame", frame)
        else:
            self._upload = self._uploads.stage("image", resize(frame, self._size)[None])

    def load(self) -> DeviceArray:
        """Queue the upload; the image uint8 [1,S,S,3] on the device."""
        self._backend.copy(self._upload.host, self._upload.device)
        if not self._resizer:
            return self._upload.device
        self._resizer.run_into({"frame": self._upload.device, **self._filter}, {"image": self._image})
        return self._image
