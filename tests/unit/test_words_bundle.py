"""BUNDLE/words: its contract, what is refused with which message, and that it outlives what happens to its bundle."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sam2edge.bundle import Bundle, Graph, Parity, Source, replacing
from sam2edge.bundle.words import (
    TokenizerFile,
    WordsBundle,
    WordsManifest,
    WordsModel,
    carry_words,
    replacing_words,
    words_contract,
    write_words_manifest,
)
from sam2edge.errors import BundleError, CorruptFileError, ForeignFileError, MissingFileError, SchemaError
from sam2edge.files import sha256
from tests.unit.test_bundle import field, read, rewrite

MODEL = WordsModel(64, 16, 32, 16, 520, 518, 519, 0, letterbox=True, objectness=True)


def write_words(directory: Path, model: WordsModel = MODEL) -> None:
    """Write a word detector whose files are a few bytes."""
    directory.mkdir()
    graphs = {}
    for name, (inputs, outputs) in words_contract(model).items():
        file = directory / f"{name}.onnx"
        file.write_text(name)
        parity = {outputs[0].name: Parity(1e-6, 1e-7)}
        graphs[name] = Graph(file.name, sha256(file), file.stat().st_size, "fp32", inputs, outputs, parity)
    file = directory / "tokenizer.json"
    file.write_text("{}")
    source = Source("google/owl", "ab" * 32, "", "B/16", "OWLv2")
    tokenizer = TokenizerFile(file.name, sha256(file), 2)
    write_words_manifest(directory, WordsManifest(source, model, graphs, tokenizer, "clip.mp4", "apache-2.0"))


@pytest.fixture
def bundle(nano: Bundle, tmp_path: Path) -> Path:
    """The bundled model with such a word detector."""
    directory = shutil.copytree(nano.path, tmp_path / "bundle", copy_function=os.link)
    write_words(directory / "words")
    return directory


def tables(model: WordsModel) -> dict[str, tuple[str, ...]]:
    return {name: tuple("; ".join(map(str, side)) for side in sides) for name, sides in words_contract(model).items()}


def test_contract() -> None:
    assert MODEL.boxes == 16
    assert tables(MODEL) == {
        "text_encoder": ("ids int32[Q,16]", "queries float32[Q,32]"),
        "detector": (
            "image float32[B,64,64,3]; queries float32[Q,32]",
            "boxes float32[B,16,4]; logits float32[B,16,Q]; objectness float32[B,16]; embeddings float32[B,16,32]",
        ),
    }
    stretched = WordsModel(64, 32, 32, 16, 520, 518, 519, 0, letterbox=False, objectness=False)
    assert tables(stretched)["detector"][1] == (
        "boxes float32[B,4,4]; logits float32[B,4,Q]; embeddings float32[B,4,32]"
    )


def test_open(bundle: Path, nano: Bundle) -> None:
    opened = Bundle.open(bundle)
    assert opened.manifest == nano.manifest
    words = opened.words
    assert words is not None
    assert (words.path, words.model, words.manifest.licence) == (bundle / "words", MODEL, "apache-2.0")
    assert words.tokenizer_path.read_text() == "{}"
    assert opened.graph_path("detector") == words.graph_path("detector") == bundle / "words" / "detector.onnx"
    assert opened.graph("detector") == words.manifest.graphs["detector"]
    assert opened.graph("mask_decoder") == nano.manifest.graphs["mask_decoder"]


def test_a_bundle_without_words(nano: Bundle) -> None:
    assert nano.words is None
    for what in (nano.graph, nano.graph_path):
        with pytest.raises(BundleError, match="has no word detector; add one with `sam2edge export google/owlv2"):
            what("detector")


DETECTOR = ("graphs", "detector")
DAMAGES: dict[str, tuple[Callable[[Path], Any], type[BundleError], str, str]] = {
    "truncated graph": (
        lambda words: rewrite(words / "detector.onnx", b"det"),
        CorruptFileError,
        "detector.onnx",
        "3 b",
    ),
    "missing graph": (
        lambda words: (words / "text_encoder.onnx").unlink(),
        MissingFileError,
        "text_encoder.onnx",
        "listed",
    ),
    "no tokenizer": (lambda words: (words / "tokenizer.json").unlink(), MissingFileError, "tokenizer.json", "listed"),
    "no manifest": (lambda words: (words / "manifest.json").unlink(), MissingFileError, "manifest.json", "missing"),
    "not JSON": (lambda words: rewrite(words / "manifest.json", b"{"), CorruptFileError, "manifest.json", "not JSON"),
    "another tool's": (
        lambda words: rewrite(words / "manifest.json", b"{}"),
        ForeignFileError,
        "manifest.json",
        "not a",
    ),
    "unlisted file": (lambda words: (words / "x").touch(), ForeignFileError, "x", "not listed"),
    **{
        name: (field(*keys, value=value), SchemaError, "manifest.json", message)
        for name, (keys, value, message) in {
            "newer schema": (("schema",), 2, "update sam2edge or export the word detector again"),
            "missing entry": (DETECTOR, None, "detector"),
            "another size": (
                ("model", "image_size"),
                96,
                r"detector are image float32\[B,64,.*says.*\[B,96,",
            ),
            "another family": (
                ("model", "objectness"),
                False,
                "outputs of detector are .*objectness.* but the contract",
            ),
            "other queries": (("model", "dim"), 64, r"outputs of text_encoder are .*\[Q,32\] but .*\[Q,64\]"),
            "half a patch": (("model", "image_size"), 72, "image_size must be a multiple of patch"),
            "unknown token": (("model", "end_token"), 520, "different ones of the vocabulary"),
            "text for a number": (("model", "patch"), "16", "patch must be int but is '16'"),
            "hash that is none": (("tokenizer", "sha256"), 5, "sha256 must be str but is 5"),
        }.items()
    },
}
"""What happens to BUNDLE/words; the error, the file that it names, and its words."""


@pytest.mark.parametrize(("damage", "error", "file", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_words_are_refused(
    tmp_path: Path, damage: Callable[[Path], Any], error: type[BundleError], file: str, message: str
) -> None:
    words = tmp_path / "words"
    write_words(words)
    damage(words)
    with pytest.raises(error, match=message) as caught:
        WordsBundle.open(words)
    assert type(caught.value) is error
    assert str(caught.value).startswith(f"{words / file}: ")


def test_a_bundle_with_damaged_words_does_not_open(bundle: Path) -> None:
    (bundle / "words" / "detector.onnx").unlink()
    with pytest.raises(MissingFileError, match=r"words/detector\.onnx: .*again with `sam2edge export OWL .*/bundle`"):
        Bundle.open(bundle)


def test_an_edited_detector_is_noticed_when_it_is_used(bundle: Path) -> None:
    rewrite(bundle / "words" / "detector.onnx", b"DETECTOR")
    opened = Bundle.open(bundle)
    with pytest.raises(CorruptFileError, match=r"detector\.onnx: its sha256 is not the one in"):
        opened.graph_path("detector")


def test_a_word_detector_is_no_bundle(bundle: Path) -> None:
    with pytest.raises(ForeignFileError, match=r"bundle/words is the word detector of a bundle: give .*/bundle$"):
        Bundle.open(bundle / "words")


def test_replacing_words(bundle: Path) -> None:
    before = read(bundle)

    def write_half() -> None:
        with replacing_words(bundle) as new:
            (new / "detector.onnx").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert read(bundle) == before
    with replacing_words(bundle) as new:
        (new / "manifest.json").write_text("new")
        assert Bundle.open(bundle).words is not None  # what is being written is hidden
    assert read(bundle / "words") == {"manifest.json": b"new"}


def test_words_of_somebody_else_stay(bundle: Path) -> None:
    (bundle / "words" / "poem.txt").write_text("precious")
    for place in (replacing_words(bundle), replacing(bundle)):
        with pytest.raises(BundleError, match=r"not a word detector \(unexpected poem\.txt\)"), place:
            pytest.fail("the block must not run")
    assert (bundle / "words" / "poem.txt").read_text() == "precious"


def test_a_bundle_that_a_killed_export_of_words_left_is_replaced(bundle: Path) -> None:
    (bundle / ".words.ab12").mkdir()
    with replacing(bundle) as new:
        (new / "manifest.json").write_text("new")
    assert read(bundle) == {"manifest.json": b"new"}


def test_words_are_carried_into_another_bundle(bundle: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    carry_words(new, tmp_path / "nothing", bundle)
    assert read(new / "words") == read(bundle / "words")
    assert (new / "words" / "detector.onnx").samefile(bundle / "words" / "detector.onnx")
    (new / "words" / "manifest.json").write_text("changed")
    assert json.loads((bundle / "words" / "manifest.json").read_text())["format"] == "sam2edge-words"
