"""Engines of a bundle as cases, on stand-ins for TensorRT and a GPU."""

import dataclasses
import gc
import json
import re
import shutil

import pytest

from sam2edge import Bundle
from sam2edge.bench import plan, worker
from sam2edge.bench.cases import BenchmarkCase
from sam2edge.bench.plan import Settings
from sam2edge.bundle.engines import ENGINES, MANIFEST, Engines, Limits, default_directory
from sam2edge.calibration.measure.configurations import find_configurations
from sam2edge.engines.build import build
from sam2edge.engines.profiles import PRESETS
from sam2edge.errors import BackendError
from tests.unit.engines.fake_tensorrt import RTX, install

PRESET = dataclasses.replace(PRESETS["desktop"], limits=Limits(objects=2, prompts=4, points=3, images=1))


def change(directory, alter):
    """Alter what engines.json says."""
    file = directory / MANIFEST
    data = json.loads(file.read_text())
    alter(data)
    file.write_text(json.dumps(data))


def mixed(data):
    """As `--precision auto` leaves it; the engine that resizes is FP32 always."""
    data["precision"] = "auto"
    data["engines"]["memory_encoder"]["precision"] = "fp32"


@pytest.fixture(scope="module")
def built(nano, nano_int8, tmp_path_factory):
    """FP32 bundle with engines fp32, fp16 and auto, and an INT8 one with engines int8; do not write into them."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        install(patch, "10.3.0")
        for name, bundle, precisions in (("b", nano, ("fp32", "fp16")), ("b-int8", nano_int8, ("int8",))):
            shutil.copytree(bundle.path, folder / name)
            for precision in precisions:
                build(folder / name, precision=precision, preset=PRESET)
    for directory in folder.glob("*.engines/*"):
        change(directory, lambda data: [engine.update(seconds=1.25) for engine in data["engines"].values()])
    shutil.copytree(folder / "b.engines" / "fp16", folder / "b.engines" / "auto")
    change(folder / "b.engines" / "auto", mixed)
    return Bundle.open(folder / "b"), Bundle.open(folder / "b-int8")


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch):
    """What the engines run is seen in a few frames; how long that takes is made up."""
    monkeypatch.setattr(worker, "WARM_UP", 2)


@pytest.fixture
def fake(monkeypatch, quick_collection):
    made = install(monkeypatch, "10.3.0")
    yield made
    gc.collect()
    made.gpu.check()


def settings(bundles, **changes):
    few = {"objects": (1,), "modes": ("latency",), "memory_frames": (2,)}
    return Settings(bundles, "tensorrt", **{**few, **changes})


def test_every_precision_that_was_built(fake, built):
    """One model from FP32 to the fastest mixture, each named after its engines and a step of the waterfall."""
    cases, missing = plan.plan(settings(built))
    whole = [case for case in cases if case.kind == "track" and case.memory_frames is None]
    b, b_int8 = (str(bundle.path) for bundle in built)
    assert [(case.name, case.model, case.engines, case.step) for case in whole] == [
        ("b fp32 engines", b, f"{b}.engines/fp32", "exported graphs with their rewrites: b fp32 engines, tensorrt"),
        ("b fp16 engines", b, f"{b}.engines/fp16", "precision: b fp16 engines"),
        ("b-int8 int8 engines", b_int8, f"{b_int8}.engines/int8", "precision: b-int8 int8 engines"),
        ("b auto (fp16/fp32) engines", b, f"{b}.engines/auto", "precision: b auto (fp16/fp32) engines"),
    ]
    assert {case.backend for case in cases} == {"tensorrt"}
    assert {case.name for case in cases if case.memory_frames} == {"b auto (fp16/fp32) engines"}
    assert not any(text.startswith(("FP16", "INT8")) for text in missing)


@pytest.fixture
def one(built, tmp_path):
    """A bundle with engines fp32 and fp16 that may be changed."""
    for name in ("b", "b.engines"):
        shutil.copytree(built[0].path.with_name(name), tmp_path / name)
    shutil.rmtree(tmp_path / "b.engines" / "auto")
    return Bundle.open(tmp_path / "b")


def test_engines_for_rtx(monkeypatch, one):
    """Those of the backend that is measured, beside TensorRT's; `verify` finds both."""
    fake = install(monkeypatch, RTX)
    with pytest.raises(BackendError, match=re.escape(f"build them with `sam2edge build {one.path} --for rtx`")):
        plan.plan(dataclasses.replace(settings((one,)), backend="tensorrt-rtx"))
    build(one, product="tensorrt-rtx", precision="fp32", preset=PRESET)
    cases, _ = plan.plan(dataclasses.replace(settings((one,)), backend="tensorrt-rtx"))
    directory = default_directory(one.path, "fp32", "tensorrt-rtx")
    assert {(case.name, case.engines) for case in cases} == {("b fp32 RTX engines", str(directory))}
    assert worker.measure(dataclasses.replace(cases[0], frames=2)).median > 0
    gc.collect()
    fake.gpu.check()
    fake.gpu = install(monkeypatch, "10.3.0").gpu
    found, _ = find_configurations([one], graphs=False)
    assert [each.name for each in found] == ["b fp16 engines", "b fp32 engines", "b fp32 RTX engines"]


def foreign(data):
    data["target"]["gpu"] = "Other GPU"


def test_engines_of_another_gpu_are_not_measured(fake, one):
    change(directory := default_directory(one.path, "fp32"), foreign)
    cases, missing = plan.plan(settings((one,)))
    assert {case.name for case in cases} == {"b fp16 engines"}
    assert any(text.startswith(f"{directory} ({directory}: built for GPU Other GPU") for text in missing)


def test_no_engines_that_can_be_loaded(fake, one, nano):
    for precision in ("fp32", "fp16"):
        change(default_directory(one.path, precision), foreign)
    with pytest.raises(BackendError, match=r"none of the engines of .* can be loaded here: .*fp16.*; .*fp32"):
        plan.plan(settings((one,)))
    with pytest.raises(BackendError, match=re.escape(f"build them with `sam2edge build {nano.path}`")):
        plan.plan(settings((nano,)))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_case_runs_its_engines(fake, built, monkeypatch, precision):
    """Not those that the backend would choose (auto); the build time is theirs, too."""
    directory, read, used = default_directory(built[0].path, precision), Engines.read, set()

    def spy(engines, graph):
        used.add(engines.path)
        return read(engines, graph)

    monkeypatch.setattr(Engines, "read", spy)
    case = BenchmarkCase("b", "track", str(built[0].path), "tensorrt", 1, 2, engines=str(directory))
    measured = worker.measure(case)
    assert used == {directory}
    assert measured.build == 1.25 * len(ENGINES)
    assert measured.median > 0
