"""manifest.json: what a bundle's files are, and how a bundle is opened, verified and replaced."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sam2edge.bundle.contract import GRAPHS, Model, contract, memory_pools
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
from sam2edge.bundle.words import (
    DETECTOR,
    EXPORT_WORDS,
    WORDS,
    WordsBundle,
    check_words_replaceable,
    read_words_manifest,
)
from sam2edge.errors import BundleError, CorruptFileError, ForeignFileError, InputError, MissingFileError, SchemaError
from sam2edge.files import PathKind, check_output_directory, path_kind, replacing_directory, user_path

FORMAT = "sam2edge-bundle"
SCHEMA = 1
RECIPE = "recipe.json"
_AGAIN = "export the bundle again"


@dataclass(frozen=True)
class Calibration:
    """Where the ranges of INT8 graphs came from.

    Attributes:
        file: The recipe's file name, with its `sha256` and size in `bytes`.
        frames: Number of frames that were recorded.
        clips: The sha256 of each clip's pixels, by the clip's name.
        source: The sha256 of each FP32 graph.
        iou: Mean IoU with the FP32 masks in closed loop, by the clip's name; empty if it was not measured.
        detections: How an INT8 word detector differs from the FP32 one (calibration/measure/detections.py).
    """

    file: str
    sha256: str
    bytes: int
    frames: int
    clips: dict[str, str]
    source: dict[str, str]
    iou: dict[str, float] = field(default_factory=dict)
    detections: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json; `calibration` belongs to INT8 graphs, whose parity with PyTorch is not measured."""

    source: Source
    model: Model
    graphs: dict[str, Graph]
    parity_frames: str
    calibration: Calibration | None = None

    @property
    def files(self) -> tuple[Listed, ...]:
        """The files of the bundle beside the manifest."""
        return (*self.graphs.values(), *((self.calibration,) if self.calibration else ()))


@dataclass(frozen=True)
class Bundle:
    """A bundle that was opened and verified; none of its graphs is loaded yet."""

    path: Path
    manifest: Manifest

    @property
    def model(self) -> Model:
        """The numbers of the model."""
        return self.manifest.model

    @functools.cached_property
    def words(self) -> WordsBundle | None:
        """The word detector of the bundle, opened and verified when it is first asked for; None without one."""
        directory = self.path / WORDS
        return WordsBundle.open(directory) if directory.is_dir() else None

    @property
    def graph_names(self) -> tuple[str, ...]:
        """The four graphs' names, and "detector" if the bundle has a word detector."""
        return (*GRAPHS, DETECTOR) if (self.path / WORDS).is_dir() else GRAPHS

    def graph(self, name: str) -> Graph:
        """Return what the manifest says about one of the four graphs, or about the word detector's "detector"."""
        return self.word_detector().manifest.graphs[name] if name == DETECTOR else self.manifest.graphs[name]

    def graph_path(self, name: str) -> Path:
        """Return the path of a graph's file; BundleError for "detector" if the bundle has no word detector."""
        return (
            self.word_detector().graph_path(name) if name == DETECTOR else self.path / self.manifest.graphs[name].file
        )

    def word_detector(self) -> WordsBundle:
        """Return the word detector, as `words`; BundleError if there is none."""
        if self.words is None:
            raise BundleError(f"{self.path}: has no word detector; add one with `{EXPORT_WORDS}`")
        return self.words

    @staticmethod
    def open(path: str | os.PathLike[str]) -> Bundle:
        """Read and verify a bundle: its manifest, the graph contract, and the size and sha256 of every file.

        Those of a word detector, which is large and not always used, are hashed by `words`.

        Raises:
            MissingFileError: The directory, its manifest or a listed file does not exist.
            CorruptFileError: A file was truncated or edited.
            ForeignFileError: The path holds something else, or the bundle a file that is not listed.
            SchemaError: The manifest is of a newer version, or lacks or misstates a field.
        """
        directory = user_path(path)
        manifest = read_manifest(directory)
        verify_contract(directory, manifest.graphs, contract(manifest.model), _AGAIN)
        verify_listing(directory, manifest.files, _AGAIN, also=(WORDS,))
        verify_hashes(directory, manifest.files, _AGAIN)
        if (words := directory / WORDS).exists():
            read_words_manifest(words)
        return Bundle(directory, manifest)


def read_manifest(directory: Path) -> Manifest:
    """Read manifest.json without touching the graphs."""
    file = directory / MANIFEST
    kind = path_kind(directory)
    if kind is PathKind.CHECKPOINT:
        raise ForeignFileError(
            f"{directory} is a checkpoint: export it first with `sam2edge export {directory} OUT`, then give OUT"
        )
    if kind in (PathKind.VIDEO, PathKind.IMAGE, PathKind.IMAGE_FOLDER):
        raise ForeignFileError(
            f"{directory} is {kind.value}, not a bundle: give the directory that `sam2edge export` wrote"
        )
    bundle = directory.absolute().parent
    if directory.name == WORDS and path_kind(bundle) is PathKind.BUNDLE:
        raise ForeignFileError(f"{directory} is the word detector of a bundle: give {bundle}")
    if not directory.is_dir():
        raise MissingFileError(
            f"{directory}: no such bundle directory; make one with `sam2edge export SOURCE {directory}`"
        )
    if not file.is_file():
        raise MissingFileError(f"{file}: missing, so {directory} is not a bundle; export it again")
    data = read_json(file, FORMAT, SCHEMA, _AGAIN)
    try:
        return _manifest_from(data)
    except MISSTATED as error:
        raise misstated(file, error, _AGAIN) from error


def _manifest_from(data: dict[str, Any]) -> Manifest:
    model = {"memory_pool": 1, **data["model"]}
    kernel = tuple(tuple(map(float, row)) for row in model["mask_prompt_kernel"])
    if [len(row) for row in kernel] != [4] * 4:
        raise ValueError("mask_prompt_kernel must be [4,4]")
    model["mask_prompt_kernel"] = kernel
    model["no_memory_embedding"] = tuple(map(float, model["no_memory_embedding"]))
    if len(model["no_memory_embedding"]) != model["hidden_dim"]:
        raise ValueError("no_memory_embedding must have hidden_dim numbers")
    numbers = typed(Model, model)
    if min(numbers.memory_frames, numbers.max_pointers) < 1:
        raise ValueError("memory_frames and max_pointers must be 1 or more")
    if numbers.memory_latents < 0 or (numbers.memory_latents and numbers.memory_pool > 1):
        raise ValueError("memory_latents must not be negative, and 0 with a memory_pool")
    if numbers.memory_pool not in (pools := memory_pools(numbers.image_size)):
        raise ValueError(f"memory_pool must be one of {pools} but is {numbers.memory_pool}")
    graphs = graphs_from(data["graphs"], GRAPHS)
    calibration = typed(Calibration, data["calibration"]) if data.get("calibration") else None
    return Manifest(typed(Source, data["source"]), numbers, graphs, str(data["parity_frames"]), calibration)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write manifest.json into a bundle directory."""
    write_json(directory, FORMAT, SCHEMA, manifest)


def check_output(out: Path, check: Callable[[Path], None] | None = None) -> None:
    """Raise a BundleError if nothing can be written at `out`, so that no work is done in vain.

    Only a bundle, whole or damaged, may be replaced; another `check` raises an error for what may not.
    """
    for parent in out.resolve().parents:
        if path_kind(parent) is PathKind.BUNDLE:
            raise BundleError(f"{out}: lies in the bundle {parent}, which may hold nothing else; give another path")
    (check or _check_replaceable)(out)
    try:
        check_output_directory(out)
    except InputError as error:
        raise BundleError(str(error)) from error


def _check_replaceable(out: Path) -> None:
    if not out.exists():
        return
    parts = {MANIFEST, *(f"{name}.onnx" for name in GRAPHS)}
    if (out / MANIFEST).exists():
        parts.add(RECIPE)  # without a manifest beside it, a recipe is the user's own
        if (out / WORDS).exists():
            check_words_replaceable(out / WORDS)
            parts.add(WORDS)
            # what a killed export of words left
            parts.update(entry.name for entry in out.iterdir() if entry.name.startswith(f".{WORDS}."))
    foreign = sorted({entry.name for entry in out.iterdir()} - parts) if out.is_dir() else [out.name]
    if foreign:
        raise BundleError(
            f"{out}: exists but is not a bundle (unexpected {foreign[0]}); give another path or remove it"
        )
    with contextlib.suppress(MissingFileError, CorruptFileError, SchemaError):
        read_manifest(out)


@contextlib.contextmanager
def replacing(out: Path, check: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Yield a new directory that takes the place of `out` when the block ends without an error.

    Until then what is at `out` stays as it was. Raises what `check_output(out, check)` raises, and a BundleError for
    any OSError.
    """
    out = user_path(out)
    check_output(out, check)
    try:
        with replacing_directory(out) as new:
            yield new
    except OSError as error:
        raise BundleError(f"{out}: was not written: {error}") from error
