"""What a checkpoint is loaded as: a family of models, and checks of every tensor's name and shape."""

import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers.utils import logging as transformers_logging

from sam2edge.errors import SourceError
from sam2edge.export.source.weights import reason

Shape = tuple[int, ...]
Triple = tuple[float, float, float]

IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of the colours, in 0…1."""

_LISTED = 10
_COUNTER = ".num_batches_tracked"  # by batch norms in training


@dataclass(frozen=True)
class Source:
    """A model and where it came from.

    Attributes:
        model: Of its family's class: float32, on the CPU, in eval mode, without gradients.
        name: Name of the file or directory, or the hub model id.
        sha256: Hex digest of the weights file, or of all shards in the order of their names.
        family: "SAM", or what another family is called.
        version: "2.1", or what tells the models of a family apart beside their size; may be empty.
        size: "tiny", …, or "custom" for a trunk of no released model; may be empty.
        mean: What is subtracted from RGB pixels in 0…1.
        std: What they are then divided by.
    """

    model: Any
    name: str
    sha256: str
    family: str
    version: str
    size: str
    mean: Triple
    std: Triple

    @property
    def variant(self) -> str:
        """Which of its family's `variants` the model is, or "" where there are none."""
        return getattr(self.model.config, "variant", "")


class Part(NamedTuple):
    """Rows of an authors' tensor, of this shape in all."""

    name: str
    shape: Shape
    rows: slice = slice(None)


class Family(ABC):
    """A kind of model: what its checkpoints look like, and the class that holds their weights.

    Attributes:
        name: What it is called, before version and size.
        model: The class, derived from transformers' PreTrainedModel, whose forward follows one object in a video.
        mark: The prefix of weight names by which the authors' checkpoints are recognised. FAMILIES are tried in order.
        variants: Models whose weights have the same names and shapes.
    """

    name: str
    model: type[Any]
    mark: str
    variants: tuple[str, ...] = ()

    @abstractmethod
    def upstream_config(self, file: Path, shapes: Mapping[str, Shape], variant: str | None) -> Any:
        """Return the configuration of a model from the names and shapes of the weights in its authors' file.

        `variant` is one of `variants`, or None where the user gave none. Raises SourceError.
        """

    @abstractmethod
    def upstream_parts(self, key: str, shape: Shape) -> list[Part]:
        """Return the authors' tensors whose rows, joined, are a tensor."""

    @abstractmethod
    def set_image_size(self, config: Any, image_size: int | None) -> None:
        """Check the image size and write it into every place of the configuration that holds it; or SourceError."""

    @abstractmethod
    def describe(self, config: Any) -> tuple[str, str]:
        """Return the version and size of a configuration, either of which may be empty."""

    def counts(self, config: Any) -> dict[str, int]:
        """Return the numbers of layers in a configuration, none of which can exceed that of the tensors."""
        decoder = config.mask_decoder_config
        return {
            "memory_attention_num_layers": config.memory_attention_num_layers,
            "memory_fuser_num_layers": config.memory_fuser_num_layers,
            "mask_decoder_config.num_hidden_layers": decoder.num_hidden_layers,
            "mask_decoder_config.num_multimask_outputs": decoder.num_multimask_outputs,
            "mask_decoder_config.iou_head_depth": decoder.iou_head_depth,
        }

    def title(self, config: Any) -> str:
        """Return what a model of this configuration is called."""
        return " ".join(filter(None, (self.name, *self.describe(config))))


class TransformersFamily(Family):
    """A family that transformers has, too, and writes as directories.

    Attributes:
        model_type: The one in config.json.
    """

    model_type: str

    @abstractmethod
    def read_config(self, file: Path, settings: dict[str, Any]) -> Any:
        """Return the configuration in a directory's config.json; or SourceError."""


def parsed_config(kind: type[Any], file: Path, settings: dict[str, Any]) -> Any:
    """Return the configuration in a config.json as transformers' class; SourceError if it is not valid."""
    # Released models still use the older name, which transformers deprecates.
    theta = settings.pop("memory_attention_rope_theta", None)
    if theta is not None:
        settings.setdefault("rope_parameters", {"rope_theta": theta})
    try:
        config = kind.from_dict(settings)
    except Exception as error:  # validation raises errors of several libraries
        raise SourceError(f"{file} is not a valid {kind.__name__}: {reason(error)}") from error
    decoder = config.mask_decoder_config
    check_heads(file, decoder.hidden_size // decoder.attention_downsample_rate, decoder.num_attention_heads)
    return config


def check_heads(file: Path, channels: int, heads: int) -> None:
    """Raise SourceError unless attention heads can share these channels, which the shapes of weights do not show."""
    if heads < 1 or channels % heads:
        raise SourceError(f"{file}: {heads} attention heads cannot share {channels} channels")


def checked_image_size(config: Any, image_size: int | None, step: int) -> int:
    """Return the side of the images, `image_size` or the configuration's own, and write it where every family has it.

    Raises SourceError for one that is not a multiple of `step`.
    """
    own = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
    size = own if image_size is None else image_size
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
    return int(size)


def count_blocks(names: Collection[str]) -> int:
    """Return how many blocks an image encoder has, by its weights' names in its authors' file."""
    numbers = [re.match(r"image_encoder\.trunk\.blocks\.(\d+)\.", name) for name in names]
    return max((int(number[1]) + 1 for number in numbers if number), default=0)


def renamed(key: str, shape: Shape, rules: Iterable[tuple[re.Pattern[str], str]]) -> list[Part]:
    """Return a tensor's parts, whose names follow by every rule in turn; a * in a name stands for its rows."""
    for pattern, replacement in rules:
        key = pattern.sub(replacement, key)
    if "*" not in key:
        return [Part(key, shape)]
    return [Part(key.replace("*", str(row)), (1, *shape[1:])) for row in range(shape[0])]


def layout(model: type[Any], config: Any) -> dict[str, Shape]:
    """Return the names and shapes of the tensors of a class of models with this configuration."""
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in model(config).state_dict().items()}


def checked_tensors(
    path: Path, model: str, expected: Mapping[str, Shape], tensors: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a model's tensors in float32; SourceError names up to ten that do not fit it, or one without numbers."""
    tensors = {key: tensor for key, tensor in tensors.items() if not key.endswith(_COUNTER)}
    actual = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    kinds = [
        [f"missing {key} {expected[key]}" for key in sorted(expected.keys() - actual.keys())],
        [f"unexpected {key} {actual[key]}" for key in sorted(actual.keys() - expected.keys())],
        [
            f"misshapen {key}: expected {expected[key]}, found {actual[key]}"
            for key in sorted(expected.keys() & actual.keys())
            if expected[key] != actual[key]
        ],
    ]
    if found := sum(map(len, kinds)):
        while sum(map(len, kinds)) > _LISTED:  # some of every kind, by which mixed checkpoints are recognised
            max(kinds, key=len).pop()
        more = [f"and {found - _LISTED} more"] if found > _LISTED else []
        raise SourceError("\n  ".join([f"{path}: the weights do not fit {model}:", *itertools.chain(*kinds), *more]))
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


def assemble(model: type[Any], config: Any, tensors: dict[str, Any]) -> Any:
    """Return a model of this class and configuration with tensors that fit it; nothing is initialised or copied."""
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # on stderr, where the command shows its own
    try:
        assembled = model.from_pretrained(None, config=config, state_dict=tensors, dtype=torch.float32)
    finally:
        if bar:
            transformers_logging.enable_progress_bar()
    return assembled.eval().requires_grad_(False)
