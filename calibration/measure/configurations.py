"""What can be measured on this machine: bundles, the engines that were built from them, and PyTorch."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sam2edge.bundle import GRAPHS, Bundle, Graph
from sam2edge.bundle.engines import RTX, TENSORRT, Engine, engine_directories, read_manifest
from sam2edge.errors import BackendError, EngineError
from sam2edge.runtime.backends.base import Backend
from sam2edge.runtime.backends.tensorrt import TensorRTBackend

Files = Mapping[str, Graph] | Mapping[str, Engine]


@dataclass(frozen=True, eq=False)
class Configuration:
    """A set of graphs, of a bundle or made from it, and the backend that runs them."""

    name: str
    bundle: Bundle
    backend: str | Backend = "auto"
    files: Files | None = None  # the manifest's entries for engines; None for the bundle's own, {} for PyTorch
    engines: Path | None = None  # directory of the engines; None for the bundle's ONNX files

    @property
    def graphs(self) -> Files:
        """The manifest's entries by graph."""
        return self.bundle.manifest.graphs if self.files is None else self.files

    @property
    def precision(self) -> str:
        """What was asked for: "fp32", "bf16", "fp16", "int8", or "auto" for engines of whichever is fastest."""
        return self.engines.name if self.engines else precisions(self.graphs)

    @property
    def bytes(self) -> int | None:
        """Size of all files; None for PyTorch."""
        return sum(graph.bytes for graph in self.graphs.values()) or None

    @property
    def int8(self) -> list[str]:
        """Names of the graphs that are INT8."""
        return [name for name, graph in self.graphs.items() if graph.precision == "int8"]


def precisions(graphs: Files) -> str:
    """Return the precisions of the graphs: "fp32", "fp16/int8"."""
    return "/".join(dict.fromkeys(graphs[name].precision for name in GRAPHS))


def find_configurations(
    bundles: Sequence[Bundle],
    backend: str | Backend = "auto",
    *,
    graphs: bool = True,
    engines: Collection[str] = (TENSORRT, RTX),
    gpu: int = 0,
) -> tuple[list[Configuration], dict[Path, str]]:
    """Find what can run here of each bundle: its ONNX files on a backend, and engines of these products on a GPU.

    Returns:
        The configurations, and by directory a line for engines that cannot be loaded here, with the reason.
    """
    configurations, refused = [], {}
    names = [bundle.path.name for bundle in bundles]
    for bundle in bundles:
        label = bundle.path if names.count(bundle.path.name) > 1 else bundle.path.name
        if graphs:
            configurations.append(Configuration(f"{label} {precisions(bundle.manifest.graphs)}", bundle, backend))
        for product, directory in ((p, directory) for p in engines for directory in engine_directories(bundle.path, p)):
            try:
                runner = TensorRTBackend(directory, product, gpu)
                runner.open(bundle.graph_path("mask_decoder"))
                files = read_manifest(directory, bundle).engines
            except (BackendError, EngineError) as error:
                refused[directory] = f"{directory} ({error})"
            else:
                precision = precisions(files)
                precision = f"auto ({precision})" if directory.name == "auto" else precision
                title = f"{label} {precision} {'RTX ' if product == RTX else ''}engines"
                configurations.append(Configuration(title, bundle, runner, files, directory))
    return configurations, refused


def without_pytorch(source: str | None, option: str) -> str:
    """Say why PyTorch's model cannot be measured: `option`, which gives its source, is missing, or a package; or ""."""
    if not source:
        return f"PyTorch (give {option} SOURCE)"
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            return f'PyTorch ({package} is not installed: pip install "sam2edge[export]")'
    return ""
