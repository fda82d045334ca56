"""Where frames come from; docs/sources.md has them in one table."""

from sam2edge.runtime.sources.arrays import ArraySource
from sam2edge.runtime.sources.base import Frame, Source
from sam2edge.runtime.sources.camera import CameraSource
from sam2edge.runtime.sources.gstreamer import GStreamerSource, csi_pipeline
from sam2edge.runtime.sources.images import ImageFolderSource
from sam2edge.runtime.sources.rtsp import RtspSource
from sam2edge.runtime.sources.video import VideoSource
from sam2edge.runtime.sources.words import open_source

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
