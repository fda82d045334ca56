"""A checkpoint of facebookresearch/sam2: tensors under its own names, the architecture in a yaml file elsewhere."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VisionConfig

from sam2edge.errors import SourceError
from sam2edge.export.source import architecture
from sam2edge.export.source.architecture import IMAGENET, TRUNKS, Shape, Source
from sam2edge.export.source.weights import read_checkpoint, read_safetensors
from sam2edge.files import sha256

_TRUNK = "image_encoder.trunk."

# Any of these marks an upstream checkpoint as 2.1; then all are required.
_ONLY_IN_2_1 = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias")

# From transformers' name to upstream's, by every rule in turn. A * stands for the tensor's rows, which upstream keeps
# as separate tensors. In this direction one table both finds the tensors and lists what an upstream file must contain,
# so that errors can use upstream's names.
_TO_UPSTREAM = tuple(
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


def from_upstream(path: Path, image_size: int | None) -> Source:
    digest = sha256(path)
    state, prefix = _unwrapped(path, read_safetensors(path) if path.suffix == ".safetensors" else read_checkpoint(path))
    size = _upstream_size(path, state, prefix)
    version = "2.1" if any(prefix + key in state for key in _ONLY_IN_2_1) else "2.0"
    config = _upstream_config(size, version)
    architecture.set_image_size(config, image_size)
    keys = {key: _upstream_keys(key, shape, prefix) for key, shape in architecture.layout(config).items()}
    expected = dict(part for parts in keys.values() for part in parts)
    state = architecture.checked_tensors(path, f"SAM {version} {size}", expected, state)
    # cat copies even a single tensor, so that the file's storages, with the optimizer's state, can be freed
    tensors = {key: torch.cat([state[name] for name, _ in parts]) for key, parts in keys.items()}
    return Source(architecture.assemble(config, tensors), path.name, digest, version, size, *IMAGENET)


def _unwrapped(path: Path, state: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the tensors without torch.compile's part of their names, and what wrappers put before all names.

    That is `module.` of DataParallel, `model.` of Lightning, or any other name of an attribute that holds the model.
    """
    plain = {key.replace("_orig_mod.", ""): tensor for key, tensor in state.items()}
    prefixes = sorted({key.partition(_TRUNK)[0] for key in plain if _TRUNK in key})
    if len(prefixes) > 1 or len(plain) < len(state):
        names = ", ".join(f"{prefix}{_TRUNK}*" for prefix in prefixes)
        raise SourceError(
            f'{path}: holds several models ({names}); save the weights of one: torch.save({{"model": weights}}, FILE)'
        )
    return plain, "".join(prefixes)


def _upstream_size(path: Path, state: Mapping[str, Any], prefix: str) -> str:
    """Return the size whose trunk has as many blocks; the comparison of all tensors checks the rest."""
    numbers = [re.match(rf"{re.escape(prefix + _TRUNK)}blocks\.(\d+)\.", key) for key in state]
    depth = max((int(number[1]) + 1 for number in numbers if number), default=0)
    if depth == 0:
        foreign = any("vision_encoder." in key for key in state)
        raise SourceError(
            f"{path}: no weight is named image_encoder.trunk.blocks.*; the first names are "
            + ", ".join(sorted(state)[:3])
            + ("; these are transformers' names: give the directory with config.json" if foreign else "")
        )
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


def _upstream_keys(key: str, shape: Shape, prefix: str) -> list[tuple[str, Shape]]:
    """Return upstream's names, each after a prefix, and shapes of a tensor's parts, which are joined along axis 0."""
    for pattern, replacement in _TO_UPSTREAM:
        key = pattern.sub(replacement, key)
    key = prefix + key
    if "*" not in key:
        return [(key, shape)]
    return [(key.replace("*", str(row)), (1, *shape[1:])) for row in range(shape[0])]
