"""Sources by the words of the command line."""

from __future__ import annotations

import glob
import os
import re

from sam2edge.errors import InputError
from sam2edge.files import PathKind, path_kind, user_path
from sam2edge.runtime.media.sources.base import Source
from sam2edge.runtime.media.sources.camera import CameraSource
from sam2edge.runtime.media.sources.gstreamer import GStreamerSource, csi_pipeline
from sam2edge.runtime.media.sources.images import ImageFolderSource
from sam2edge.runtime.media.sources.rtsp import RtspSource
from sam2edge.runtime.media.sources.video import VideoSource


def open_source(word: str | os.PathLike[str]) -> Source:
    """Open what a word stands for.

    "0" or "/dev/video0": a camera. "csi:0": a Jetson's. "rtsp://…": a stream. "gst:PIPELINE": a GStreamer pipeline. A
    folder or a pattern ("run/*.png"): its images. Anything else is the path of a video; "./0" is a file that is
    called 0.

    Raises InputError for other addresses, bundles and checkpoints, and what the source raises.
    """
    if isinstance(word, str):
        if word.isdecimal():
            return CameraSource(int(word))
        if re.match(r"/dev/video\d+$", word):
            return CameraSource(word)
        if match := re.match(r"csi:(\d+)$", word):
            return GStreamerSource(csi_pipeline(int(match[1])), fps=30)
        if word.startswith(("rtsp://", "rtsps://")):
            return RtspSource(word)
        if word.startswith("gst:"):
            return GStreamerSource(word.removeprefix("gst:"))
        if "://" in word:
            raise InputError(f"{word}: of addresses only rtsp:// can be opened; gst:PIPELINE may take others")
    path = user_path(word)
    kind = path_kind(path)
    if kind in (PathKind.BUNDLE, PathKind.CHECKPOINT):
        raise InputError(
            f"{path} is {kind.value}, not a video: give a video file, a folder of images, the number of a camera, or "
            "an rtsp:// address"
        )
    if os.path.isdir(path) or (glob.has_magic(str(path)) and not os.path.exists(path)):
        return ImageFolderSource(path)
    return VideoSource(path)
