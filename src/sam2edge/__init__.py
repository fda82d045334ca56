"""SAM 2 on the edge: export to ONNX, segment images and track objects in live video without PyTorch.

The public names are imported when first used, so that `sam2edge --help` and `sam2edge doctor` work without numpy,
OpenCV or ONNX Runtime.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam2edge.bundle import Bundle
    from sam2edge.errors import Sam2EdgeError
    from sam2edge.runtime.image.mask_generator import AutomaticMaskGenerator
    from sam2edge.runtime.image.predictor import ImagePredictor
    from sam2edge.runtime.model.result import FrameResult
    from sam2edge.runtime.video.predictor import VideoPredictor
    from sam2edge.runtime.video.tracker import VideoTracker

__all__ = [
    "AutomaticMaskGenerator",
    "Bundle",
    "FrameResult",
    "ImagePredictor",
    "Sam2EdgeError",
    "VideoPredictor",
    "VideoTracker",
]

_HOMES = {
    "AutomaticMaskGenerator": "sam2edge.runtime.image.mask_generator",
    "Bundle": "sam2edge.bundle",
    "FrameResult": "sam2edge.runtime.model.result",
    "ImagePredictor": "sam2edge.runtime.image.predictor",
    "Sam2EdgeError": "sam2edge.errors",
    "VideoPredictor": "sam2edge.runtime.video.predictor",
    "VideoTracker": "sam2edge.runtime.video.tracker",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sam2edge' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
