"""EfficientTAM (yformer/EfficientTAM): the PyTorch module, which transformers lacks, and its checkpoints.

It is SAM 2 with a plain ViT as image encoder, without maps of higher resolution for the mask decoder, without codes of
the pointers' age, and with fewer keys in some variants. The rest is transformers' Sam2VideoModel.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, Sam2HieraDetConfig, Sam2VideoConfig, Sam2VideoModel, Sam2VisionConfig
from transformers.models.sam2.modeling_sam2 import (
    Sam2LayerNorm,
    Sam2MultiScaleBlock,
    Sam2PatchEmbeddings,
    Sam2PreTrainedModel,
    Sam2SinePositionEmbedding,
    Sam2VisionEncoderOutput,
)
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoRoPEAttention, apply_rotary_pos_emb_2d

from sam2edge.errors import SourceError
from sam2edge.export.source.architecture import Family, Part, Shape, checked_image_size, renamed
from sam2edge.export.source.sam2 import TO_UPSTREAM

POOL = 2
"""Side of the windows over which the variants "1" and "2" average their keys."""

_STRIDE = 16
_BLOCKS = 12
_GLOBAL = [2, 5, 8, 11]
_PRETRAINED = 14  # side of the grid of position codes: images of 224 pixels
_SIZES = {192: ("ti", 3), 384: ("s", 6)}  # name and heads by width

_ENCODER = "image_encoder.neck.convs.0.conv_1x1."
_TO_UPSTREAM = ((re.compile(r"^vision_encoder\.neck\."), r"image_encoder.neck."), *TO_UPSTREAM)


@dataclass(frozen=True)
class PooledKeys:
    """How the keys of a memory are averaged over windows once they are rotated: the authors' two ways to weigh them.

    Attributes:
        score: Added to the scores of such a key: log(POOL²) lets it weigh as much as those it stands for.
        shift: Added to every component of the key instead, which does something else, but was trained so.
    """

    score: float = 0.0
    shift: float = 0.0


@dataclass(frozen=True)
class Variant:
    """What is the same in the weights of all variants of a size, and stands in the authors' yaml only."""

    image_size: int = 1024
    keys: PooledKeys | None = None


VARIANTS = {
    "plain": Variant(),
    "512x512": Variant(image_size=512),
    "1": Variant(keys=PooledKeys(score=math.log(POOL**2))),
    "2": Variant(keys=PooledKeys(shift=math.log(POOL**2))),
}
"""By what follows the size in the name of the authors' file; efficienttam_ti.pt is the plain one."""


class EfficientTamVisionConfig(Sam2VisionConfig):
    """The settings of the image encoder; its ViT is configured as a Hiera with a single stage."""

    model_type = "efficienttam_vision_model"


class EfficientTamConfig(Sam2VideoConfig):
    """The settings of a Sam2VideoModel, and the variant."""

    model_type = "efficienttam_video"

    variant: str = "plain"


class Vit(nn.Module):
    """The plain ViT (vitdet.py): blocks of Hiera, all of one stage, and position codes that are resized."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.patch_embed = Sam2PatchEmbeddings(config)
        # the first code is that of the class token of pretraining, and unused
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + _PRETRAINED**2, config.hidden_size))
        self.blocks = nn.ModuleList(Sam2MultiScaleBlock(config, 0, block, block) for block in range(_BLOCKS))

    def position(self, side: int) -> Tensor:
        """Return the position codes of a map, [1,side,side,C]."""
        codes = self.pos_embed[:, 1:].unflatten(1, (_PRETRAINED, _PRETRAINED))
        resized = F.interpolate(codes.permute(0, 3, 1, 2), (side, side), mode="bicubic", align_corners=False)
        return resized.permute(0, 2, 3, 1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode images [B,3,S,S] → [B,h,h,C]."""
        x = self.patch_embed(pixel_values)
        x = x + self.position(x.shape[1])
        for block in self.blocks:
            x = block(x)
        return x


class VitNeck(nn.Module):
    """From the ViT's width to that of the features (image_encoder.py, ViTDetNeck)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width, channels = config.backbone_config.hidden_size, config.fpn_hidden_size
        self.position_encoding = Sam2SinePositionEmbedding(num_position_features=channels // 2, normalize=True)
        conv = nn.Sequential()
        conv.add_module("conv_1x1", nn.Conv2d(width, channels, 1, bias=False))
        conv.add_module("norm_0", Sam2LayerNorm(channels, eps=config.layer_norm_eps, data_format="channels_first"))
        conv.add_module("conv_3x3", nn.Conv2d(channels, channels, 3, padding=1, bias=False))
        conv.add_module("norm_1", Sam2LayerNorm(channels, eps=config.layer_norm_eps, data_format="channels_first"))
        self.convs = nn.ModuleList([conv])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Turn [B,h,h,C] into features [B,256,h,h] and their position codes."""
        features = self.convs[0](x.permute(0, 3, 1, 2))
        return features, self.position_encoding(features.shape, features.device, features.dtype)


class EfficientTamVisionModel(Sam2PreTrainedModel):
    """The image encoder. In place of the two maps of higher resolution it returns zeros that fit any size."""

    config_class = EfficientTamVisionConfig

    def __init__(self, config: EfficientTamVisionConfig) -> None:
        super().__init__(config)
        config.backbone_config._attn_implementation = config._attn_implementation  # Vit is not a PreTrainedModel
        self.backbone, self.neck = Vit(config.backbone_config), VitNeck(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return what reads pixels."""
        return self.backbone.patch_embed

    def forward(self, pixel_values: Tensor, **_: Any) -> Sam2VisionEncoderOutput:
        """Encode images [B,3,S,S]."""
        features, position = self.neck(self.backbone(pixel_values))
        nothing = features.new_zeros(len(features), 1, 1, 1)
        return Sam2VisionEncoderOutput(
            fpn_hidden_states=(nothing, nothing, features), fpn_position_encoding=(nothing, nothing, position)
        )


AutoModel.register(EfficientTamVisionConfig, EfficientTamVisionModel)


class PooledAttention(Sam2VideoRoPEAttention):
    """Attention to keys and values averaged over windows, but not to those of a single memory (sam/transformer.py)."""

    def __init__(self, config: EfficientTamConfig, keys: PooledKeys) -> None:
        super().__init__(config, kv_in_dim=config.memory_encoder_output_channels, rope_k_repeat=True)
        self.keys = keys

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        num_k_exclude_rope: int = 0,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from query [B,1,hh,C] to T memories and the pointers in key and value [B,1,T·hh+P,M]."""
        memory = key.shape[-2] - num_k_exclude_rope
        if memory <= query.shape[-2]:
            return super().forward(query, key, value, position_embeddings, num_k_exclude_rope, **kwargs)  # type: ignore[no-any-return]
        query, key, value = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        query, key = apply_rotary_pos_emb_2d(
            query, key, *position_embeddings, num_k_exclude_rope=num_k_exclude_rope, repeat_freqs_k=True
        )
        side = math.isqrt(query.shape[-2])
        key = torch.cat([_pooled(key[..., :memory, :], side) + self.keys.shift, key[..., memory:, :]], dim=-2)
        value = torch.cat([_pooled(value[..., :memory, :], side), value[..., memory:, :]], dim=-2)
        scores = query @ key.transpose(-2, -1) * self.scaling
        scores[..., : memory // POOL**2] += self.keys.score
        return self.o_proj(torch.softmax(scores, dim=-1) @ value), None


def pooled_keys(model: Any) -> PooledKeys | None:
    """Return how a model averages its keys itself, or None."""
    attention = model.memory_attention.layers[0].cross_attn_image
    return attention.keys if isinstance(attention, PooledAttention) else None


def _pooled(x: Tensor, side: int) -> Tensor:
    """Average the tokens of maps [side,side] over windows: x [B,1,T·hh,C] → [B,1,T·hh/4,C]."""
    maps = x.reshape(-1, side, side, x.shape[-1]).permute(0, 3, 1, 2)
    return F.avg_pool2d(maps, POOL).flatten(2).transpose(1, 2).reshape(*x.shape[:2], -1, x.shape[-1])


class EfficientTamVideoModel(Sam2VideoModel):
    """Sam2VideoModel with the ViT, and without what EfficientTAM does not have."""

    config_class = EfficientTamConfig

    def __init__(self, config: EfficientTamConfig) -> None:
        super().__init__(config)
        del self.mask_decoder.conv_s0, self.mask_decoder.conv_s1
        if keys := VARIANTS[config.variant].keys:
            for layer in self.memory_attention.layers:
                layer.cross_attn_image = PooledAttention(config, keys)

    def get_image_features(self, pixel_values: Tensor, **_: Any) -> Sam2VisionEncoderOutput:
        """Encode images [B,3,S,S]; maps and codes are [tokens,B,channels] as in Sam2VideoModel, and the last counts."""
        out = self.vision_encoder(pixel_values)
        for name in ("fpn_hidden_states", "fpn_position_encoding"):
            out[name] = [level.flatten(2).permute(2, 0, 1) for level in out[name]]
        return out


class EfficientTam(Family):
    """EfficientTamVideoModel: ti and s, each in the VARIANTS."""

    name = "EfficientTAM"
    model = EfficientTamVideoModel
    mark = _ENCODER
    variants = tuple(VARIANTS)

    def upstream_config(self, file: Path, shapes: Mapping[str, Shape], variant: str | None) -> Any:
        shape = shapes.get(f"{_ENCODER}weight", ())
        width = shape[1] if len(shape) == 4 else 0
        if width not in _SIZES:
            known = " or ".join(f"(256, {width}, 1, 1) for {size}" for width, (size, _) in _SIZES.items())
            raise SourceError(f"{file}: {_ENCODER}weight, which tells the size, is {shape}; expected {known}")
        variant = variant or _variant_of(file)
        trunk = Sam2HieraDetConfig(
            hidden_size=width,
            num_attention_heads=_SIZES[width][1],
            patch_kernel_size=[_STRIDE, _STRIDE],
            patch_stride=[_STRIDE, _STRIDE],
            patch_padding=[0, 0],
            blocks_per_stage=[_BLOCKS],
            embed_dim_per_stage=[width],
            num_attention_heads_per_stage=[_SIZES[width][1]],
            window_size_per_stage=[14],
            global_attention_blocks=_GLOBAL,
            num_query_pool_stages=0,
        )
        return EfficientTamConfig(
            vision_config=EfficientTamVisionConfig(backbone_config=trunk, backbone_channel_list=[width]),
            enable_occlusion_spatial_embedding=False,
            enable_temporal_pos_encoding_for_object_pointers=False,
            image_size=VARIANTS[variant].image_size,
            variant=variant,
        )

    def upstream_parts(self, key: str, shape: Shape) -> list[Part]:
        return renamed(key, shape, _TO_UPSTREAM)

    def set_image_size(self, config: Any, image_size: int | None) -> None:
        size = checked_image_size(config, image_size, 2 * _STRIDE)
        config.vision_config.backbone_config.image_size = [size, size]
        config.vision_config.backbone_feature_sizes = [[1, 1], [1, 1], [size // _STRIDE, size // _STRIDE]]

    def describe(self, config: Any) -> tuple[str, str]:
        size, _ = _SIZES[config.vision_config.backbone_config.hidden_size]
        return "", size if config.variant == "plain" else f"{size}_{config.variant}"


def _variant_of(file: Path) -> str:
    """Return the variant that the authors' name of a file says; SourceError for other names."""
    match = re.fullmatch(r"efficienttam_(?:ti|s)(?:_(.+))?", file.stem)
    variant = (match[1] or "plain") if match else ""
    if variant not in VARIANTS:
        names = ", ".join(f"efficienttam_ti{'' if name == 'plain' else f'_{name}'}.pt" for name in VARIANTS)
        raise SourceError(
            f"{file}: these weights of EfficientTAM may be any of its variants, which differ in image size and in "
            f"their keys but not in names and shapes, and the file's name is not one of the authors' ({names}, or s "
            f"for ti); give the variant: {' or '.join(f'--variant {name}' for name in VARIANTS)}"
        )
    return variant
