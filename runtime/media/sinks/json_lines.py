"""A line of JSON a frame."""

from __future__ import annotations

import json
import os
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge.errors import MediaError
from sam2edge.files import finite, user_path
from sam2edge.runtime.media import rle
from sam2edge.runtime.media.sinks.base import Sink, make_directory
from sam2edge.runtime.model.result import FrameResult


class JsonSink(Sink):
    """Writes one line of JSON a frame.

    path: the file; missing directories are made. Every line is in the file as soon as it is written, for other
    programs to follow, and stays there if this one is killed. What lay at `path` before goes with the first line.

    A line holds `frame_index`, `size` [height, width] and `objects`; each of these has `id`, `segmentation`
    (COCO's compressed RLE: `size`, `counts`), `bbox` (COCO's [x, y, width, height] in pixels, zeros for an
    empty mask), `iou`, `object_score`, `stability`, `visible` and `state` ("visible", "occluded" or "lost"). `iou` and
    `object_score` are null where they are not finite, as from a graph that overflows in FP16.

    Raises MediaError if the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = user_path(path)
        make_directory(self.path.parent)
        self._is_new = not self.path.exists()
        self._frames = 0
        try:
            self._stream = self.path.open("a", encoding="ascii")
        except OSError as error:
            raise MediaError(f"{self.path}: cannot be written: {error.strerror}") from error

    def write(self, frame: npt.NDArray[np.uint8], result: FrameResult) -> None:
        """Write one frame's line; MediaError if it cannot be written."""
        line = {
            "frame_index": result.frame_index,
            "size": list(frame.shape[:2]),
            "objects": [_json_object(result, i) for i in range(len(result.object_ids))],
        }
        try:
            if not self._frames and self.path.is_file():
                self._stream.truncate(0)
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()
        except (OSError, ValueError) as error:  # ValueError: the file is closed
            raise MediaError(f"{self.path}: cannot be written: {error}") from error
        self._frames += 1

    def close(self) -> None:
        """Close the file; a new one without a line is removed. May be called again. MediaError if the disk is full."""
        if self._stream.closed:
            return
        try:
            self._stream.close()
        except OSError as error:
            raise MediaError(f"{self.path}: its last line cannot be written: {error.strerror}") from error
        if self._is_new and not self._frames:
            self.path.unlink(missing_ok=True)


def _json_object(result: FrameResult, i: int) -> dict[str, Any]:
    mask = result.masks[i]
    return {
        "id": int(result.object_ids[i]),
        "segmentation": rle.encode(mask),
        "bbox": list(cv2.boundingRect(mask.view(np.uint8))),
        "iou": finite(round(float(result.ious[i]), 6)),
        "object_score": finite(round(float(result.object_scores[i]), 6)),
        "stability": round(float(result.stability[i]), 6),
        "visible": bool(result.visible[i]),
        "state": result.states[i],
    }
