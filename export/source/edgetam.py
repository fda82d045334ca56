"""EdgeTAM (facebookresearch/EdgeTAM): its configuration, and its weights' names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import EdgeTamVideoConfig, EdgeTamVideoModel, EdgeTamVisionConfig

from sam2edge.errors import SourceError
from sam2edge.export.source.architecture import (
    Part,
    Shape,
    TransformersFamily,
    checked_image_size,
    parsed_config,
    renamed,
)
from sam2edge.export.source.repvit import RepVitConfig
from sam2edge.export.source.sam2 import TO_UPSTREAM

_TRUNK = "image_encoder.trunk.body."
_TRUNKS = ("repvit_m1", "repvit_m1.dist_in1k")
"""What timm calls the trunk, without and with the weights from which training began."""

_PERCEIVER = r"^(spatial_perceiver\..*)"
_TO_UPSTREAM = (
    tuple(
        (re.compile(pattern), replacement)
        for pattern, replacement in (
            (r"^vision_encoder\.backbone\.timm_model\.", _TRUNK),
            (r"^(memory_attention\..*)\.mlp\.up_proj\.", r"\1.linear1."),
            (r"^(memory_attention\..*)\.mlp\.down_proj\.", r"\1.linear2."),
            (_PERCEIVER + r"latents_1d$", r"\1latents"),
            (_PERCEIVER + r"\.layer_norm_input\.", r"\1.attn.norm_x."),
            (_PERCEIVER + r"\.layer_norm_latents\.", r"\1.attn.norm_latents."),
            (_PERCEIVER + r"\.layer_norm_self\.", r"\1.self_attn.norm."),
            (_PERCEIVER + r"\.cross_attention\.", r"\1.attn."),
            (_PERCEIVER + r"\.self_attention\.", r"\1.self_attn."),
            (_PERCEIVER + r"\.q_proj\.", r"\1.to_q."),
            (_PERCEIVER + r"\.[kv]_proj\.", r"\1.to_kv."),
            (_PERCEIVER + r"\.o_proj\.", r"\1.to_out."),
            (_PERCEIVER + r"\.mlp\.", r"\1.ff."),
            (_PERCEIVER + r"\.self_mlp\.", r"\1.self_ff."),
            (_PERCEIVER + r"ff\.layer_norm\.", r"\1ff.0."),
            (_PERCEIVER + r"ff\.up_proj\.", r"\1ff.1."),
            (_PERCEIVER + r"ff\.down_proj\.", r"\1ff.3."),
            (_PERCEIVER + r"\.layer_norm\.", r"\1.norm."),
        )
    )
    + TO_UPSTREAM
)
"""From transformers' name to the authors', by every rule in turn, as sam2.TO_UPSTREAM."""


class EdgeTam(TransformersFamily):
    """EdgeTamVideoModel with a RepViT-M1 trunk."""

    name = "EdgeTAM"
    model = EdgeTamVideoModel
    model_type = "edgetam_video"
    mark = _TRUNK

    def read_config(self, file: Path, settings: dict[str, Any]) -> Any:
        vision = settings.get("vision_config")
        trunk = vision.get("backbone_config") if isinstance(vision, dict) else None
        found = trunk.get("architecture", trunk.get("model_type")) if isinstance(trunk, dict) else None
        if found not in (*_TRUNKS, RepVitConfig.model_type):
            raise SourceError(f"{file}: the image encoder's trunk is {found!r}; expected {' or '.join(_TRUNKS)}")
        settings["vision_config"] = {**(vision or {}), "backbone_config": {"model_type": RepVitConfig.model_type}}
        config = parsed_config(EdgeTamVideoConfig, file, settings)
        _check_perceiver(file, config)
        return config

    def upstream_config(self, file: Path, shapes: Mapping[str, Shape], variant: str | None) -> Any:
        return EdgeTamVideoConfig(
            vision_config=EdgeTamVisionConfig(backbone_config=RepVitConfig()),
            enable_occlusion_spatial_embedding=False,
            enable_temporal_pos_encoding_for_object_pointers=False,
        )

    def upstream_parts(self, key: str, shape: Shape) -> list[Part]:
        parts = renamed(key, shape, _TO_UPSTREAM)
        if projection := re.search(r"^spatial_perceiver\..*\.([kv])_proj\.", key):  # one tensor, the keys' rows first
            half = slice(0, shape[0]) if projection[1] == "k" else slice(shape[0], 2 * shape[0])
            return [Part(part.name, (2 * shape[0], *shape[1:]), half) for part in parts]
        return parts

    def set_image_size(self, config: Any, image_size: int | None) -> None:
        windows = math.isqrt(config.perceiver_resampler_num_latents_2d)
        size = checked_image_size(config, image_size, math.lcm(32, 16 * windows))
        config.vision_config.backbone_feature_sizes = [[size // stride, size // stride] for stride in (4, 8, 16)]

    def counts(self, config: Any) -> dict[str, int]:
        layers = {"perceiver_resampler_num_layers": config.perceiver_resampler_num_layers}
        return {**layers, **super().counts(config)}

    def describe(self, config: Any) -> tuple[str, str]:
        return "", ""


def _check_perceiver(file: Path, config: Any) -> None:
    """Check what the shapes of weights do not show, and what the graphs take for granted."""
    windows, sides = config.perceiver_resampler_num_latents_2d, list(config.memory_attention_rope_k_sizes)
    side = math.isqrt(max(windows, 0))
    if side < 1 or side**2 != windows or sides != [side, side]:
        raise SourceError(
            f"{file}: memory_attention_rope_k_sizes must be the sides of a square of "
            f"perceiver_resampler_num_latents_2d = {windows} tokens but is {sides}"
        )
    widths = {
        config.perceiver_resampler_hidden_size,
        config.perceiver_resampler_attention_head_dim,
        config.memory_encoder_output_channels,
    }
    heads = config.perceiver_resampler_num_attention_heads
    if config.perceiver_resampler_num_latents < 1 or heads != 1 or len(widths) > 1:
        raise SourceError(f"{file}: EdgeTAM's perceiver has latents and one attention head, as wide as memories")
