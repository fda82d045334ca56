"""Where results go: an overlay video, a label image per frame, a line of JSON per frame, a function, a window."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge.closeable import Closeable
from sam2edge.errors import FrameError, InputError, MediaError, ObjectIdError
from sam2edge.files import finite, user_path
from sam2edge.runtime.media import overlay, rle
from sam2edge.runtime.media.encoders import EXTENSIONS, open_encoder
from sam2edge.runtime.media.mask_files import LabelImage, encode_labels
from sam2edge.runtime.media.packed import PackedMask, pack_masks
from sam2edge.runtime.media.sources.video_file import VideoFile
from sam2edge.runtime.model.result import FrameResult
from sam2edge.types import Floats, Frame

_LONGEST_HOLD = 60
"""Seconds for which a video stands still at most."""
_MAX_LABEL = np.iinfo(np.uint16).max


class Sink(Closeable):
    """Takes the frames of a video with their results; what was written before an error is kept.

    Attributes:
        closed_by_user: Whether the user has closed the sink, as only a window lets them.
    """

    closed_by_user: bool = False

    @abstractmethod
    def write(self, frame: Frame, result: FrameResult) -> None:
        """Write one frame (RGB uint8 [H,W,3]) with the result of tracking it (masks bool [N,H,W])."""

    def close(self) -> None:
        """Finish what was written, where that is needed. May be called again."""


class VideoSink(Sink):
    """Writes the frames as a video, with the masks drawn on them.

    The video grows under a temporary name beside its own and is renamed on closing. If no frame was written or the
    process is killed, what lay at `path` before stays. The extension decides the codec: VP8 in .webm, motion JPEG in
    .avi, and in .mp4, .m4v, .mov and .mkv H.264 if the program ffmpeg is installed, otherwise MPEG-4, which browsers do
    not play. A frame loses its last column or row if its width or height is odd.

    A frame whose result has a `time` stands at that time after the first: the one before is repeated as often as need
    be (for a minute at most), and one that comes less than half a frame after another is left out. Frames without times
    follow each other at the rate.

    Args:
        path: The file; missing directories are made.
        fps: Frames per second, above 0.
        size: Width and height of the frames.

    Attributes:
        codec: What the video is encoded with.

    Raises:
        MediaError: The extension is unknown or the file cannot be written.
        InputError: `fps` is not a number above 0.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float, size: tuple[int, int]) -> None:
        self.path = user_path(path)
        if self.path.suffix.lower() not in EXTENSIONS:
            raise MediaError(f"{self.path}: unknown extension for a video; use one of {', '.join(EXTENSIONS)}")
        if not (math.isfinite(fps) and fps > 0):
            raise InputError(f"fps must be a number above 0 but is {fps}")
        if self.path.is_dir():
            raise MediaError(f"{self.path}: is a directory, expected the name of a file to write")
        make_directory(self.path.parent)
        # The extension stays, since the container is chosen by it; the process id keeps two runs apart.
        self._target = self.path.absolute()
        self._temporary = self._target.with_name(f".{self.path.stem}.{os.getpid()}{self.path.suffix}")
        self._fps, self._size = fps, size
        self._frames = 0
        self._last: Frame | None = None
        self._start: float | None = None
        self._closed = False
        try:
            self._temporary.touch()
            self._encoder = open_encoder(self._temporary, fps, size)
        except (MediaError, OSError) as error:
            self._temporary.unlink(missing_ok=True)
            raise MediaError(
                f"{self.path}: a video of {size[0]}×{size[1]} pixels cannot be written there; is the "
                "directory writable, and are both sides at least 2?"
            ) from error
        self.codec = self._encoder.codec

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Write one frame with its masks.

        Raises:
            FrameError: The frame is of another size, in which case OpenCV would silently drop it.
            MediaError: The sink is closed, or the disk is full.
        """
        if self._closed:
            raise MediaError(f"{self.path}: the video is closed")
        if frame.shape[1::-1] != self._size:
            raise FrameError(f"frames must be {self._size} (width, height) but got {frame.shape[1::-1]}")
        missing = self._missing_before(result.time)
        if missing < 0:
            return
        drawn = overlay.draw(frame, result)
        try:
            for _ in range(missing):
                self._encoder.write(drawn if self._last is None else self._last)
            self._encoder.write(drawn)
        except MediaError as error:
            self._give_up(error)
        self._frames += missing + 1
        self._last = drawn

    def close(self) -> None:
        """Finish the video and give it its name; MediaError if it is incomplete. May be called again."""
        if self._closed:
            return
        self._closed = True
        self._encoder.close()
        if not self._frames:
            self._temporary.unlink(missing_ok=True)
            return
        # No encoder reports a full disk reliably.
        try:
            finished = VideoFile(self._temporary).frame_count is not None
        except MediaError as error:
            self._give_up(error)
        if not finished:
            self._give_up(None)
        self._temporary.replace(self._target)

    def _missing_before(self, time: float | None) -> int:
        """Return how many frames are missing before one of this time; below 0: its place is taken."""
        if time is None:
            return 0
        if self._start is None:
            self._start = time - self._frames / self._fps
        missing = round((time - self._start) * self._fps) - self._frames
        longest = round(_LONGEST_HOLD * self._fps)
        if missing > longest:
            self._start += (missing - longest) / self._fps
        return min(missing, longest)

    def _give_up(self, error: Exception | None) -> NoReturn:
        """Raise for a video that is incomplete; .mkv and .avi play up to the point at which the disk was full."""
        if not self._closed:
            self._closed = True
            self._encoder.close()
        message = f"{self.path}: could not be written completely; is the disk full?"
        try:
            VideoFile(self._temporary)
        except MediaError:
            self._temporary.unlink(missing_ok=True)
        else:
            message += f" The part that was written is in {self._temporary}"
        raise MediaError(message) from error


class MaskSink(Sink):
    """Writes a label image per frame: 00000.png for frame 0, and so on.

    A pixel's value is the id of the object that it belongs to, 0 for none; where masks overlap, the highest logit wins,
    as with SAM 2's non_overlap_masks. The PNG is uint8, or uint16 if the frame has an id above 255, and says in its
    metadata that its values are ids, so that it can be a mask prompt again. (DAVIS's palette images hold the same
    values; OpenCV writes no palettes.)

    Args:
        directory: Made if it is missing.

    Raises:
        MediaError: The directory cannot be made, or holds PNG files: an earlier, longer run's or a dataset's own.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = user_path(directory)
        make_directory(self.directory)
        if any(self.directory.glob("*.png")):
            raise MediaError(f"{self.directory}: holds PNG files already; remove them or name another directory")

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Write one frame's labels; raise what `label_image` raises, and MediaError if the file cannot be written."""
        path = self.directory / f"{result.frame_index:05d}.png"
        labels = label_image(frame.shape[:2], result.object_ids, result.patches())
        try:
            path.write_bytes(encode_labels(labels))  # imwrite does not report a full disk
        except OSError as error:
            path.unlink(missing_ok=True)
            raise MediaError(f"{path}: cannot be written: {error.strerror}") from error


class JsonSink(Sink):
    """Writes one line of JSON per frame.

    Every line is in the file as soon as it is written, for other programs to follow, and stays there if this one is
    killed. The first line replaces what lay at `path` before.

    A line holds `frame_index`, `time` (of the frame, in seconds since the source's start), `size` [height, width] and
    `objects`; each of these has `id`, `segmentation` (COCO's compressed RLE: `size`, `counts`), `bbox` (COCO's [x, y,
    width, height] in pixels, zeros for an empty mask), `iou`, `object_score`, `stability`, `visible` and `state`
    ("visible", "occluded" or "lost"), and `word` if a Follower made the result. `time` is null where it is unknown,
    `iou` and `object_score` where they are not finite, as from a graph that overflows in FP16.

    Args:
        path: The file; missing directories are made.

    Raises:
        MediaError: The file cannot be written.
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

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Write one frame's line; raise MediaError if it cannot be written."""
        line = json.dumps(frame_record(result)) + "\n"
        try:
            if not self._frames and self.path.is_file():
                self._stream.truncate(0)
            self._stream.write(line)
            self._stream.flush()
        except (OSError, ValueError) as error:  # ValueError: the file is closed
            raise MediaError(f"{self.path}: cannot be written: {error}") from error
        self._frames += 1

    def close(self) -> None:
        """Close the file, and remove it if it is new and has no line; MediaError if the disk is full."""
        if self._stream.closed:
            return
        try:
            self._stream.close()
        except OSError as error:
            raise MediaError(f"{self.path}: its last line cannot be written: {error.strerror}") from error
        if self._is_new and not self._frames:
            self.path.unlink(missing_ok=True)


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


class WindowSink(Sink):
    """Shows the frames with the masks drawn on them. Use it in the main thread.

    Attributes:
        closed_by_user: Whether the user pressed q in the window or closed it; nothing is shown from then on.

    Raises:
        MediaError: This OpenCV has no windows, or there is no screen.
    """

    def __init__(self, title: str = "sam2edge") -> None:
        if not _has_windows():
            raise MediaError(
                "this OpenCV has no windows: pip uninstall -y opencv-python-headless && pip install opencv-python"
            )
        # Without a screen, Qt would abort the process.
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise MediaError("no screen to show a window on: neither DISPLAY nor WAYLAND_DISPLAY is set")
        self._title = title
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Show one frame with its masks."""
        if self.closed_by_user:
            return
        cv2.imshow(self._title, cv2.cvtColor(overlay.draw(frame, result), cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(1)  # also draws
        self.closed_by_user = key == ord("q") or not self._is_open()

    def close(self) -> None:
        """Close the window. May be called again."""
        if self._is_open():
            cv2.destroyWindow(self._title)

    def _is_open(self) -> bool:
        try:
            return bool(cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1)
        except cv2.error:  # raised by Qt once the last window is closed
            return False


def label_image(
    size: tuple[int, ...], object_ids: Sequence[int], parts: Iterable[tuple[int, int, int, Floats]]
) -> LabelImage:
    """Return an image [H,W] whose pixels are the id of the object with the highest logit there, 0 where none is > 0.

    Of equal logits, as those of two mask prompts, the lower id wins: the order of the objects makes no difference.

    Args:
        size: (H,W).
        object_ids: the objects' ids.
        parts: as of `FrameResult.patches`: an object's row in `object_ids`, x, y, and its logits from there on.

    Raises:
        ObjectIdError: an id is not from 1 to 65535.
    """
    _check_label_ids(object_ids)
    labels, highest = np.zeros(size, np.uint16), np.zeros(size, np.float32)
    for row, x, y, logits in parts:
        place = np.s_[y : y + len(logits), x : x + logits.shape[1]]
        wins = logits > highest[place]
        wins |= (logits == highest[place]) & (object_ids[row] < labels[place])
        np.copyto(labels[place], np.uint16(object_ids[row]), where=wins)
        np.copyto(highest[place], logits, where=wins)
    return _narrowed(labels, object_ids)


def paint_labels(size: tuple[int, ...], object_ids: Sequence[int], masks: Iterable[PackedMask]) -> LabelImage:
    """Return an image [H,W] whose pixels are the id of the last mask that covers them, 0 for none.

    An ObjectIdError says that an id is not from 1 to 65535.
    """
    _check_label_ids(object_ids)
    labels = np.zeros(size, np.uint16)
    for object_id, mask in zip(object_ids, masks, strict=True):
        labels[mask.place][mask.inside()] = object_id
    return _narrowed(labels, object_ids)


def make_directory(path: Path) -> None:
    """Make a directory and its parents if they are missing; raise MediaError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"{path}: this directory cannot be made: {error.strerror}") from error


def _check_label_ids(object_ids: Sequence[int]) -> None:
    for object_id in object_ids:
        if not 1 <= object_id <= _MAX_LABEL:
            raise ObjectIdError(f"object id {object_id} cannot be a pixel's value: use ids from 1 to {_MAX_LABEL}")


def _narrowed(labels: npt.NDArray[np.uint16], object_ids: Sequence[int]) -> LabelImage:
    """Return labels in the type that all ids fit into, whether or not they have pixels."""
    return labels if max(object_ids, default=0) > 255 else labels.astype(np.uint8)


def frame_record(result: FrameResult) -> dict[str, Any]:
    """Return what a line of JsonSink says of a frame."""
    return {
        "frame_index": result.frame_index,
        "time": None if result.time is None else round(result.time, 6),
        "size": list(result.frame_size),
        "objects": [_json_object(result, i, mask) for i, mask in enumerate(pack_masks(result))],
    }


def _json_object(result: FrameResult, i: int, mask: PackedMask) -> dict[str, Any]:
    return {
        "id": int(result.object_ids[i]),
        "segmentation": rle.encode(mask),
        "bbox": list(mask.bounds),
        "iou": finite(round(float(result.ious[i]), 6)),
        "object_score": finite(round(float(result.object_scores[i]), 6)),
        "stability": round(float(result.stability[i]), 6),
        "visible": bool(result.visible[i]),
        "state": result.states[i],
        **({"word": result.words[i]} if result.words else {}),
    }


def _has_windows() -> bool:
    if hasattr(cv2, "currentUIFramework"):
        return bool(cv2.currentUIFramework())
    # OpenCV before 4.10
    return not re.search(r"^ *GUI: +NONE *$", cv2.getBuildInformation(), re.MULTILINE)
