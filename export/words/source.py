"""Load an OWLv2 or OWL-ViT that transformers wrote, with its tokenizer, from a directory or the Hugging Face hub."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import CLIPTokenizerFast, Owlv2Config, Owlv2ForObjectDetection, OwlViTConfig, OwlViTForObjectDetection

from sam2edge.bundle.words import TOKENIZER, WordsModel
from sam2edge.errors import SourceError
from sam2edge.export.source import architecture
from sam2edge.export.source.architecture import Triple
from sam2edge.export.source.directory import normalisation, read_json, read_weights, shapes_of
from sam2edge.export.source.hub import HubModel
from sam2edge.export.source.weights import reason
from sam2edge.files import user_path

EXAMPLE = "google/owlv2-base-patch16-ensemble"
CLIP: tuple[Triple, Triple] = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Mean and standard deviation of the colours, in 0…1, where a directory does not say them."""

_COMPUTED = (".position_ids", "box_bias")
"""Ends of the names of tensors that older releases of transformers saved, and that follow from the configuration."""
_TOKENIZERS = ((TOKENIZER,), ("vocab.json", "merges.txt"))
_WIDTHS = {768: "B", 1024: "L"}


@dataclass(frozen=True)
class WordsFamily:
    """A kind of word detector: its name, transformers' classes, and how it differs from the other one."""

    name: str
    model: type[Any]
    config: type[Any]
    letterbox: bool
    objectness: bool


FAMILIES = {
    "owlv2": WordsFamily("OWLv2", Owlv2ForObjectDetection, Owlv2Config, letterbox=True, objectness=True),
    "owlvit": WordsFamily("OWL-ViT", OwlViTForObjectDetection, OwlViTConfig, letterbox=False, objectness=False),
}
"""By the model_type in config.json."""


@dataclass(frozen=True)
class WordsSource:
    """A word detector and where it came from.

    Attributes:
        model: transformers' model: float32, on the CPU, in eval mode, without gradients.
        numbers: What the runtime needs to know, with the image size that was asked for.
        name: Name of the directory, or the hub model id.
        sha256: Hex digest of the weights.
        family: "OWLv2" or "OWL-ViT".
        size: "B/16", or "custom" for a model of no released width.
        mean: What is subtracted from RGB pixels in 0…1.
        std: What they are then divided by.
        tokenizer: Content of tokenizer.json.
        licence: What the model card says, or "".
    """

    model: Any
    numbers: WordsModel
    name: str
    sha256: str
    family: str
    size: str
    mean: Triple
    std: Triple
    tokenizer: str
    licence: str


def is_word_detector(source: str | os.PathLike[str]) -> bool:
    """Tell whether a directory or a model of the hub is a word detector, and not, for example, a SAM 2."""
    path = user_path(source)
    if not path.exists() and isinstance(source, str) and (model := HubModel.parse(source)) and not model.file:
        path = model.download()
    config = path / "config.json"
    return config.is_file() and read_json(config).get("model_type") in FAMILIES


def load_words_source(source: str | os.PathLike[str], image_size: int | None = None) -> WordsSource:
    """Load a word detector.

    Args:
        source: A directory that transformers wrote (config.json with model_type owlv2 or owlvit, safetensors, and
            tokenizer.json or else vocab.json and merges.txt), or a hub model id such as EXAMPLE.
        image_size: Side in pixels of the square images that the detector takes, a multiple of its patch; position codes
            are then interpolated. By default the model's own.

    Raises:
        SourceError: The source does not exist or is something else, its weights do not fit its configuration or are no
            numbers, its tokenizer is missing or of another model, or it cannot take images of that size.
    """
    directory, name = _find(source)
    file = directory / "config.json"
    if not file.is_file():
        raise SourceError(f"{directory} has no config.json, so it is no model directory; give that of {_KNOWN}")
    settings = read_json(file)
    kind = str(settings.get("model_type"))
    family = FAMILIES.get(kind)
    if family is None:
        raise SourceError(f"{directory} is a {kind}, not a word detector; give {_KNOWN}")
    config = _config(file, family, settings)
    tensors, digest = read_weights(directory)
    tensors = {key: tensor for key, tensor in tensors.items() if not key.endswith(_COMPUTED)}
    counts = {f"{part}.num_hidden_layers": getattr(config, part).num_hidden_layers for part in _PARTS}
    shapes = shapes_of(file, family.model, config, counts, len(tensors))
    size = _size(config)
    tensors = architecture.checked_tensors(directory, f"config.json, {family.name} {size}", shapes, tensors)
    tokenizer = _read_tokenizer(directory)
    return WordsSource(
        architecture.assemble(family.model, config, tensors),
        _numbers(directory, family, config, tokenizer, image_size),
        name,
        digest,
        family.name,
        size,
        *normalisation(directory, CLIP),
        tokenizer.to_str(),
        _licence(directory),
    )


_KNOWN = f"an OWLv2 or OWL-ViT, such as {EXAMPLE}"
_PARTS = ("text_config", "vision_config")


def _find(source: str | os.PathLike[str]) -> tuple[Path, str]:
    path = user_path(source)
    if path.is_dir():
        return path, path.resolve().name
    if path.is_file():
        raise SourceError(f"{path} is a file; word detectors are read from directories or the hub: give {_KNOWN}")
    if isinstance(source, str) and (model := HubModel.parse(source)):
        return model.download("merges.txt", "README.md"), model.id
    raise SourceError(f"{path}: no such directory; give the directory or the hub model id of {_KNOWN}")


def _config(file: Path, family: WordsFamily, settings: dict[str, Any]) -> Any:
    try:
        config = family.config.from_dict(settings)
    except Exception as error:  # validation raises errors of several libraries
        raise SourceError(f"{file} is not a valid {family.config.__name__}: {reason(error)}") from error
    text, vision = config.text_config, config.vision_config
    for part in (text, vision):
        architecture.check_heads(file, part.hidden_size, part.num_attention_heads)
    if text.hidden_size != config.projection_dim:
        raise SourceError(
            f"{file}: queries have {config.projection_dim} numbers (projection_dim) but the detector compares "
            f"{text.hidden_size} (text_config.hidden_size); they must be equal"
        )
    side, patch = vision.image_size, vision.patch_size
    if type(side) is not int or type(patch) is not int or patch < 1 or side < patch or side % patch:
        raise SourceError(f"{file}: image_size {side!r} must be a multiple of patch_size {patch!r}")
    return config


def _size(config: Any) -> str:
    letter = _WIDTHS.get(config.vision_config.hidden_size)
    return f"{letter}/{config.vision_config.patch_size}" if letter else "custom"


def _numbers(
    directory: Path, family: WordsFamily, config: Any, tokenizer: Tokenizer, image_size: int | None
) -> WordsModel:
    own, patch = config.vision_config.image_size, config.vision_config.patch_size
    size = own if image_size is None else image_size
    if size != own and (type(size) is not int or size % patch or not 4 * patch <= size <= 2 * own):
        raise SourceError(
            f"image size {size} of the word detector is not possible: give a multiple of {patch} from {4 * patch} to "
            f"{2 * own}, or {own}, the model's own"
        )
    text = config.text_config
    tokens = tokenizer.encode("a").ids
    known = tokenizer.get_vocab_size()
    # transformers takes the text's meaning from where its largest token is
    if len(tokens) < 3 or known > text.vocab_size or tokens[-1] != max(tokenizer.get_vocab().values()):
        raise SourceError(
            f"{directory}: its tokenizer, of {known} tokens, is not the one of its text encoder, of {text.vocab_size}; "
            "download the model again"
        )
    return WordsModel(
        image_size=size,
        patch=patch,
        dim=config.projection_dim,
        context=text.max_position_embeddings,
        vocabulary=text.vocab_size,
        start_token=tokens[0],
        end_token=tokens[-1],
        pad_token=0,
        letterbox=family.letterbox,
        objectness=family.objectness,
    )


def _read_tokenizer(directory: Path) -> Tokenizer:
    """Read the tokenizer as transformers does, with the tokens that tokenizer_config.json adds: "!" fills up texts."""
    if not any(all((directory / name).is_file() for name in names) for names in _TOKENIZERS):
        raise SourceError(f"{directory} has neither {TOKENIZER} nor vocab.json and merges.txt; download it again")
    try:
        tokenizer: Tokenizer = CLIPTokenizerFast.from_pretrained(directory, local_files_only=True).backend_tokenizer
    except Exception as error:  # of a class that tokenizers does not have
        raise SourceError(f"{directory}: its tokenizer cannot be read: {reason(error)}; download it again") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _licence(directory: Path) -> str:
    """Return the licence at the head of the model card, such as "apache-2.0"."""
    card = directory / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    head = re.match(r"---\n(.*?\n)---", text, re.DOTALL)
    stated = head and re.search(r"^license: *(\S+)", head[1], re.MULTILINE)
    return stated[1] if stated else ""
