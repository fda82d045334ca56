"""The exported graphs: their operators, and what must not change their outputs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from sam2edge import Bundle
from sam2edge.bundle import GRAPHS
from sam2edge.runtime.backends.base import open_backend

Array = npt.NDArray[Any]
SHAPES = {"Shape", "ConstantOfShape", "Expand", "Range"}


def run(bundle: Bundle, graph: str, **inputs: Array) -> dict[str, Array]:
    return open_backend("onnx").open(bundle.graph_path(graph)).run(inputs)


def memories(objects: int, frames: int, pointers: int) -> dict[str, Array]:
    """Return inputs of the memory attention with every slot filled, of ages 0, 1, 2, and so on."""
    random = np.random.default_rng(1)
    return {
        "features": random.normal(size=(1, 256, 8, 8)).astype(np.float32),
        "memory": random.normal(size=(objects, frames, 64, 64)).astype(np.float32),
        "memory_age": np.tile(np.arange(frames, dtype=np.int32), (objects, 1)),
        "pointers": random.normal(size=(objects, pointers, 256)).astype(np.float32),
        "pointer_age": np.tile(np.arange(1, pointers + 1, dtype=np.int32), (objects, 1)),
    }


@pytest.mark.parametrize("graph", GRAPHS)
def test_only_operators_that_every_tensorrt_reads(nano: Bundle, graph: str) -> None:
    """And no Identity, because TensorRT 8.6 refuses a convolution whose bias is the output of a node."""
    model = onnx.load(str(nano.graph_path(graph)))
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", 17)}
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"Attention", "RotaryEmbedding", "If", "Loop", "Scan", "NonZero", "Identity"}
    assert not operators & SHAPES


def test_no_shape_is_computed_where_windows_are_padded(tiny: Bundle) -> None:
    nodes = Counter(node.op_type for node in onnx.load(tiny.graph_path("image_encoder")).graph.node)
    assert nodes["Pad"] == 5  # three blocks with windows of 14, the one that pools them, and one with windows of 7
    assert not nodes.keys() & SHAPES


def test_images_of_a_batch_do_not_mix(nano: Bundle) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    together = run(nano, "image_encoder", image=images)
    for n in range(3):
        alone = run(nano, "image_encoder", image=images[n : n + 1])
        for name, values in alone.items():
            np.testing.assert_allclose(together[name][n], values[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("frames", "pointers"), [(1, 1), (3, 5), (7, 16)])
def test_objects_of_a_batch_do_not_mix(nano: Bundle, frames: int, pointers: int) -> None:
    inputs = memories(3, frames, pointers)
    together = run(nano, "memory_attention", **inputs)["conditioned"]
    for n in range(3):
        own = {name: x if name == "features" else x[n : n + 1] for name, x in inputs.items()}
        alone = run(nano, "memory_attention", **own)["conditioned"]
        np.testing.assert_allclose(together[n], alone[0], rtol=1e-4, atol=1e-4)


def test_the_order_of_slots_does_not_matter(nano: Bundle) -> None:
    inputs = memories(2, 7, 16)
    shuffled = dict(inputs)
    for names, count in ((("memory", "memory_age"), 7), (("pointers", "pointer_age"), 16)):
        order = np.random.default_rng(2).permutation(count)
        for name in names:
            shuffled[name] = np.ascontiguousarray(inputs[name][:, order])
    expected = run(nano, "memory_attention", **inputs)["conditioned"]
    np.testing.assert_allclose(run(nano, "memory_attention", **shuffled)["conditioned"], expected, rtol=1e-4, atol=1e-4)


def test_an_empty_slot_has_no_effect(nano: Bundle) -> None:
    inputs = memories(2, 3, 4)
    padded = dict(inputs)
    for values, age in (("memory", "memory_age"), ("pointers", "pointer_age")):
        garbage = np.full_like(inputs[values][:, :2], 50.0)
        padded[values] = np.concatenate([garbage, inputs[values]], axis=1)
        padded[age] = np.concatenate([np.full((2, 2), -1, np.int32), inputs[age]], axis=1)
    expected = run(nano, "memory_attention", **inputs)["conditioned"]
    np.testing.assert_allclose(run(nano, "memory_attention", **padded)["conditioned"], expected, rtol=1e-4, atol=1e-4)


def test_ages_matter(nano: Bundle) -> None:
    inputs = memories(1, 3, 4)
    expected = run(nano, "memory_attention", **inputs)["conditioned"]
    for name in ("memory_age", "pointer_age"):
        older = {**inputs, name: inputs[name] + 1}
        assert np.abs(run(nano, "memory_attention", **older)["conditioned"] - expected).max() > 2e-4, name
