"""Where results go."""

from sam2edge.runtime.media.sinks.base import CallbackSink, Sink
from sam2edge.runtime.media.sinks.files import JsonSink, MaskSink, VideoSink, label_image
from sam2edge.runtime.media.sinks.window import WindowSink

__all__ = ["CallbackSink", "JsonSink", "MaskSink", "Sink", "VideoSink", "WindowSink", "label_image"]
