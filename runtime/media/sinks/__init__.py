"""Where results go."""

from sam2edge.runtime.media.sinks.base import Sink
from sam2edge.runtime.media.sinks.callback import CallbackSink
from sam2edge.runtime.media.sinks.json_lines import JsonSink
from sam2edge.runtime.media.sinks.masks import MaskSink, label_image
from sam2edge.runtime.media.sinks.video import VideoSink
from sam2edge.runtime.media.sinks.window import WindowSink

__all__ = ["CallbackSink", "JsonSink", "MaskSink", "Sink", "VideoSink", "WindowSink", "label_image"]
