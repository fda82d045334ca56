"""What every source of frames has."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sam2edge.closeable import Closeable
from sam2edge.errors import MediaError

Frame = npt.NDArray[np.uint8]
"""RGB uint8 [H,W,3], contiguous."""


class Source(Closeable):
    """Frames, read once from start to end. The first one is read on opening: what gives no picture fails there.

    name: for messages. live: frames come at their own pace and an end is a fault, as of a camera. width, height: of
    the first frame, in pixels. fps: frames a second, frame_count: how many frames it claims to hold; None if unknown.

    To be used by one thread; only `interrupt` may be called by others.
    """

    name: str
    live: bool = False
    width: int
    height: int
    fps: float | None = None
    frame_count: int | None = None

    @abstractmethod
    def __iter__(self) -> Iterator[Frame | MediaError]:
        """Yield the frames that were not read yet, and in place of a broken one a MediaError that says why.

        Raises MediaError when the source fails for good.
        """

    def interrupt(self) -> None:
        """Make another thread that waits for a frame give up, where that can be done."""


def known(value: float) -> float | None:
    """Return a property of a cv2.VideoCapture, or None for what stands for unknown: 0, negative, not finite."""
    return value if math.isfinite(value) and value > 0 else None
