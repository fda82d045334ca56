"""The blocks that CLIP's text and image encoders have in common, every shape a constant except the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sam2edge.export.rewrites import attend, join_heads, linear_of, reshape


class Block(nn.Module):
    """A layer of Owlv2Encoder or OwlViTEncoder on x [B,tokens,C]; `bias` [tokens,tokens] is added to the scores."""

    def __init__(self, layer: Any, tokens: int, bias: Tensor | None = None) -> None:
        super().__init__()
        attention = layer.self_attn
        self.norm1, self.norm2 = layer.layer_norm1, layer.layer_norm2
        query, others = attention.q_proj, (attention.k_proj, attention.v_proj)
        # 1/sqrt(d) applies to the query, since products of 16-bit numbers with it may be beyond their range
        self.qkv = linear_of(
            torch.cat([query.weight * attention.scale, *(linear.weight for linear in others)]),
            torch.cat([query.bias * attention.scale, *(linear.bias for linear in others)]),
        )
        self.output = attention.out_proj
        self.fc1, self.activation, self.fc2 = layer.mlp.fc1, layer.mlp.activation_fn, layer.mlp.fc2
        self.heads: int = attention.num_heads
        self.tokens, self.bias = tokens, bias

    def forward(self, x: Tensor) -> Tensor:
        """Transform a batch of sequences."""
        width = x.shape[-1]
        qkv = reshape(self.qkv(self.norm1(x)), -1, self.tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.output(join_heads(attend(query, key, value, self.bias)))
        return x + self.fc2(self.activation(self.fc1(self.norm2(x))))


class Unit(nn.Module):
    """Vectors [...,D] divided by their length and a little, as upstream does where it compares them.

    It is a module so that its nodes can be found by their name: sums of squares are beyond the range of FP16.
    """

    def __init__(self, least: float = 0.0) -> None:
        super().__init__()
        self.least = least

    def forward(self, x: Tensor) -> Tensor:
        """Return vectors of length 1."""
        # not ReduceL2, which opset 18 changes, and so the conversion to 16 bits would have to
        length = (x * x).sum(dim=-1, keepdim=True).sqrt()
        return x / (length + self.least if self.least else length)
