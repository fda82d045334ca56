"""Whole builds with stand-ins for TensorRT 8.6, 10.3 and 11.4 and for a GPU."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys

import onnx
import pytest

from sam2edge import Bundle
from sam2edge.bundle import GRAPHS, contract
from sam2edge.bundle.engines import ENGINES, Engines, Limits, Target
from sam2edge.cli import main
from sam2edge.engines import timing_cache
from sam2edge.engines.build import EngineBuilder, build, check_memory
from sam2edge.engines.low_precision import HOST_TENSORS
from sam2edge.engines.profiles import PRESETS, Preset, profile
from sam2edge.errors import BuildError, DamagedEngineError, EngineError, InputError, StaleEngineError
from sam2edge.runtime.backends import tensorrt_api
from sam2edge.runtime.backends.cuda import driver, gpus
from sam2edge.runtime.backends.tensorrt import this_target
from sam2edge.runtime.model.resize import window_size
from tests.unit.engines.fake_tensorrt import RTX, VERSIONS, FakeTensorRT, IBuilderConfig, edit_manifest, install


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


OLDEST_AND_NEWEST = pytest.mark.parametrize("fake", [VERSIONS[0], VERSIONS[-1]], indirect=True)
"""For what depends on the files that a build reads and writes, and hardly on TensorRT."""


@pytest.fixture(params=VERSIONS)
def fake(request, monkeypatch):
    return install(monkeypatch, request.param)


def built(engines, graph):
    """Return what the stand-in wrote as the engine."""
    return pickle.loads(engines.read(graph))


def dtypes(engine):
    return {name: tensor.dtype for name, tensor in {**engine.inputs, **engine.outputs}.items()}


def half_dtypes(inputs, outputs):
    """Return the types of inputs and outputs of an FP16 or INT8 engine."""
    return {
        spec.name: "float16" if spec.dtype == "float32" and spec.name not in HOST_TENSORS else spec.dtype
        for spec in (*inputs, *outputs)
    }


def builds(fake):
    return [call for call in fake.calls if call.startswith("build")]


def test_all_graphs_are_built_as_requested(fake, nano, tmp_path):
    reports = []
    engines = build(nano, tmp_path / "out", progress=lambda message, fraction: reports.append((message, fraction)))
    assert sorted(os.listdir(tmp_path / "out")) == sorted(["engines.json", *(f"{name}.engine" for name in ENGINES)])
    manifest = engines.manifest
    assert manifest.target == Target("tensorrt", fake.__version__, "Fake RTX", 46, "", ("8.9",))
    assert (manifest.precision, manifest.limits) == ("fp16", Limits())
    typed = not fake.__version__.startswith("8")
    for name, (inputs, outputs) in contract(nano.model).items():
        engine, content = manifest.engines[name], built(engines, name)
        assert engine.graph_sha256 == nano.manifest.graphs[name].sha256
        assert content["profile"] == {
            tensor: [list(shape) for shape in shapes] for tensor, shapes in profile(nano.model, Limits(), name).items()
        }
        assert content["workspace"] == {"WORKSPACE": 4 << 30}
        assert content["typed"] is typed
        assert content["flags"] == ([] if typed else ["FP16", "OBEY_PRECISION_CONSTRAINTS"])
        assert dtypes(engine) == half_dtypes(inputs, outputs)
        assert engine.layers["fp16"] > 5 * engine.layers.get("fp32", 0)
    fractions = [fraction for _, fraction in reports]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    within = [message for message, _ in reports if message == "mask_decoder: Building Engine"]
    assert len(within) == (2 if typed else 0)


def test_frames_are_resized_in_fp32(fake, nano, tmp_path):
    """Whatever the precision of the others, since its outputs are whole numbers."""
    preset = Preset("small", Limits(side=600), 1 << 30)
    engines = build(nano, tmp_path / "out", preset=preset)
    engine, content = engines.manifest.engines["resize"], built(engines, "resize")
    assert engine.precision == "fp32"
    assert content["flags"] == []
    assert content["profile"]["frame"] == [[1, 1, 3], [600, 600, 3], [600, 600, 3]]
    most = window_size(600, 128)
    assert content["profile"]["columns"] == [[16, 8, 1], [16, 8, most], [16, 8, most]]
    weights = {"used_rows": "int32", "rows": "float32", "used_columns": "int32", "columns": "float32"}
    assert dtypes(engine) == {"frame": "uint8", **weights, "image": "uint8"}


def test_islands_are_held_by_constraints_on_8(monkeypatch, nano, tmp_path):
    install(monkeypatch, "8.6.0")
    engines = build(nano, tmp_path / "out")
    held = built(engines, "mask_decoder")["held"]
    assert {"/stability/ReduceSum", "/prompts/MatMul", "/prompts/Sin"} <= set(held)
    assert all(name.startswith(("/stability/", "/prompts/")) for name in held)
    assert not {"/prompts/Add_1", "/prompts/GreaterOrEqual"} & set(held)  # of labels, which are integers
    assert {"/soft_mask/Resize", "/soft_mask/Sigmoid"} <= set(built(engines, "memory_encoder")["held"])
    assert built(engines, "image_encoder")["held"] == []


def test_fp32(fake, nano, tmp_path):
    engines = build(nano, tmp_path / "out", precision="fp32")
    for name in GRAPHS:
        assert engines.manifest.engines[name].layers.keys() == {"fp32"}
        assert built(engines, name)["flags"] == []


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_bf16(monkeypatch, nano, tmp_path, version):
    """All inputs and outputs are FP32: numpy, and so the host, has no BF16."""
    install(monkeypatch, version)
    engines = build(nano, tmp_path / "out", precision="bf16")
    for name, (inputs, outputs) in contract(nano.model).items():
        engine = engines.manifest.engines[name]
        assert dtypes(engine) == {spec.name: spec.dtype for spec in (*inputs, *outputs)}
        assert engine.layers["bf16"] > 4 * engine.layers.get("fp32", 0)
        assert "fp16" not in engine.layers


@pytest.mark.parametrize(
    ("version", "capability", "message"),
    [
        ("8.6.0", "8.9", r"bf16 needs TensorRT 10\.3 or newer, but this is 8\.6\.0; build with fp16 or fp32"),
        ("10.3.0", "7.5", r"bf16 needs compute capability 8\.0 or newer, not 7\.5; build with"),
    ],
)
def test_bf16_where_it_does_not_exist(monkeypatch, nano, tmp_path, version, capability, message):
    fake = install(monkeypatch, version)
    monkeypatch.setattr(gpus, "find_gpu", lambda *_: gpus.Gpu("Fake RTX", capability, 8 << 30, 46))
    with pytest.raises(InputError, match=message):
        build(nano, tmp_path / "out", precision="bf16")
    assert builds(fake) == []


@OLDEST_AND_NEWEST
def test_engines_for_the_second_gpu(fake, nano, tmp_path, monkeypatch, capsys):
    """They are built on it: TensorRT takes the GPU whose context is current."""
    fake.gpu.devices[1] = ("Other RTX", (8, 6), 8 << 30, 46)
    out = tmp_path / "out"
    assert main(["build", str(nano.path), "-o", str(out), "--gpu", "1"]) == 0
    manifest = Engines.open(out, nano, this_target(tensorrt_api.load(), 1)).manifest
    assert (manifest.target.gpu, manifest.target.compute_capabilities) == ("Other RTX", ("8.6",))
    assert sum(call.startswith("build") and call.endswith(" on GPU 1") for call in fake.calls) == len(ENGINES)
    capsys.readouterr()
    assert main(["build", str(nano.path), "-o", str(out), "--gpu", "5"]) == 2
    assert "TensorRT needs an NVIDIA GPU, but GPU 5: the driver has 2 (" in capsys.readouterr().err
    install(monkeypatch, RTX)
    with pytest.raises(InputError, match=r"gpu must be left out for TensorRT for RTX .*, which builds without a GPU"):
        build(nano, out, product="tensorrt-rtx", gpu=0)


@pytest.mark.parametrize(
    ("fault", "bundle", "precision", "actual"),
    [("ignore_precision", "nano", "fp16", "fp32"), ("no_int8", "nano_int8", "int8", "fp16")],
)
def test_an_engine_of_another_precision_fails(fake, request, tmp_path, fault, bundle, precision, actual):
    setattr(fake.faults, fault, True)
    message = rf"image_encoder: {precision} was asked for, but .* \(\d+ {actual}\); no engines were"
    with pytest.raises(BuildError, match=message):
        build(request.getfixturevalue(bundle), tmp_path / "out", precision=precision)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("attention", ["fused", "narrow"])
def test_form_of_the_memory_attention(fake, nano, tmp_path, attention):
    engines = build(nano, tmp_path / "out", attention=attention)
    forms = {name: engine.attention for name, engine in engines.manifest.engines.items() if engine.attention}
    assert forms == {"memory_attention": attention}
    model = onnx.load_model_from_string(built(engines, "memory_attention")["model"])
    pads = [node for node in model.graph.node if node.op_type == "Pad"]
    assert len(pads) == (1 if attention == "fused" else 0)
    assert build(nano, tmp_path / "out", attention=attention) == engines
    assert len(builds(fake)) == len(ENGINES)


def test_the_form_that_suits_is_the_default(fake, nano, tmp_path):
    """From TensorRT 10 on the fused form; on 8 the narrow one, unless its scores do not fit; the narrow one in FP32."""
    typed = not fake.__version__.startswith("8")
    engines = build(nano, tmp_path / "out")
    assert engines.manifest.engines["memory_attention"].attention == ("fused" if typed else "narrow")
    build(nano, tmp_path / "out", attention="narrow")
    assert len(builds(fake)) == (2 if typed else 1) * len(ENGINES)
    large = dataclasses.replace(nano.model, image_size=1024)
    for name, objects, suits in [
        ("desktop", 8, "fused"),
        ("desktop", 16, "fused"),
        ("desktop", 7, "narrow"),
        ("jetson", 4, "fused"),
        ("jetson", 1, "narrow"),
    ]:
        preset = dataclasses.replace(PRESETS[name], limits=Limits(objects=objects))
        builder = EngineBuilder.here(preset)
        assert builder.attention_form(large, "fp16") == ("fused" if typed else suits)
        assert builder.attention_form(large, "fp32") == "narrow"
    with pytest.raises(InputError, match="attention must be one of fused, narrow but is 'wide'"):
        build(nano, tmp_path / "out", attention="wide")


def test_8_is_configured_like_10(fake, nano, tmp_path):
    """Contexts share the profile, and TensorRT needs no other library of NVIDIA."""
    content = built(build(nano, tmp_path / "out"), "mask_decoder")
    assert content["shared"]
    edge_mask, jit = (
        list(fake.api["TacticSource"]).index(name) for name in ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")
    )
    assert content["sources"] == ((1 << edge_mask) + (1 << jit) if fake.__version__.startswith("8") else None)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_8_may_fuse_a_whole_graph(monkeypatch, nano, tmp_path, precision):
    install(monkeypatch, "8.6.0").faults.fused = True
    engines = build(nano, tmp_path / "out", precision=precision)
    region = "fused fp16" if precision == "fp16" else "fused"
    assert engines.manifest.engines["mask_decoder"].layers == {region: 1, "fp32": 4}


@pytest.mark.parametrize(("ignored", "bundle", "precision"), [("FP16", "nano", "fp16"), ("INT8", "nano_int8", "int8")])
def test_8_without_its_flag_fails(monkeypatch, request, tmp_path, ignored, bundle, precision):
    """It does not silently build a higher precision."""
    fake = install(monkeypatch, "8.6.0")
    set_flag = IBuilderConfig.set_flag
    monkeypatch.setattr(IBuilderConfig, "set_flag", lambda self, flag: flag.name == ignored or set_flag(self, flag))
    with pytest.raises(BuildError, match=f"{precision} was asked for"):
        build(request.getfixturevalue(bundle), tmp_path / "out", precision=precision)
    assert len(builds(fake)) == 1


def test_a_graph_that_the_parser_cannot_read(fake, nano, tmp_path):
    """A bundle from elsewhere may contain one, with correct hashes."""
    other = tmp_path / "other"
    shutil.copytree(nano.path, other)
    model = onnx.load(other / "memory_encoder.onnx")
    next(node for node in model.graph.node if node.op_type == "Sigmoid").op_type = "Attention"
    onnx.save(model, other / "memory_encoder.onnx")
    with pytest.raises(BuildError, match=r"memory_encoder: .* cannot read the graph: No importer .* Attention; export"):
        build(Bundle(other, nano.manifest), tmp_path / "out", precision="fp32")


@OLDEST_AND_NEWEST
def test_only_what_is_not_up_to_date_is_built_again(fake, nano, tmp_path):
    first = build(nano, tmp_path / "out")
    assert build(nano, tmp_path / "out") == first
    assert len(builds(fake)) == len(ENGINES)
    two = dataclasses.replace(PRESETS["desktop"], limits=Limits(objects=2))
    build(nano, tmp_path / "out", preset=two)
    assert len(builds(fake)) == 2 * len(ENGINES)
    (tmp_path / "out" / "mask_decoder.engine").write_bytes(b"x" * first.manifest.engines["mask_decoder"].bytes)
    build(nano, tmp_path / "out", preset=two)
    assert len(builds(fake)) == 3 * len(ENGINES)
    edit_manifest(tmp_path / "out", lambda data: data["engines"]["resize"].update(graph_sha256="of an older one"))
    build(nano, tmp_path / "out", preset=two)
    assert len(builds(fake)) == 4 * len(ENGINES)
    build(nano, tmp_path / "out", force=True)
    assert len(builds(fake)) == 5 * len(ENGINES)


@OLDEST_AND_NEWEST
def test_the_second_build_starts_from_the_first_ones_timings(fake, nano, tmp_path):
    first = build(nano, tmp_path / "out")
    assert built(first, "image_encoder")["cache"] == []
    assert len(built(first, "memory_encoder")["cache"]) == 1  # all of the exporter's graphs have one name
    second = build(nano, tmp_path / "other", precision="fp32")
    assert len(built(second, "image_encoder")["cache"]) == 2


@OLDEST_AND_NEWEST
def test_timings_of_a_build_at_the_same_time_are_kept(fake, nano, tmp_path):
    file = timing_cache.timing_cache_path(EngineBuilder.here(PRESETS["desktop"]).target)
    fake.faults.during = lambda: timing_cache.merge(file, lambda others: b"theirs")
    build(nano, tmp_path / "out")
    assert b"theirs" in file.read_bytes().split()
    assert len(file.read_bytes().split()) == 3


@OLDEST_AND_NEWEST
def test_a_damaged_timing_cache_is_replaced(fake, nano, tmp_path):
    file = timing_cache.timing_cache_path(build(nano, tmp_path / "out").manifest.target)
    good = file.read_bytes()
    file.write_bytes(b"junk")
    build(nano, tmp_path / "out", force=True)
    assert file.read_bytes() == good


@OLDEST_AND_NEWEST
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_build_that_is_interrupted_leaves_what_was_there(fake, nano, tmp_path, error):
    before = build(nano, tmp_path / "out")

    within = "" if fake.__version__.startswith("8") else ": Building Engine"

    def stop(message, fraction):
        if message == f"mask_decoder{within}":
            raise error("enough")

    with pytest.raises(error):
        build(nano, tmp_path / "out", precision="fp32", progress=stop)
    assert Engines.open(tmp_path / "out", nano, before.manifest.target) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out"]


KILLED = """
import os, signal, sys
import pytest
from sam2edge.engines.build import EngineBuilder, build
from tests.unit.engines.fake_tensorrt import install

install(pytest.MonkeyPatch(), "10.3.0")

def stop(message, fraction):
    if message.startswith("memory_encoder"):
        os.kill(os.getpid(), signal.SIGKILL)

build(sys.argv[1], sys.argv[2], precision="fp32", progress=stop)
"""


def test_a_build_that_is_killed_leaves_what_was_there(monkeypatch, nano, tmp_path):
    fake = install(monkeypatch, "10.3.0")
    before = build(nano, tmp_path / "out")
    command = [sys.executable, "-c", KILLED, str(nano.path), str(tmp_path / "out")]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert Engines.open(tmp_path / "out", nano, before.manifest.target) == before
    after = build(nano, tmp_path / "out", precision="fp32")
    assert built(after, "image_encoder")["cache"], "the killed build's timings are lost"
    assert len(builds(fake)) == 2 * len(ENGINES)


@OLDEST_AND_NEWEST
@pytest.mark.parametrize(
    ("fault", "value", "message"),
    [
        ("no_builder", True, "cannot make a builder for this GPU or driver; see `sam2edge doctor`"),
        ("output_type", "INT8", "image_encoder: high_res_0 must be float16 but is INT8 in the engine"),
        (
            "build_error",
            "OutOfMemory: requested 9 GiB",
            r"image_encoder: .*\(OutOfMemory: requested 9 GiB\).* --max-objects, --max-prompts or --workspace",
        ),
        ("build_error", "Cuda (out of memory)", r"image_encoder: .*Cuda \(out of memory\).*--profile jetson"),
        ("build_error", "No implementation of X", "image_encoder: .*could not build the engine: No implementation"),
        ("deserialize_error", "OutOfMemory: 9 GiB", "image_encoder: .*; OutOfMemory: 9 GiB"),
        ("context_error", "OutOfMemory: 9 GiB", "image_encoder: .*; OutOfMemory: 9 GiB"),
        ("inspector", True, "image_encoder: TensorRT .* describes the engine's layers in JSON that cannot be read"),
    ],
)
def test_a_failed_build_says_why(fake, nano, tmp_path, fault, value, message):
    setattr(fake.faults, fault, value)
    with pytest.raises(BuildError, match=message):
        build(nano, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_warnings_tell_that_memory_ran_out(fake):
    """Without kernels that were skipped for want of memory, none may be left for a layer."""
    api = tensorrt_api.load()
    error = "Could not find any implementation for node {ForeignNode[a...b]}."
    api.errors.append(error)
    api.warnings.append("Some tensor is unused")
    assert api.explain_errors() == (error, False)
    for skipped in (
        "UNSUPPORTED_STATE: Skipping tactic 33 due to insufficient memory on requested size of 629145600",
        "Skipping tactic 0 due to insuficient memory",
    ):
        api.warnings.append(skipped)
        assert api.explain_errors() == (f"{error}; {skipped}", True)
    api.errors.clear()
    api.errors.append("another error")
    assert api.explain_errors() == ("another error", False)


@OLDEST_AND_NEWEST
def test_engines_that_take_too_much_memory_are_refused(fake, nano, tmp_path):
    """Weights of all, and the activations of one at a time."""
    small = Preset("tiny board", Limits(), 1 << 20, memory=(2 << 20) + (2 << 19))
    with pytest.raises(BuildError, match=r"tiny board allows 0\.0 GiB.*--max-objects"):
        build(nano, tmp_path / "out", preset=small)
    engines = build(nano, tmp_path / "out").manifest.engines
    weights = sum(engine.bytes for engine in engines.values())
    most = max(engine.activation_bytes for engine in engines.values())
    check_memory(engines, Preset("just enough", Limits(), 1 << 20, memory=weights + most))
    with pytest.raises(BuildError, match="just too little"):
        check_memory(engines, Preset("just too little", Limits(), 1 << 20, memory=weights + most - 1))


@OLDEST_AND_NEWEST
def test_foreign_engines_are_refused(fake, nano, tmp_path):
    build(nano, tmp_path / "out")
    reasons = (
        rf"built for tensorrt {fake.__version__} but this is tensorrt 10\.13\.3\.9; "
        "built for GPU Fake RTX with 46 multiprocessors but this is Orin with 8 multiprocessors on a Jetson; "
        r"built for compute capability 8\.9 but this is 8\.7; "
    )
    with pytest.raises(StaleEngineError, match=f"{reasons}build them again with `sam2edge build .*--precision fp16`"):
        Engines.open(tmp_path / "out", nano, Target("tensorrt", "10.13.3.9", "Orin", 8, "a Jetson", ("8.7",)))


def test_orins_differ_in_multiprocessors_and_boards(monkeypatch, nano, tmp_path):
    """All of them have one name and one compute capability."""

    def orin(multiprocessors, board):
        monkeypatch.setattr(gpus, "find_gpu", lambda *_: gpus.Gpu("Orin", "8.7", 8 << 30, multiprocessors))
        (tmp_path / "model").write_text(f"{board}\0")
        return EngineBuilder.here(PRESETS["jetson"]).target

    install(monkeypatch, "10.3.0")
    monkeypatch.setattr(gpus, "BOARD_MODEL", tmp_path / "model")
    nano_board, agx_board = "NVIDIA Jetson Orin Nano", "NVIDIA Jetson AGX Orin"
    built_on = orin(8, nano_board)
    engines = build(nano, tmp_path / "out")
    assert Engines.open(tmp_path / "out", nano, dataclasses.replace(built_on, board="")) == engines  # in a container
    for here, named in (
        (orin(16, agx_board), "Orin with 16 multiprocessors on NVIDIA Jetson AGX Orin"),
        (orin(16, nano_board), rf"Orin with 16 multiprocessors on {nano_board} \(in another power mode\?.*\)"),
        (orin(8, agx_board), "Orin with 8 multiprocessors on NVIDIA Jetson AGX Orin"),
    ):
        reason = f"built for GPU Orin with 8 multiprocessors on {nano_board} but this is {named}; build them again"
        with pytest.raises(StaleEngineError, match=reason):
            Engines.open(tmp_path / "out", nano, here)
    orin(16, agx_board)
    again = build(nano, tmp_path / "out")
    assert built(again, "image_encoder")["cache"] == []  # nothing that was timed on the other board
    assert again.manifest.target.board == agx_board


@OLDEST_AND_NEWEST
def test_engines_of_another_bundle_are_refused_and_rebuilt(fake, nano, nano_int8, pooled, tmp_path):
    """Those of the FP32 graphs may lie beside an INT8 bundle."""
    engines = build(nano, tmp_path / "out")
    target = engines.manifest.target
    assert Engines.open(tmp_path / "out", nano_int8, target) == engines
    reason = "built from another memory_attention, memory_encoder.onnx than is in"
    with pytest.raises(StaleEngineError, match=reason):
        Engines.open(tmp_path / "out", pooled, target)
    build(pooled, tmp_path / "out")
    assert Engines.open(tmp_path / "out", pooled, target).read("memory_encoder")
    with pytest.raises(StaleEngineError, match=reason):
        Engines.open(tmp_path / "out", nano_int8, target)


@OLDEST_AND_NEWEST
def test_damaged_engines_are_refused(fake, nano, tmp_path):
    engines = build(nano, tmp_path / "out")
    target, file = engines.manifest.target, tmp_path / "out" / "mask_decoder.engine"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"?")
    with pytest.raises(DamagedEngineError, match=r"its sha256 is not the one in engines\.json"):
        Engines.open(tmp_path / "out", nano, target).read("mask_decoder")
    file.write_bytes(content[:-1])
    with pytest.raises(DamagedEngineError, match=r"mask_decoder\.engine: \d+ bytes, but engines\.json says \d+; build"):
        Engines.open(tmp_path / "out", nano, target)
    file.unlink()
    with pytest.raises(DamagedEngineError, match=r"mask_decoder\.engine: missing; build them again"):
        Engines.open(tmp_path / "out", nano, target)
    with pytest.raises(DamagedEngineError, match=r"engines\.json: missing; build engines with `sam2edge build"):
        Engines.open(tmp_path / "nothing", nano, target)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda data: data.update(schema=1), "schema 1"),
        (lambda data: data["engines"].pop("mask_decoder"), "KeyError"),
        (lambda data: data["limits"].update(colour=1), "colour"),
        (lambda data: data["engines"]["mask_decoder"].update(file="../x.engine"), "lies outside"),
        (lambda data: data["engines"]["mask_decoder"].update(file=1), "lies outside"),
        (lambda data: data["engines"]["mask_decoder"]["inputs"]["points"]["profile"].pop(), "profile"),
        (lambda data: data["engines"]["mask_decoder"]["inputs"]["points"]["profile"][0].pop(), "profile"),
    ],
)
def test_a_wrong_manifest_is_refused(monkeypatch, nano, tmp_path, edit, reason):
    install(monkeypatch, "10.3.0")
    target = build(nano, tmp_path / "out").manifest.target
    edit_manifest(tmp_path / "out", edit)
    with pytest.raises(DamagedEngineError, match=reason):
        Engines.open(tmp_path / "out", nano, target)


@OLDEST_AND_NEWEST
def test_nothing_else_is_replaced(fake, nano, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(EngineError, match=r"out: exists but does not hold engines \(unexpected thesis\.tex\)"):
        build(nano, tmp_path / "out")


def test_without_a_gpu(monkeypatch, nano):
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT("10.3.0"))
    monkeypatch.setattr(driver, "LIBCUDA", "libcuda.so.none")
    monkeypatch.setattr(driver, "library", driver.library.__wrapped__)
    with pytest.raises(EngineError, match=r"needs an NVIDIA GPU, but .*libcuda.so.none is not there .*doctor"):
        build(nano)


@pytest.mark.parametrize("version", ["7.2.3", "8.5.2", "9.1.0", "10.2.0"])
def test_a_tensorrt_that_is_not_known(monkeypatch, nano, version):
    fake = install(monkeypatch, "10.3.0")
    fake.__version__ = version
    with pytest.raises(EngineError, match=f"TensorRT {version} is not supported; install 8.6, or 10.3 or newer"):
        build(nano)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--max-batch", "0"], "images must be an integer of at least 1"),
        (["--usual-objects", "5", "--profile", "jetson"], "--usual-objects must be at most the .* of objects, 4, but"),
    ],
)
def test_limits_that_are_refused(nano, capsys, option, message):
    assert main(["build", str(nano.path), *option]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_int8(fake, nano_int8, tmp_path):
    """INT8 where the graph has Q/DQ nodes, FP16 around them, and the inputs and outputs of FP16 engines."""
    engines = build(nano_int8, tmp_path / "out", precision="int8")
    typed = not fake.__version__.startswith("8")
    for name, (inputs, outputs) in contract(nano_int8.model).items():
        engine = engines.manifest.engines[name]
        assert engine.precision == "int8"
        assert built(engines, name)["flags"] == ([] if typed else ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"])
        assert dtypes(engine) == half_dtypes(inputs, outputs)
        nodes = onnx.load(nano_int8.graph_path(name)).graph.node
        dequantized = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
        assert engine.layers["int8"] == sum(dequantized.issuperset(node.input[:2]) for node in nodes if node.input)
        assert engine.layers["fp16"] > 5 * engine.layers.get("fp32", 0)


@pytest.mark.parametrize(
    ("bundle", "precision", "message"),
    [
        ("nano", "int4", "precision must be one of fp32, fp16, bf16, int8 but is 'int4'"),
        ("nano", "fp8", r"fp8 is not offered: it follows FP32 less closely than int8 \(docs/.*/precision\.md\)"),
        ("nano", "int8", "nano: is not an INT8 bundle; make one from it with `sam2edge calibrate`"),
        ("nano_int8", "fp16", "is an INT8 bundle, which has no fp16 graphs; build it with --precision int8"),
    ],
)
def test_a_precision_that_is_not_there(request, bundle, precision, message):
    with pytest.raises(InputError, match=message):
        build(request.getfixturevalue(bundle), precision=precision)


def test_the_command(monkeypatch, nano, tmp_path, capsys):
    install(monkeypatch, "10.3.0")
    bundle = tmp_path / "nano"
    bundle.symlink_to(nano.path)
    arguments = ["build", str(bundle), "-o", str(tmp_path / "out"), "--profile", "jetson", "--max-objects", "2"]
    assert main([*arguments, "--usual-objects", "2", "--workspace", "256", "--attention", "narrow"]) == 0
    printed = capsys.readouterr().out
    assert "for tensorrt 10.3.0, Fake RTX with 46 multiprocessors, compute capability 8.9\n" in printed
    assert re.search(r"memory_attention +\S+ +1\.0 +\d+ fp16", printed)
    data = json.loads((tmp_path / "out" / "engines.json").read_text())
    assert data["limits"] == dataclasses.asdict(Limits(objects=2, usual_objects=2, prompts=16))
    assert data["workspace"] == 256 << 20
    assert data["engines"]["memory_attention"]["attention"] == "narrow"


def test_the_command_without_tensorrt(monkeypatch, nano, capsys):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    message = r"sam2edge: error: TensorRT cannot be imported .*pip install 'sam2edge\[tensorrt\]'.*doctor"
    for count in (0, 1):
        monkeypatch.setattr(gpus, "count_gpus", lambda count=count: count)
        assert main(["build", str(nano.path)]) == 2
        printed = capsys.readouterr().err
        assert re.search(message, printed)
        assert ("It needs an NVIDIA GPU, and there is none here; `--for rtx` builds" in printed) is (count == 0)
