"""What every sink has."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sam2edge.closeable import Closeable
from sam2edge.errors import MediaError
from sam2edge.runtime.model.result import FrameResult


class Sink(Closeable):
    """Takes the frames of a video with their results; what was written before an error is kept.

    closed_by_user: whether a person has seen enough; only a window can say so.
    """

    closed_by_user: bool = False

    @abstractmethod
    def write(self, frame: npt.NDArray[np.uint8], result: FrameResult) -> None:
        """Write one frame (RGB uint8 [H,W,3]) with the result of tracking it (masks bool [N,H,W])."""


def make_directory(path: Path) -> None:
    """Make a directory and those above it, if they are missing; MediaError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"{path}: this directory cannot be made: {error.strerror}") from error
