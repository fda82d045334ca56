"""manifest.json: what a bundle's files are, and how a bundle is opened, verified and replaced."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sam2edge.bundle.contract import GRAPHS, Model, TensorSpec, contract, memory_pools
from sam2edge.errors import BundleError, CorruptFileError, ForeignFileError, InputError, MissingFileError, SchemaError
from sam2edge.files import PathKind, check_output_directory, path_kind, replacing_directory, sha256, user_path

FORMAT = "sam2edge-bundle"
SCHEMA = 1
MANIFEST = "manifest.json"
RECIPE = "recipe.json"

T = TypeVar("T")


@dataclass(frozen=True)
class Parity:
    """Largest difference from PyTorch: absolute, and relative to PyTorch's largest magnitude."""

    max_error: float
    relative_error: float


@dataclass(frozen=True)
class Graph:
    """One file of the bundle."""

    file: str
    sha256: str
    bytes: int
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parity: dict[str, Parity]


@dataclass(frozen=True)
class Calibration:
    """Where the ranges of INT8 graphs came from.

    Attributes:
        file: The recipe's file name, with its `sha256` and size in `bytes`.
        frames: Number of frames that were recorded.
        clips: The sha256 of each clip's pixels, by the clip's name.
        source: The sha256 of each FP32 graph.
        iou: Mean IoU with the FP32 masks in closed loop, by the clip's name; empty if it was not measured.
    """

    file: str
    sha256: str
    bytes: int
    frames: int
    clips: dict[str, str]
    source: dict[str, str]
    iou: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Where the weights came from: "SAM" of version "2.1" and size "tiny", or another family of models.

    `variant` is what `sam2edge export --variant` takes, "" for families without variants.
    """

    name: str
    sha256: str
    version: str
    size: str
    family: str = "SAM"
    variant: str = ""

    @property
    def title(self) -> str:
        """What the model is called: SAM 2.1 tiny."""
        return " ".join(filter(None, (self.family, self.version, self.size)))


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json; `calibration` belongs to INT8 graphs, whose parity with PyTorch is not measured."""

    source: Source
    model: Model
    graphs: dict[str, Graph]
    parity_frames: str
    calibration: Calibration | None = None

    @property
    def files(self) -> tuple[Graph | Calibration, ...]:
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

    def graph_path(self, name: str) -> Path:
        """Return the path of a graph's file."""
        return self.path / self.manifest.graphs[name].file

    @staticmethod
    def open(path: str | os.PathLike[str]) -> Bundle:
        """Read and verify a bundle: its manifest, the graph contract, and the size and sha256 of every file.

        Raises:
            MissingFileError: The directory, its manifest or a listed file does not exist.
            CorruptFileError: A file was truncated or edited.
            ForeignFileError: The path holds something else, or the bundle a file that is not listed.
            SchemaError: The manifest is of a newer version, or lacks or misstates a field.
        """
        directory = user_path(path)
        manifest = read_manifest(directory)
        _verify_contract(directory, manifest)
        _verify_files(directory, manifest)
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
    if not directory.is_dir():
        raise MissingFileError(
            f"{directory}: no such bundle directory; make one with `sam2edge export SOURCE {directory}`"
        )
    if not file.is_file():
        raise MissingFileError(f"{file}: missing, so {directory} is not a bundle; export it again")
    try:
        data = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{file}: not JSON ({error}); export the bundle again") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ForeignFileError(f"{file}: not a manifest of sam2edge (its format is not {FORMAT!r})")
    schema = data.get("schema")
    if schema != SCHEMA:
        raise SchemaError(
            f"{file}: schema {schema!r}, but this sam2edge reads schema {SCHEMA}; update sam2edge or export again"
        )
    try:
        return _manifest_from(data)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise SchemaError(f"{file}: a field is missing or misstated ({error!r}); export the bundle again") from error


def _manifest_from(data: dict[str, Any]) -> Manifest:
    model = {"memory_pool": 1, **data["model"]}
    kernel = tuple(tuple(map(float, row)) for row in model["mask_prompt_kernel"])
    if [len(row) for row in kernel] != [4] * 4:
        raise ValueError("mask_prompt_kernel must be [4,4]")
    model["mask_prompt_kernel"] = kernel
    model["no_memory_embedding"] = tuple(map(float, model["no_memory_embedding"]))
    if len(model["no_memory_embedding"]) != model["hidden_dim"]:
        raise ValueError("no_memory_embedding must have hidden_dim numbers")
    numbers = _typed(Model, model)
    if min(numbers.memory_frames, numbers.max_pointers) < 1:
        raise ValueError("memory_frames and max_pointers must be 1 or more")
    if numbers.memory_latents < 0 or (numbers.memory_latents and numbers.memory_pool > 1):
        raise ValueError("memory_latents must not be negative, and 0 with a memory_pool")
    if numbers.memory_pool not in (pools := memory_pools(numbers.image_size)):
        raise ValueError(f"memory_pool must be one of {pools} but is {numbers.memory_pool}")
    graphs = {}
    for name in GRAPHS:
        graph = dict(data["graphs"][name])
        for side in ("inputs", "outputs"):
            graph[side] = tuple(TensorSpec(t["name"], t["dtype"], tuple(t["shape"])) for t in graph[side])
        graph["parity"] = {output: _typed(Parity, errors) for output, errors in graph["parity"].items()}
        graphs[name] = _typed(Graph, graph)
    calibration = _typed(Calibration, data["calibration"]) if data.get("calibration") else None
    return Manifest(_typed(Source, data["source"]), numbers, graphs, str(data["parity_frames"]), calibration)


def _typed(kind: type[T], values: dict[str, Any]) -> T:
    """Return a dataclass of these values; TypeError if a number, flag, text or table is of another type."""
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in values and not _fits(str(field.type), values[field.name]):
            raise TypeError(f"{field.name} must be {field.type} but is {values[field.name]!r}")
    return kind(**values)


def _fits(kind: str, value: Any) -> bool:
    if kind.startswith("dict[str, "):
        values = kind.removeprefix("dict[str, ").removesuffix("]")
        return isinstance(value, dict) and all(_fits(values, item) for item in value.values())
    if kind == "float":
        return type(value) in (int, float)
    return kind not in ("int", "bool", "str") or type(value).__name__ == kind


def _verify_contract(directory: Path, manifest: Manifest) -> None:
    for name, (inputs, outputs) in contract(manifest.model).items():
        graph = manifest.graphs[name]
        for side, actual, expected in (("inputs", graph.inputs, inputs), ("outputs", graph.outputs, outputs)):
            if actual != expected:
                raise SchemaError(
                    f"{directory / MANIFEST}: {side} of {name} are {'; '.join(map(str, actual))} but the contract "
                    f"says {'; '.join(map(str, expected))}; export the bundle again"
                )


def _verify_files(directory: Path, manifest: Manifest) -> None:
    listed = {entry.file for entry in manifest.files}
    for name in sorted(listed):
        if Path(name).name != name:
            raise ForeignFileError(f"{directory / MANIFEST}: lists {name!r}, which lies outside the bundle")
    for file in sorted(directory.iterdir()):
        if file.name not in listed and file.name != MANIFEST and not file.name.startswith("."):
            raise ForeignFileError(f"{file}: not listed in {MANIFEST}; move it out of the bundle")
    for entry in manifest.files:
        path = directory / entry.file
        if not path.is_file():
            raise MissingFileError(f"{path}: listed in {MANIFEST} but missing; export the bundle again")
        size = path.stat().st_size
        if size != entry.bytes:
            raise CorruptFileError(f"{path}: {size} bytes, but {MANIFEST} says {entry.bytes}; export the bundle again")
        if sha256(path) != entry.sha256:
            raise CorruptFileError(f"{path}: its sha256 is not the one in {MANIFEST}; export the bundle again")


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write manifest.json into a bundle directory."""
    data = {"format": FORMAT, "schema": SCHEMA, **dataclasses.asdict(manifest)}
    if not manifest.calibration:
        del data["calibration"]
    (directory / MANIFEST).write_text(json.dumps(data, indent=2) + "\n")


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
