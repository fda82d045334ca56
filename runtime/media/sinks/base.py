"""What every sink has, and the sink that calls a function."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path

from sam2edge.closeable import Closeable
from sam2edge.errors import MediaError
from sam2edge.runtime.model.result import FrameResult
from sam2edge.types import Frame


class Sink(Closeable):
    """Takes the frames of a video with their results; what was written before an error is kept.

    Attributes:
        closed_by_user: Whether the user has closed the sink, as only a window lets them.
    """

    closed_by_user: bool = False

    @abstractmethod
    def write(self, frame: Frame, result: FrameResult) -> None:
        """Write one frame (RGB uint8 [H,W,3]) with the result of tracking it (masks bool [N,H,W])."""


class CallbackSink(Sink):
    """Calls a function with every frame (RGB uint8 [H,W,3]) and its result.

    Args:
        function: Called as function(frame, result); what it raises is raised by `write`.
    """

    def __init__(self, function: Callable[[Frame, FrameResult], object]) -> None:
        self._function = function

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Call the function."""
        self._function(frame, result)

    def close(self) -> None:
        """Do nothing."""


def make_directory(path: Path) -> None:
    """Make a directory and its parents if they are missing; raise MediaError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"{path}: this directory cannot be made: {error.strerror}") from error
