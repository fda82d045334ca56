"""What cameras and streams that OpenCV opens have in common."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import cv2

from sam2edge.errors import MediaError
from sam2edge.runtime.media.sources.base import Frame, Source, known

_WARM_UP = 10
"""So many broken frames are passed over on opening: some USB cameras start with a few."""
_MAX_FPS = 1000.0
"""Above this it is the clock of the stream (90000), which FFmpeg gives for want of a rate."""


class LiveCapture(Source):
    """An opened cv2.VideoCapture that is live. advice: what to do if it gives no picture."""

    live = True

    def __init__(self, name: str, capture: cv2.VideoCapture, advice: str) -> None:
        self.name = name
        self._capture = capture
        rest = self._read()
        first = next((frame for frame in itertools.islice(rest, _WARM_UP) if not isinstance(frame, MediaError)), None)
        if first is None:
            self.close()
            raise MediaError(f"{name}: gives no picture; {advice}")
        self.height, self.width = first.shape[:2]
        fps = known(capture.get(cv2.CAP_PROP_FPS))
        self.fps = fps if fps and fps <= _MAX_FPS else None
        self._frames = itertools.chain([first], rest)

    def __iter__(self) -> Iterator[Frame | MediaError]:
        """Yield the frames as they come."""
        return self._frames

    def close(self) -> None:
        """Release the camera or stream; iterating then ends. May be called again."""
        self._frames = itertools.chain()
        self._capture.release()

    def _read(self) -> Iterator[Frame | MediaError]:
        # Not read(): it says the same of a broken frame and of a camera that is gone.
        while self._capture.grab():
            decoded, frame = self._capture.retrieve()
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if decoded else MediaError(f"{self.name}: a broken frame")
