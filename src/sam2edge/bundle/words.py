"""BUNDLE/words: a detector that finds what words name, beside the four graphs.

A text encoder turns words into queries, once; the detector looks for queries in images. The detector counts as the
bundle's fifth graph. The text encoder runs on the CPU and is only read where words are turned into queries.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2edge.bundle.contract import TensorSpec
from sam2edge.bundle.records import (
    MANIFEST,
    MISSTATED,
    Graph,
    Listed,
    Source,
    graphs_from,
    misstated,
    read_json,
    typed,
    verify_contract,
    verify_hashes,
    verify_listing,
    write_json,
)
from sam2edge.errors import BundleError, CorruptFileError, MissingFileError, SchemaError
from sam2edge.files import link, replacing_directory, user_path

FORMAT = "sam2edge-words"
SCHEMA = 1
WORDS = "words"
"""Name of the directory in a bundle."""
TEXT_ENCODER = "text_encoder"
DETECTOR = "detector"
WORDS_GRAPHS = (TEXT_ENCODER, DETECTOR)
TOKENIZER = "tokenizer.json"
EXPORT_WORDS = "sam2edge export google/owlv2-base-patch16-ensemble BUNDLE"
"""The command that adds words to a bundle, for messages."""


@dataclass(frozen=True)
class WordsModel:
    """The numbers of a word detector.

    Attributes:
        image_size: Side S in pixels of the square image that the detector takes.
        patch: Side in pixels of the patches, each of which may become one box.
        dim: Numbers D of a query.
        context: Tokens of one text, the first and the last included.
        vocabulary: Number of tokens that the text encoder knows.
        start_token: Stands before every text.
        end_token: Stands after every text.
        pad_token: Fills up what comes after the end.
        letterbox: Whether images are padded to a square (OWLv2), or else stretched (OWL-ViT).
        objectness: Whether the detector says how much of an object each box is, whatever the words (OWLv2).
    """

    image_size: int
    patch: int
    dim: int
    context: int
    vocabulary: int
    start_token: int
    end_token: int
    pad_token: int
    letterbox: bool
    objectness: bool

    @property
    def boxes(self) -> int:
        """Number P of boxes of one image, one for each patch."""
        return (self.image_size // self.patch) ** 2


def words_contract(model: WordsModel) -> dict[str, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]]:
    """Return the inputs and outputs of both graphs; the axes B and Q are dynamic."""
    size, boxes, dim = model.image_size, model.boxes, model.dim
    queries = TensorSpec("queries", "float32", ("Q", dim))
    objectness = (TensorSpec("objectness", "float32", ("B", boxes)),) if model.objectness else ()
    return {
        TEXT_ENCODER: ((TensorSpec("ids", "int32", ("Q", model.context)),), (queries,)),
        DETECTOR: (
            (TensorSpec("image", "float32", ("B", size, size, 3)), queries),
            (
                TensorSpec("boxes", "float32", ("B", boxes, 4)),
                TensorSpec("logits", "float32", ("B", boxes, "Q")),
                *objectness,
                TensorSpec("embeddings", "float32", ("B", boxes, dim)),
            ),
        ),
    }


@dataclass(frozen=True)
class TokenizerFile:
    """The file that says how texts become tokens."""

    file: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class WordsManifest:
    """The content of BUNDLE/words/manifest.json.

    Attributes:
        source: Where the weights came from; its family is "OWLv2" or "OWL-ViT".
        model: The numbers of the detector.
        graphs: The files of WORDS_GRAPHS.
        tokenizer: The tokenizer's file.
        parity_frames: The images on which the graphs were compared with PyTorch.
        licence: Of the weights, as their model card says it, or "".
    """

    source: Source
    model: WordsModel
    graphs: dict[str, Graph]
    tokenizer: TokenizerFile
    parity_frames: str
    licence: str = ""

    @property
    def files(self) -> tuple[Listed, ...]:
        """The files beside the manifest."""
        return (*self.graphs.values(), self.tokenizer)


@dataclass(frozen=True)
class WordsBundle:
    """A word detector that was opened and verified; none of its graphs is loaded yet."""

    path: Path
    manifest: WordsManifest

    @property
    def model(self) -> WordsModel:
        """The numbers of the detector."""
        return self.manifest.model

    @property
    def tokenizer_path(self) -> Path:
        """The path of tokenizer.json."""
        return self.path / self.manifest.tokenizer.file

    def graph_path(self, name: str) -> Path:
        """Return the path of a graph's file."""
        return self.path / self.manifest.graphs[name].file

    @staticmethod
    def open(path: str | os.PathLike[str]) -> WordsBundle:
        """Read and verify BUNDLE/words: its manifest, the contract, and the size and sha256 of every file.

        Raises:
            MissingFileError: The directory, its manifest or a listed file does not exist.
            CorruptFileError: A file was truncated or edited.
            ForeignFileError: It holds something else, or a file that is not listed.
            SchemaError: The manifest is of a newer version, or lacks or misstates a field.
        """
        directory = user_path(path)
        manifest = read_words_manifest(directory)
        verify_hashes(directory, manifest.files, _again(directory))
        return WordsBundle(directory, manifest)


def read_words_manifest(directory: Path) -> WordsManifest:
    """Read manifest.json and check everything about BUNDLE/words that needs no reading of the other files."""
    file, again = directory / MANIFEST, _again(directory)
    if not file.is_file():
        raise MissingFileError(f"{file}: missing; {again}")
    data = read_json(file, FORMAT, SCHEMA, again)
    try:
        manifest = _manifest_from(data)
    except MISSTATED as error:
        raise misstated(file, error, again) from error
    verify_contract(directory, manifest.graphs, words_contract(manifest.model), again)
    verify_listing(directory, manifest.files, again)
    return manifest


def _again(directory: Path) -> str:
    return f"export the word detector again with `sam2edge export OWL {directory.parent}`, or remove {directory}"


def _manifest_from(data: dict[str, Any]) -> WordsManifest:
    model = typed(WordsModel, data["model"])
    if min(model.patch, model.dim) < 1 or model.image_size < model.patch or model.image_size % model.patch:
        raise ValueError("image_size must be a multiple of patch, and dim 1 or more")
    tokens = model.start_token, model.end_token, model.pad_token
    if model.context < 3 or not all(0 <= token < model.vocabulary for token in tokens) or len(set(tokens)) < 3:
        raise ValueError("context must be 3 or more, and the three special tokens be different ones of the vocabulary")
    graphs, tokenizer = graphs_from(data["graphs"], WORDS_GRAPHS), typed(TokenizerFile, data["tokenizer"])
    frames, licence = str(data["parity_frames"]), str(data.get("licence", ""))
    return WordsManifest(typed(Source, data["source"]), model, graphs, tokenizer, frames, licence)


def write_words_manifest(directory: Path, manifest: WordsManifest) -> None:
    """Write manifest.json into the directory of a word detector."""
    write_json(directory, FORMAT, SCHEMA, manifest)


@contextmanager
def replacing_words(bundle: Path) -> Iterator[Path]:
    """Yield a new directory that becomes BUNDLE/words when the block ends without an error.

    Until then the words that are there stay. Raises BundleError for words that cannot be written or are not ours.
    """
    words = bundle / WORDS
    check_words_replaceable(words)
    try:
        with replacing_directory(words) as new:
            yield new
    except OSError as error:
        raise BundleError(f"{words}: was not written: {error}") from error


def check_words_replaceable(words: Path) -> None:
    """Raise BundleError if anything but a word detector, whole or damaged, is at BUNDLE/words."""
    if not words.exists():
        return
    ours = {MANIFEST, TOKENIZER, *(f"{name}.onnx" for name in WORDS_GRAPHS)}
    foreign = sorted({entry.name for entry in words.iterdir()} - ours) if words.is_dir() else [words.name]
    if foreign:
        raise BundleError(f"{words}: exists but is not a word detector (unexpected {foreign[0]}); remove it")
    with suppress(MissingFileError, CorruptFileError, SchemaError):
        read_words_manifest(words)


def carry_words(directory: Path, *bundles: Path) -> None:
    """Give a bundle that is being written the word detector of the first of other bundles that has one, verified."""
    for bundle in bundles:
        if (bundle / WORDS).is_dir():
            words = WordsBundle.open(bundle / WORDS)
            (directory / WORDS).mkdir()
            shutil.copyfile(words.path / MANIFEST, directory / WORDS / MANIFEST)
            for entry in words.manifest.files:
                link(words.path / entry.file, directory / WORDS / entry.file)
            return
