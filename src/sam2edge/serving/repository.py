"""The model repository that Triton reads: two models, each with all that it needs in its own folder.

    REPOSITORY/sam2_video/config.pbtxt
                          1/model.py         one import
                          1/bundle/          the bundle, a hard link to the other model's where the disk has such
                          1/bundle.engines/  for the TensorRT backends

Triton takes every folder of a repository for a model, and copies one model at a time from cloud storage: a bundle
beside the models would be a third model, or missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2edge import checks
from sam2edge.bundle import MANIFEST, Bundle, replacing
from sam2edge.bundle.engines import build_command, default_directory, engine_directories, read_manifest
from sam2edge.errors import BundleError, EngineError, InputError
from sam2edge.files import link
from sam2edge.serving.tensors import INPUTS, OUTPUTS, VIDEO_OUTPUTS

BUNDLE = "bundle"
"""Name of the bundle in a model's version."""
IMAGE, VIDEO = "sam2_image", "sam2_video"
_CLASSES = {IMAGE: "ImageModel", VIDEO: "VideoModel"}
_CONFIG = "config.pbtxt"
_MARK = "# Written by `sam2edge triton`, which replaces it and all that lies beside it.\n"
_VERSION = "1"
_CANDIDATES = 1000
"""Sequences that Triton lets through to an instance. Those beyond it would wait without a word; the instance itself
refuses those beyond its limit at once."""
_TENSORRT = ("tensorrt", "tensorrt-rtx")
_ON_CPU = "onnx"


@dataclass(frozen=True)
class Settings:
    """How the models are served; InputError for a value that is wrong.

    Attributes:
        backend: A name of sam2edge.runtime.BACKENDS.
        streams: How many streams an instance takes at a time.
        idle: Seconds after its last request when a stream is given up.
        max_objects: How many objects a stream may have at a time.
        threads: Of the CPU, for "onnx"; None: one for each core.
        gpus: Those on which there are instances; none: on all of the server's.
        instances: Of each model, on each GPU if there are any. Each is a process that holds the weights.
    """

    backend: str = _ON_CPU
    streams: int = 8
    idle: float = 60.0
    max_objects: int = 16
    threads: int | None = None
    gpus: tuple[int, ...] = ()
    instances: int = 1

    def __post_init__(self) -> None:
        for name in ("streams", "max_objects", "instances"):
            checks.integer(name, getattr(self, name), 1)
        checks.number("idle", self.idle, 0.1)
        for gpu in self.gpus:
            checks.integer("gpus", gpu, 0)
        if len(set(self.gpus)) < len(self.gpus):
            numbers = ",".join(map(str, self.gpus))
            raise InputError(f"gpus must name each GPU once but got {numbers}; for more on each raise instances")
        if self.backend == _ON_CPU and self.gpus:
            raise InputError(f"gpus must be left out for the backend {self.backend}, which runs on the CPU")
        if self.threads is not None:
            checks.integer("threads", self.threads, 1)
            if self.backend != _ON_CPU:
                raise InputError(f"threads must be left out for the backend {self.backend}: they are those of the CPU")

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Settings:
        """Read what `parameters` wrote, of a model's configuration as Triton passes it."""
        values = {name: value["string_value"] for name, value in config["parameters"].items()}
        return Settings(
            backend=values["backend"],
            streams=int(values["streams"]),
            idle=float(values["idle"]),
            max_objects=int(values["max_objects"]),
            threads=int(values["threads"]) if "threads" in values else None,
        )

    def parameters(self) -> dict[str, str]:
        """Return what an instance has to know."""
        values = {name: getattr(self, name) for name in ("backend", "streams", "idle", "max_objects", "threads")}
        return {name: str(value) for name, value in values.items() if value is not None}


def write_repository(bundle: Bundle, out: Path, settings: Settings) -> None:
    """Write a model repository as a whole; what `sam2edge triton` wrote there before is replaced.

    Raises:
        BundleError: Something else is at `out`, or it cannot be written.
        EngineError: The backend needs engines, and the bundle has none.
    """
    engines = _engines(bundle, settings.backend)
    with replacing(out, _check_replaceable) as new:
        first: Path | None = None
        for name, of_class in _CLASSES.items():
            version = new / name / _VERSION
            version.mkdir(parents=True)
            (new / name / _CONFIG).write_text(_config(name, settings))
            (version / "model.py").write_text(f"from sam2edge.serving.triton import {of_class} as TritonPythonModel\n")
            if first is None:
                _copy(bundle, engines, settings.backend, version / BUNDLE)
            else:
                for part in sorted(first.glob(f"{BUNDLE}*")):
                    shutil.copytree(part, version / part.name, copy_function=link)
            first = first or version


def _engines(bundle: Bundle, backend: str) -> Path | None:
    """Return the directory of the engines that the backend needs, None if it needs none."""
    if backend not in _TENSORRT:
        return None
    directories = engine_directories(bundle.path, backend)
    if not directories:
        raise EngineError(
            f"{bundle.path}: has no engines for the backend {backend}; build them on the machine that serves, with "
            f"`{build_command(bundle.path, backend)}`, and write the repository again"
        )
    read_manifest(directories[0], bundle)
    return directories[0]


def _copy(bundle: Bundle, engines: Path | None, backend: str, to: Path) -> None:
    """Copy a bundle without its word detector, and engines."""
    to.mkdir()
    for name in (MANIFEST, *(listed.file for listed in bundle.manifest.files)):
        shutil.copy(bundle.path / name, to / name)
    if engines:
        shutil.copytree(engines, default_directory(to, engines.name, backend))


def _check_replaceable(out: Path) -> None:
    if not out.exists():
        return
    foreign = sorted(entry.name for entry in out.iterdir() if not _is_ours(entry)) if out.is_dir() else [out.name]
    if foreign:
        raise BundleError(
            f"{out}: exists but is not a repository that `sam2edge triton` wrote (unexpected {foreign[0]}); give "
            "another path: Triton takes several, each with a --model-repository of its own"
        )


def _is_ours(entry: Path) -> bool:
    config = entry / _CONFIG
    return entry.name in _CLASSES and config.is_file() and config.read_text(errors="replace").startswith(_MARK)


def _config(name: str, settings: Settings) -> str:
    """Return the text of a model's config.pbtxt."""
    outputs = {**OUTPUTS, **VIDEO_OUTPUTS} if name == VIDEO else OUTPUTS
    sections = [
        f'{_MARK}name: "{name}"\nbackend: "python"\nmax_batch_size: 0\n',
        _tensors("input", INPUTS, ", optional: true"),
        _tensors("output", outputs),
        _instances(settings),
        *(
            f'parameters {{ key: "{key}", value {{ string_value: "{value}" }} }}\n'
            for key, value in settings.parameters().items()
        ),
    ]
    if name == VIDEO:
        sections.append(
            f"sequence_batching {{\n  max_sequence_idle_microseconds: {round(settings.idle * 1e6)}\n"
            f"  oldest {{ max_candidate_sequences: {_CANDIDATES} }}\n}}\n"
        )
    return "".join(sections)


def _tensors(side: str, tensors: Mapping[str, Any], also: str = "") -> str:
    return "".join(
        f'{side} {{ name: "{name}", data_type: TYPE_{tensor.dtype}, dims: {list(tensor.shape)}{also} }}\n'
        for name, tensor in tensors.items()
    )


def _instances(settings: Settings) -> str:
    gpus = f", gpus: {list(settings.gpus)}" if settings.gpus else ""
    kind = "CPU" if settings.backend == _ON_CPU else "GPU"
    return f"instance_group {{ kind: KIND_{kind}, count: {settings.instances}{gpus} }}\n"
