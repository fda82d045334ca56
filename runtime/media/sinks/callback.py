"""A function of the caller's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from sam2edge.runtime.media.sinks.base import Sink
from sam2edge.runtime.model.result import FrameResult


class CallbackSink(Sink):
    """Calls function(frame, result) for every frame (RGB uint8 [H,W,3])."""

    def __init__(self, function: Callable[[npt.NDArray[np.uint8], FrameResult], object]) -> None:
        self._function = function

    def write(self, frame: npt.NDArray[np.uint8], result: FrameResult) -> None:
        """Call the function; what it raises is raised here."""
        self._function(frame, result)

    def close(self) -> None:
        """Do nothing."""
