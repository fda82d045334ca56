"""The memory-encoder graph: a frame's features and mask → its memory (sam2_base.py, _encode_new_memory)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam2edge.export.rewrites import frozen, reshape

NO_OBJECT_LOGIT = -1024.0


class MemoryEncoder(nn.Module):
    """features [1,C,h,h] (raw), mask logits [N,1,4h,4h], object_score [N,1], binarize [N] → memory [N,L,M].

    Each of the L tokens is the mean of pool×pool tokens of SAM 2's memory. Where object_score ≤ 0, the mask counts as
    empty and the no-object embedding is added (2.1). `binarize` marks prompted frames, whose memory then holds exactly
    the mask that the user saw.
    """

    def __init__(self, model: Any, pool: int = 1) -> None:
        super().__init__()
        encoder = model.memory_encoder
        self.memory_dim: int = model.mem_dim
        self.pool = pool
        self.soft_mask = SoftMask(model.config.sigmoid_scale_for_mem_enc, model.config.sigmoid_bias_for_mem_enc)
        self.mask_downsampler, self.feature_projection = encoder.mask_downsampler, encoder.feature_projection
        self.fuser, self.projection = encoder.memory_fuser, encoder.projection
        embedding = model.occlusion_spatial_embedding_parameter
        self.no_object = None if embedding is None else frozen(embedding[:, None])

    def forward(self, features: Tensor, mask: Tensor, object_score: Tensor, binarize: Tensor) -> Tensor:
        """Encode the memories of N objects on one frame."""
        present = reshape(object_score > 0, -1, 1, 1, 1)
        soft = self.soft_mask(mask, present, binarize)
        fused = self.feature_projection(features) + self.mask_downsampler(soft)
        memory = self.projection(self.fuser(fused))
        if self.pool > 1:
            memory = F.avg_pool2d(memory, self.pool)
        memory = reshape(memory, 0, self.memory_dim, -1).transpose(1, 2)
        if self.no_object is None:
            return memory
        return memory + torch.where(reshape(present, -1, 1, 1), 0.0, self.no_object)


class SoftMask(nn.Module):
    """Mask logits at the image's size, as probabilities or binary, scaled to -10…10.

    It is a module of its own so that engines can keep its nodes in FP32 by their names: rounding may change the sign
    of interpolated logits near 0.
    """

    def __init__(self, scale: float, offset: float) -> None:
        super().__init__()
        self.scale, self.offset = scale, offset

    def forward(self, mask: Tensor, present: Tensor, binarize: Tensor) -> Tensor:
        """Turn logits [N,1,4h,4h] into [N,1,S,S], given present [N,1,1,1] and binarize [N]."""
        mask = torch.where(present, mask, NO_OBJECT_LOGIT)
        mask = F.interpolate(mask, scale_factor=4.0, mode="bilinear", align_corners=False)
        soft = torch.where(reshape(binarize, -1, 1, 1, 1), (mask > 0).float(), torch.sigmoid(mask))
        return soft * self.scale + self.offset
