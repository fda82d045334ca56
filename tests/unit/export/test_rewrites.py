"""Every exact rewrite against what it replaces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Sam2HieraDetConfig, Sam2VideoModel
from transformers.models.sam2.modeling_sam2 import Sam2MultiScaleBlock
from transformers.models.sam2_video.modeling_sam2_video import apply_rotary_pos_emb_2d

from sam2edge.export import rewrites
from sam2edge.export.image_encoder.hiera import HieraBlock
from sam2edge.export.memory_attention import Layer, TokenKeys
from tests.conftest import NANO


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def nano() -> Any:
    return Sam2VideoModel.from_pretrained(NANO, dtype=torch.float32).eval()


def test_reshape_copies_and_infers() -> None:
    x = torch.arange(24).reshape(2, 3, 4)
    assert torch.equal(rewrites.reshape(x, 0, -1, 2), x.reshape(2, 6, 2))
    assert torch.equal(rewrites.reshape(x, -1, 3, 2, 2), x.reshape(2, 3, 2, 2))


def test_scaled_scales_only_the_rows() -> None:
    linear, x = nn.Linear(5, 6), torch.randn(3, 5)
    expected = linear(x)
    expected[:, :2] *= 0.25
    torch.testing.assert_close(rewrites.scaled(linear, slice(0, 2), 0.25)(x), expected)


def test_halves_of_rope_give_the_scores_of_pairs() -> None:
    query, key, x, y = nn.Linear(16, 8), nn.Linear(16, 8), torch.randn(1, 9, 16), torch.randn(1, 9, 16)
    angles = torch.randn(9, 4)
    pairs = angles.repeat_interleave(2, dim=-1)
    q, k = apply_rotary_pos_emb_2d(query(x)[None], key(y)[None], pairs.cos(), pairs.sin())
    half_q, half_k = (
        rewrites.rotate(rewrites.halves(linear)(z), angles.cos(), angles.sin()) for linear, z in ((query, x), (key, y))
    )
    torch.testing.assert_close(half_q @ half_k.mT, (q @ k.mT)[0], rtol=1e-5, atol=1e-5)


def test_merged_values_are_projected_after_attention() -> None:
    values, output, memory = nn.Linear(4, 16), nn.Linear(16, 16), torch.randn(2, 7, 4)
    weights = torch.randn(2, 5, 7).softmax(dim=-1)
    expected = output(weights @ values(memory))
    torch.testing.assert_close(rewrites.merged_values(values, output)(weights @ memory), expected)


def test_merged_pointwise_is_both_convolutions() -> None:
    first, second, x = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 5, 1), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(rewrites.merged_pointwise(first, second)(x), second(first(x)))


def test_attend_is_scaled_dot_product_attention() -> None:
    query, key, value = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 4)
    expected = nn.functional.scaled_dot_product_attention(query, key, value, scale=1.0)
    torch.testing.assert_close(rewrites.attend(query, key, value), expected)


def test_pointwise_is_the_convolution_on_tokens() -> None:
    conv, x = nn.Conv2d(3, 5, 1), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(rewrites.pointwise(conv)(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), conv(x))


@pytest.mark.parametrize("heads", [1, 3])
def test_heads_are_joined(heads: int) -> None:
    x = torch.randn(2, heads, 5, 4)
    assert torch.equal(rewrites.join_heads(x), x.transpose(1, 2).reshape(2, 5, heads * 4))


@pytest.mark.parametrize(
    ("block", "side", "window", "kept"),
    [
        ({"stage_idx": 0, "block_idx": 0, "total_block_idx": 0}, 16, 16, 8),  # windows, from a whole map
        ({"stage_idx": 0, "block_idx": 0, "total_block_idx": 0}, 16, 8, 8),  # the windows are there
        ({"stage_idx": 1, "block_idx": 0, "total_block_idx": 1}, 16, 8, 4),  # pooled queries, wider
        ({"stage_idx": 1, "block_idx": 1, "total_block_idx": 2}, 16, 8, 4),  # other windows
        ({"stage_idx": 2, "block_idx": 1, "total_block_idx": 4}, 16, 2, 16),  # windows of 14 that need padding
        ({"stage_idx": 3, "block_idx": 0, "total_block_idx": 10}, 16, 16, 8),  # padding and pooling
        ({"stage_idx": 2, "block_idx": 2, "total_block_idx": 5}, 12, 12, 12),  # global
        ({"stage_idx": 2, "block_idx": 2, "total_block_idx": 5}, 12, 4, 4),  # global, in the windows as they are
    ],
)
def test_hiera_block(block: dict[str, int], side: int, window: int, kept: int) -> None:
    original = Sam2MultiScaleBlock(Sam2HieraDetConfig(hidden_size=96), **block).eval()
    for parameter in original.parameters():
        parameter.normal_(std=0.1)
    x = torch.randn(2, side, side, original.dim)
    ours = HieraBlock(original, side, window)
    assert ours.window_out == kept
    actual = image(ours(windows(x, window)), ours.side_out)
    torch.testing.assert_close(actual, original(x), rtol=1e-4, atol=1e-4)


def windows(x: torch.Tensor, size: int) -> torch.Tensor:
    """Split x [B,side,side,C] into windows [B · windows,size,size,C]."""
    tiles = x.unfold(1, size, size).unfold(2, size, size)  # [B,n,n,C,size,size]
    return tiles.permute(0, 1, 2, 4, 5, 3).flatten(0, 2)


def image(x: torch.Tensor, side: int) -> torch.Tensor:
    """Undo `windows`."""
    n = side // x.shape[1]
    rows = [torch.cat(list(row), dim=1) for row in x.unflatten(0, (-1, n))]
    return torch.stack([torch.cat(rows[i : i + n]) for i in range(0, len(rows), n)])


def test_memory_layer() -> None:
    attention = nano().memory_attention
    layer = attention.layers[0]
    x, memory, code = torch.randn(1, 64, 256), torch.randn(2, 2 * 64 + 8, 64), torch.randn(2, 2 * 64 + 8, 64)
    pairs = attention.rotary_emb(x, attention.position_ids)
    expected = [
        layer(x[None], memory[n][None, None], code[n][None, None], pairs, num_k_exclude_rope=8)[0, 0] for n in range(2)
    ]
    angles = (attention.position_ids[:, :, None] * attention.rotary_emb.inv_freq).flatten(1)
    rope = angles.cos(), angles.sin()
    key = memory + code
    slots = key[:, :128].reshape(2, 2, 64, 64)
    keys = TokenKeys(8, 0.0, torch.zeros(2, 2))
    actual = Layer(layer, rope, rope)(x, slots, key[:, 128:], memory, torch.zeros(2, 1, 136), keys)
    torch.testing.assert_close(actual, torch.stack(expected), rtol=1e-4, atol=1e-4)
