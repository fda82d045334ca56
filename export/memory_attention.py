"""The memory-attention graph: the frame's features attend to memories and object pointers (SAM 2 section 4)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam2edge.errors import ExportError
from sam2edge.export.rewrites import attend, frozen, halves, merged_values, reshape, rotate, scaled

Rope = tuple[Tensor, Tensor]
"""Cosines and sines of the rotary position code's angles, [tokens, C / 2]."""

EMPTY = -1e4
"""Added to the scores of an empty slot: its weight is exactly zero, in FP16 too."""


class MemoryAttention(nn.Module):
    """features [1,C,h,h], memory [N,T,L,M], pointers [N,K,C] and the age of each slot → conditioned [N,C,h,h].

    memory_age int32 [N,T]: 0 for a conditioning frame, 1…6 for a frame that many steps back, -1 for an empty slot.
    pointer_age int32 [N,K]: any number of steps back, -1 for an empty slot. The order of the slots does not matter.

    With pooling, a memory token is the mean of a window of pool×pool tokens. It has the mean of their position codes,
    is rotated as if at the window's centre, and weighs as much as all of them (proportional attention; Bolya et al.,
    Token Merging, 2023).
    """

    def __init__(self, model: Any, pool: int = 1) -> None:
        super().__init__()
        config = model.config
        if config.memory_attention_num_attention_heads != 1 or config.memory_attention_downsample_rate != 1:
            raise ExportError(
                "memory attention with several heads or a downsampled width is not supported: no released SAM 2 has it"
            )
        attention = model.memory_attention
        self.channels, self.memory_dim, self.grid = model.hidden_dim, model.mem_dim, config.image_size // 16
        self.splits = self.channels // self.memory_dim
        self.tokens, self.weight = (self.grid // pool) ** 2, math.log(pool**2)
        pixels = (1, self.channels, self.grid, self.grid)
        position = model.vision_encoder.neck.position_encoding(torch.Size(pixels), "cpu", torch.float32)
        self.position = frozen(0.1 * position.flatten(2).transpose(1, 2))
        code = model.memory_encoder.position_encoding(
            torch.Size((1, self.memory_dim, self.grid, self.grid)), "cpu", torch.float32
        )
        self.memory_position = frozen(F.avg_pool2d(code, pool).flatten(2).transpose(1, 2).clone())
        # stored are the codes of 1 … 6 frames back, then that of conditioning frames
        temporal = model.memory_temporal_positional_encoding.flatten(1)
        self.temporal = frozen(torch.cat([temporal[-1:], temporal[:-1]]))
        self.pointer_code = PointerCode(model) if config.enable_temporal_pos_encoding_for_object_pointers else None
        places = attention.position_ids.T.reshape(2, self.grid, self.grid).float()
        frequencies = attention.rotary_emb.inv_freq
        rope, key_rope = rotary_code(places, frequencies), rotary_code(F.avg_pool2d(places, pool), frequencies)
        layers = [Layer(layer, rope, key_rope) for layer in attention.layers]
        self.layers, self.norm = nn.ModuleList(layers), attention.layer_norm

    def forward(
        self, features: Tensor, memory: Tensor, memory_age: Tensor, pointers: Tensor, pointer_age: Tensor
    ) -> Tensor:
        """Condition one frame's features on the memories of N objects."""
        x = reshape(features, 0, self.channels, -1).transpose(1, 2) + self.position
        temporal = self.temporal[memory_age.long().clamp(min=0)].unsqueeze(2)
        memory_key = memory + (self.memory_position + temporal)
        pointer = reshape(pointers, 0, -1, self.splits, self.memory_dim)
        pointer_key = pointer if self.pointer_code is None else pointer + self.pointer_code(pointer_age).unsqueeze(2)
        values = torch.cat([self._tokens(memory), self._tokens(pointer)], dim=1)
        bias = torch.cat(
            [self._bias(memory_age, self.tokens, self.weight), self._bias(pointer_age, self.splits)], dim=1
        )
        for layer in self.layers:
            x = layer(x, memory_key, self._tokens(pointer_key), values, bias.unsqueeze(1))
        return reshape(self.norm(x).transpose(1, 2), -1, self.channels, self.grid, self.grid)

    def _tokens(self, slots: Tensor) -> Tensor:
        return reshape(slots, 0, -1, self.memory_dim)

    def _bias(self, age: Tensor, tokens: int, weight: float = 0.0) -> Tensor:
        """Return the score bias of every token, [N, slots · tokens]: `weight`, plus EMPTY in a slot of negative age."""
        bias = (age < 0).float() * EMPTY
        if weight:
            bias = bias + weight
        return reshape(bias.unsqueeze(2) * torch.ones(tokens), 0, -1)


def rotary_code(places: Tensor, frequencies: Tensor) -> Rope:
    """Return the rotary position code of tokens at places [2,h,h]."""
    angles = (places.flatten(1).T[:, :, None] * frequencies).flatten(1)
    return angles.cos(), angles.sin()


class PointerCode(nn.Module):
    """Temporal code of pointers by age, [N,K] → [N,K,M]: a projected sine code of age / 15 (get_1d_sine_pe)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        half = model.hidden_dim // 2
        self.period = frozen(10000.0 ** (2 * (torch.arange(half) // 2) / half))
        self.longest = float(model.config.max_object_pointers_in_encoder - 1)
        self.projection = model.temporal_positional_encoding_projection_layer

    def forward(self, age: Tensor) -> Tensor:
        """Encode every age; an empty slot's code has no effect."""
        angle = (age.float() / self.longest).unsqueeze(-1) / self.period
        return self.projection(torch.cat([angle.sin(), angle.cos()], dim=-1))


class Layer(nn.Module):
    """Self-attention, attention to the memory, feed-forward (memory_attention.py, MemoryAttentionLayer)."""

    def __init__(self, layer: Any, rope: Rope, key_rope: Rope) -> None:
        super().__init__()
        own, cross = layer.self_attn, layer.cross_attn_image
        self.norm1, self.norm2, self.norm3 = layer.layer_norm1, layer.layer_norm2, layer.layer_norm3
        self.query, self.key = _query(own), halves(own.k_proj)
        self.value, self.output = own.v_proj, own.o_proj
        self.memory_query, self.memory_key = _query(cross), halves(cross.k_proj)
        self.memory_value = merged_values(cross.v_proj, cross.o_proj)
        self.linear1, self.linear2, self.activation = layer.linear1, layer.linear2, layer.activation
        self.cos, self.sin = map(frozen, rope)
        self.key_cos, self.key_sin = map(frozen, key_rope)

    def forward(self, x: Tensor, memory_key: Tensor, pointer_key: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Update x [1 or N,hh,C]; memory_key [N,T,L,M]; pointer_key [N,P,M]; values [N,T·L+P,M]; bias [N,1,T·L+P]."""
        normed = self.norm1(x)
        query, key = (rotate(projection(normed), self.cos, self.sin) for projection in (self.query, self.key))
        x = x + self.output(_attend(query, key, self.value(normed)))
        query = rotate(self.memory_query(self.norm2(x)), self.cos, self.sin)
        key = rotate(self.memory_key(memory_key), self.key_cos, self.key_sin)
        key = torch.cat([reshape(key, 0, -1, self.memory_key.out_features), self.memory_key(pointer_key)], dim=1)
        # until here the first layer has batch 1: what does not depend on memory is computed once for all objects
        x = x + self.memory_value(_attend(query, key, values, bias.unsqueeze(1)))
        return x + self.linear2(self.activation(self.linear1(self.norm3(x))))


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attend with an axis for the only head: TensorRT fuses attention over [batch, heads, tokens, width]."""
    return attend(query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1), bias).squeeze(1)


def _query(attention: Any) -> nn.Linear:
    return scaled(halves(attention.q_proj), slice(None), attention.scaling)
