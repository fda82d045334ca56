"""A checkpoint of a model's authors: tensors under their own names, the architecture in a yaml file elsewhere."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from sam2edge.errors import InputError, SourceError
from sam2edge.export.source import architecture
from sam2edge.export.source.architecture import IMAGENET, Family, Source
from sam2edge.export.source.edgetam import EdgeTam
from sam2edge.export.source.efficienttam import EfficientTam
from sam2edge.export.source.sam2 import Sam2
from sam2edge.export.source.weights import read_checkpoint, read_safetensors
from sam2edge.files import sha256

FAMILIES: tuple[Family, ...] = (EdgeTam(), EfficientTam(), Sam2())

_TRUNK = "image_encoder.trunk."


def from_upstream(path: Path, image_size: int | None, variant: str | None) -> Source:
    digest = sha256(path)
    state, prefix = _unwrapped(path, read_safetensors(path) if path.suffix == ".safetensors" else read_checkpoint(path))
    shapes = {name.removeprefix(prefix): tuple(tensor.shape) for name, tensor in state.items()}
    family = _family(path, shapes)
    check_variant(path, family, variant)
    config = family.upstream_config(path, shapes, variant)
    family.set_image_size(config, image_size)
    keys = {
        key: [part._replace(name=prefix + part.name) for part in family.upstream_parts(key, shape)]
        for key, shape in architecture.layout(family.model, config).items()
    }
    expected = {part.name: part.shape for parts in keys.values() for part in parts}
    state = architecture.checked_tensors(path, family.title(config), expected, state)
    # cat copies even a single tensor, so that the file's storages, with the optimizer's state, can be freed
    tensors = {key: torch.cat([state[part.name][part.rows] for part in parts]) for key, parts in keys.items()}
    model = architecture.assemble(family.model, config, tensors)
    return Source(model, path.name, digest, family.name, *family.describe(config), *IMAGENET)


def check_variant(path: Path, family: Family, variant: str | None) -> None:
    """Raise InputError for a variant that the family does not have."""
    if variant is None or variant in family.variants:
        return
    if not family.variants:
        raise InputError(f"{path}: {family.name} has no variants, but {variant!r} was given; leave it out")
    raise InputError(f"variant must be one of {', '.join(family.variants)} but got {variant!r}")


def _family(path: Path, names: Collection[str]) -> Family:
    """Return the family by a name that marks it."""
    for family in FAMILIES:
        if any(name.startswith(family.mark) for name in names):
            return family
    foreign = any("vision_encoder." in name for name in names)
    known = " or ".join(f"{family.mark}* ({family.name})" for family in FAMILIES)
    raise SourceError(
        f"{path}: no weight is named {known}; the first names are "
        + ", ".join(sorted(names)[:3])
        + ("; these are transformers' names: give the directory with config.json" if foreign else "")
    )


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
