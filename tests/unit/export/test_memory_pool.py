"""Pooled memory tokens: what the graphs do with them, and which pools are possible."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import Sam2VideoModel

from sam2edge import Bundle
from sam2edge.errors import InputError
from sam2edge.export import export
from sam2edge.export.memory_attention import MemoryAttention
from sam2edge.runtime.backends.base import open_backend
from tests.conftest import NANO


def test_graphs_without_memories_are_exported_again_to_the_byte(nano: Bundle, pooled: Bundle) -> None:
    for name in ("image_encoder", "mask_decoder"):
        assert pooled.manifest.graphs[name].sha256 == nano.manifest.graphs[name].sha256


def test_memory_is_the_mean_of_windows(nano: Bundle, pooled: Bundle) -> None:
    random = np.random.default_rng(0)
    inputs = {
        "features": random.normal(size=(1, 256, 8, 8)).astype(np.float32),
        "mask": random.normal(0, 10, (2, 1, 32, 32)).astype(np.float32),
        "object_score": np.array([[1], [-1]], np.float32),
        "binarize": np.array([True, False]),
    }
    memory, pooled_memory = (
        open_backend("onnx").open(bundle.graph_path("memory_encoder")).run(inputs)["memory"]
        for bundle in (nano, pooled)
    )
    means = memory.reshape(2, 4, 2, 4, 2, 64).mean(axis=(2, 4)).reshape(2, 16, 64)
    np.testing.assert_allclose(pooled_memory, means, rtol=1e-4, atol=1e-5)


class NoPosition(nn.Module):
    """Replaces the memory's position code by zeros."""

    def forward(self, shape: torch.Size, *_: object) -> Tensor:
        return torch.zeros(shape)


@pytest.mark.parametrize("pool", [2, 4])
@torch.inference_mode()
def test_a_token_weighs_as_much_as_those_it_replaces(pool: int) -> None:
    """Without positions, memories that are constant within windows get the same attention, pooled or not."""
    torch.manual_seed(0)
    model: Any = Sam2VideoModel.from_pretrained(NANO, dtype=torch.float32).eval()
    model.memory_attention.rotary_emb.inv_freq.zero_()
    model.memory_encoder.position_encoding = NoPosition()
    side = 8 // pool
    windows = 3 * torch.randn(2, 3, side, side, 64)
    tokens = windows.repeat_interleave(pool, dim=2).repeat_interleave(pool, dim=3)
    features, ages = torch.randn(1, 256, 8, 8), torch.tensor([[0, 2, -1], [-1, 0, 1]], dtype=torch.int32)
    pointers, pointer_ages = torch.randn(2, 3, 256), torch.tensor([[1, -1, 2]] * 2, dtype=torch.int32)
    expected = MemoryAttention(model)(features, tokens.flatten(2, 3), ages, pointers, pointer_ages)
    actual = MemoryAttention(model, pool)(features, windows.flatten(2, 3), ages, pointers, pointer_ages)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_pooled_graphs_agree_with_pytorch(nano: Bundle, pooled: Bundle) -> None:
    """test_exporter.py exports with 4."""
    for pool, bundle in ((1, nano), (2, pooled)):
        assert bundle.model.memory_pool == pool
        for name, graph in bundle.manifest.graphs.items():
            for output, error in graph.parity.items():
                assert error.relative_error < 1e-4, (pool, name, output)


@pytest.mark.parametrize(
    ("pool", "image_size", "allowed"),
    [
        (3, None, "1, 2, 4 at image size 128"),
        (True, None, "1, 2, 4 at image size 128"),
        ("2", None, "1, 2, 4 at image size 128"),
        (4, 288, "1, 2 at image size 288"),
    ],
)
def test_windows_must_tile_the_grid(tmp_path: Path, pool: int, image_size: int | None, allowed: str) -> None:
    with pytest.raises(InputError, match=f"memory_pool must be one of {allowed} but got {re.escape(repr(pool))}"):
        export(NANO, tmp_path / "bundle", image_size=image_size, memory_pool=pool)
    assert not list(tmp_path.iterdir())
