"""Where frames come from."""

from __future__ import annotations

import os
import re

from sam2edge.errors import InputError
from sam2edge.files import PathKind, is_file_address, path_kind, user_path
from sam2edge.runtime.media.image_files import ValueRange, stands_for_images
from sam2edge.runtime.media.sources.base import ArraySource, Source
from sam2edge.runtime.media.sources.devices import CameraSource, StreamSource
from sam2edge.runtime.media.sources.files import ImageFolderSource, VideoSource
from sam2edge.runtime.media.sources.gstreamer import GStreamerSource, csi_pipeline

__all__ = [
    "ArraySource",
    "CameraSource",
    "GStreamerSource",
    "ImageFolderSource",
    "Source",
    "StreamSource",
    "VideoSource",
    "csi_pipeline",
    "open_source",
]


_STREAMS = ("rtsp://", "rtsps://", "http://", "https://", "udp://")


def open_source(word: str | os.PathLike[str], *, value_range: ValueRange | None = None) -> Source:
    """Open a source by the word that names it on the command line.

    Args:
        word: "0" or "/dev/video0" is a camera, "csi:0" a Jetson's CSI camera, "rtsp://…",
            "http://…", "https://…" or "udp://…" a network stream and "gst:PIPELINE" a GStreamer pipeline. The path of a
            folder, or a pattern such as "run/*.png", stands for its images; any other path, or "file://…", is a video
            file. "./0" is a file called 0.
        value_range: Which values of images become black and white, as for `read_image`.

    Raises:
        InputError: The word is an address of another kind, or the path of a bundle or checkpoint; or a range is given
            for something other than images.
        MediaError: The source cannot be opened or gives no picture.
    """
    if value_range is not None:
        if not stands_for_images(word):
            raise InputError(f"{word}: a range is only for folders and patterns of images")
        return ImageFolderSource(word, value_range=value_range)
    if isinstance(word, str):
        if word.isdecimal():
            return CameraSource(int(word))
        if re.match(r"/dev/video\d+$", word):
            return CameraSource(word)
        if match := re.match(r"csi:(\d+)$", word):
            return GStreamerSource(csi_pipeline(int(match[1])), fps=30)
        if word.lower().startswith(_STREAMS):
            return StreamSource(word)
        if word.startswith("gst:"):
            return GStreamerSource(word.removeprefix("gst:"))
        if "://" in word and not is_file_address(word):
            raise InputError(f"{word}: not one of {', '.join(_STREAMS)}, file://; try gst:PIPELINE")
    path = user_path(word)
    kind = path_kind(path)
    if kind in (PathKind.BUNDLE, PathKind.CHECKPOINT):
        raise InputError(
            f"{path} is {kind.value}, not a video: give a video file, a folder of images, the number of a camera, or "
            "the address of a stream"
        )
    if stands_for_images(path):
        return ImageFolderSource(path)
    return VideoSource(path)
