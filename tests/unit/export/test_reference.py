"""PyTorch as `verify` and `bench` run it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sam2edge.export import reference
from sam2edge.export.reference import IMAGENET, preprocess


def test_frames_are_resized_on_a_gpu_as_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a grey level. CUDA has no antialiasing for uint8, which a device that is not called "cpu" stands for."""
    interpolate = reference.F.interpolate

    def on_cuda(pixels: torch.Tensor, *args: Any, antialias: bool, **options: Any) -> torch.Tensor:
        assert pixels.is_floating_point() or not antialias, "not implemented for 'Byte'"
        return interpolate(pixels, *args, antialias=antialias, **options)

    frames = np.random.default_rng(0).integers(0, 256, (2, 50, 90, 3), np.uint8)
    expected = preprocess(frames, 64)
    monkeypatch.setattr(reference.F, "interpolate", on_cuda)
    found = preprocess(frames, 64, device="cpu:0")
    levels = 255 * torch.tensor(IMAGENET[1])[:, None, None]
    assert ((found - expected) * levels).abs().max() <= 1.001
