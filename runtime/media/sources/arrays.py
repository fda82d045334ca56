"""Frames that the caller makes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sized

from sam2edge.errors import MediaError
from sam2edge.runtime.media.sources.base import Frame, Source
from sam2edge.runtime.model.resize import check_frame


class ArraySource(Source):
    """Any iterable of RGB uint8 [H,W,3]: a list, or a generator around a camera's own driver.

    Each must be an array of its own, since a Grabber reads ahead. live: the frames come at their own pace and their end
    is a fault, as of a camera.

    Raises MediaError if there are no frames, FrameError if the first is none.
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
        self._frames: Iterator[Frame] = itertools.chain([first], rest)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames that were not read yet, as they are."""
        return self._frames

    def close(self) -> None:
        """Let go of the frames; iterating again gives none."""
        self._frames = iter(())
