"""The bundle: one directory with four graphs and the manifest.json that says what they are.

The graph contract is data (`contract`): the exporter names its tensors from it, and opening a bundle
compares the manifest with it. docs/graphs.md shows the same table with the meaning of every tensor.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sam2edge.errors import BundleError, CorruptFileError, ForeignFileError, MissingFileError, SchemaError

FORMAT = "sam2edge-bundle"
SCHEMA = 1
MANIFEST = "manifest.json"
RECIPE = "recipe.json"
GRAPHS = ("image_encoder", "memory_attention", "mask_decoder", "memory_encoder")

T = TypeVar("T")


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype name and shape of a graph input or output; a str in the shape is a dynamic axis."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{','.join(map(str, self.shape))}]"


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

    file, sha256, bytes: the recipe. frames: how many were recorded. clips: the sha256 of the pixels by the clip's name.
    source: the sha256 of each FP32 graph. iou: of the masks with FP32's in closed loop, the mean over a clip by its
    name; empty if that was not measured.
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
    """Where the weights came from."""

    name: str
    sha256: str
    version: str
    size: str


@dataclass(frozen=True)
class Model:
    """The numbers of the model that the memory loop needs.

    `memory_frames` recent frames and `max_pointers` - 1 recent pointers are attended to beside the conditioning
    ones. A prompt with `multimask_min_points` to `multimask_max_points` points (a box counts as two) takes the
    best of three masks, and so does a frame without prompt if that range starts at 0 and
    `multimask_for_tracking`. `mask_prompt_kernel` [4,4] and `mask_prompt_bias` are the learned 4× downsampling
    through which a mask prompt reaches the decoder (sam2_base.py, mask_downsample). `no_memory_embedding` [C] is what
    images and first frames get in place of memory; the decoder's graph adds it, here it is for who asks for embeddings.
    A memory keeps one token for `memory_pool` × `memory_pool` of the grid; SAM 2's is 1, and so is that of bundles
    written before there was the field.
    """

    image_size: int
    hidden_dim: int
    memory_dim: int
    memory_frames: int
    max_pointers: int
    multimask_min_points: int
    multimask_max_points: int
    multimask_for_tracking: bool
    mask_prompt_kernel: tuple[tuple[float, ...], ...]
    mask_prompt_bias: float
    no_memory_embedding: tuple[float, ...]
    memory_pool: int = 1

    @property
    def grid(self) -> int:
        """Side h of the feature map that is attended to: image_size / 16."""
        return self.image_size // 16

    @property
    def mask_size(self) -> int:
        """Side of the low-resolution mask logits: image_size / 4."""
        return self.image_size // 4

    @property
    def memory_tokens(self) -> int:
        """Tokens of one memory: (h / memory_pool)²."""
        return (self.grid // self.memory_pool) ** 2


def memory_pools(image_size: int) -> tuple[int, ...]:
    """What `memory_pool` may be: windows of so many tokens a side must tile the grid."""
    return tuple(pool for pool in (1, 2, 4) if image_size // 16 % pool == 0)


@dataclass(frozen=True)
class Manifest:
    """What manifest.json says. calibration: of INT8 graphs only; those have no parity, it was not measured."""

    source: Source
    model: Model
    graphs: dict[str, Graph]
    parity_frames: str
    calibration: Calibration | None = None

    @property
    def files(self) -> tuple[Graph | Calibration, ...]:
        """What lies in the bundle beside the manifest."""
        return (*self.graphs.values(), *((self.calibration,) if self.calibration else ()))


def contract(model: Model) -> dict[str, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]]:
    """Inputs and outputs of each graph for a model; B, N, T, K and P are dynamic, everything else static."""
    c, m, h = model.hidden_dim, model.memory_dim, model.grid

    def f32(name: str, *shape: int | str) -> TensorSpec:
        return TensorSpec(name, "float32", shape)

    def pyramid(batch: int | str) -> tuple[TensorSpec, TensorSpec]:
        return f32("high_res_0", batch, c // 8, 4 * h, 4 * h), f32("high_res_1", batch, c // 4, 2 * h, 2 * h)

    def mask(name: str) -> TensorSpec:
        return f32(name, "N", 1, 4 * h, 4 * h)

    def flag(name: str) -> TensorSpec:
        return TensorSpec(name, "bool", ("N",))

    score = f32("object_score", "N", 1)
    conditioned = f32("conditioned", "N", c, h, h)
    return {
        "image_encoder": (
            (TensorSpec("image", "uint8", ("B", model.image_size, model.image_size, 3)),),
            (*pyramid("B"), f32("features", "B", c, h, h)),
        ),
        "memory_attention": (
            (
                f32("features", 1, c, h, h),
                f32("memory", "N", "T", model.memory_tokens, m),
                TensorSpec("memory_age", "int32", ("N", "T")),
                f32("pointers", "N", "K", c),
                TensorSpec("pointer_age", "int32", ("N", "K")),
            ),
            (conditioned,),
        ),
        "mask_decoder": (
            (
                conditioned,
                flag("add_no_memory"),
                *pyramid(1),
                f32("points", "N", "P", 2),
                TensorSpec("labels", "int32", ("N", "P")),
                mask("mask_input"),
                flag("has_mask_input"),
                flag("multimask"),
            ),
            (
                mask("mask"),
                f32("iou", "N", 1),
                f32("masks", "N", 3, 4 * h, 4 * h),
                f32("ious", "N", 3),
                f32("pointer", "N", c),
                score,
            ),
        ),
        "memory_encoder": (
            (f32("features", 1, c, h, h), mask("mask"), score, flag("binarize")),
            (f32("memory", "N", model.memory_tokens, m),),
        ),
    }


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its directory and its manifest. Nothing of it was executed yet."""

    path: Path
    manifest: Manifest

    @property
    def model(self) -> Model:
        """The model's numbers."""
        return self.manifest.model

    def graph_path(self, name: str) -> Path:
        """Path of a graph's file."""
        return self.path / self.manifest.graphs[name].file

    @staticmethod
    def open(path: str | os.PathLike[str]) -> Bundle:
        """Read and verify a bundle: manifest, contract, and size and sha256 of every file.

        Raises MissingFileError, CorruptFileError, ForeignFileError or SchemaError; each names the file.
        """
        directory = Path(path)
        manifest = read_manifest(directory)
        _verify_contract(directory, manifest)
        _verify_files(directory, manifest)
        return Bundle(directory, manifest)


def read_manifest(directory: Path) -> Manifest:
    """Read manifest.json without touching the graphs."""
    file = directory / MANIFEST
    if not directory.is_dir():
        raise MissingFileError(
            f"{directory}: no such bundle directory; make one with `sam2edge export SOURCE {directory}`"
        )
    if not file.is_file():
        raise MissingFileError(f"{file}: missing, so {directory} is no bundle; export it again")
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
    except (AttributeError, KeyError, TypeError, ValueError) as error:
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
    """A dataclass of these values; TypeError when a number, flag, text or table of them is something else."""
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in values and not _fits(str(field.type), values[field.name]):
            raise TypeError(f"{field.name} must be {field.type} but is {values[field.name]!r}")
    return kind(**values)


def _fits(kind: str, value: Any) -> bool:
    if kind.startswith("dict[str, "):
        values = kind.removeprefix("dict[str, ").removesuffix("]")
        return isinstance(value, dict) and all(_fits(values, one) for one in value.values())
    if kind == "float":
        return type(value) in (int, float)
    return kind not in ("int", "bool", "str") or type(value).__name__ == kind


def _verify_contract(directory: Path, manifest: Manifest) -> None:
    for name, (inputs, outputs) in contract(manifest.model).items():
        graph = manifest.graphs[name]
        for side, found, expected in (("inputs", graph.inputs, inputs), ("outputs", graph.outputs, outputs)):
            if found != expected:
                raise SchemaError(
                    f"{directory / MANIFEST}: {side} of {name} are {'; '.join(map(str, found))} but the contract "
                    f"says {'; '.join(map(str, expected))}; export the bundle again"
                )


def _verify_files(directory: Path, manifest: Manifest) -> None:
    listed = {file.file for file in manifest.files}
    for file in sorted(listed):
        if Path(file).name != file:
            raise ForeignFileError(f"{directory / MANIFEST}: lists {file!r}, which lies outside the bundle")
    for entry in sorted(directory.iterdir()):
        if entry.name not in listed and entry.name != MANIFEST and not entry.name.startswith("."):
            raise ForeignFileError(f"{entry}: not listed in {MANIFEST}; move it out of the bundle")
    for listed_file in manifest.files:
        _verify_file(directory / listed_file.file, listed_file)


def _verify_file(file: Path, listed: Graph | Calibration) -> None:
    if not file.is_file():
        raise MissingFileError(f"{file}: listed in {MANIFEST} but missing; export the bundle again")
    size = file.stat().st_size
    if size != listed.bytes:
        raise CorruptFileError(f"{file}: {size} bytes, but {MANIFEST} says {listed.bytes}; export the bundle again")
    if sha256(file) != listed.sha256:
        raise CorruptFileError(f"{file}: its sha256 is not the one in {MANIFEST}; export the bundle again")


def sha256(*files: Path) -> str:
    """Hex digest of the content of files, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write manifest.json into a bundle directory."""
    data = {"format": FORMAT, "schema": SCHEMA, **dataclasses.asdict(manifest)}
    if not manifest.calibration:
        del data["calibration"]
    (directory / MANIFEST).write_text(json.dumps(data, indent=2) + "\n")


def _check_replaceable(out: Path) -> None:
    """BundleError if anything but a bundle, whole or damaged, lies at `out`."""
    if not out.exists():
        return
    parts = {MANIFEST, *(f"{name}.onnx" for name in GRAPHS)}
    if (out / MANIFEST).exists():
        parts.add(RECIPE)  # one that lies alone is somebody's own
    foreign = sorted({entry.name for entry in out.iterdir()} - parts) if out.is_dir() else [out.name]
    if foreign:
        raise BundleError(f"{out}: exists and is no bundle (what is {foreign[0]}?); give another path or remove it")
    with contextlib.suppress(MissingFileError, CorruptFileError, SchemaError):
        read_manifest(out)


def _check_outside(out: Path) -> None:
    """BundleError if `out` lies in a bundle, which would not open any more."""
    for parent in out.parents:
        with contextlib.suppress(BundleError):  # as it should be: no bundle, or somebody else's manifest
            read_manifest(parent)
            break
    else:
        return
    raise BundleError(f"{out}: lies in the bundle {parent}, which may hold nothing else; give another path")


@contextlib.contextmanager
def replacing(out: Path, check: Callable[[Path], None] = _check_replaceable) -> Iterator[Path]:
    """A new directory beside `out` that takes its place when the block ends without an error.

    Until then what is at `out` stays as it was. `check` raises for what must never be replaced: by default
    BundleError for anything but a bundle. BundleError, too, for a place in a bundle and for any OSError.
    """
    try:
        with _replacing(out, check) as new:
            yield new
    except OSError as error:
        raise BundleError(f"{out}: was not written: {error}") from error


@contextlib.contextmanager
def _replacing(out: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    out = out.resolve()  # a link keeps pointing where it did, and "." has a parent
    _check_outside(out)
    check(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        new.chmod(0o755)  # mkdtemp's 0700 would keep other users out of the bundle
        yield new
        old = new.with_name(new.name + ".old")
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
