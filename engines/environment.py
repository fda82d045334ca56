"""What this machine has for exporting and tracking, and what to do about the rest (`sam2edge doctor`).

Every probe loads what it reports on, because an installed package can still be broken (another CUDA, another
numpy). Only GStreamer and the packages for exporting are looked up without that: importing torch takes seconds.
"""

import contextlib
import importlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Literal

from sam2edge.runtime.backends import tensorrt_api
from sam2edge.runtime.backends.cuda import gpus

Status = Literal["ok", "missing", "problem"]

_REQUIRED = ("numpy", "OpenCV", "ONNX Runtime")
_EXPORT_PACKAGES = ("torch", "transformers", "onnx", "safetensors")
_JETSON_MODEL = Path("/proc/device-tree/model")
_JETSON_RELEASE = Path("/etc/nv_tegra_release")

# y = |x|, of one float: whether a provider loads shows only in a session.
_SMALLEST_GRAPH = (
    b'\x08\x07:2\n\x0b\n\x01x\x12\x01y"\x03Abs\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01b\x0f\n\x01y'
    b"\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for: whether it is there, what was found, what to do if it is not right."""

    name: str
    status: Status
    detail: str
    advice: str = ""


def probe() -> list[Finding]:
    """Look at this machine; takes some seconds where TensorRT or onnxruntime-gpu is installed."""
    return [
        _machine(),
        Finding("Python", "ok", f"{platform.python_version()} ({sys.executable})"),
        *_numpy(),
        *_opencv(),
        _gstreamer(),
        *_onnxruntime(),
        *_gpus(),
        *_tensorrt(),
        *_pycuda(),
        *(_export_package(name) for name in _EXPORT_PACKAGES),
    ]


def can_run(findings: Sequence[Finding]) -> bool:
    """Tell whether tracking can run: numpy, OpenCV and ONNX Runtime are there and load."""
    return all(finding.status == "ok" for finding in findings if finding.name in _REQUIRED)


def _machine() -> Finding:
    parts = [platform.system(), platform.machine(), f"{os.cpu_count()} cores"]
    with contextlib.suppress(OSError):
        # Device tree strings end with a zero byte.
        parts.insert(0, _JETSON_MODEL.read_text().rstrip("\0\n"))
    with contextlib.suppress(OSError):
        parts.append("L4T " + _l4t(_JETSON_RELEASE.read_text()))
    return Finding("machine", "ok", ", ".join(parts))


def _l4t(release: str) -> str:
    """Return "36.4.3" from "# R36 (release), REVISION: 4.3, GCID: …"."""
    found = re.search(r"R(\d+).*REVISION: ([\d.]+)", release)
    return f"{found[1]}.{found[2]}" if found else "of unknown release"


def _load(name: str, module: str, advice: str) -> ModuleType | Finding:
    """Import a module, or say why it cannot be."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module.partition(".")[0]:
            return Finding(name, "missing", "not installed", advice)
        return Finding(name, "problem", f"installed but does not load: {error}", advice)
    except Exception as error:  # a broken binary package raises whatever it likes
        return Finding(name, "problem", f"installed but does not load: {error}", advice)


def _numpy() -> list[Finding]:
    numpy = _load("numpy", "numpy", "pip install numpy")
    return [numpy if isinstance(numpy, Finding) else Finding("numpy", "ok", numpy.__version__)]


def _opencv() -> list[Finding]:
    cv2 = _load("OpenCV", "cv2", "pip install opencv-python-headless")
    if isinstance(cv2, Finding):
        return [cv2]
    return [Finding("OpenCV", "ok", cv2.__version__)]


def _gstreamer() -> Finding:
    # The program, as GStreamerSource runs it: what OpenCV was built with does not matter.
    if program := shutil.which("gst-launch-1.0"):
        return Finding("GStreamer", "ok", program)
    advice = (
        "only csi: and gst: sources need it: apt-get install gstreamer1.0-tools gstreamer1.0-plugins-base "
        "gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
    )
    return Finding("GStreamer", "missing", "gst-launch-1.0 is not installed", advice)


def _onnxruntime() -> list[Finding]:
    onnxruntime = _load("ONNX Runtime", "onnxruntime", "pip install onnxruntime")
    if isinstance(onnxruntime, Finding):
        return [onnxruntime]
    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    detail = f"{onnxruntime.__version__}, providers {', '.join(providers)}"
    return [Finding("ONNX Runtime", "ok", detail), _onnxruntime_gpu("CUDA" in providers)]


def _onnxruntime_gpu(has_cuda: bool) -> Finding:
    name = "ONNX Runtime GPU"
    reinstall = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        detail = "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files"
        return Finding(name, "problem", detail, reinstall)
    if has_cuda:
        return _cuda_provider(name)
    return Finding(name, "missing", "no CUDA provider", f"only --backend onnx-cuda needs it: {reinstall}")


def _cuda_provider(name: str) -> Finding:
    import onnxruntime

    providers = ["CUDAExecutionProvider"]
    try:
        found = onnxruntime.InferenceSession(_SMALLEST_GRAPH, providers=providers, enable_fallback=0).get_providers()
        said = "its log above says why"
    except Exception as error:  # whatever it likes
        found, said = [], str(error)
    if providers[0] in found:
        return Finding(name, "ok", "the CUDA provider loads")
    advice = "it needs a GPU, and the CUDA and cuDNN that this version is made for, where the linker finds them"
    return Finding(name, "problem", f"has a CUDA provider that does not load: {said}", advice)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> list[Finding]:
    try:
        count = gpus.count_gpus()
        detail = f"runs CUDA up to {gpus.cuda_version()}, {count} GPU"
    except gpus.GpuError as error:
        return [_refused(error)]
    return [Finding("NVIDIA driver", "ok", detail), *map(_gpu, range(count))]


def _gpu(index: int) -> Finding:
    try:
        gpu = gpus.find_gpu(index)
    except gpus.GpuError as error:
        return _refused(error)
    capability = f"compute capability {gpu.compute_capability}"
    return Finding(f"GPU {index}", "ok", f"{gpu.name}, {capability}, {gpu.memory / 2**30:.1f} GiB")


def _refused(error: gpus.GpuError) -> Finding:
    return Finding(error.part, "missing" if error.missing else "problem", error.detail, error.advice)


def _tensorrt() -> list[Finding]:
    advice = (
        "only `sam2edge build` and --backend tensorrt need it: pip install 'sam2edge[tensorrt]'; a Jetson has it "
        "from JetPack, in an environment made with `python3 -m venv --system-site-packages`"
    )
    tensorrt = _load("TensorRT", "tensorrt", advice)
    if isinstance(tensorrt, Finding):
        return [tensorrt]
    if not tensorrt_api.is_supported(tensorrt):
        return [Finding("TensorRT", "problem", f"{tensorrt.__version__} is not supported", tensorrt_api.SUPPORTED)]
    return [Finding("TensorRT", "ok", tensorrt.__version__)]


def _pycuda() -> list[Finding]:
    # pycuda.driver is the part that links with the driver.
    advice = "only --backend tensorrt and onnx-cuda need it: pip install pycuda (it compiles with the CUDA toolkit)"
    driver = _load("pycuda", "pycuda.driver", advice)
    if isinstance(driver, Finding):
        return [driver]
    return [Finding("pycuda", "ok", importlib.import_module("pycuda").VERSION_TEXT)]


def _export_package(name: str) -> Finding:
    version = _version(name)
    if version:
        return Finding(name, "ok", version)
    advice = "only exporting needs it: pip install 'sam2edge[export]'"
    if name == "onnx":
        advice = "tracking does not need it; export, calibrate, build and inspect --device do: pip install onnx"
    return Finding(name, "missing", "not installed", advice)
