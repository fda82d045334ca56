"""Every graph through NVIDIA's own parser and compiler, those of TensorRT for RTX, which build without a GPU.

The numbers are of the version in constraints.txt; another one may fuse differently.
"""

from __future__ import annotations

import dataclasses
import platform
import sys
from collections.abc import Callable

import pytest

from sam2edge import Bundle
from sam2edge.bundle import contract
from sam2edge.bundle.engines import Limits
from sam2edge.bundle.words import carry_words
from sam2edge.calibration.int8.detector import WordSearch, calibrate_detector
from sam2edge.calibration.int8.recipe import Recipe
from sam2edge.calibration.measure.clip import Clip
from sam2edge.engines import build
from sam2edge.engines.profiles import PRESETS, Preset
from sam2edge.errors import BuildError
from sam2edge.export.memory_attention import MemoryAttention
from sam2edge.export.onnx_file import write_onnx
from sam2edge.export.source import load_source
from tests.conftest import ALL, NANO
from tests.helpers import CLIP
from tools.compile_listing import compile_graph

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64" or sys.version_info >= (3, 15),
    reason="TensorRT for RTX has no package for this platform",
)

MANY = PRESETS["desktop"]
ONE = Preset("one", Limits(objects=1, prompts=1, points=1), 1 << 30)

EXPECTED = {
    ("nano", "fp16", MANY): {
        "image_encoder": (25.0, 9),
        "memory_attention": (31.6, 1),
        "mask_decoder": (24.9, 7),
        "memory_encoder": (18.0, 0),
        "resize": (67.3, 0),
    },
    ("nano", "bf16", MANY): {"memory_attention": (31.6, 1)},
    ("nano", "fp32", MANY): {"image_encoder": (25.5, 0), "memory_attention": (47.3, 0)},
    ("nano_int8", "int8", MANY): {
        "image_encoder": (24.9, 9),
        "memory_attention": (31.6, 1),
        "memory_encoder": (19.1, 0),
    },
    ("nano", "fp16", ONE): {"memory_attention": (17.3, 0), "memory_encoder": (8.4, 0)},
    ("nano", "fp32", ONE): {"mask_decoder": (8.6, 0)},
    ("nano_int8", "int8", ONE): {"mask_decoder": (8.4, 7), "memory_encoder": (16.6, 0)},
    ("edgetam", "fp16", MANY): {
        "image_encoder": (10.6, 0),
        "memory_attention": (193.9, 1),
    },
    ("edgetam", "bf16", MANY): {"image_encoder": (10.6, 0)},
    ("edgetam_int8", "int8", MANY): {"image_encoder": (26.5, 0), "memory_encoder": (31.6, 4)},
    ("efficienttam", "fp16", MANY): {"image_encoder": (10.3, 12)},
    ("efficienttam_1", "fp16", MANY): {"memory_attention": (106.7, 3)},
    ("nano_words", "fp16", MANY): {"detector": (8.3, 2)},
    ("words_int8", "int8", MANY): {"detector": (8.3, 2)},
}
"""For each graph the MB that activations take, and how many attentions become one kernel."""

SIMILAR = {
    ("nano", "bf16", MANY): {"image_encoder": (25.0, 9), "mask_decoder": (24.9, 7), "memory_encoder": (18.0, 0)},
    ("nano", "fp32", MANY): {"mask_decoder": (39.7, 0), "memory_encoder": (19.6, 0)},
    ("nano", "fp32", ONE): {"memory_attention": (17.9, 0), "memory_encoder": (8.5, 0)},
    ("nano", "fp16", ONE): {"mask_decoder": (8.4, 7)},
    ("nano_int8", "int8", MANY): {"mask_decoder": (23.5, 7)},
    ("nano_int8", "int8", ONE): {"memory_attention": (17.3, 0)},
    ("pooled", "fp16", MANY): {"memory_attention": (22.8, 1), "memory_encoder": (18.0, 0)},
    ("edgetam", "fp16", MANY): {"memory_encoder": (26.2, 4)},
    ("edgetam", "bf16", MANY): {"memory_encoder": (26.2, 4)},
    ("edgetam", "fp16", ONE): {"memory_attention": (26.1, 0), "memory_encoder": (17.0, 0)},
    ("efficienttam_int8", "int8", MANY): {"image_encoder": (10.0, 12)},
    ("efficienttam", "fp16", MANY): {"mask_decoder": (61.8, 7)},
    ("efficienttam_1", "fp16", ONE): {"memory_attention": (22.1, 0)},
    ("nano_words", "bf16", MANY): {"detector": (8.3, 2)},
    ("owlvit", "fp16", MANY): {"detector": (8.3, 2)},
    ("tiny", "fp16", MANY): {"image_encoder": (40.4, 12), "memory_attention": (122.5, 3)},
}
"""Graphs so much like one of those that only `make conformance` builds them."""

CASES = [
    pytest.param(*case, graph, *numbers, id=f"{case[0]}-{case[1]}-{case[2].name}-{graph}")
    for case, graphs in (*EXPECTED.items(), *(SIMILAR.items() if ALL else ()))
    for graph, numbers in graphs.items()
]
WARNINGS = {
    " (foreignNode) Converting conv activation scales to fp32.",
    " (foreignNode) Converting conv weight scales to fp32.",
}
"""What the compiler says of INT8 convolutions, whose scales are FP16."""


@pytest.fixture(scope="module")
def owlvit(with_words: Callable[[str], Bundle]) -> Bundle:
    return with_words("owlvit")


@pytest.fixture(scope="module")
def words_int8(nano_words: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The random OWLv2 in INT8."""
    out, clip = tmp_path_factory.mktemp("words-int8"), Clip(CLIP, 2)
    search = WordSearch(["red cup"], gate=None)
    carry_words(out, nano_words.path)
    calibrate_detector(
        nano_words, out, [clip], [[0, 1]], search.words(nano_words), search, Recipe(), lambda message, fraction: None
    )
    return Bundle(out, nano_words.manifest)


@pytest.fixture(scope="module")
def nano_1024(nano: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose memory attention alone is there."""
    folder, model = tmp_path_factory.mktemp("nano_1024"), dataclasses.replace(nano.model, image_size=1024)
    attention = MemoryAttention(load_source(NANO, image_size=1024).model)
    write_onnx(attention, *contract(model)["memory_attention"], folder / "memory_attention.onnx")
    return Bundle(folder, dataclasses.replace(nano.manifest, model=model))


@pytest.mark.parametrize(("source", "precision", "preset", "graph", "megabytes", "fused"), CASES)
def test_graph(
    request: pytest.FixtureRequest,
    source: str,
    precision: str,
    preset: Preset,
    graph: str,
    megabytes: float,
    fused: int,
) -> None:
    """It builds with its types, in bounded memory, with its attentions fused, and nothing is logged."""
    made = compile_graph(request.getfixturevalue(source), graph, precision, preset)
    assert made.engine.activation_bytes < 1.1e6 * megabytes
    assert made.fused_attentions == fused
    assert set(made.warnings) <= (WARNINGS if precision == "int8" else set())


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_every_attention_is_fused_at_1024(nano_1024: Bundle, preset: Preset) -> None:
    """So the presets build for their own numbers of objects; scores in memory would leave them no room."""
    made = compile_graph(nano_1024, "memory_attention", "fp16", preset)
    assert made.engine.attention == "fused"
    assert made.fused_attentions == 4
    assert made.engine.activation_bytes < 100e6 * preset.limits.objects
    with pytest.raises(BuildError, match="memory_attention: memory ran out during the build"):
        compile_graph(nano_1024, "memory_attention", "fp16", preset, attention="narrow")


def test_a_selection_between_equals_is_what_int8_fails_on(monkeypatch: pytest.MonkeyPatch, nano_int8: Bundle) -> None:
    """With one object and one prompt; otherwise `repeat_plainly` could go."""
    monkeypatch.setattr(build, "rewrite", lambda *arguments: None)
    with pytest.raises(BuildError, match=r"mask_decoder: TensorRT could not build the engine: .*Myelin.* select: "):
        compile_graph(nano_int8, "mask_decoder", "int8", ONE)
