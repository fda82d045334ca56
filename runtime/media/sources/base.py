"""What every source of frames has, and the source of frames that the caller makes."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sized
from time import monotonic
from typing import Generic, TypeVar

import cv2

from sam2edge.closeable import Closeable
from sam2edge.errors import MediaError
from sam2edge.runtime.model.resize import check_frame
from sam2edge.types import Frame

_MAX_FPS = 1000.0  # FFmpeg gives the stream's clock (90000) where it knows no rate

Item = TypeVar("Item", bound="Frame | MediaError")


class Source(Closeable):
    """Frames, read once from start to end; the first is read on opening, so that a source without a picture fails then.

    Use a source in one thread; only `interrupt` may be called from others.

    Attributes:
        name: What messages call the source.
        live: Whether frames come at their own pace and their end is a fault, as with a camera.
        width: Width of the first frame in pixels.
        height: Height of the first frame in pixels.
        fps: Frames per second; None if unknown.
        frame_count: How many frames the source claims to hold; None if unknown.
        time: When the frame last yielded was shown or taken, in seconds since the source's start: by the time stamps of
            a file, by the clock for a live source; None if unknown.
    """

    name: str
    live: bool = False
    width: int
    height: int
    fps: float | None = None
    frame_count: int | None = None
    time: float | None = None

    @abstractmethod
    def __iter__(self) -> Iterator[Frame | MediaError]:
        """Yield the frames not read yet, and in place of a broken one a MediaError that says why it is broken.

        Raises:
            MediaError: The source failed for good.
        """

    def interrupt(self) -> None:
        """Make another thread stop waiting for a frame, where that is possible."""


class IteratedSource(Source, Generic[Item]):
    """A source whose frames, each with its time, come from one iterator.

    A subclass sets it on opening, once it has read the first.
    """

    _frames: Iterator[tuple[float | None, Item]] = iter(())

    def __iter__(self) -> Iterator[Item]:
        """Yield the frames not read yet."""
        for time, frame in self._frames:
            self.time = time
            yield frame

    def close(self) -> None:
        """Let go of the source; iteration then ends. May be called again."""
        self._frames = iter(())


class ArraySource(IteratedSource[Frame]):
    """Frames from any iterable: a list, or a generator around a camera's own driver.

    Args:
        frames: RGB uint8 [H,W,3] each. A Grabber reads ahead, so no array may be reused for the next frame.
        live: Whether frames come at their own pace and their end is a fault, as with a camera.
        fps: Frames per second, if known.
        name: What messages call the source.

    Raises:
        MediaError: There are no frames.
        FrameError: The first frame is not an RGB uint8 array.
    """

    def __init__(
        self, frames: Iterable[Frame], *, live: bool = False, fps: float | None = None, name: str = "frames"
    ) -> None:
        self.name, self.live, self.fps = name, live, fps
        self.frame_count = len(frames) if isinstance(frames, Sized) else None
        rest = iter(frames)
        first = next(rest, None)
        if first is None:
            raise MediaError(f"{name}: there are no frames")
        self.height, self.width = check_frame(first).shape[:2]
        self._frames = timed(itertools.chain([first], rest), live=live, fps=fps)


def timed(
    frames: Iterable[Item], *, live: bool = False, fps: float | None = None
) -> Iterator[tuple[float | None, Item]]:
    """Yield frames with their times: by the clock, from the first on, if live, else by their rate, if known."""
    start = monotonic()
    for number, frame in enumerate(frames):
        yield monotonic() - start if live else number / fps if fps else None, frame


def known_rate(capture: cv2.VideoCapture) -> float | None:
    """Return the frames per second that a cv2.VideoCapture claims, or None if it does not know them."""
    fps = known(capture.get(cv2.CAP_PROP_FPS))
    return fps if fps and fps <= _MAX_FPS else None


def known(value: float) -> float | None:
    """Return a property of a cv2.VideoCapture, or None where OpenCV does not know it: 0, negative or not finite."""
    return value if math.isfinite(value) and value > 0 else None
