"""Engines behind the gate: stand-ins for TensorRT build them, and a stand-in for the machine runs them.

That machine calculates with the FP32 graphs. How long each engine takes, and which ones are wrong, is made up: its
clock stands still but for that.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from sam2edge.bundle import GRAPHS
from sam2edge.bundle.engines import ENGINES, Engines
from sam2edge.calibration.checked_build import build_checked
from sam2edge.calibration.measure import closed_loop, recorder
from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.gate import Gate
from sam2edge.calibration.measure.report import report_directory
from sam2edge.cli import main
from sam2edge.commands import build as command
from sam2edge.errors import BackendError, BuildError, GateError, InputError
from sam2edge.runtime.backends.base import Backend, GraphRunner, open_backend
from sam2edge.runtime.backends.cuda import context
from sam2edge.runtime.model.prompts import Prompt
from tests.helpers import BALL, CLIP
from tests.unit.engines.test_build import builds, install

PROMPTS = {1: Prompt(box=BALL)}
SECONDS = {
    "fp32": (0.14, 0.04, 0.12, 0.1),
    "bf16": (0.09, 0.03, 0.07, 0.05),
    "fp16": (0.06, 0.02, 0.04, 0.02),
    "int8": (0.02, 0.04, 0.02, 0.04),
}
"""Of each of GRAPHS: INT8 pays in the image encoder and the mask decoder."""
NARROW = 1.5
"""How many times as long the narrow form of the memory attention takes."""


class Clock:
    """Takes the place of the module time where runs are timed."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        self.now += 1e-6  # nothing takes no time at all
        return self.now


class Machine(Backend):
    """Runs engines in SECONDS each; those in `wrong` give zeros."""

    def __init__(self, clock, nano, engines, wrong, narrow=NARROW):
        self._clock, self._nano, self._engines, self._wrong = clock, nano, engines.manifest.engines, wrong
        self._narrow = narrow

    def open(self, graph: Path) -> GraphRunner:
        name = graph.stem
        engine, inner = self._engines[name], open_backend("onnx").open(self._nano.graph_path(name))
        seconds = SECONDS[engine.precision][GRAPHS.index(name)] * (self._narrow if engine.attention == "narrow" else 1)
        wrong, clock = (name, engine.precision) in self._wrong, self._clock

        class Runner(GraphRunner):
            def run(self, inputs):
                outputs = inner.run(inputs)
                clock.now += seconds
                return {key: np.zeros_like(value) for key, value in outputs.items()} if wrong else outputs

        return Runner()


@pytest.fixture
def fake(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return install(monkeypatch, "10.3.0")


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (closed_loop, recorder):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def run(fake, clock, nano, tmp_path):
    """Return a function that builds engines of a bundle and measures them on the clip's first frames."""

    def run(bundle, precision, wrong=(), narrow=NARROW, **arguments):
        return build_checked(
            bundle,
            Clip(CLIP, 5),
            lambda engines: Machine(clock, nano, engines, wrong, narrow),
            tmp_path / "out",
            precision=precision,
            prompts=PROMPTS,
            **arguments,
        )

    return run


def report(tmp_path):
    return json.loads((report_directory(tmp_path / "out") / "report.json").read_text())


def assignment(engines):
    return "/".join(engines.manifest.engines[name].precision for name in GRAPHS)


def test_auto_builds_each_engine_once_and_takes_the_fastest_mixture(run, fake, nano, nano_int8, tmp_path):
    engines, trials = run(nano_int8, "auto", source=nano)
    names = ["fp16/fp16 fused/fp16/fp16", "fp16/fp16 narrow/fp16/fp16"]
    names += ["int8/int8 fused/int8/int8", "int8/int8 narrow/int8/int8", "int8/fp16 fused/int8/fp16"]
    assert [trial.name for trial in trials] == names
    assert assignment(engines) == "int8/fp16/int8/fp16"
    assert engines.manifest.engines["memory_attention"].attention == "fused"
    assert trials[-1].milliseconds == pytest.approx((20, 20, 20, 20), abs=0.1)
    assert len(builds(fake)) == 11
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == sorted(["engines.json", *(f"{name}.engine" for name in ENGINES)])
    assert engines.manifest.precision == "auto"
    assert Engines.open(tmp_path / "out", nano_int8, engines.manifest.target) == engines
    assert [engines.read(name) for name in GRAPHS]
    for name in GRAPHS:
        of = nano_int8 if engines.manifest.engines[name].precision == "int8" else nano
        assert engines.manifest.engines[name].graph_sha256 == of.manifest.graphs[name].sha256
    rows = report(tmp_path)["rows"]
    assert [row["name"] for row in rows] == ["FP32", *names]
    assert rows[-1]["closed_loop"]["mean_iou"] == 1
    assert rows[-1]["bytes"] == sum(engine.bytes for engine in engines.manifest.engines.values())


def test_auto_takes_the_faster_form_of_the_memory_attention(run, fake, nano, nano_words):
    engines, trials = run(nano_words, "auto", narrow=0.5)
    assert engines.manifest.engines["detector"].precision == "fp16"
    assert [trial.name for trial in trials] == ["fp16/fp16 fused/fp16/fp16", "fp16/fp16 narrow/fp16/fp16"]
    assert engines.manifest.engines["memory_attention"].attention == "narrow"
    assert len(builds(fake)) == len(ENGINES) + 2  # the other form, and the word detector
    _, trials = run(nano, "auto", attention="fused")
    assert [trial.name for trial in trials] == ["fp16/fp16 fused/fp16/fp16"]


def test_auto_passes_over_a_wrong_engine(run, nano, nano_int8):
    """The INT8 decoder is fast and gives zeros."""
    engines, trials = run(nano_int8, "auto", {("mask_decoder", "int8")}, source=nano)
    assert assignment(engines) == "int8/fp16/fp16/fp16"
    assert [trial.passed for trial in trials] == [True, True, False, False, False, True]
    assert trials[2].failures[0].startswith("mean IoU 0.")


def test_auto_passes_over_a_range_that_is_too_wide(run, nano, wide_int8):
    """Engines run right here: only the graph's range says so, and only for the decoder in INT8."""
    engines, trials = run(wide_int8, "auto", source=nano)
    assert assignment(engines) == "int8/fp16/fp16/fp16"
    assert [trial.passed for trial in trials] == [True, True, False, False, False, True]
    wide = (
        r"mask_decoder: the INT8 range of /hypernetworks\.0/activation/Relu_output_0 is \S+ times what the clip shows"
    )
    for trial in trials[2:5]:
        assert [bool(re.match(wide, failure)) for failure in trial.failures] == [True]
    with pytest.raises(GateError, match=f"int8: the gate failed: {wide}"):
        run(wide_int8, "int8", source=nano)


def assert_fp32_between(engines):
    for engine in engines.manifest.engines.values():
        assert "float16" not in {tensor.dtype for tensor in (*engine.inputs.values(), *engine.outputs.values())}


def test_auto_falls_back_to_bf16_where_fp16_is_wrong(run, fake, nano):
    engines, trials = run(nano, "auto", {("memory_attention", "fp16")})
    assert assignment(engines) == "fp16/bf16/fp16/fp16"
    assert len(builds(fake)) == 14, "FP16 once more, with FP32 between the engines"
    assert_fp32_between(engines)
    assert [trial.name for trial in trials] == [
        *("fp16/fp16 fused/fp16/fp16", "fp16/fp16 narrow/fp16/fp16"),
        *("bf16/bf16 fused/bf16/bf16", "bf16/bf16 narrow/bf16/bf16"),
        "fp16/bf16 fused/fp16/fp16",
    ]


@pytest.mark.parametrize("version", ["8.6.0", "10.3.0"])
def test_auto_falls_back_to_fp32_where_nothing_else_is_right(run, monkeypatch, nano, version):
    """TensorRT 8.6 has no BF16 that it could try."""
    install(monkeypatch, version)
    wrong = {("memory_attention", precision) for precision in ("fp16", "bf16")}
    engines, trials = run(nano, "auto", wrong)
    assert assignment(engines) == "fp16/fp32/fp16/fp16"
    assert_fp32_between(engines)
    assert any("bf16" in trial.name for trial in trials) == (version == "10.3.0")


def test_nothing_is_written_if_nothing_passes(run, nano, tmp_path):
    before, _ = run(nano, "fp16")
    wrong = {("mask_decoder", precision) for precision in ("fp16", "bf16", "fp32")}
    with pytest.raises(GateError, match=r"every precision: the gate failed: mean IoU 0\..*no engines were written"):
        run(nano, "auto", wrong)
    assert Engines.open(tmp_path / "out", nano, before.manifest.target) == before
    assert len(report(tmp_path)["rows"]) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out", "out.report"]


def test_one_precision(run, fake, nano, nano_int8, tmp_path):
    engines, trials = run(nano_int8, "int8", source=nano)
    assert (assignment(engines), trials) == ("int8/int8/int8/int8", [])
    assert [row["name"] for row in report(tmp_path)["rows"]] == ["FP32", "int8"]
    with pytest.raises(GateError, match=r"int8: the gate failed: mean IoU 0\..*auto finds the fastest that passes"):
        run(nano_int8, "int8", {("mask_decoder", "int8")}, source=nano, force=True)
    assert len(builds(fake)) == 2 * len(ENGINES)
    # what is up to date is measured but not built again
    assert run(nano_int8, "int8", source=nano)[0] == engines
    assert len(builds(fake)) == 2 * len(ENGINES)


def test_a_gate_of_0_lets_wrong_engines_pass_on_a_short_clip(run, nano):
    engines, _ = run(nano, "fp16", {("mask_decoder", "fp16")}, gate=Gate(0))
    assert assignment(engines) == "fp16/fp16/fp16/fp16"


def test_a_precision_that_cannot_be_built_is_left_out(run, fake, nano, nano_int8):
    fake.faults.no_int8 = True
    engines, trials = run(nano_int8, "auto", source=nano)
    assert assignment(engines) == "fp16/fp16/fp16/fp16"
    assert "image_encoder: int8 was asked for" in trials[1].failures[0]


def test_a_machine_that_builds_nothing(run, fake, nano):
    fake.faults.build_error = "no kernel for anything"
    with pytest.raises(GateError, match="image_encoder: TensorRT could not build the engine: no kernel for anything"):
        run(nano, "auto")
    with pytest.raises(BuildError, match="no kernel for anything"):
        run(nano, "fp16")


def test_an_int8_bundle_needs_its_source(run, nano, nano_int8, pooled):
    with pytest.raises(InputError, match="compared with the FP32 bundle it was made from; give it as --fp32"):
        run(nano_int8, "auto")
    with pytest.raises(InputError, match=r"was made from another bundle; give that one as --fp32"):
        run(nano_int8, "auto", source=pooled)
    with pytest.raises(InputError, match="is an INT8 bundle, which has no fp16 graphs"):
        run(nano_int8, "fp16", source=nano)


# the command


def arguments(bundle, tmp_path, *more):
    fixed = ["build", bundle.path, "-o", tmp_path / "out", "--box", "101,47,176,122", "--frames", 4]
    return [str(one) for one in (*fixed, *more)]


def test_the_command(fake, clock, nano, nano_int8, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "_opener", lambda target: lambda engines: Machine(clock, nano, engines, ()))
    auto = arguments(nano_int8, tmp_path, "--clip", CLIP, "--precision", "auto", "--fp32", nano.path)
    assert main(auto) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"engines in {tmp_path / 'out'}" in lines
    assert re.fullmatch(r"int8/int8 narrow/int8/int8: \d+\.\d\d ms, passed", lines[-2])
    assert re.fullmatch(r"int8/fp16 fused/int8/fp16: \d+\.\d\d ms, chosen", lines[-1])
    failing = {("mask_decoder", "fp16")}
    monkeypatch.setattr(command, "_opener", lambda target: lambda engines: Machine(clock, nano, engines, failing))
    assert main(arguments(nano, tmp_path, "--clip", CLIP, "--force")) == 1
    assert "fp16: the gate failed" in capsys.readouterr().out


def test_the_command_says_what_is_missing(fake, nano, monkeypatch, capsys):
    def no_pycuda(gpu):
        raise BackendError("the GPU backends need pycuda")

    monkeypatch.setattr(context, "_primary", no_pycuda)
    for more, message in {
        ("--clip", str(CLIP)): "the GPU backends need pycuda",
        ("--precision", "auto"): "--precision auto compares engines with FP32 on a clip of yours: give it as --clip",
        ("--box", "1,1,9,9"): "--box 1,1,9,9 does nothing without --clip",
        ("--min-iou", "0.9"): "--min-iou does nothing without --clip",
        ("--precision", "fp9"): "--precision must be one of fp16, bf16, fp32, int8, auto but is 'fp9'",
        ("--precision", "fp8"): "fp8 is not offered",
    }.items():
        assert main(["build", str(nano.path), *more]) == 2
        assert message in capsys.readouterr().err
    assert builds(fake) == []
