"""The word detector as one more engine of a bundle: built, loaded, missed and out of date; and its FP16 and BF16."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from sam2edge import Bundle, VideoTracker
from sam2edge.bundle.engines import Limits
from sam2edge.bundle.words import DETECTOR
from sam2edge.cli import main
from sam2edge.engines.build import build
from sam2edge.engines.low_precision import BF16, FP16, LowPrecision, lowered
from sam2edge.engines.profiles import PRESETS
from sam2edge.errors import StaleEngineError
from sam2edge.runtime.backends.base import Array, open_backend
from sam2edge.runtime.backends.tensorrt import TensorRTBackend
from tests.helpers import assert_close, clip_frames
from tests.unit.engines.fake_tensorrt import install
from tools.rounding import with_rounding

PRESET = dataclasses.replace(PRESETS["desktop"], limits=Limits(objects=2, prompts=2, points=3, words=8))


def inputs(bundle: Bundle, words: int) -> dict[str, Array]:
    assert bundle.words
    model, random = bundle.words.model, np.random.default_rng(0)
    queries = random.standard_normal((words, model.dim)).astype(np.float32)
    image = random.uniform(0, 255, (1, model.image_size, model.image_size, 3)).astype(np.float32)
    return {"image": image, "queries": queries / np.linalg.norm(queries, axis=1, keepdims=True)}


def test_it_is_built_with_the_others(
    nano_words: Bundle, gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = install(monkeypatch, "10.3.0")
    engines = build(nano_words, tmp_path / "out", precision="fp32", preset=PRESET)
    assert [shape[0] for shape in engines.manifest.engines[DETECTOR].inputs["queries"].profile] == [1, 4, 8]
    runner = TensorRTBackend(tmp_path / "out").open(nano_words.graph_path(DETECTOR))
    expected = open_backend("onnx").open(nano_words.graph_path(DETECTOR))
    for words in (1, 8):
        values = inputs(nano_words, words)
        assert_close(runner.run(values), expected.run(values), 1e-4)
    assert runner.max_size("queries") == 8
    count = len(fake.calls)
    build(nano_words, tmp_path / "out", precision="fp32", preset=PRESET)
    assert not [call for call in fake.calls[count:] if call.startswith("build")]  # they are up to date


def test_engines_from_before_the_bundle_had_words(
    nano: Bundle, nano_words: Bundle, gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They go on tracking; only the detector needs a new build."""
    install(monkeypatch, "10.3.0")
    shutil.copytree(nano.path, tmp_path / "bundle")
    build(tmp_path / "bundle", precision="fp32", preset=PRESET)
    shutil.copytree(nano_words.path / "words", tmp_path / "bundle" / "words")
    bundle = Bundle.open(tmp_path / "bundle")
    with VideoTracker(bundle, "tensorrt", max_objects=1) as tracker:
        tracker.track(clip_frames(1)[0])
        assert tracker.prompt(1, points=[(138, 84)]).visible.all()
    with pytest.raises(StaleEngineError, match=r"before the bundle got this word detector; build .* --precision fp32`"):
        open_backend("tensorrt").open(bundle.graph_path(DETECTOR))
    build(bundle, precision="fp32", preset=PRESET)
    assert open_backend("tensorrt").open(bundle.graph_path(DETECTOR)).run(inputs(bundle, 2))["logits"].shape[-1] == 2


def low(bundle: Bundle, kind: LowPrecision, values: Mapping[str, Array], folder: Path) -> dict[str, Array]:
    islands = [island for island in kind.islands if island.graph == DETECTOR]
    model = with_rounding(lowered(onnx.load(bundle.graph_path(DETECTOR)), kind, islands))
    onnx.save(model, folder / "graph.onnx")
    return open_backend("onnx").open(folder / "graph.onnx").run(values)


@pytest.mark.parametrize(("kind", "pixels", "score"), [(FP16, 0.2, 0.003), (BF16, 2.5, 0.05)])
@pytest.mark.parametrize("family", ["owlv2", "owlvit"])
def test_boxes_and_scores_hardly_change(
    with_words: Any, kind: LowPrecision, pixels: float, score: float, family: str, tmp_path: Path
) -> None:
    """Largest differences, in pixels of a 320-pixel picture and of a score, of all boxes of random weights."""
    bundle = with_words(family)
    values = inputs(bundle, 6)
    exact = open_backend("onnx").open(bundle.graph_path(DETECTOR)).run(values)
    found = low(bundle, kind, values, tmp_path)
    assert np.abs(found["boxes"] - exact["boxes"]).max() < pixels / 320
    scores = [1 / (1 + np.exp(-outputs["logits"])) for outputs in (found, exact)]
    assert np.abs(scores[0] - scores[1]).max() < score
    assert np.ptp(scores[1]) > 0.5


def test_places_are_exact_only_as_an_island(nano_words: Bundle, tmp_path: Path) -> None:
    values = inputs(nano_words, 1)
    exact = open_backend("onnx").open(nano_words.graph_path(DETECTOR)).run(values)["boxes"]
    without = dataclasses.replace(FP16, islands=tuple(one for one in FP16.islands if one.nodes != "/corners/"))
    errors = [np.abs(low(nano_words, kind, values, tmp_path)["boxes"] - exact).mean() for kind in (FP16, without)]
    assert errors[0] < 0.7 * errors[1]


def test_inspect_counts_it_beside_the_frame(nano_words: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(nano_words.path), "--device", "orin-nx", "--parts", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert float(rows["word"][2]) > 0
    graphs = ("image_encoder", "memory_attention", "mask_decoder", "memory_encoder")
    total = sum(float(line.split()[1]) for line in lines if line.startswith(graphs) and "," not in line)
    assert float(rows["frame"][1]) == pytest.approx(total, abs=0.03)
    assert sum(line.startswith("detector ") for line in lines) == 1
