"""Engines for TensorRT for RTX: with a stand-in, and with NVIDIA's own package, which builds without a GPU."""

from __future__ import annotations

import pickle
import re
import shutil
import sys

import numpy as np
import onnx
import pytest

from sam2edge import Bundle
from sam2edge.bundle.engines import ENGINES, Engines, Target
from sam2edge.cli import main
from sam2edge.engines.build import build
from sam2edge.errors import BackendError, BuildError, EngineError, InputError, StaleEngineError
from sam2edge.runtime.backends import tensorrt_api
from sam2edge.runtime.backends.cuda import gpus
from sam2edge.runtime.backends.tensorrt import TensorRTBackend
from tests.unit.engines.fake_tensorrt import RTX, IBuilderConfig, install

PRODUCT = "tensorrt-rtx"
KNOWN = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
ANY = Target(PRODUCT, RTX, "", 0, "", KNOWN[1:])


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def no_gpu(monkeypatch):
    def missing(number):
        raise gpus.GpuError("NVIDIA driver", "libcuda.so.1 is not there", "install the driver")

    monkeypatch.setattr(gpus, "find_gpu", missing)


def a_gpu(monkeypatch, name, capability):
    monkeypatch.setattr(gpus, "find_gpu", lambda *_: gpus.Gpu(name, capability, 24 << 30, 46))


@pytest.fixture
def fake(monkeypatch):
    """The stand-in, where no GPU is."""
    made = install(monkeypatch, RTX)
    no_gpu(monkeypatch)
    return made


@pytest.fixture(params=["stand-in", "NVIDIA's"])
def api(request, monkeypatch):
    """The API without a GPU; both must do the same."""
    if request.param == "stand-in":
        install(monkeypatch, RTX)
        no_gpu(monkeypatch)
    else:
        pytest.importorskip("tensorrt_rtx_bindings", reason="tensorrt-rtx-cu13-bindings is not for this platform")
    return tensorrt_api.load(PRODUCT)


def compiled(api):
    """Build a product and a softmax, FP16 with an FP32 output."""
    weights = onnx.numpy_helper.from_array(np.ones((64, 64), np.float16), "weights")
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "weights"], ["product"], name="/product"),
        onnx.helper.make_node("Softmax", ["product"], ["half"], name="/softmax"),
        onnx.helper.make_node("Cast", ["half"], ["y"], name="/cast", to=onnx.TensorProto.FLOAT),
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, dtype, ["N", 64])
        for name, dtype in (("x", onnx.TensorProto.FLOAT16), ("y", onnx.TensorProto.FLOAT))
    ]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    api.errors.clear()
    builder = api.new_builder()
    network = api.new_network(builder)
    _parser = api.parse(network, model.SerializeToString(), "g")
    config = api.new_config(builder, 1 << 30)
    api.add_profile(builder, config, {"x": ((1, 64), (1, 64), (8, 64))})
    api.set_compute_capabilities(config, ["8.6"])
    steps = []
    content = api.build(builder, network, config, lambda message, fraction: steps.append(fraction))
    assert steps == sorted(steps)
    return content


def test_what_an_engine_is_made_of(api):
    assert api.compute_capabilities == KNOWN
    content = compiled(api)
    found = api.describe(content, {"x": (1, 64)})
    assert found.dtypes == {"x": "float16", "y": "float32"}
    assert found.activation_bytes >= 1 << 20
    assert found.layers[0]["LayerType"] == "shape_call"
    assert {end["Format/Datatype"] for layer in found.layers for end in layer["Outputs"]} == {"Half", "Float"}


def test_what_a_builder_does_not_say_is_an_error(api):
    content = compiled(api)
    api._log.activation_bytes = None
    with pytest.raises(EngineError, match=r"TensorRT for RTX 1\.7\.1\.116 does not log what .* install that"):
        api.describe(content, {})


def test_without_a_gpu_no_engine_is_loaded(api):
    content = compiled(api)
    with pytest.raises(EngineError, match=r"RTX 1\.7\.1\.116 cannot run the engine here \(it gives no reason\)"):
        api.deserialize(content)
    assert "CUDA driver version is insufficient" in api.errors[-1]


def test_a_compute_capability_that_the_library_refuses(fake, monkeypatch, nano, tmp_path):
    monkeypatch.setattr(IBuilderConfig, "set_compute_capability", lambda *arguments: False)
    with pytest.raises(
        BuildError, match=r"RTX 1\.7\.1\.116 does not build for compute capability 8\.0: it gives no reason"
    ):
        build(nano, tmp_path / "out", product=PRODUCT)


def test_the_timing_cache_is_deprecated(api):
    config = api.new_config(builder := api.new_builder(), 1 << 30)
    cache = config.create_timing_cache(b"")
    with pytest.warns(DeprecationWarning, match="no-ops in TensorRT-RTX"):
        config.set_timing_cache(cache, False)
    del config, builder


def test_engines_for_every_gpu(fake, nano, tmp_path):
    """No timings are kept, and nothing is loaded."""
    engines = build(nano, tmp_path / "out", product=PRODUCT)
    assert engines.manifest.target == ANY
    content = pickle.loads(engines.read("mask_decoder"))
    assert content["capabilities"] == ["SM80", "SM86", "SM89", "SM120", "SM121"]
    assert content["flags"] == ["REQUIRE_USER_ALLOCATION"]
    layers = engines.manifest.engines["mask_decoder"].layers
    assert layers["fp16"] > 5 * layers.get("fp32", 0)
    assert "deserialize" not in fake.calls
    assert not (tmp_path / "cache").exists()


def test_int8(fake, nano_int8, tmp_path):
    engine = build(nano_int8, tmp_path / "out", product=PRODUCT, precision="int8").manifest.engines["image_encoder"]
    assert engine.layers["int8"] > 10
    assert engine.layers["fp16"] > engine.layers.get("fp32", 0)


def test_engines_for_some_gpus(fake, nano, tmp_path):
    """Engines for more are not what was asked for, and are built again; the same are not."""
    build(nano, tmp_path / "out", product=PRODUCT)
    engines = build(nano, tmp_path / "out", product=PRODUCT, compute_capabilities=["8.9", "7.5"])
    assert engines.manifest.target.compute_capabilities == ("7.5", "8.9")
    before = len(fake.calls)
    assert build(nano, tmp_path / "out", product=PRODUCT, compute_capabilities=["7.5", "8.9"]) == engines
    assert len(fake.calls) == before


@pytest.mark.parametrize(("fault", "message"), [("ignore_precision", "fp16 was asked for"), ("output_type", "INT8 in")])
def test_the_engine_is_checked_by_what_is_logged(fake, nano, tmp_path, fault, message):
    setattr(fake.faults, fault, "INT8")
    with pytest.raises(BuildError, match=message):
        build(nano, tmp_path / "out", product=PRODUCT)


@pytest.mark.parametrize(
    ("product", "version", "asked", "message"),
    [
        (
            PRODUCT,
            RTX,
            ["8.9", "9.0"],
            r"does not build for compute capability 9\.0; it knows 7\.5, 8\.0, .*12\.1\. For",
        ),
        ("tensorrt", "10.3.0", ["8.9"], r"TensorRT for RTX only: TensorRT 10\.3\.0 builds for the GPU of this machine"),
    ],
)
def test_compute_capabilities_that_cannot_be_built_for(monkeypatch, nano, product, version, asked, message):
    install(monkeypatch, version)
    with pytest.raises(InputError, match=message):
        build(nano, product=product, compute_capabilities=asked)


def test_without_the_package(monkeypatch, nano, capsys):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    with pytest.raises(
        EngineError, match=r"TensorRT for RTX cannot be imported .*pip install 'sam2edge\[rtx\]'; .*doctor"
    ):
        build(nano, product=PRODUCT)


def test_a_version_that_is_not_known(fake, nano):
    fake.__version__ = "1.3.0"
    with pytest.raises(EngineError, match=r"RTX 1\.3\.0 is not supported; install 1\.7, or a newer 1\.x"):
        build(nano, product=PRODUCT)


@pytest.fixture
def bundle(fake, nano, tmp_path):
    """A bundle with engines for compute capability 8.6 and 8.9."""
    shutil.copytree(nano.path, tmp_path / "nano")
    build(tmp_path / "nano", product=PRODUCT, compute_capabilities=["8.6", "8.9"])
    return Bundle.open(tmp_path / "nano")


def opened(bundle, product=PRODUCT):
    TensorRTBackend(product=product).open(bundle.graph_path("mask_decoder"))


def test_engines_run_on_the_gpus_they_were_built_for(monkeypatch, bundle):
    a_gpu(monkeypatch, "RTX 3060", "8.6")
    opened(bundle)
    a_gpu(monkeypatch, "RTX 5090", "12.0")
    again = rf"sam2edge build {bundle.path} --for rtx --compute-capability 12\.0 --precision fp16`"
    with pytest.raises(
        StaleEngineError, match=rf"built for compute capability 8\.6, 8\.9 but this is 12\.0; .*`{again}"
    ):
        opened(bundle)


def test_gpus_that_cannot_run_engines(monkeypatch, bundle):
    with pytest.raises(BackendError, match=r"TensorRT for RTX needs an NVIDIA GPU, but .*libcuda.*`sam2edge doctor`"):
        opened(bundle)
    a_gpu(monkeypatch, "H100", "9.0")
    message = r"does not run on H100, whose compute capability is 9\.0: it knows 7\.5, .*; use TensorRT \(the backend"
    with pytest.raises(BackendError, match=message):
        opened(bundle)


def test_engines_of_the_other_product(fake, monkeypatch, bundle):
    install(monkeypatch, "10.3.0")
    with pytest.raises(BackendError, match=rf"has no engines in {bundle.path}\.engines; build them with `sam2edge b"):
        opened(bundle, "tensorrt")
    a_gpu(monkeypatch, "RTX 3060", "8.6")
    directory = bundle.path.with_name("nano.engines") / "rtx" / "fp16"
    with pytest.raises(StaleEngineError, match=r"built for tensorrt-rtx 1\.7\.1\.116 but this is tensorrt 10\.3\.0; "):
        TensorRTBackend(directory).open(bundle.graph_path("mask_decoder"))


def test_a_driver_that_is_too_old(fake, monkeypatch, bundle):
    """NVIDIA's own check sees more than ours."""
    a_gpu(monkeypatch, "RTX 3060", "8.6")
    fake.faults.old_driver = True
    with pytest.raises(EngineError, match=r"cannot run the engine here \(old cuda driver\)"):
        opened(bundle)


def test_a_clip_needs_a_gpu_of_those_built_for(fake, monkeypatch, bundle, capsys):
    """Said before anything is built."""
    command = ["build", str(bundle.path), "--for", "rtx", "--clip", "clip.mp4", "--compute-capability", "8.6"]
    fake.calls.clear()
    assert main(command) == 2
    assert "TensorRT for RTX needs an NVIDIA GPU" in capsys.readouterr().err
    a_gpu(monkeypatch, "RTX 5090", "12.0")
    assert main(command) == 2
    message = "--clip runs the engines on this machine, but they are built for compute capability 8.6 but this is 12.0"
    assert message in capsys.readouterr().err
    assert fake.calls == []


def test_compute_capability_is_for_rtx(nano, capsys):
    assert main(["build", str(nano.path), "--compute-capability", "8.6"]) == 2
    assert "--compute-capability does nothing without --for rtx" in capsys.readouterr().err


def test_nvidias_compiler_builds_a_bundle(nano, tmp_path, capsys):
    """From the command to engines that `inspect` shows, without a GPU or driver."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="tensorrt-rtx-cu13-bindings is not for this platform")
    shutil.copytree(nano.path, bundle := tmp_path / "nano")
    assert main(["build", str(bundle), "--for", "rtx", "--max-objects", "1", "--max-prompts", "1"]) == 0
    assert f"for {ANY}\n" in capsys.readouterr().out
    directory = tmp_path / "nano.engines" / "rtx" / "fp16"
    engines = Engines.open(directory, Bundle.open(bundle), ANY)
    # the header of an engine has a bit for each compute capability of KNOWN, and one that has no name yet
    asked = sum(1 << KNOWN.index(capability) for capability in ANY.compute_capabilities)
    for name in ENGINES:
        assert engines.read(name)[32] == asked
        assert engines.manifest.engines[name].layers
    assert main(["inspect", str(bundle)]) == 0
    shown = capsys.readouterr().out
    assert f"fp16 engines in {directory}\nfor tensorrt-rtx {RTX}, any GPU, compute capability 8.0, 8.6," in shown
    assert re.search(r"memory_attention +[\d.]+ +[\d.]+ +fp16\n", shown)
