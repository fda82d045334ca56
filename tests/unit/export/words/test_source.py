"""What a word detector is read from, and what is refused with which message."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from sam2edge.errors import SourceError
from sam2edge.export.source import load_source
from sam2edge.export.words import is_word_detector
from sam2edge.export.words.source import CLIP, load_words_source
from tests.conftest import NANO
from tests.helpers import CLIP as VIDEO


@pytest.fixture
def owl(owl_model: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint to damage, of hard links."""
    return shutil.copytree(owl_model("owlv2"), tmp_path / "owl", copy_function=os.link)


def write(file: Path, text: str) -> None:
    file.unlink(missing_ok=True)
    file.write_text(text)


def change(owl: Path, part: str, key: str, value: object) -> None:
    settings = json.loads((owl / "config.json").read_text())
    (settings[part] if part else settings)[key] = value
    write(owl / "config.json", json.dumps(settings))


def test_what_is_a_word_detector(owl_model: Callable[[str], Path], tmp_path: Path) -> None:
    assert is_word_detector(owl_model("owlv2"))
    assert is_word_detector(owl_model("owlvit"))
    assert not any(map(is_word_detector, (NANO, VIDEO, tmp_path, tmp_path / "no.pt")))


def test_what_is_read(owl: Path) -> None:
    source = load_words_source(owl)
    assert (source.name, source.family, source.size) == ("owl", "OWLv2", "custom")
    assert (source.mean, source.std) == CLIP
    assert source.licence == ""
    (owl / "README.md").write_text("---\ntags: [vision]\nlicense: apache-2.0\n---\nlicense: mine\n")
    (owl / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}')
    source = load_words_source(owl, 64)
    assert (source.licence, source.mean, source.std) == ("apache-2.0", (0.5,) * 3, (0.25,) * 3)
    assert source.numbers.image_size == 64


def test_a_model_id_is_fetched_from_the_hub(owl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, **options: object) -> str:
        asked.append((name, options["allow_patterns"]))
        return str(owl)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert is_word_detector("google/owlv2")
    assert load_words_source("google/owlv2").name == "google/owlv2"
    assert [name for name, _ in asked] == ["google/owlv2"] * 2
    assert asked[1][1] == ["*.json", "*.safetensors", "merges.txt", "README.md"]


def test_weights_that_older_transformers_saved(owl: Path) -> None:
    weights = load_file(owl / "model.safetensors")
    weights["owlv2.text_model.embeddings.position_ids"] = torch.arange(16)[None]
    weights["box_bias"] = torch.zeros(36, 4)
    (owl / "model.safetensors").unlink()
    save_file(weights, owl / "model.safetensors")
    assert load_words_source(owl).family == "OWLv2"


def test_a_tokenizer_of_two_files(owl: Path) -> None:
    whole = Tokenizer.from_file(str(owl / "tokenizer.json"))
    model = json.loads(whole.to_str())["model"]
    (owl / "vocab.json").write_text(json.dumps(model["vocab"]))
    (owl / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, model["merges"])]))
    (owl / "tokenizer.json").unlink()
    made = Tokenizer.from_str(load_words_source(owl).tokenizer)
    for text in ("red cup", "Ünïcode & 42 cats!", ""):
        assert made.encode(text).ids == whole.encode(text).ids
    (owl / "tokenizer_config.json").write_text('{"pad_token": "!", "model_max_length": 16}')
    made = Tokenizer.from_str(load_words_source(owl).tokenizer)
    assert made.encode("cup!").ids == [*whole.encode("cup").ids[:-1], 0, whole.encode("").ids[-1]]


def without(owl: Path, name: str) -> None:
    weights = load_file(owl / "model.safetensors")
    del weights[name]
    (owl / "model.safetensors").unlink()
    save_file(weights, owl / "model.safetensors")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no configuration": (
        lambda owl: (owl / "config.json").unlink(),
        "has no config.json.*an OWLv2 or OWL-ViT, such as",
    ),
    "a SAM 2": (
        lambda owl: write(owl / "config.json", (NANO / "config.json").read_text()),
        "is a sam2_video, not a word",
    ),
    "no weights": (lambda owl: (owl / "model.safetensors").unlink(), r"has no model\.safetensors"),
    "missing weight": (
        lambda owl: without(owl, "layer_norm.bias"),
        r"do not fit .*OWLv2.*\n  missing layer_norm\.bias",
    ),
    "more layers": (
        lambda owl: change(owl, "vision_config", "num_hidden_layers", 3),
        r"missing owlv2\.vision_model\.encoder\.layers\.2",
    ),
    "endless layers": (
        lambda owl: change(owl, "text_config", "num_hidden_layers", 10**9),
        "describes no model that can",
    ),
    "other heads": (lambda owl: change(owl, "text_config", "num_attention_heads", 5), "5 attention heads cannot share"),
    "other queries": (lambda owl: change(owl, "", "projection_dim", 16), "queries have 16 numbers .*compares 32"),
    "half a patch": (
        lambda owl: change(owl, "vision_config", "image_size", 100),
        "100 must be a multiple of patch_size 16",
    ),
    "no tokenizer": (lambda owl: (owl / "tokenizer.json").unlink(), r"neither tokenizer\.json nor vocab\.json"),
    "damaged tokenizer": (lambda owl: write(owl / "tokenizer.json", "{"), "its tokenizer cannot be read"),
    "smaller vocabulary": (lambda owl: change(owl, "text_config", "vocab_size", 500), "misshapen .*token_embedding"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_refused(owl: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(owl)
    with pytest.raises(SourceError, match=message):
        load_words_source(owl)


def test_a_tokenizer_of_another_model(owl: Path) -> None:
    larger = json.loads((owl / "tokenizer.json").read_text())
    larger["model"]["vocab"]["more"] = len(larger["model"]["vocab"])
    write(owl / "tokenizer.json", json.dumps(larger))
    with pytest.raises(SourceError, match=r"its tokenizer, of 522 tokens, is not the one of its text encoder, of 521"):
        load_words_source(owl)


@pytest.mark.parametrize("size", [100, 48, 208, 0])
def test_impossible_sizes(owl: Path, size: int) -> None:
    with pytest.raises(SourceError, match=f"size {size} of the .* give a multiple of 16 from 64 to 192, or 96"):
        load_words_source(owl, size)


def test_what_does_not_exist_or_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nothing: no such directory; give the directory or the hub model id"):
        load_words_source(tmp_path / "nothing")
    with pytest.raises(SourceError, match=r"clip\.mp4 is a file; word detectors are read from directories"):
        load_words_source(VIDEO)


def test_a_word_detector_is_no_sam_2(owl: Path) -> None:
    with pytest.raises(
        SourceError, match=r"describes 'owlv2', a word detector: add it to a bundle with `sam2edge export OWL BUNDLE`"
    ):
        load_source(owl)
