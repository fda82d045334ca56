"""SAM 2 and 2.1 (facebookresearch/sam2): sizes, configurations, and their weights' names."""

import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VideoModel, Sam2VisionConfig

from sam2edge.errors import SourceError
from sam2edge.export.source.architecture import (
    Part,
    Shape,
    TransformersFamily,
    check_heads,
    checked_image_size,
    count_blocks,
    parsed_config,
    renamed,
)


def _trunk(
    embed_dim: int,
    heads: int,
    blocks: list[int],
    global_blocks: list[int],
    windows: tuple[int, ...] = (8, 4, 14, 7),
    background: int = 7,
) -> dict[str, Any]:
    """Return the settings of Sam2HieraDetConfig, which lists for each stage the channels and heads that double."""
    return {
        "hidden_size": embed_dim,
        "num_attention_heads": heads,
        "embed_dim_per_stage": [embed_dim << stage for stage in range(4)],
        "num_attention_heads_per_stage": [heads << stage for stage in range(4)],
        "blocks_per_stage": blocks,
        "global_attention_blocks": global_blocks,
        "window_size_per_stage": list(windows),
        "window_positional_embedding_background_size": [background, background],
    }


TRUNKS = {
    "tiny": _trunk(96, 1, [1, 2, 7, 2], [5, 7, 9]),
    "small": _trunk(96, 1, [1, 2, 11, 2], [7, 10, 13]),
    "base-plus": _trunk(112, 2, [2, 3, 16, 3], [12, 16, 20], background=14),
    "large": _trunk(144, 2, [2, 6, 36, 4], [23, 33, 43], windows=(8, 4, 16, 8)),
}
"""What distinguishes one Hiera trunk from another (sam2/configs/*/*.yaml over the defaults of hieradet.py)."""

# Any of these marks an upstream checkpoint as 2.1; then all are required.
_ONLY_IN_2_1 = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias")

TO_UPSTREAM = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^vision_encoder\.backbone\.", r"image_encoder.trunk."),
        (r"^vision_encoder\.neck\.convs\.(\d+)\.", r"image_encoder.neck.convs.\1.conv."),
        (r"\.patch_embed\.projection\.", r".patch_embed.proj."),
        (r"^shared_image_embedding\.", r"prompt_encoder.shared_embedding."),
        (r"\.shared_embedding\.positional_embedding$", r".pe_layer.positional_encoding_gaussian_matrix"),
        (r"\.point_embed\.weight$", r".point_embeddings.*.weight"),
        *((rf"\.mask_embed\.conv{i + 1}\.", f".mask_downscaling.{3 * i}.") for i in range(3)),
        *((rf"\.mask_embed\.layer_norm{i + 1}\.", f".mask_downscaling.{3 * i + 1}.") for i in range(2)),
        (r"\.upscale_conv1\.", r".output_upscaling.0."),
        (r"\.upscale_layer_norm\.", r".output_upscaling.1."),
        (r"\.upscale_conv2\.", r".output_upscaling.3."),
        (r"^(prompt_encoder|mask_decoder)\.", r"sam_\1."),
        *((rf"\.mask_downsampler\.layers\.{i}\.conv\.", f".mask_downsampler.encoder.{3 * i}.") for i in range(4)),
        *((rf"_downsampler\.layers\.{i}\.layer_norm\.", f"_downsampler.encoder.{3 * i + 1}.") for i in range(4)),
        (r"\.mask_downsampler\.final_conv\.", r".mask_downsampler.encoder.12."),
        (r"^memory_encoder\.feature_projection\.", r"memory_encoder.pix_feat_proj."),
        (r"^memory_encoder\.projection\.", r"memory_encoder.out_proj."),
        (r"\.memory_fuser\.", r".fuser."),
        (r"\.depthwise_conv\.", r".dwconv."),
        (r"\.pointwise_conv([12])\.", r".pwconv\1."),
        (r"\.scale$", r".gamma"),
        (r"^object_pointer_proj\.", r"obj_ptr_proj."),
        (r"^temporal_positional_encoding_projection_layer\.", r"obj_ptr_tpos_proj."),
        (r"^memory_temporal_positional_encoding$", r"maskmem_tpos_enc"),
        (r"^no_memory_embedding$", r"no_mem_embed"),
        (r"^no_memory_positional_encoding$", r"no_mem_pos_enc"),
        (r"^no_object_pointer$", r"no_obj_ptr"),
        (r"^occlusion_spatial_embedding_parameter$", r"no_obj_embed_spatial"),
        # MLPs: upstream numbers all layers, transformers names the first and last; .mlp. has no middle one
        (r"(_head|_mlps\.\d|^obj_ptr_proj)\.layers\.0\.", r"\1.layers.1."),
        (r"\.proj_in\.", r".layers.0."),
        (r"\.mlp\.proj_out\.", r".mlp.layers.1."),
        (r"\.proj_out\.", r".layers.2."),
        (r"\.o_proj\.", r".out_proj."),
        (r"\.layer_norm_final_attn\.", r".norm_final_attn."),
        (r"\.layer_norm(\d?)\.", r".norm\1."),
    )
)
"""From transformers' name to upstream's, by every rule in turn. A * stands for the tensor's rows, which upstream keeps
as separate tensors. In this direction one table both finds the tensors and lists what an upstream file must contain, so
that errors can use upstream's names."""


class Sam2(TransformersFamily):
    """Sam2VideoModel with a Hiera trunk."""

    name = "SAM"
    model = Sam2VideoModel
    model_type = "sam2_video"
    mark = "image_encoder.trunk.blocks."

    def read_config(self, file: Path, settings: dict[str, Any]) -> Any:
        config = parsed_config(Sam2VideoConfig, file, settings)
        trunk = config.vision_config.backbone_config
        if trunk.model_type != "sam2_hiera_det_model":
            raise SourceError(f"{file}: the image encoder is a {trunk.model_type!r}; expected sam2_hiera_det_model")
        for channels, heads in zip(trunk.embed_dim_per_stage, trunk.num_attention_heads_per_stage, strict=False):
            check_heads(file, channels, heads)
        return config

    def upstream_config(self, file: Path, shapes: Mapping[str, Shape], variant: str | None) -> Any:
        size = _upstream_size(file, shapes)
        version = "2.1" if any(key in shapes for key in _ONLY_IN_2_1) else "2.0"
        return _upstream_config(size, version)

    def upstream_parts(self, key: str, shape: Shape) -> list[Part]:
        return renamed(key, shape, TO_UPSTREAM)

    def set_image_size(self, config: Any, image_size: int | None) -> None:
        vision = config.vision_config
        size = checked_image_size(config, image_size, math.lcm(32, 4 * vision.backbone_config.window_size_per_stage[0]))
        vision.backbone_config.image_size = [size, size]
        vision.backbone_feature_sizes = [[size // stride, size // stride] for stride in (4, 8, 16)]

    def counts(self, config: Any) -> dict[str, int]:
        blocks = {"the sum of blocks_per_stage": sum(config.vision_config.backbone_config.blocks_per_stage)}
        return {**blocks, **super().counts(config)}

    def describe(self, config: Any) -> tuple[str, str]:
        return _version(config), _size(config)


def _upstream_size(path: Path, names: Collection[str]) -> str:
    """Return the size whose trunk has as many blocks; the comparison of all tensors checks the rest."""
    depth = count_blocks(names)
    depths = {sum(trunk["blocks_per_stage"]): size for size, trunk in TRUNKS.items()}
    if depth not in depths:
        known = ", ".join(f"{size} {blocks}" for blocks, size in depths.items())
        raise SourceError(
            f"{path}: the trunk has {depth} blocks, but upstream's sizes have others ({known}). Custom trunks are "
            f"loaded from transformers directories, where config.json describes them."
        )
    return depths[depth]


def _upstream_config(size: str, version: str) -> Any:
    """Return the configuration in upstream's yaml, which otherwise agrees with transformers' defaults."""
    trunk = TRUNKS[size]
    vision = Sam2VisionConfig(
        backbone_config=Sam2HieraDetConfig(**trunk), backbone_channel_list=trunk["embed_dim_per_stage"][::-1]
    )
    return Sam2VideoConfig(
        vision_config=vision,
        enable_occlusion_spatial_embedding=version == "2.1",
        enable_temporal_pos_encoding_for_object_pointers=version == "2.1",
    )


def _version(config: Any) -> str:
    in_memory = config.enable_occlusion_spatial_embedding
    in_pointers = config.enable_temporal_pos_encoding_for_object_pointers
    return "2.1" if in_memory or in_pointers else "2.0"


def _size(config: Any) -> str:
    backbone = config.vision_config.backbone_config
    for size, trunk in TRUNKS.items():
        if all(getattr(backbone, key) == value for key, value in trunk.items()):
            return size
    return "custom"
