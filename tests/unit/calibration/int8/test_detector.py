"""The word detector in INT8: it finds what FP32 finds, and wrong ranges are caught."""

import re

import pytest

from sam2edge import Bundle, cli
from sam2edge.bundle.words import DETECTOR, carry_words
from sam2edge.calibration.int8 import detector as module, sensitivity
from sam2edge.calibration.int8.calibrate import calibrate
from sam2edge.calibration.int8.detector import WordSearch, calibrate_detector
from sam2edge.calibration.int8.recipe import Recipe
from sam2edge.calibration.measure.clip import Clip
from sam2edge.errors import BundleError, GateError, InputError
from tests.helpers import CLIP, write_frames

SEARCH = WordSearch(["red ball", "blue block", "yellow star"])
NUMBERS = [0, 6, 12, 18, 24, 30]


@pytest.fixture
def run(shapes, tmp_path):
    """Return a function that makes the detector INT8 by a few of the bundled clip's frames."""
    carry_words(tmp_path, shapes.path)

    def run(search=SEARCH, recipe=Recipe()):  # noqa: B008
        words = search.words(shapes)
        clips = [Clip(CLIP, NUMBERS[-1] + 1)]
        return calibrate_detector(shapes, tmp_path, clips, [NUMBERS], words, search, recipe, lambda *_: None)

    return run


def spoil(monkeypatch, factor):
    """Multiply the ranges that are seen by `factor(activation)`."""
    quantize = module.quantize

    def spoiled(model, graph, ranges, kept):
        return quantize(model, graph, {name: factor(name) * value for name, value in ranges.items()}, kept)

    for where in (module, sensitivity):
        monkeypatch.setattr(where, "quantize", spoiled)


def test_it_finds_what_fp32_finds(shapes, run, tmp_path):
    before = shapes.graph_path(DETECTOR).read_bytes()
    recipe, errors = run()
    assert recipe == Recipe()
    assert errors.found >= 15
    assert (errors.kept, errors.new) == (1, 0)
    assert 0 < errors.box < 0.05
    assert 0 < errors.score < 0.02
    quantized = Bundle(tmp_path, shapes.manifest)
    graph = quantized.graph(DETECTOR)
    assert (graph.precision, graph.parity) == ("int8", {})
    assert graph.bytes < 0.45 * len(before)  # a third of its weights are in heads, which stay
    assert shapes.graph_path(DETECTOR).read_bytes() == before  # which had the same file


def test_a_block_with_a_wrong_range_is_kept_out(run, monkeypatch):
    broken = "/blocks.1/norm2/LayerNormalization_output_0"
    spoil(monkeypatch, lambda name: 1 / 16 if name == broken else 1)
    recipe, errors = run()
    (island,) = recipe.kept[len(Recipe().kept) :]
    assert (island.graph, island.nodes) == (DETECTOR, r"/blocks\.1/")
    assert re.match(r"the gate failed: .*; alone, this block changes \w+ by \d\.\de-0[01] RMS", island.reason)
    assert errors.kept >= 0.95


def test_ranges_that_are_all_wrong(run, monkeypatch):
    spoil(monkeypatch, lambda name: 1 / 16)
    monkeypatch.setattr(module, "MAX_EXCLUDED", 1)
    message = r"does not pass the gate, even with 1 block kept out: 0\.\d+ of \d+ detections are kept, below 0\.95"
    with pytest.raises(GateError, match=message):
        run()


def test_without_a_gate_nothing_is_compared(run):
    assert run(WordSearch(["red ball"], gate=None)) == (Recipe(), None)


def test_words_that_find_nothing(run):
    with pytest.raises(InputError, match=r"finds nothing in the clips that is 'a dog' with a score above 0\.3"):
        run(WordSearch(["a dog"]))


def test_the_command_and_the_bundle(shapes, nano, prompts, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    frames, out = tmp_path / "frames", tmp_path / "out"
    write_frames(frames, Clip(CLIP, 3))
    rest = ["--clip", str(frames), "--box", "101,47,176,122"]
    assert cli.main(["calibrate", str(shapes.path), str(out), *rest, "--words", "red ball, blue block"]) == 0
    assert "\nword detector: 1.000 of 6 detections kept, 0.000 new; error of boxes 0.0" in capsys.readouterr().out
    bundle = Bundle.open(out)
    assert bundle.graph(DETECTOR).precision == "int8"
    assert bundle.manifest.calibration.detections["kept"] == 1
    with pytest.raises(InputError, match="detector is int8, but only fp32 graphs can be calibrated"):
        calibrate(Bundle(out, shapes.manifest), tmp_path / "again", [frames], search=SEARCH)
    with pytest.raises(BundleError, match="has no word detector; add one with"):
        calibrate(nano, tmp_path / "again", [frames], search=SEARCH)
    without = calibrate(shapes, out, [frames], [prompts], gate=None, cache=tmp_path / "cache")
    assert without.graph(DETECTOR).precision == "fp32"
