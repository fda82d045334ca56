"""What manifests are made of: records that are read with their types checked, and files that are held against them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sam2edge.bundle.contract import TensorSpec
from sam2edge.errors import CorruptFileError, ForeignFileError, MissingFileError, SchemaError
from sam2edge.files import sha256

MANIFEST = "manifest.json"
MISSTATED = (AttributeError, KeyError, OverflowError, TypeError, ValueError)
"""What reading the fields of a manifest raises if one is missing or of another type."""

T = TypeVar("T")


@dataclass(frozen=True)
class Parity:
    """Largest difference from PyTorch: absolute, and relative to PyTorch's largest magnitude."""

    max_error: float
    relative_error: float


@dataclass(frozen=True)
class Graph:
    """One ONNX file."""

    file: str
    sha256: str
    bytes: int
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parity: dict[str, Parity]


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


class Listed(Protocol):
    """What a manifest says about one file."""

    @property
    def file(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def bytes(self) -> int: ...


def read_json(file: Path, format: str, schema: int, again: str) -> dict[str, Any]:
    """Return the content of a manifest of this format and schema; `again` says in errors how to get a whole one."""
    try:
        data = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{file}: not JSON ({error}); {again}") from error
    if not isinstance(data, dict) or data.get("format") != format:
        raise ForeignFileError(f"{file}: not a manifest of sam2edge (its format is not {format!r})")
    if (found := data.get("schema")) != schema:
        raise SchemaError(
            f"{file}: schema {found!r}, but this sam2edge reads schema {schema}; update sam2edge or {again}"
        )
    return data


def misstated(file: Path, error: Exception, again: str) -> SchemaError:
    """Return the error for a manifest whose fields raised one of MISSTATED."""
    return SchemaError(f"{file}: a field is missing or misstated ({error!r}); {again}")


def write_json(directory: Path, format: str, schema: int, manifest: Any) -> None:
    """Write a manifest, a dataclass, into a directory; records that there are none of (None) are left out."""
    content = {key: value for key, value in dataclasses.asdict(manifest).items() if value is not None}
    data = {"format": format, "schema": schema, **content}
    (directory / MANIFEST).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def graphs_from(data: Mapping[str, Any], names: Iterable[str]) -> dict[str, Graph]:
    """Return the records of graphs; one of MISSTATED."""
    graphs = {}
    for name in names:
        graph = dict(data[name])
        for side in ("inputs", "outputs"):
            graph[side] = tuple(TensorSpec(t["name"], t["dtype"], tuple(t["shape"])) for t in graph[side])
        graph["parity"] = {output: typed(Parity, errors) for output, errors in graph["parity"].items()}
        graphs[name] = typed(Graph, graph)
    return graphs


def typed(kind: type[T], values: Mapping[str, Any]) -> T:
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


def verify_contract(
    directory: Path,
    graphs: Mapping[str, Graph],
    contract: Mapping[str, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]],
    again: str,
) -> None:
    """Raise SchemaError if a graph has other inputs or outputs than the contract says."""
    for name, (inputs, outputs) in contract.items():
        graph = graphs[name]
        for side, actual, expected in (("inputs", graph.inputs, inputs), ("outputs", graph.outputs, outputs)):
            if actual != expected:
                raise SchemaError(
                    f"{directory / MANIFEST}: {side} of {name} are {'; '.join(map(str, actual))} but the contract "
                    f"says {'; '.join(map(str, expected))}; {again}"
                )


def verify_listing(directory: Path, listed: Iterable[Listed], again: str, also: Iterable[str] = ()) -> None:
    """Check that a directory holds the listed files, each of its size, the manifest, what is in `also`, and no more."""
    files = {entry.file: entry for entry in listed}
    for name in sorted(files):
        if Path(name).name != name:
            raise ForeignFileError(f"{directory / MANIFEST}: lists {name!r}, which lies outside the bundle")
    for file in sorted(directory.iterdir()):
        if file.name not in {*files, MANIFEST, *also} and not file.name.startswith("."):
            raise ForeignFileError(f"{file}: not listed in {MANIFEST}; move it out of the bundle")
    for name, entry in files.items():
        path = directory / name
        if not path.is_file():
            raise MissingFileError(f"{path}: listed in {MANIFEST} but missing; {again}")
        if (size := path.stat().st_size) != entry.bytes:
            raise CorruptFileError(f"{path}: {size} bytes, but {MANIFEST} says {entry.bytes}; {again}")


def verify_hashes(directory: Path, listed: Iterable[Listed], again: str) -> None:
    """Check the content of the listed files."""
    for entry in listed:
        if sha256(path := directory / entry.file) != entry.sha256:
            raise CorruptFileError(f"{path}: its sha256 is not the one in {MANIFEST}; {again}")
