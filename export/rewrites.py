"""Exact rewrites of SAM 2's modules for inference engines: the same numbers from cheaper graphs.

tests/unit/export/test_rewrites.py compares each of them with what it replaces. docs/explanation/performance.md says
what each is expected to save, and what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class _Reshape(torch.autograd.Function):
    """A reshape with a constant shape in ONNX, where 0 copies a dimension and -1 infers one.

    torch.reshape can copy a dynamic dimension only by reading it back, through a Shape-Gather-Concat chain before
    every Reshape.
    """

    @staticmethod
    def forward(ctx: object, x: Tensor, shape: Sequence[int]) -> Tensor:
        return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)])

    @staticmethod
    def symbolic(g: torch.Graph, x: torch.Value, shape: Sequence[int]) -> torch.Value:
        return g.op("Reshape", x, g.op("Constant", value_t=torch.tensor(shape, dtype=torch.int64)))


def reshape(x: Tensor, *shape: int) -> Tensor:
    """Reshape as ONNX does it: 0 copies the dimension at the same place, and exactly one -1 is inferred."""
    return _Reshape.apply(x, tuple(int(size) for size in shape))  # a traced size would not become a constant


class _Pad(torch.autograd.Function):
    """Zero padding after the rows and columns of [B,H,W,C], of constant size in ONNX; F.pad computes it by nodes."""

    @staticmethod
    def forward(ctx: object, x: Tensor, size: int) -> Tensor:
        return nn.functional.pad(x, (0, 0, 0, size, 0, size))

    @staticmethod
    def symbolic(g: torch.Graph, x: torch.Value, size: int) -> torch.Value:
        pads = torch.tensor([0, 0, 0, 0, 0, size, size, 0])
        return g.op("Pad", x, g.op("Constant", value_t=pads))


def pad(x: Tensor, size: int) -> Tensor:
    """Pad x [B,H,W,C] → [B,H + size,W + size,C] with zeros at the end."""
    return _Pad.apply(x, size)


def scaled(linear: nn.Linear, rows: slice, scale: float) -> nn.Linear:
    """Return a copy of a projection with some output rows multiplied by `scale`.

    Attention's 1/sqrt(d) then applies to q, and not to the much larger scores.
    """
    weight, bias = linear.weight.clone(), linear.bias.clone()
    weight[rows] *= scale
    bias[rows] *= scale
    return linear_of(weight, bias)


def halves(linear: nn.Linear) -> nn.Linear:
    """Return a copy of a q or k projection with its rows (2i, 2i+1) moved to (i, i + d/2).

    RoPE rotates pairs of channels. With the pairs split into two halves, the rotation takes four products and one
    concatenation, without gather or stack. Scores do not change, because q and k are permuted alike.
    """
    order = torch.cat([torch.arange(0, linear.out_features, 2), torch.arange(1, linear.out_features, 2)])
    return linear_of(linear.weight[order], linear.bias[order])


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply the rotary position code to halves: x [..., hw, d], cos and sin [hw, d/2]."""
    first, second = x.split(cos.shape[-1], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def merged_values(values: nn.Linear, output: nn.Linear) -> nn.Linear:
    """Merge attention's value and output projections into one: A(MWv)Wo = (AM)(WvWo).

    The rows of A sum to one, so that the value bias passes through it. Memories are 64 wide and values 256, and
    projecting attended memories costs the same whatever their number: a frame takes a fifth less arithmetic.
    """
    weight = output.weight.double() @ values.weight.double()
    bias = output.weight.double() @ values.bias.double() + output.bias.double()
    return linear_of(weight.float(), bias.float())


def merged_pointwise(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """Merge two 1×1 convolutions, so that the pyramid's 256 channels at stride 4 and 8 are never written out."""
    w1, w2 = first.weight.double().flatten(1), second.weight.double().flatten(1)
    merged = nn.Conv2d(first.in_channels, second.out_channels, 1)
    merged.weight = frozen((w2 @ w1).float()[:, :, None, None])
    merged.bias = frozen((w2 @ first.bias.double() + second.bias.double()).float())
    return merged


def folded(conv: nn.Conv2d, norm: Any) -> nn.Conv2d:
    """Fold a batch norm, as it is after training, into the convolution without bias before it."""
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    made = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, groups=conv.groups
    )
    made.weight = frozen((conv.weight.double() * scale[:, None, None, None]).float())
    made.bias = frozen((norm.bias.double() - norm.running_mean.double() * scale).float())
    return made


def pointwise(conv: nn.Conv2d) -> nn.Linear:
    """Return a 1×1 convolution as a projection of tokens [..., C], which need not become an image first."""
    return linear_of(conv.weight.flatten(1), conv.bias)


def tokenwise(norm: nn.LayerNorm) -> nn.LayerNorm:
    """Return a norm of a map's channels as one of tokens [..., C]."""
    tokens = nn.LayerNorm(norm.normalized_shape, norm.eps, device="meta")
    tokens.weight, tokens.bias = norm.weight, norm.bias
    return tokens


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute softmax(query keyᵀ + bias) value from plain operators, for scaled q [..., Q, d], k and v [..., K, d].

    The Attention operator of opset 23 breaks TensorRT up to 10.13 and several later builds.
    """
    scores = query @ key.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias
    return torch.softmax(scores, dim=-1) @ value


def attend_one_head(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attend with an axis for the only head: TensorRT fuses attention over [batch, heads, tokens, width]."""
    return attend(query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1), bias).squeeze(1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Split x [B, L, heads · d] → [B, heads, L, d]; B may be dynamic."""
    return reshape(x, 0, -1, heads, x.shape[-1] // heads).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """Join x [B, heads, L, d] → [B, L, heads · d]."""
    heads, width = x.shape[1], x.shape[3]
    return reshape(x.transpose(1, 2) if heads > 1 else x, 0, -1, heads * width)


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a Linear that holds the given tensors."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight = frozen(weight)
    if bias is not None:
        linear.bias = frozen(bias)
    return linear


def frozen(value: Tensor) -> nn.Parameter:
    """Return a parameter that is not trained."""
    return nn.Parameter(value, requires_grad=False)
