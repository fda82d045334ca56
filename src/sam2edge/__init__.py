"""SAM 2 on the edge: export to ONNX, segment images and track objects in live video without PyTorch.

Everything that a program needs is imported from here. A name loads its module when it is first used, so that
`sam2edge --help` and `sam2edge doctor` work without numpy, OpenCV or ONNX Runtime.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam2edge.bundle import Bundle as Bundle
    from sam2edge.errors import MediaError as MediaError, Sam2EdgeError as Sam2EdgeError
    from sam2edge.runtime.image.consistency import consistency as consistency
    from sam2edge.runtime.image.mask_generator import AutomaticMaskGenerator as AutomaticMaskGenerator
    from sam2edge.runtime.image.predictor import ImagePredictor as ImagePredictor
    from sam2edge.runtime.media.grabber import Grabber as Grabber, Reconnect as Reconnect
    from sam2edge.runtime.media.image_files import find_images as find_images, read_image as read_image
    from sam2edge.runtime.media.sinks import (
        CallbackSink as CallbackSink,
        JsonSink as JsonSink,
        MaskSink as MaskSink,
        Sink as Sink,
        VideoSink as VideoSink,
        WindowSink as WindowSink,
    )
    from sam2edge.runtime.media.sources import (
        ArraySource as ArraySource,
        CameraSource as CameraSource,
        GStreamerSource as GStreamerSource,
        ImageFolderSource as ImageFolderSource,
        Source as Source,
        StreamSource as StreamSource,
        VideoSource as VideoSource,
        open_source as open_source,
    )
    from sam2edge.runtime.model.logits import stability_score as stability_score
    from sam2edge.runtime.model.prompts import Prompt as Prompt
    from sam2edge.runtime.model.result import FrameResult as FrameResult
    from sam2edge.runtime.video.follower import Follower as Follower
    from sam2edge.runtime.video.predictor import VideoPredictor as VideoPredictor
    from sam2edge.runtime.video.stream import stream as stream
    from sam2edge.runtime.video.tracker import Earlier as Earlier, VideoTracker as VideoTracker
    from sam2edge.runtime.words.detections import Detections as Detections
    from sam2edge.runtime.words.detector import WordDetector as WordDetector
    from sam2edge.runtime.words.words import Words as Words

# ONNX Runtime reads this when it is imported, which only modules of this package do. From 1.31 on it otherwise keeps a
# device id in the user's cache folder and reports to Microsoft, on Linux too.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_PUBLIC = {
    "bundle": ["Bundle"],
    "errors": ["MediaError", "Sam2EdgeError"],
    "runtime.image.consistency": ["consistency"],
    "runtime.image.mask_generator": ["AutomaticMaskGenerator"],
    "runtime.image.predictor": ["ImagePredictor"],
    "runtime.media.grabber": ["Grabber", "Reconnect"],
    "runtime.media.image_files": ["find_images", "read_image"],
    "runtime.media.sinks": ["CallbackSink", "JsonSink", "MaskSink", "Sink", "VideoSink", "WindowSink"],
    "runtime.media.sources": [
        *("ArraySource", "CameraSource", "GStreamerSource", "ImageFolderSource", "Source", "StreamSource"),
        *("VideoSource", "open_source"),
    ],
    "runtime.model.logits": ["stability_score"],
    "runtime.model.prompts": ["Prompt"],
    "runtime.model.result": ["FrameResult"],
    "runtime.video.follower": ["Follower"],
    "runtime.video.predictor": ["VideoPredictor"],
    "runtime.video.stream": ["stream"],
    "runtime.video.tracker": ["Earlier", "VideoTracker"],
    "runtime.words.detections": ["Detections"],
    "runtime.words.detector": ["WordDetector"],
    "runtime.words.words": ["Words"],
}
_MODULES = {name: f"{__name__}.{module}" for module, names in _PUBLIC.items() for name in names}

__version__ = "0.1.0"
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
