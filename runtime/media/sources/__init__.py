"""Where frames come from; docs/sources.md has them in one table."""

from sam2edge.runtime.media.sources.arrays import ArraySource
from sam2edge.runtime.media.sources.base import Frame, Source
from sam2edge.runtime.media.sources.camera import CameraSource
from sam2edge.runtime.media.sources.gstreamer import GStreamerSource, csi_pipeline
from sam2edge.runtime.media.sources.images import ImageFolderSource
from sam2edge.runtime.media.sources.rtsp import RtspSource
from sam2edge.runtime.media.sources.video import VideoSource
from sam2edge.runtime.media.sources.words import open_source

__all__ = [
    "ArraySource",
    "CameraSource",
    "Frame",
    "GStreamerSource",
    "ImageFolderSource",
    "RtspSource",
    "Source",
    "VideoSource",
    "csi_pipeline",
    "open_source",
]
