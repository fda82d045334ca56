"""A directory that transformers wrote: config.json and safetensors."""

import json
from pathlib import Path
from typing import Any

from transformers import Sam2VideoConfig

from sam2edge.errors import SourceError
from sam2edge.export.source import architecture
from sam2edge.export.source.architecture import IMAGENET, TRUNKS, Shape, Source, Triple
from sam2edge.export.source.weights import read_safetensors, reason
from sam2edge.files import sha256

WEIGHTS = "model.safetensors"
_WEIGHTS_INDEX = "model.safetensors.index.json"
_PREPROCESSOR_FILES = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")

# Two names of one tensor: releases of transformers that tied them saved only one.
_POINT_CODES = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")


def from_directory(directory: Path, name: str, image_size: int | None) -> Source:
    config = _read_config(directory)
    architecture.set_image_size(config, image_size)
    files = _weight_files(directory)
    digest = sha256(*files)
    tensors = {key: tensor for file in files for key, tensor in read_safetensors(file).items()}
    for present, absent in (_POINT_CODES, _POINT_CODES[::-1]):
        if present in tensors:
            tensors.setdefault(absent, tensors[present].clone())
    tensors = architecture.checked_tensors(directory, "config.json", _layout(directory, config, len(tensors)), tensors)
    mean, std = _normalisation(directory)
    return Source(architecture.assemble(config, tensors), name, digest, _version(config), _size(config), mean, std)


def _read_config(directory: Path) -> Any:
    path = directory / "config.json"
    if not path.is_file():
        checkpoints = sorted(file.name for file in directory.glob("*.pt"))
        hint = f"; for upstream's layout, give the file: {directory / checkpoints[0]}" if checkpoints else ""
        raise SourceError(f"{directory} is not a model directory: it has no config.json{hint}")
    settings = _read_json(path)
    model_type = settings.get("model_type")
    if model_type == "sam2":
        raise SourceError(
            f"{path} describes an image-only Sam2Model, without the memory that tracking needs; expected model_type "
            "sam2_video. Copy its weights into the Sam2VideoModel that it came from, and save that: "
            "video.load_state_dict(image.state_dict(), strict=False); video.save_pretrained(DIR)"
        )
    if model_type != "sam2_video":
        raise SourceError(f"{path} describes {model_type!r}; expected model_type sam2_video (Sam2VideoModel)")
    # Released models still use the older name, which transformers deprecates.
    theta = settings.pop("memory_attention_rope_theta", None)
    if theta is not None:
        settings.setdefault("rope_parameters", {"rope_theta": theta})
    try:
        config = Sam2VideoConfig.from_dict(settings)
    except Exception as error:  # validation raises errors of several libraries
        raise SourceError(f"{path} is not a valid Sam2VideoConfig: {reason(error)}") from error
    trunk = config.vision_config.backbone_config.model_type
    if trunk != "sam2_hiera_det_model":
        raise SourceError(f"{path}: the image encoder is a {trunk!r}; expected sam2_hiera_det_model")
    _check_heads(path, config)
    return config


def _layout(directory: Path, config: Any, tensors: int) -> dict[str, Shape]:
    """Return the shapes that a configuration asks for, unless it asks for more layers than there are tensors."""
    try:
        for name, count in _counts(config).items():
            if count > tensors:
                raise ValueError(f"{name} is {count}, but the weights are only {tensors} tensors")
        return architecture.layout(config)
    except Exception as error:  # numbers that no tensor can have, and whatever the model's parts make of others
        raise SourceError(
            f"{directory / 'config.json'} describes no model that can be made: {reason(error)}"
        ) from error


def _counts(config: Any) -> dict[str, int]:
    decoder = config.mask_decoder_config
    return {
        "the sum of blocks_per_stage": sum(config.vision_config.backbone_config.blocks_per_stage),
        "memory_attention_num_layers": config.memory_attention_num_layers,
        "memory_fuser_num_layers": config.memory_fuser_num_layers,
        "mask_decoder_config.num_hidden_layers": decoder.num_hidden_layers,
        "mask_decoder_config.num_multimask_outputs": decoder.num_multimask_outputs,
        "mask_decoder_config.iou_head_depth": decoder.iou_head_depth,
    }


def _check_heads(path: Path, config: Any) -> None:
    """Check what the shapes of weights do not show."""
    decoder, trunk = config.mask_decoder_config, config.vision_config.backbone_config
    width = decoder.hidden_size // decoder.attention_downsample_rate
    stages = zip(trunk.embed_dim_per_stage, trunk.num_attention_heads_per_stage, strict=False)
    for channels, heads in [(width, decoder.num_attention_heads), *stages]:
        if heads < 1 or channels % heads:
            raise SourceError(f"{path}: {heads} attention heads cannot share {channels} channels")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{path} cannot be read as JSON ({reason(error)})") from error
    if not isinstance(content, dict):
        raise SourceError(f"{path} is not a JSON object")
    return content


def _weight_files(directory: Path) -> list[Path]:
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    index = directory / _WEIGHTS_INDEX
    if not index.is_file():
        raise SourceError(
            f"{directory} has no {WEIGHTS}. Weights in other formats are not read: save them with "
            f"save_pretrained, which writes safetensors."
        )
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SourceError(f"{index} lists no shards: expected a weight_map from tensor to file")
    shards = [directory / str(name) for name in sorted(set(weight_map.values()))]
    for shard in shards:
        if not shard.is_file():
            raise SourceError(f"{shard} is missing, but {_WEIGHTS_INDEX} lists it; download it again")
    return shards


def _normalisation(directory: Path) -> tuple[Triple, Triple]:
    for name in _PREPROCESSOR_FILES:
        if not (directory / name).is_file():
            continue
        settings = _read_json(directory / name)
        # processor_config.json nests the settings of the processors that it combines
        for part in (settings, settings.get("video_processor"), settings.get("image_processor")):
            if isinstance(part, dict) and "image_mean" in part and "image_std" in part:
                where = f"{directory / name}: image_mean and image_std"
                return _triple(where, part["image_mean"]), _triple(where, part["image_std"])
    return IMAGENET


def _triple(where: str, values: Any) -> Triple:
    try:
        red, green, blue = (float(value) for value in values)
    except (OverflowError, TypeError, ValueError) as error:
        raise SourceError(f"{where} must be three numbers, got {values!r}") from error
    return red, green, blue


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
