"""A directory that transformers wrote: config.json and safetensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam2edge.errors import SourceError
from sam2edge.export.source import architecture
from sam2edge.export.source.architecture import IMAGENET, Family, Shape, Source, TransformersFamily, Triple
from sam2edge.export.source.upstream import FAMILIES, check_variant
from sam2edge.export.source.weights import read_safetensors, reason
from sam2edge.files import sha256

WEIGHTS = "model.safetensors"
_WEIGHTS_INDEX = "model.safetensors.index.json"
_PREPROCESSOR_FILES = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")
_WORD_DETECTORS = ("owlv2", "owlvit")  # which export/words reads

# Two names of one tensor: releases of transformers that tied them saved only one.
_POINT_CODES = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")


def from_directory(directory: Path, name: str, image_size: int | None, variant: str | None) -> Source:
    family, config = _read_config(directory)
    check_variant(directory, family, variant)
    family.set_image_size(config, image_size)
    tensors, digest = read_weights(directory)
    for present, absent in (_POINT_CODES, _POINT_CODES[::-1]):
        if present in tensors:
            tensors.setdefault(absent, tensors[present].clone())
    shapes = shapes_of(directory / "config.json", family.model, config, family.counts(config), len(tensors))
    tensors = architecture.checked_tensors(directory, f"config.json, {family.title(config)}", shapes, tensors)
    model = architecture.assemble(family.model, config, tensors)
    return Source(model, name, digest, family.name, *family.describe(config), *normalisation(directory, IMAGENET))


def _read_config(directory: Path) -> tuple[Family, Any]:
    path = directory / "config.json"
    if not path.is_file():
        checkpoints = sorted(file.name for file in directory.glob("*.pt"))
        hint = f"; for upstream's layout, give the file: {directory / checkpoints[0]}" if checkpoints else ""
        raise SourceError(f"{directory} is not a model directory: it has no config.json{hint}")
    settings = read_json(path)
    model_type = settings.get("model_type")
    families = [family for family in reversed(FAMILIES) if isinstance(family, TransformersFamily)]
    for family in families:
        if model_type == family.model_type:
            return family, family.read_config(path, settings)
        if model_type == family.model_type.removesuffix("_video"):
            video = family.model.__name__
            raise SourceError(
                f"{path} describes an image-only {video.replace('Video', '')}, without the memory that tracking needs; "
                f"expected model_type {family.model_type}. Copy its weights into the {video} that it came from, and "
                "save that: video.load_state_dict(image.state_dict(), strict=False); video.save_pretrained(DIR)"
            )
    if model_type in _WORD_DETECTORS:
        raise SourceError(
            f"{path} describes {model_type!r}, a word detector: add it to a bundle with `sam2edge export OWL BUNDLE`"
        )
    known = " or ".join(f"{family.model_type} ({family.model.__name__})" for family in families)
    raise SourceError(f"{path} describes {model_type!r}; expected model_type {known}")


def shapes_of(file: Path, model: type[Any], config: Any, counts: Mapping[str, int], tensors: int) -> dict[str, Shape]:
    """Return the shapes that a configuration asks for, unless it asks for more layers than there are tensors.

    `counts` has the numbers of layers by what they are called in the configuration, whose file errors name.
    """
    try:
        for name, count in counts.items():
            if count > tensors:
                raise ValueError(f"{name} is {count}, but the weights are only {tensors} tensors")
        return architecture.layout(model, config)
    except Exception as error:  # numbers that no tensor can have, and whatever the model's parts make of others
        raise SourceError(f"{file} describes no model that can be made: {reason(error)}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; or SourceError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{path} cannot be read as JSON ({reason(error)})") from error
    if not isinstance(content, dict):
        raise SourceError(f"{path} is not a JSON object")
    return content


def read_weights(directory: Path) -> tuple[dict[str, Any], str]:
    """Return the tensors of a directory by name, and the sha256 of the files that hold them."""
    files = _weight_files(directory)
    digest = sha256(*files)
    return {key: tensor for file in files for key, tensor in read_safetensors(file).items()}, digest


def _weight_files(directory: Path) -> list[Path]:
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    index = directory / _WEIGHTS_INDEX
    if not index.is_file():
        raise SourceError(
            f"{directory} has no {WEIGHTS}. Weights in other formats are not read: save them with "
            f"save_pretrained, which writes safetensors."
        )
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SourceError(f"{index} lists no shards: expected a weight_map from tensor to file")
    shards = [directory / str(name) for name in sorted(set(weight_map.values()))]
    for shard in shards:
        if not shard.is_file():
            raise SourceError(f"{shard} is missing, but {_WEIGHTS_INDEX} lists it; download it again")
    return shards


def normalisation(directory: Path, default: tuple[Triple, Triple]) -> tuple[Triple, Triple]:
    """Return the mean and standard deviation of the colours that a directory states, or else the default ones."""
    for name in _PREPROCESSOR_FILES:
        if not (directory / name).is_file():
            continue
        settings = read_json(directory / name)
        # processor_config.json nests the settings of the processors that it combines
        for part in (settings, settings.get("video_processor"), settings.get("image_processor")):
            if isinstance(part, dict) and "image_mean" in part and "image_std" in part:
                where = f"{directory / name}: image_mean and image_std"
                return _triple(where, part["image_mean"]), _triple(where, part["image_std"])
    return default


def _triple(where: str, values: Any) -> Triple:
    try:
        red, green, blue = (float(value) for value in values)
    except (OverflowError, TypeError, ValueError) as error:
        raise SourceError(f"{where} must be three numbers, got {values!r}") from error
    return red, green, blue
