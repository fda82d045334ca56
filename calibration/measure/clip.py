"""A clip that is read as often as it is needed: once for each set of graphs, and again for the pictures."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator

from sam2edge.errors import InputError, MediaError
from sam2edge.runtime.media.sources import open_source
from sam2edge.types import Frame


class Clip:
    """The frames of a video file, or of a folder or pattern of images, the same each time.

    path: as for `open_source`. limit: at most so many frames, from the first on. Raises InputError for a limit below 1.
    """

    def __init__(self, path: str | os.PathLike[str], limit: int | None = None) -> None:
        self.name, self._limit = os.fspath(path), limit
        if limit is not None and limit < 1:
            raise InputError(f"the number of frames must be at least 1 but is {limit}")

    def __iter__(self) -> Generator[Frame, None, None]:
        """Open the clip and yield its frames, RGB uint8 [H,W,3].

        Raises InputError for cameras and streams, and MediaError, also when a single frame is broken: the frames that
        follow would not be compared with their own true masks.
        """
        with open_source(self.name) as source:
            if source.live:
                raise InputError(f"{self.name}: cannot be read twice; record it and give the file")
            for number, frame in enumerate(source):
                if number == self._limit:
                    break
                if isinstance(frame, MediaError):
                    raise frame
                yield frame

    def first(self) -> Frame:
        """The first frame. Raises as iterating does."""
        with contextlib.closing(iter(self)) as frames:
            return next(frames)
