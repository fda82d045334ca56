"""Where results go: an overlay video, a label image a frame, or a line of JSON a frame."""

from __future__ import annotations

import json
import math
import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge.errors import FrameError, InputError, MediaError, ObjectIdError
from sam2edge.runtime import overlay, rle
from sam2edge.runtime.closing import Closing
from sam2edge.runtime.result import FrameResult
from sam2edge.runtime.sources import VideoSource

_CODECS = {".avi": "MJPG", ".m4v": "mp4v", ".mkv": "mp4v", ".mov": "mp4v", ".mp4": "mp4v"}
_MAX_LABEL = np.iinfo(np.uint16).max


class Sink(Closing):
    """Takes the frames of a video with their results; what was written before an error is kept."""

    @abstractmethod
    def write(self, frame: npt.NDArray[np.uint8], result: FrameResult) -> None:
        """Write one frame (RGB uint8 [H,W,3]) with the result of tracking it (masks bool [N,H,W])."""


class VideoSink(Sink):
    """Writes the frames with the masks drawn on them as a video.

    path: the file; missing directories are made. fps: frames a second, above 0. size: (width, height) of the
    frames.

    The video grows under a temporary name beside its own, which it gets on closing. If no frame was written
    or the process is killed, what lay at `path` before stays. The extension decides the codec: MPEG-4 in
    .mp4, .m4v, .mov and .mkv, motion JPEG in .avi. Both want even sides: an odd frame loses its last column
    or row.

    Raises MediaError for an extension it does not know or a file it cannot write, InputError for a wrong fps.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float, size: tuple[int, int]) -> None:
        self.path = Path(path)
        codec = _CODECS.get(self.path.suffix.lower())
        if codec is None:
            raise MediaError(f"{self.path}: unknown extension for a video; use one of {', '.join(_CODECS)}")
        if not (math.isfinite(fps) and fps > 0):
            raise InputError(f"fps must be a number above 0 but is {fps}")
        self._size = size
        self._frames = 0
        self._file = _Replacement(self.path)
        self._writer = cv2.VideoWriter(str(self._file.temporary), cv2.VideoWriter.fourcc(*codec), fps, size)
        if not self._writer.isOpened():
            self._file.discard()
            raise MediaError(
                f"{self.path}: a video of {size[0]}×{size[1]} pixels cannot be written there; is the "
                "directory writable, and are both sides at least 2?"
            )

    def write(self, frame: npt.NDArray[np.uint8], result: FrameResult) -> None:
        """Write one frame with its masks.

        Raises FrameError for a frame of another size (OpenCV would drop it without a word) and MediaError
        after `close`.
        """
        if not self._writer.isOpened():
            raise MediaError(f"{self.path}: the video is closed")
        if frame.shape[1::-1] != self._size:
            raise FrameError(f"frames must be {self._size} (width, height) but got {frame.shape[1::-1]}")
        self._writer.write(cv2.cvtColor(overlay.draw(frame, result), cv2.COLOR_RGB2BGR))
        self._frames += 1

    def close(self) -> None:
        """Finish the video and give it its name. May be called again.

        Raises MediaError if it cannot be played: OpenCV says nothing of a full disk while writing.
        """
        if not self._writer.isOpened():
            return
        self._writer.release()
        if not self._frames:
            self._file.discard()
            return
        try:
            VideoSource(self._file.temporary).close()
        except MediaError as error:
            self._file.discard()
            raise MediaError(f"{self.path}: could not be written completely; is the disk full?") from error
        self._file.publish()


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
        self.directory = Path(directory)
        _make_directory(self.directory)
        if any(self.directory.glob("*.png")):
            raise MediaError(f"{self.directory}: holds PNG files already; remove them or name another directory")

    def write(self, frame: npt.NDArray[np.uint8], result: FrameResult) -> None:
        """Write one frame's labels.

        Raises ObjectIdError for an id that is not from 1 to 65535, MediaError if the file cannot be written.
        """
        path = self.directory / f"{result.frame_index:05d}.png"
        if not cv2.imwrite(str(path), label_image(frame.shape[:2], result.object_ids, result.masks)):
            raise MediaError(f"{path}: cannot be written; is the disk full, or the directory gone?")

    def close(self) -> None:
        """Do nothing: each frame was finished when it was written."""


class JsonSink(Sink):
    """Writes one line of JSON a frame.

    path: the file; missing directories are made. Like a video it grows under a temporary name.

    A line holds `frame_index`, `size` [height, width] and `objects`; each of these has `id`, `segmentation`
    (COCO's compressed RLE: `size`, `counts`), `bbox` (COCO's [x, y, width, height] in pixels, zeros for an
    empty mask), `iou`, `object_score` and `visible`.

    Raises MediaError if the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._frames = 0
        self._file = _Replacement(self.path)
        try:
            self._stream = self._file.temporary.open("w", encoding="ascii")
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
            self._stream.write(json.dumps(line) + "\n")
        except (OSError, ValueError) as error:  # ValueError: the file is closed
            raise MediaError(f"{self.path}: cannot be written: {error}") from error
        self._frames += 1

    def close(self) -> None:
        """Finish the file and give it its name. May be called again. MediaError if the disk is full."""
        if self._stream.closed:
            return
        try:
            self._stream.close()
        except OSError as error:
            raise MediaError(f"{self.path}: its last lines cannot be written: {error.strerror}") from error
        finally:
            if self._frames:
                self._file.publish()
            else:
                self._file.discard()


class _Replacement:
    """A file that grows under a temporary name in the directory of the one it will replace."""

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise MediaError(f"{path}: is a directory, expected the name of a file to write")
        _make_directory(path.parent)
        # The extension stays: OpenCV takes the container from it. The process's number keeps two runs apart.
        self.temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        self._path = path

    def publish(self) -> None:
        self.temporary.replace(self._path)

    def discard(self) -> None:
        self.temporary.unlink(missing_ok=True)


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"{path}: this directory cannot be made: {error.strerror}") from error


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


def _json_object(result: FrameResult, i: int) -> dict[str, Any]:
    mask = result.masks[i]
    return {
        "id": int(result.object_ids[i]),
        "segmentation": rle.encode(mask),
        "bbox": list(cv2.boundingRect(mask.view(np.uint8))),
        "iou": round(float(result.ious[i]), 6),
        "object_score": round(float(result.object_scores[i]), 6),
        "visible": bool(result.visible[i]),
    }
