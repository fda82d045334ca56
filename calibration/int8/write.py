"""Graphs of a bundle in INT8 by a recipe: all of them, or one with the others as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx

from sam2edge.bundle import GRAPHS, Bundle
from sam2edge.calibration.int8.activations import load_graph
from sam2edge.calibration.int8.quantize import quantize
from sam2edge.calibration.int8.recipe import Recipe

Ranges = Mapping[str, Mapping[str, float]]
"""The largest magnitude that INT8 shall hold, by graph and activation."""


def write_graphs(
    source: Bundle,
    directory: Path,
    ranges: Ranges,
    recipe: Recipe,
    progress: Callable[[str], None] = lambda message: None,
) -> Bundle:
    """Write all graphs in INT8 into a directory. The bundle can be run but has no manifest yet. Raises as quantize."""
    for name in GRAPHS:
        progress(f"quantising {name}")
        quantised = quantize(load_graph(source.graph_path(name)), name, ranges[name], recipe.of(name))
        onnx.save(quantised, str(directory / source.manifest.graphs[name].file))
    return Bundle(directory, source.manifest)


def write_one_graph(source: Bundle, directory: Path, name: str, model: onnx.ModelProto) -> Bundle:
    """The source with another model as its graph `name`, in an empty directory; to be run, as above."""
    for other, graph in source.manifest.graphs.items():
        if other == name:
            onnx.save(model, str(directory / graph.file))
        else:
            (directory / graph.file).symlink_to(source.graph_path(other).resolve())
    return Bundle(directory, source.manifest)
