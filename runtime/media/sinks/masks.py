"""A label image a frame."""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge.errors import MediaError, ObjectIdError
from sam2edge.files import user_path
from sam2edge.runtime.media import overlay
from sam2edge.runtime.media.sinks.base import Sink, make_directory
from sam2edge.runtime.model.result import FrameResult

_MAX_LABEL = np.iinfo(np.uint16).max


class MaskSink(Sink):
    """Writes a label image a frame: 00000.png for frame 0, and so on.

    directory: is made if it is missing.

    A pixel's value is the id of the object it belongs to, 0 for none; where masks overlap, the object later
    in the result has it. The PNG is uint8, or uint16 in a frame with an id above 255. (DAVIS's palette images
    hold the same values; OpenCV writes no palettes.)

    Raises MediaError if the directory cannot be made or holds PNG files. They could be an earlier run's,
    whose end would stay when this run is shorter, or a dataset's true masks.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = user_path(directory)
        make_directory(self.directory)
        if any(self.directory.glob("*.png")):
            raise MediaError(f"{self.directory}: holds PNG files already; remove them or name another directory")

    def write(self, frame: npt.NDArray[np.uint8], result: FrameResult) -> None:
        """Write one frame's labels.

        Raises ObjectIdError for an id that is not from 1 to 65535, MediaError if the file cannot be written.
        """
        path = self.directory / f"{result.frame_index:05d}.png"
        labels = label_image(frame.shape[:2], result.object_ids, result.masks)
        try:
            path.write_bytes(cv2.imencode(".png", labels)[1].tobytes())  # imwrite does not see that the disk is full
        except OSError as error:
            path.unlink(missing_ok=True)
            raise MediaError(f"{path}: cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Do nothing: each frame was finished when it was written."""


def label_image(
    size: tuple[int, ...], object_ids: Sequence[int], masks: overlay.Masks
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Return an image [H,W] whose pixels are the id of the last mask (bool [H,W]) they belong to, 0 for none.

    Raises ObjectIdError for an id that is not from 1 to 65535.
    """
    for object_id in object_ids:
        if not 1 <= object_id <= _MAX_LABEL:
            raise ObjectIdError(f"object id {object_id} cannot be a pixel's value: use ids from 1 to {_MAX_LABEL}")
    labels = np.zeros(size, np.uint8 if max(object_ids, default=0) < 256 else np.uint16)
    for object_id, mask in zip(object_ids, masks, strict=True):
        labels[mask] = object_id
    return labels
