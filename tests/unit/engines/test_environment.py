"""What `doctor` finds: machines are made up with fake modules, distributions and a fake NVIDIA driver."""

import ctypes
import sys
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from sam2edge.engines import environment
from sam2edge.engines.environment import Finding
from sam2edge.runtime.backends.cuda import driver, gpus
from sam2edge.runtime.media.sources.gstreamer import _PACKAGES
from tests.fake_driver import Driver, LibCuda

load_driver = driver.library.__wrapped__  # without the cache


def found(name):
    [finding] = [finding for finding in environment.probe() if finding.name == name]
    return finding


def install(monkeypatch, name, **contents):
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(__version__="9.8.7", **contents))


def fail_to_import(monkeypatch, module, error):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == module:
                raise error

    for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])


class Failing(Driver):
    """A driver whose calls fail with the codes that are given by their names."""

    def __init__(self, *devices, **codes):
        super().__init__()
        self.devices, self.codes = devices, codes

    def call(self, name, *arguments):
        return self.codes.get(name) or super().call(name, *arguments)


def use_driver(monkeypatch, stand_in):
    def load(name):
        assert name == "libcuda.so.1"
        if stand_in is None:
            raise OSError(f"{name}: cannot open shared object file")
        return LibCuda(stand_in)

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(driver, "library", load_driver)


def use_distributions(monkeypatch, **versions):
    def version(name):
        try:
            return versions[name.replace("-", "_")]
        except KeyError:
            raise metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(metadata, "version", version)


def test_this_machine_can_run():
    import cv2

    findings = environment.probe()
    by_name = {finding.name: finding for finding in findings}
    assert len(by_name) == len(findings)
    assert environment.can_run(findings)
    assert by_name["Python"].detail == f"{sys.version.split()[0]} ({sys.executable})"
    assert by_name["numpy"] == Finding("numpy", "ok", np.__version__)
    assert by_name["OpenCV"] == Finding("OpenCV", "ok", cv2.__version__)
    assert by_name["ONNX Runtime"].detail.startswith(f"{onnxruntime.__version__}, providers ")
    assert "CPU" in by_name["ONNX Runtime"].detail
    assert all((finding.status == "ok") == (not finding.advice) for finding in findings)


@pytest.mark.parametrize(
    ("module", "name", "command"),
    [
        ("numpy", "numpy", "pip install numpy"),
        ("cv2", "OpenCV", "pip install opencv-python-headless"),
        ("onnxruntime", "ONNX Runtime", "pip install onnxruntime"),
    ],
)
def test_required_module_is_missing(monkeypatch, module, name, command):
    monkeypatch.setitem(sys.modules, module, None)
    assert found(name) == Finding(name, "missing", "not installed", command)
    assert not environment.can_run(environment.probe())


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libcudnn.so.9: cannot open shared object file"),
        RuntimeError("compiled for another numpy"),
        ModuleNotFoundError("No module named 'other'", name="other"),
    ],
)
def test_broken_package_is_a_problem_not_missing(monkeypatch, error):
    fail_to_import(monkeypatch, "onnxruntime", error)
    finding = found("ONNX Runtime")
    assert (finding.status, finding.detail) == ("problem", f"installed but does not load: {error}")
    assert not environment.can_run([finding])


def test_gstreamer(monkeypatch, tmp_path):
    """The program counts, whatever OpenCV was built with."""
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = found("GStreamer")
    assert (missing.status, missing.detail) == ("missing", "gst-launch-1.0 is not installed")
    assert missing.advice.endswith(f"apt-get install {_PACKAGES}")
    program = tmp_path / "gst-launch-1.0"
    program.touch(0o755)
    assert found("GStreamer") == Finding("GStreamer", "ok", str(program))


def test_both_onnxruntimes_or_no_cuda_provider(monkeypatch):
    install(monkeypatch, "onnxruntime", get_available_providers=lambda: ["CPUExecutionProvider"])
    use_distributions(monkeypatch, onnxruntime="1.20", onnxruntime_gpu="1.20")
    finding = found("ONNX Runtime GPU")
    assert finding.status == "problem"
    assert "are both installed and overwrite each other" in finding.detail
    assert finding.advice == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
    # The CPU still works.
    assert found("ONNX Runtime") == Finding("ONNX Runtime", "ok", "9.8.7, providers CPU")
    use_distributions(monkeypatch, onnxruntime_gpu="1.21")
    assert found("ONNX Runtime GPU").status == "missing"


@pytest.mark.parametrize(
    ("loaded", "status", "detail"),
    [
        ("CUDAExecutionProvider", "ok", "the CUDA provider loads"),
        ("CPUExecutionProvider", "problem", "has a CUDA provider that does not load: its log above says why"),
        (None, "problem", "has a CUDA provider that does not load: no such library"),
    ],
)
def test_cuda_provider(monkeypatch, loaded, status, detail, capsys):
    real = onnxruntime.InferenceSession

    def session(graph, providers, enable_fallback):
        assert (providers, enable_fallback) == (["CUDAExecutionProvider"], 0)
        [output] = real(graph, providers=["CPUExecutionProvider"]).run(None, {"x": np.array([-2], np.float32)})
        assert output == [2]
        if loaded is None:
            raise RuntimeError("no such library")
        return SimpleNamespace(get_providers=lambda: [loaded])

    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    contents = {"get_available_providers": lambda: available, "preload_dlls": lambda: print("not found")}
    install(monkeypatch, "onnxruntime", InferenceSession=session, **contents)
    use_distributions(monkeypatch, onnxruntime_gpu="1.21")
    finding = found("ONNX Runtime GPU")
    assert (finding.status, finding.detail) == (status, detail)
    assert capsys.readouterr().out == ""


def test_gpus(monkeypatch):
    orin, h100 = ("Orin", (8, 7), 16 * 2**30, 8), ("NVIDIA H100 80GB HBM3", (9, 0), 85_000_000_000, 132)
    use_driver(monkeypatch, Failing(orin, h100))
    assert found("NVIDIA driver") == Finding("NVIDIA driver", "ok", "runs CUDA up to 13.0, 2 GPUs")
    assert found("GPU 0") == Finding("GPU 0", "ok", "Orin, compute capability 8.7, 8 multiprocessors, 16.0 GiB")
    assert found("GPU 1").detail == "NVIDIA H100 80GB HBM3, compute capability 9.0, 132 multiprocessors, 79.2 GiB"


FAILED = "failed with CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED (900): operation not permitted when stream is capturing"


@pytest.mark.parametrize(
    ("stand_in", "name", "status", "detail", "advice"),
    [
        (None, "NVIDIA driver", "missing", "libcuda.so.1 is not there", "install the driver"),
        (Failing(cuInit=900), "NVIDIA driver", "problem", f"cuInit {FAILED}", "run nvidia-smi; reboot"),
        (
            Failing(cuInit=12345),
            "NVIDIA driver",
            "problem",
            "cuInit failed with unknown error (12345): unknown error",
            "run nvidia-smi; reboot",
        ),
        (Failing(("", (8, 0), 1, 1), cuDeviceGet=900), "GPU 0", "problem", f"cuDeviceGet {FAILED}", "run nvidia-smi"),
    ],
    ids=["no driver", "driver does not start", "unknown error", "GPU does not answer"],
)
def test_driver_or_gpu_that_cannot_be_used(monkeypatch, stand_in, name, status, detail, advice):
    use_driver(monkeypatch, stand_in)
    finding = found(name)
    assert (finding.status, finding.detail) == (status, detail)
    assert advice in finding.advice


def test_driver_of_a_jetson(monkeypatch, tmp_path):
    """It has no nvidia-smi; whoever is not in its groups sees no GPU."""
    (tmp_path / "model").write_text("NVIDIA Jetson Orin Nano\0")
    monkeypatch.setattr(gpus, "BOARD_MODEL", tmp_path / "model")
    use_driver(monkeypatch, Failing(cuInit=801))
    assert found("NVIDIA driver").advice.startswith("on a Jetson be in the groups video and render")


def test_one_of_two_gpus(monkeypatch):
    use_driver(monkeypatch, Failing(("Orin", (8, 7), 8 << 30, 16), ("other", (9, 0), 1, 1)))
    assert gpus.find_gpu() == gpus.Gpu("Orin", "8.7", 8 << 30, 16)
    assert gpus.find_gpu(1) == gpus.Gpu("other", "9.0", 1, 1)
    with pytest.raises(gpus.GpuError, match=r"GPU 3: the driver has 2 \(they are numbered from 0, after CUDA_VISIBLE"):
        gpus.find_gpu(3)
    use_driver(monkeypatch, Failing())
    with pytest.raises(gpus.GpuError, match="GPU 0: the driver has no GPU"):
        gpus.find_gpu()


def test_tensorrt_and_pycuda(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.3.0"))
    monkeypatch.setitem(sys.modules, "pycuda", SimpleNamespace(VERSION_TEXT="2025.1"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", SimpleNamespace())
    assert found("TensorRT") == Finding("TensorRT", "ok", "10.3.0")
    assert found("pycuda") == Finding("pycuda", "ok", "2025.1")
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="8.5.2.2"))
    refused = Finding("TensorRT", "problem", "8.5.2.2 is not supported", "install 8.6, or 10.3 or newer")
    assert found("TensorRT") == refused


def test_tensorrt_and_pycuda_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    fail_to_import(monkeypatch, "pycuda", ModuleNotFoundError("No module named 'pycuda'", name="pycuda"))
    assert found("TensorRT").status == "missing"
    assert "--system-site-packages" in found("TensorRT").advice
    assert found("pycuda").status == "missing"


def test_tensorrt_for_rtx(monkeypatch):
    """The front end may be missing: it only passes on the module that is asked for second."""
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", SimpleNamespace(__version__="1.7.1.116"))
    name = "TensorRT for RTX"
    assert found(name) == Finding(name, "ok", "1.7.1.116")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", SimpleNamespace(__version__="1.3.0"))
    assert found(name) == Finding(name, "problem", "1.3.0 is not supported", "install 1.7, or a newer 1.x")
    fail_to_import(monkeypatch, "tensorrt_rtx", ImportError("libtensorrt_rtx.so.1: cannot open shared object file"))
    assert found(name).detail == "installed but does not load: libtensorrt_rtx.so.1: cannot open shared object file"
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    advice = "only `sam2edge build --for rtx` and --backend tensorrt-rtx need it: pip install 'sam2edge[rtx]'"
    assert found(name) == Finding(name, "missing", "not installed", advice)


def test_export_packages(monkeypatch):
    use_distributions(monkeypatch, torch="2.9.1", onnx="1.19")
    assert found("torch") == Finding("torch", "ok", "2.9.1")
    assert found("onnx") == Finding("onnx", "ok", "1.19")
    for name in ("transformers", "safetensors"):
        finding = found(name)
        assert (finding.status, finding.detail) == ("missing", "not installed")
        assert "pip install 'sam2edge[export]'" in finding.advice
    use_distributions(monkeypatch)  # a Jetson builds with onnx alone and has no PyTorch
    assert found("onnx").advice.endswith("build and inspect --device do: pip install onnx")


def test_jetson(monkeypatch, tmp_path):
    model, release = tmp_path / "model", tmp_path / "nv_tegra_release"
    model.write_bytes(b"NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0")
    release.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n")
    monkeypatch.setattr(gpus, "BOARD_MODEL", model)
    monkeypatch.setattr(environment, "_JETSON_RELEASE", release)
    detail = found("machine").detail
    assert detail.startswith("NVIDIA Jetson Orin NX Engineering Reference Developer Kit, ")
    assert detail.endswith("L4T 36.4.3")
    release.write_text("something else\n")
    assert found("machine").detail.endswith("L4T of unknown release")
    model.unlink()
    release.unlink()
    assert "L4T" not in found("machine").detail
    assert found("machine").detail.endswith(" cores")
