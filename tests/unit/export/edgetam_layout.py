"""Checkpoints in EdgeTAM's layout, made up as upstream_layout.py makes those of SAM 2.

make_edgetam_golden.py lets the authors' code play sessions with them, and test_edgetam.py ours.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch

from tests.unit.export.upstream_layout import Layout, formula_tensor

SIZE, FRAMES = 256, 18  # more than an object has pointers (16)
SESSIONS = ("box", "click", "mask")
"""Those of efficienttam_layout.SESSIONS, each an object of its own."""

_CHANNELS, _DEPTHS = (48, 96, 192, 384), (2, 2, 14, 2)


class EdgeTamLayout(Layout):
    """Name → shape; the prompt encoder, the mask decoder and the memory encoder are those of SAM 2.0."""

    def __init__(self) -> None:
        super().__init__("tiny", "2.0")
        gone = ("image_encoder.", "memory_attention.layers.2.", "memory_attention.layers.3.")
        for name in [name for name in self if name.startswith(gone)]:
            del self[name]
        body = "image_encoder.trunk.body"
        self._conv(f"{body}.stem.conv1", 24, 3, 3)
        self._conv(f"{body}.stem.conv2", 48, 24, 3)
        for stage, (before, width) in enumerate(pairwise((48, *_CHANNELS))):
            if stage:
                down = f"{body}.stages_{stage}.downsample"
                self._block(f"{down}.pre_block", before)
                self._conv(f"{down}.spatial_downsample", before, 1, 3)
                self._conv(f"{down}.channel_downsample", width, before, 1)
                self._mixer(f"{down}.ffn", width)
            for number in range(_DEPTHS[stage]):
                self._block(f"{body}.stages_{stage}.blocks.{number}", width)
                if number % 2 == 0:
                    hidden = {48: 16, 96: 24, 192: 48, 384: 96}[width]
                    self._affine(f"{body}.stages_{stage}.blocks.{number}.se.fc1", hidden, width, 1, 1)
                    self._affine(f"{body}.stages_{stage}.blocks.{number}.se.fc2", width, hidden, 1, 1)
        for level, width in enumerate(_CHANNELS[::-1]):
            self._affine(f"image_encoder.neck.convs.{level}.conv", 256, width, 1, 1)
        self |= {"spatial_perceiver.latents": (256, 64), "spatial_perceiver.latents_2d": (256, 64)}
        for number in range(2):
            layer = f"spatial_perceiver.layers.{number}"
            for norm in ("attn.norm_x", "attn.norm_latents", "ff.0", "self_attn.norm", "self_ff.0"):
                self._affine(f"{layer}.{norm}", 64)
            for attention in ("attn", "self_attn"):
                self |= {f"{layer}.{attention}.to_q.weight": (64, 64), f"{layer}.{attention}.to_kv.weight": (128, 64)}
                self[f"{layer}.{attention}.to_out.weight"] = (64, 64)
            for forward in ("ff", "self_ff"):
                self |= {f"{layer}.{forward}.1.weight": (256, 64), f"{layer}.{forward}.3.weight": (64, 256)}
        self._affine("spatial_perceiver.norm", 64)

    def _conv(self, name: str, outputs: int, inputs: int, kernel: int) -> None:
        self[f"{name}.c.weight"] = (outputs, inputs, kernel, kernel)
        self._affine(f"{name}.bn", outputs)
        self |= {f"{name}.bn.{part}": (outputs,) for part in ("running_mean", "running_var")}
        self[f"{name}.bn.num_batches_tracked"] = ()

    def _mixer(self, name: str, width: int) -> None:
        self._conv(f"{name}.conv1", 2 * width, width, 1)
        self._conv(f"{name}.conv2", width, 2 * width, 1)

    def _block(self, name: str, width: int) -> None:
        self._conv(f"{name}.token_mixer.conv", width, 1, 3)
        self._conv(f"{name}.token_mixer.conv1", width, 1, 1)
        self._mixer(f"{name}.channel_mixer", width)


def formula_state() -> dict[str, torch.Tensor]:
    """Return a made-up state dict of the authors' model, with objects that are mostly in view."""
    state = {name: _tensor(name, shape) for name, shape in EdgeTamLayout().items()}
    state["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] = torch.ones(1)
    return state


def _tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if not shape:
        return torch.tensor(1000)
    values = formula_tensor(name, shape)
    # branches that add up are kept small, or the activations of twenty blocks would grow without limit
    return 4 + 3 * values if name.endswith("running_var") else values


def write_checkpoint(path: Path) -> Path:
    """Write the made-up checkpoint as the authors distribute theirs, and return the path."""
    torch.save({"model": formula_state()}, path)
    return path
