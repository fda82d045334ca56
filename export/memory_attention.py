"""The memory-attention graph: the frame's features attend to memories and object pointers (SAM 2 section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam2edge.errors import ExportError
from sam2edge.export.rewrites import attend_one_head, frozen, halves, merged_values, reshape, rotate, scaled
from sam2edge.export.source.efficienttam import pooled_keys

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
        pixels = (1, self.channels, self.grid, self.grid)
        position = model.vision_encoder.neck.position_encoding(torch.Size(pixels), "cpu", torch.float32)
        self.position = frozen(0.1 * position.flatten(2).transpose(1, 2))
        # stored are the codes of 1 … 6 frames back, then that of conditioning frames
        temporal = model.memory_temporal_positional_encoding.flatten(1)
        self.temporal = frozen(torch.cat([temporal[-1:], temporal[:-1]]))
        self.pointer_code = PointerCode(model) if config.enable_temporal_pos_encoding_for_object_pointers else None
        places = attention.position_ids.T.reshape(2, self.grid, self.grid).float()
        rope = rotary_code(places, attention.rotary_emb.inv_freq)
        position, key_rope = memory_codes(model, pool)
        self.memory_position = frozen(position)
        layers = [Layer(layer, rope, key_rope) for layer in attention.layers]
        self.layers, self.norm = nn.ModuleList(layers), attention.layer_norm
        self.keys_of: Callable[[Tensor], TokenKeys]
        if windows := pooled_keys(model):
            self.keys_of = partial(WindowKeys, self.grid, windows.score, windows.shift)
        else:
            self.keys_of = partial(TokenKeys, position.shape[1], math.log(pool**2))

    def forward(
        self, features: Tensor, memory: Tensor, memory_age: Tensor, pointers: Tensor, pointer_age: Tensor
    ) -> Tensor:
        """Condition one frame's features on the memories of N objects."""
        x = reshape(features, 0, self.channels, -1).transpose(1, 2) + self.position
        temporal = self.temporal[memory_age.long().clamp(min=0)].unsqueeze(2)
        memory_key = memory + (self.memory_position + temporal)
        pointer = reshape(pointers, 0, -1, self.splits, self.memory_dim)
        pointer_key = pointer if self.pointer_code is None else pointer + self.pointer_code(pointer_age).unsqueeze(2)
        keys = self.keys_of(memory_age)
        memory_key, memory = keys.slots(memory_key), keys.slots(memory)
        values = torch.cat([keys.values(memory), _tokens(pointer)], dim=1)
        bias = torch.cat([keys.bias(), _bias(pointer_age, self.splits)], dim=1).unsqueeze(1)
        for layer in self.layers:
            x = layer(x, memory_key, _tokens(pointer_key), values, bias, keys)
        return reshape(self.norm(x).transpose(1, 2), -1, self.channels, self.grid, self.grid)


class TokenKeys:
    """A key for each of the tokens of every memory, of age int32 [N,T], with `weight` on its score."""

    def __init__(self, tokens: int, weight: float, age: Tensor) -> None:
        self.tokens, self.weight, self.age = tokens, weight, age

    def slots(self, x: Tensor) -> Tensor:
        """Return the slots that are projected, of x [N,T,L,D]."""
        return x

    def keys(self, x: Tensor) -> Tensor:
        """Return the keys, [N,keys,D], of the rotated ones of those slots' tokens."""
        return _tokens(x)

    def values(self, x: Tensor) -> Tensor:
        """Return the values, [N,keys,D], of those slots."""
        return _tokens(x)

    def bias(self) -> Tensor:
        """Return what is added to the score of every key, [N,keys]."""
        return _bias(self.age, self.tokens, self.weight)


class WindowKeys(TokenKeys):
    """A key for each window of 2×2 tokens, the mean of their rotated keys; but a key for each token of an only memory.

    Which of the two holds differs between the objects of a batch. To cost no object more, the tokens of an only memory
    take the place of the windows of four slots. It may lie in any slot: what is projected begins with the sum of all
    filled slots, which is that memory.

    EfficientTAM either lets a window weigh as much as its tokens (`weight`), or adds `shift` to every component of its
    key (sam/transformer.py, EfficientRoPEAttention1 and 2).
    """

    def __init__(self, side: int, weight: float, shift: float, age: Tensor) -> None:
        super().__init__(side**2, weight, age)
        self.side, self.shift = side, shift
        self.filled = (age >= 0).float()
        self.alone = (self.filled.sum(dim=1, keepdim=True) - 1.0).abs() < 0.5

    def slots(self, x: Tensor) -> Tensor:
        return torch.cat([(x * self.filled[:, :, None, None]).sum(dim=1, keepdim=True), x], dim=1)

    def keys(self, x: Tensor) -> Tensor:
        return self._joined(x[:, 0], self._means(x[:, 1:]) + self.shift)

    def values(self, x: Tensor) -> Tensor:
        return self._joined(x[:, 0], self._means(x[:, 1:]))

    def bias(self) -> Tensor:
        only = torch.where(self.alone, 0.0, EMPTY) * torch.ones(self.side**2)
        windows = torch.where(self.alone, EMPTY, _bias(self.age, self.side**2 // 4, self.weight))
        return self._joined(only.unsqueeze(2), windows.unsqueeze(2)).squeeze(2)

    def _means(self, x: Tensor) -> Tensor:
        """Return the means of the windows of x [N,T,L,D], [N,T·L/4,D]."""
        # one axis after the other: a kernel reads what is next to each other, and every shape is a constant
        rows = reshape(x, 0, -1, 2, self.side * x.shape[-1]).mean(dim=2)
        return reshape(rows, 0, -1, 2, x.shape[-1]).mean(dim=2)

    def _joined(self, only: Tensor, windows: Tensor) -> Tensor:
        """Return `only` [N,L,D] in place of the first windows [N,T·L/4,D] where a memory is alone.

        Where it is not, and fewer than four slots have fewer windows than a memory has tokens, `bias` hides the rest.
        """
        tokens = self.side**2
        first = torch.cat([windows, only], dim=1)[:, :tokens]
        return torch.cat([torch.where(self.alone[:, :, None], only, first), windows[:, tokens:]], dim=1)


def _tokens(slots: Tensor) -> Tensor:
    return reshape(slots, 0, -1, slots.shape[-1])


def _bias(age: Tensor, tokens: int, weight: float = 0.0) -> Tensor:
    """Return the score bias of every token, [N, slots · tokens]: `weight`, plus EMPTY in a slot of negative age."""
    bias = (age < 0).float() * EMPTY
    if weight:
        bias = bias + weight
    return reshape(bias.unsqueeze(2) * torch.ones(tokens), 0, -1)


def memory_codes(model: Any, pool: int) -> tuple[Tensor, Rope]:
    """Return the position codes of a memory's tokens [1,L,M], and the rotary ones of their keys.

    EdgeTAM's latents of the whole map have no position, and a code that rotates by nothing.
    """
    attention, dim = model.memory_attention, model.mem_dim
    frequencies = attention.rotary_emb.inv_freq
    if perceiver := getattr(model, "spatial_perceiver", None):
        encoding, ids, whole = perceiver.positional_encoding, attention.position_ids_k, perceiver.num_latents_1d
    else:
        encoding, ids, whole = model.memory_encoder.position_encoding, attention.position_ids, 0
    side = math.isqrt(len(ids))
    code = encoding(torch.Size((1, dim, side, side)), "cpu", torch.float32)
    cos, sin = rotary_code(F.avg_pool2d(ids.T.reshape(2, side, side).float(), pool), frequencies)
    position = F.pad(F.avg_pool2d(code, pool).flatten(2).transpose(1, 2), (0, 0, whole, 0))
    return position, (F.pad(cos, (0, 0, whole, 0), value=1.0), F.pad(sin, (0, 0, whole, 0)))


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
        if hasattr(layer, "mlp"):  # EdgeTAM's feed-forward layer is a module of its own
            self.linear1, self.linear2, self.activation = layer.mlp.up_proj, layer.mlp.down_proj, layer.mlp.act_fn
        else:
            self.linear1, self.linear2, self.activation = layer.linear1, layer.linear2, layer.activation
        self.cos, self.sin = map(frozen, rope)
        self.key_cos, self.key_sin = map(frozen, key_rope)

    def forward(
        self, x: Tensor, memory_key: Tensor, pointer_key: Tensor, values: Tensor, bias: Tensor, keys: TokenKeys
    ) -> Tensor:
        """Update x [1 or N,hh,C]; memory_key [N,T,L,M]; pointer_key [N,P,M]; values [N,keys+P,M]; bias [N,1,keys+P]."""
        normed = self.norm1(x)
        query, key = (rotate(projection(normed), self.cos, self.sin) for projection in (self.query, self.key))
        x = x + self.output(attend_one_head(query, key, self.value(normed)))
        query = rotate(self.memory_query(self.norm2(x)), self.cos, self.sin)
        key = rotate(self.memory_key(memory_key), self.key_cos, self.key_sin)
        key = torch.cat([keys.keys(key), self.memory_key(pointer_key)], dim=1)
        # until here the first layer has batch 1: what does not depend on memory is computed once for all objects
        x = x + self.memory_value(attend_one_head(query, key, values, bias.unsqueeze(1)))
        return x + self.linear2(self.activation(self.linear1(self.norm3(x))))


def _query(attention: Any) -> nn.Linear:
    return scaled(halves(attention.q_proj), slice(None), attention.scaling)
