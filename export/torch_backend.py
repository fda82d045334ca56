"""PyTorch as a backend: transformers' unmodified modules in place of the graphs, under the same tracker."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from sam2edge.bundle import Bundle
from sam2edge.errors import BackendError, InputError
from sam2edge.export.parity import Reference
from sam2edge.export.source import load_source
from sam2edge.runtime.backends.base import Array, Backend, GraphRunner


class TorchBackend(Backend):
    """The four functions of a checkpoint, on the CPU, for a bundle that was exported from it.

    source: as for `export`. Graph files are not read; their names in the bundle say which function is meant.

    Raises SourceError, and InputError if the bundle came from other weights.
    """

    def __init__(self, bundle: Bundle, source: str | os.PathLike[str]) -> None:
        loaded = load_source(source, image_size=bundle.model.image_size)
        origin = bundle.manifest.source
        if loaded.sha256 != origin.sha256:
            raise InputError(
                f"{source}: is not what {bundle.path} was exported from ({origin.name}, sha256 {origin.sha256[:12]}…): "
                f"its weights have sha256 {loaded.sha256[:12]}…; give that checkpoint or export this one"
            )
        self._reference = Reference(loaded.model, loaded.mean, loaded.std, bundle.model.memory_pool)
        self._names = {bundle.graph_path(name): name for name in bundle.manifest.graphs}

    def open(self, graph: Path) -> GraphRunner:
        """The function that a graph file of the bundle stands for."""
        if graph not in self._names:
            raise BackendError(f"{graph}: not a graph of the bundle that PyTorch stands in for")
        return _TorchRunner(self._reference, self._names[graph])


class _TorchRunner(GraphRunner):
    def __init__(self, reference: Reference, graph: str) -> None:
        self._run = getattr(reference, graph)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()}
        with torch.inference_mode():
            outputs = self._run(**tensors)
        return {name: output.contiguous().numpy() for name, output in outputs.items()}
