"""The image-encoder graph: one module for each kind of trunk, with the same names for the parts that they share.

`patches` reads pixels, `blocks.N` are the trunk's in order, and what begins with `level_` or `high_res_` makes the
outputs; the recipes of INT8 refer to these names.
"""

from __future__ import annotations

from torch import nn
from transformers import EdgeTamVisionModel, Sam2VisionModel

from sam2edge.export.image_encoder.hiera import HieraEncoder
from sam2edge.export.image_encoder.repvit import RepVitEncoder
from sam2edge.export.image_encoder.vit import VitEncoder
from sam2edge.export.source import Source
from sam2edge.export.source.efficienttam import EfficientTamVisionModel

_ENCODERS = {
    Sam2VisionModel: HieraEncoder,
    EdgeTamVisionModel: RepVitEncoder,
    EfficientTamVisionModel: VitEncoder,
}


def image_encoder(source: Source) -> nn.Module:
    """Return the module that is exported for a model's image encoder."""
    return _ENCODERS[type(source.model.vision_encoder)](source.model, source.mean, source.std)
