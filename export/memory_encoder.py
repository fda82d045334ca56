"""The memory-encoder graph: a frame's features and mask → its memory (sam2_base.py, _encode_new_memory)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam2edge.export.image_encoder.hiera import arrange
from sam2edge.export.rewrites import attend_one_head, frozen, linear_of, reshape

NO_OBJECT_LOGIT = -1024.0


class MemoryEncoder(nn.Module):
    """features [1,C,h,h] (raw), mask logits [N,1,4h,4h], object_score [N,1], binarize [N] → memory [N,L,M].

    Each of the L tokens is the mean of pool×pool tokens of SAM 2's memory, or one of EdgeTAM's latents. Where
    object_score ≤ 0, the mask counts as empty and the no-object embedding is added (2.1). `binarize` marks prompted
    frames, whose memory then holds exactly the mask that the user saw.
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
        resampler = getattr(model, "spatial_perceiver", None)
        self.perceiver = None if resampler is None else Perceiver(resampler, model.config.image_size // 16)

    def forward(self, features: Tensor, mask: Tensor, object_score: Tensor, binarize: Tensor) -> Tensor:
        """Encode the memories of N objects on one frame."""
        present = reshape(object_score > 0, -1, 1, 1, 1)
        soft = self.soft_mask(mask, present, binarize)
        fused = self.feature_projection(features) + self.mask_downsampler(soft)
        memory = self.projection(self.fuser(fused))
        if self.pool > 1:
            memory = F.avg_pool2d(memory, self.pool)
        memory = reshape(memory, 0, self.memory_dim, -1).transpose(1, 2)
        if self.no_object is not None:
            memory = memory + torch.where(reshape(present, -1, 1, 1), 0.0, self.no_object)
        return memory if self.perceiver is None else self.perceiver(memory, present)


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


class Perceiver(nn.Module):
    """A memory's tokens [N,hh,M] → fewer, [N,L,M] (EdgeTAM's perceiver.py): latents of the whole map, then of windows.

    The latents attend to the tokens and then to one another. A window's latent is alone, so that what it makes of
    itself is a projection.
    """

    def __init__(self, resampler: Any, side: int) -> None:
        super().__init__()
        self.side, self.windows = side, math.isqrt(resampler.num_latents_2d)
        self.whole, self.local = frozen(resampler.latents_1d[None]), frozen(resampler.latents_2d[None])
        shape = torch.Size((1, resampler.hidden_size, side, side))
        code = resampler.positional_encoding(shape, "cpu", torch.float32)
        self.position = frozen(code.flatten(2).transpose(1, 2).contiguous())
        self.layers = nn.ModuleList(PerceiverLayer(layer) for layer in resampler.layers)
        self.norm = resampler.layer_norm

    def forward(self, memory: Tensor, present: Tensor) -> Tensor:
        """Resample the memories of N objects; present [N,1,1,1] has their number."""
        repeat = reshape(present, -1, 1, 1)
        # where() repeats the latents for every object; expand() would compute a shape in the graph
        whole, local = (torch.where(repeat, latents, latents) for latents in (self.whole, self.local))
        local = reshape(local, -1, 1, local.shape[2])
        window = self.side // self.windows
        maps = reshape(memory, -1, self.side, self.side, memory.shape[2])
        tokens = reshape(arrange(maps, self.side, self.side, window), -1, window**2, memory.shape[2])
        for layer in self.layers:
            whole = layer.among(layer(whole, memory, self.position))
            local = layer.alone(layer(local, tokens))
        return self.norm(torch.cat([whole, reshape(local, -1, self.windows**2, local.shape[2])], dim=1))


class PerceiverLayer(nn.Module):
    """Attention of latents to tokens, and then to themselves, each with a feed-forward layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        cross, own = layer.cross_attention, layer.self_attention
        self.norm_latents, self.norm_tokens = layer.layer_norm_latents, layer.layer_norm_input
        self.query, self.key, self.value, self.output = _scaled(cross), cross.k_proj, cross.v_proj, cross.o_proj
        self.mlp, self.own_mlp, self.own_norm = layer.mlp, layer.self_mlp, layer.layer_norm_self
        self.own_query, self.own_key, self.own_value, self.own_output = (
            _scaled(own),
            own.k_proj,
            own.v_proj,
            own.o_proj,
        )
        merged = own.o_proj.weight.double() @ own.v_proj.weight.double()
        self.own_projection = linear_of(merged.float(), None)

    def forward(self, latents: Tensor, tokens: Tensor, position: Tensor | None = None) -> Tensor:
        """Attend from latents [·,Q,M] to tokens [·,K,M], whose position is added to keys and values alike."""
        normed = self.norm_tokens(tokens)
        key, value = self.key(normed), self.value(normed)
        if position is not None:
            key, value = key + position, value + position
        latents = latents + self.output(attend_one_head(self.query(self.norm_latents(latents)), key, value))
        return latents + self.mlp(latents)

    def among(self, latents: Tensor) -> Tensor:
        """Let latents [N,Q,M] attend to one another."""
        normed = self.own_norm(latents)
        attended = attend_one_head(self.own_query(normed), self.own_key(normed), self.own_value(normed))
        latents = latents + self.own_output(attended)
        return latents + self.own_mlp(latents)

    def alone(self, latents: Tensor) -> Tensor:
        """Let each of latents [·,1,M] attend to itself."""
        latents = latents + self.own_projection(self.own_norm(latents))
        return latents + self.own_mlp(latents)


def _scaled(attention: Any) -> nn.Linear:
    return linear_of(attention.q_proj.weight * attention.scaling, None)
