"""The gate inside `calibrate`: ranges that are wrong on purpose are caught, and what can be saved is saved."""

import json
import re

import pytest

from sam2edge import Bundle, cli
from sam2edge.calibration.int8 import calibrate as module, sensitivity
from sam2edge.calibration.int8.calibrate import calibrate
from sam2edge.calibration.int8.recipe import Recipe, blocks
from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.report import report_directory
from sam2edge.commands import calibrate as command
from sam2edge.errors import GateError
from tests.helpers import CLIP, write_frames
from tests.unit.calibration.int8.test_sensitivity import BROKEN

FRAMES = 8


@pytest.fixture
def run(nano, prompts, cache, tmp_path, monkeypatch, spoil_ranges):
    """Return a function that calibrates on the clip's first frames, with ranges that `factor` spoils."""

    def run(factor=lambda graph, name: 1.0, frames=FRAMES, **arguments):
        monkeypatch.setattr(module, "Clip", lambda path, **options: Clip(path, frames, **options))
        spoil_ranges(factor)
        two = {number: prompts[number] for number in (1, 2)}
        return calibrate(nano, tmp_path / "out", [CLIP], [two], cache=cache, **arguments)

    return run


def report(path):
    return json.loads((report_directory(path) / "1" / "report.json").read_text())


def test_no_block_is_kept_out_of_graphs_that_pass(run):
    bundle = run()
    assert Recipe.read(bundle.path / "recipe.json") == Recipe()
    assert bundle.manifest.calibration.iou == {str(CLIP): pytest.approx(0.996, abs=0.003)}
    rows = report(bundle.path)["rows"]
    assert [row["name"] for row in rows] == ["FP32", "INT8"]
    assert rows[1]["closed_loop"]["mean_iou"] == bundle.manifest.calibration.iou[str(CLIP)]
    assert rows[0]["bytes"] > 3 * rows[1]["bytes"] > 0
    assert Bundle.open(bundle.path) == bundle


def test_the_block_of_a_wrong_range_is_kept_out(run, capsys):
    """An eighth of the range of one tensor loses an object; its block in FP32 brings it back."""
    bundle = run(lambda graph, name: 1 / 8 if name == BROKEN else 1)
    before, (island,) = Recipe(), Recipe.read(bundle.path / "recipe.json").kept[len(Recipe().kept) :]
    assert Recipe.read(bundle.path / "recipe.json").kept[: len(before.kept)] == before.kept
    assert (island.graph, island.nodes) == ("image_encoder", r"/blocks\.0/")
    assert "the gate failed: clip.mp4: mean IoU 0." in island.reason
    first, second = report(bundle.path)["rows"][1:]
    assert not first["gate"]["passed"]
    assert first["closed_loop"]["mean_iou"] < 0.97
    assert second["gate"]["passed"]
    assert bundle.manifest.calibration.iou[str(CLIP)] == second["closed_loop"]["mean_iou"] > 0.99
    command._print(bundle, before, report_directory(bundle.path))
    printed = capsys.readouterr().out.splitlines()[1]
    assert printed.startswith(r"kept out of INT8: image_encoder /blocks\.0/ (the gate failed: clip.mp4: mean IoU 0.")


@pytest.mark.parametrize(
    ("graph", "tensor", "block"),
    [
        ("image_encoder", BROKEN, r"/blocks\.0/"),
        ("memory_attention", "/layers.0/norm1/LayerNormalization_output_0", r"/layers\.0/(?:query|key|value|output)/"),
        ("mask_decoder", "/hypernetworks.0/activation/Relu_output_0", r"/hypernetworks\."),
        ("memory_encoder", "/Add_output_0", "/fuser/"),
    ],
)
def test_eight_times_the_range_of_one_tensor(run, graph, tensor, block):
    """Masks do not show it: five bits of eight are enough for one tensor. Its block is kept out all the same."""
    bundle = run(lambda name, activation: 8 if (name, activation) == (graph, tensor) else 1, frames=4)
    (island,) = Recipe.read(bundle.path / "recipe.json").kept[len(Recipe().kept) :]
    assert (island.graph, island.nodes) == (graph, block)
    reason = rf"the gate failed: clip\.mp4: {graph}: the INT8 range of {re.escape(tensor)} is [789]\.\d times what "
    assert re.fullmatch(reason + "the clip shows, above 6", island.reason)
    first, second = (row["gate"] for row in report(bundle.path)["rows"][1:])
    assert (len(first["failures"]), len(first["wide"]), first["passed"]) == (1, 1, False)
    assert (second["wide"], second["passed"]) == ([], True)


def test_graphs_that_always_fail_leave_the_old_bundle_and_a_report(run, monkeypatch):
    """Ranges of all tensors are eight times too wide."""
    before = run(gate=None)
    assert before.manifest.calibration.iou == {}
    monkeypatch.setattr(module, "MAX_EXCLUDED", 1)
    message = r"even with 1 block kept out: clip\.mp4: .* times what the clip shows, above 6, and \d+ more.*out\.report"
    with pytest.raises(GateError, match=message):
        run(lambda graph, name: 8.0)
    assert Bundle.open(before.path) == before
    assert len(report(before.path)["rows"]) == 3


def test_the_command_gates_and_ranks_blocks(nano, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sensitivity, "FRAMES", 2)
    monkeypatch.setattr(sensitivity, "blocks", lambda *arguments: blocks(*arguments)[:2])
    frames, out = tmp_path / "frames", tmp_path / "out"
    write_frames(frames, Clip(CLIP, 6))
    command = ["calibrate", str(nano.path), str(out), "--clip", str(frames), "--box", "101,47,176,122"]
    assert cli.main([*command, "--no-gate"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("not compared with FP32")

    assert cli.main([*command, "--sensitivity", str(tmp_path / "sensitivity")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["graph", "block", "layers"]
    rows = (tmp_path / "sensitivity" / "sensitivity.csv").read_text().splitlines()
    assert [line.split()[0] for line in lines[: len(rows)]] == [row.partition(",")[0] for row in rows]
    assert lines[-2].startswith(f"mean IoU with FP32 on {frames}: 0.99")
    assert lines[-1] == f"report in {report_directory(out)}"
    assert cli.main(["inspect", str(out)]) == 0
    assert f"mean IoU with FP32 on {frames}: 0.99" in capsys.readouterr().out

    monkeypatch.setattr(module, "MAX_EXCLUDED", 0)
    before = Bundle.open(out)
    assert cli.main([*command, "--min-iou", "1"]) == 1
    message = r"INT8 does not pass the gate, even with 0 blocks kept out: frames: mean IoU 0\.99\d+ is below 1\."
    assert re.match(message, capsys.readouterr().out)
    assert Bundle.open(out) == before
    assert cli.main([*command, "--min-iou", "97"]) == 2
    assert "--min-iou must be from 0 to 1 but is 97" in capsys.readouterr().err
