"""The model that a checkpoint must fit: trunks, image size, and checks of every tensor's name and shape."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Sam2VideoModel
from transformers.utils import logging as transformers_logging

from sam2edge.errors import SourceError

Shape = tuple[int, ...]
Triple = tuple[float, float, float]

IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of the colours, in 0…1."""

_LISTED = 10


@dataclass(frozen=True)
class Source:
    """A SAM 2 model and where it came from.

    Attributes:
        model: A transformers Sam2VideoModel: float32, on the CPU, in eval mode, without gradients.
        name: Name of the file or directory, or the hub model id.
        sha256: Hex digest of the weights file, or of all shards in the order of their names.
        version: "2.0" or "2.1", which adds the memory's no-object embedding and the object pointers' temporal codes.
        size: "tiny", "small", "base-plus", "large", or "custom" for any other trunk.
        mean: What is subtracted from RGB pixels in 0…1.
        std: What they are then divided by.
    """

    model: Any
    name: str
    sha256: str
    version: str
    size: str
    mean: Triple
    std: Triple


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


def set_image_size(config: Any, image_size: int | None) -> None:
    """Check the image size and write it into every place of the configuration that holds it."""
    own = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
    size = own if image_size is None else image_size
    vision = config.vision_config
    step = math.lcm(32, 4 * vision.backbone_config.window_size_per_stage[0])
    if size == own and (size % step or size < step):
        raise SourceError(f"image size {own}, the checkpoint's own, is not possible: give a multiple of {step}")
    if size != own and (size % step or not 256 <= size <= 1024):
        raise SourceError(
            f"image size {size} is not possible: give a multiple of {step} from {max(256, step)} to 1024, "
            f"or {own}, the checkpoint's own"
        )
    config.image_size = size
    config.prompt_encoder_config.image_size = size
    config.memory_attention_rope_feat_sizes = [size // 16, size // 16]
    vision.backbone_config.image_size = [size, size]
    vision.backbone_feature_sizes = [[size // stride, size // stride] for stride in (4, 8, 16)]


def layout(config: Any) -> dict[str, Shape]:
    """Return the names and shapes of the tensors of a configuration's model."""
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in Sam2VideoModel(config).state_dict().items()}


def checked_tensors(
    path: Path, model: str, expected: Mapping[str, Shape], tensors: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a model's tensors in float32; SourceError for those that do not fit it, at most ten, or are no numbers."""
    actual = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    differences = [f"missing {key} {expected[key]}" for key in sorted(expected.keys() - actual.keys())]
    differences += [f"unexpected {key} {actual[key]}" for key in sorted(actual.keys() - expected.keys())]
    differences += [
        f"misshapen {key}: expected {expected[key]}, found {actual[key]}"
        for key in sorted(expected.keys() & actual.keys())
        if expected[key] != actual[key]
    ]
    if differences:
        more = [f"and {len(differences) - _LISTED} more"] if len(differences) > _LISTED else []
        title = f"{path}: the weights do not fit {model}:"
        raise SourceError("\n  ".join([title, *differences[:_LISTED], *more]))
    return {key: _as_float32(path, key, tensors[key]) for key in sorted(tensors)}


def _as_float32(path: Path, key: str, tensor: Any) -> Any:
    """Return the tensor in float32, which holds every value of FP16, BF16 and FP8."""
    is_plain = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    if not (is_plain and tensor.is_floating_point()):
        kind = tensor.dtype if is_plain else f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
        raise SourceError(
            f"{path}: the weights {key} are not floating-point numbers in memory ({kind}); give the checkpoint before "
            "quantisation"
        )
    numbers = tensor.detach().to(torch.float32)
    if not torch.isfinite(numbers).all():  # a diverged training leaves NaN and infinities behind
        raise SourceError(f"{path}: the weights {key} contain NaN or infinity; give an earlier checkpoint")
    return numbers


def assemble(config: Any, tensors: dict[str, Any]) -> Any:
    """Return the model of a configuration with tensors that fit it; nothing is initialised or copied."""
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # on stderr, where the command shows its own
    try:
        model = Sam2VideoModel.from_pretrained(None, config=config, state_dict=tensors, dtype=torch.float32)
    finally:
        if bar:
            transformers_logging.enable_progress_bar()
    return model.eval().requires_grad_(False)
