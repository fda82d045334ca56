"""Check this machine's setup for exporting and tracking (`sam2edge doctor`).

Every check loads what it reports on, because an installed package can still be broken (another CUDA, another numpy).
Only GStreamer and the packages for exporting are merely looked up: importing torch takes seconds.
"""

import contextlib
import importlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from sam2edge.runtime.backends import tensorrt_api
from sam2edge.runtime.backends.cuda import gpus

_JETSON_RELEASE = Path("/etc/nv_tegra_release")

# y = |x|, of one float: only a session shows whether a provider loads.
_SMALLEST_GRAPH = (
    b'\x08\x07:2\n\x0b\n\x01x\x12\x01y"\x03Abs\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01b\x0f\n\x01y'
    b"\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


@dataclass(frozen=True)
class Finding:
    """The result of one check; `advice` says what to do unless the status is "ok"."""

    name: str
    status: Literal["ok", "missing", "problem"]
    detail: str
    advice: str = ""


def probe() -> list[Finding]:
    """Check this machine, which takes seconds if TensorRT, for RTX or not, or onnxruntime-gpu is installed."""
    return [
        _machine(),
        Finding("Python", "ok", f"{platform.python_version()} ({sys.executable})"),
        _package("numpy", "numpy", "pip install numpy"),
        _package("OpenCV", "cv2", "pip install opencv-python-headless"),
        _gstreamer(),
        *_onnxruntime(),
        *_gpus(),
        *map(_tensorrt, tensorrt_api.PRODUCTS),
        # pycuda.driver is the part that links with the driver.
        _package(
            "pycuda",
            "pycuda.driver",
            "only the GPU backends need it: pip install pycuda (it compiles with the CUDA toolkit)",
            lambda _: importlib.import_module("pycuda").VERSION_TEXT,
        ),
        *(_export_package(name) for name in ("torch", "transformers", "onnx", "safetensors")),
    ]


def can_run(findings: Sequence[Finding]) -> bool:
    """Tell whether tracking can run: numpy, OpenCV and ONNX Runtime load."""
    required = ("numpy", "OpenCV", "ONNX Runtime")
    return all(finding.status == "ok" for finding in findings if finding.name in required)


def _machine() -> Finding:
    parts = [platform.system(), platform.machine(), f"{os.cpu_count()} cores"]
    if board := gpus.board():
        parts.insert(0, board)
    with contextlib.suppress(OSError):
        # "# R36 (release), REVISION: 4.3, GCID: …" is L4T 36.4.3
        release = re.search(r"R(\d+).*REVISION: ([\d.]+)", _JETSON_RELEASE.read_text())
        parts.append(f"L4T {release[1]}.{release[2]}" if release else "L4T of unknown release")
    return Finding("machine", "ok", ", ".join(parts))


def _load(name: str, advice: str, *modules: str) -> ModuleType | Finding:
    """Import the first of the modules that is there, or return why none can be imported."""
    for module in modules:
        try:
            return importlib.import_module(module)
        except Exception as error:  # a broken binary package may raise anything
            if not isinstance(error, ModuleNotFoundError) or error.name != module.partition(".")[0]:
                return Finding(name, "problem", f"installed but does not load: {error}", advice)
    return Finding(name, "missing", "not installed", advice)


def _package(
    name: str, module: str, advice: str, version: Callable[[Any], str] = lambda module: module.__version__
) -> Finding:
    loaded = _load(name, advice, module)
    return loaded if isinstance(loaded, Finding) else Finding(name, "ok", version(loaded))


def _gstreamer() -> Finding:
    # The program, which GStreamerSource runs: what OpenCV was built with does not matter.
    if program := shutil.which("gst-launch-1.0"):
        return Finding("GStreamer", "ok", program)
    advice = (
        "only csi: and gst: sources need it: apt-get install gstreamer1.0-tools gstreamer1.0-plugins-base "
        "gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
    )
    return Finding("GStreamer", "missing", "gst-launch-1.0 is not installed", advice)


def _onnxruntime() -> list[Finding]:
    onnxruntime = _load("ONNX Runtime", "pip install onnxruntime", "onnxruntime")
    if isinstance(onnxruntime, Finding):
        return [onnxruntime]
    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    detail = f"{onnxruntime.__version__}, providers {', '.join(providers)}"
    return [Finding("ONNX Runtime", "ok", detail), _onnxruntime_gpu(onnxruntime, "CUDA" in providers)]


def _onnxruntime_gpu(onnxruntime: Any, has_cuda: bool) -> Finding:
    name, provider = "ONNX Runtime GPU", "CUDAExecutionProvider"
    reinstall = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        detail = "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files"
        return Finding(name, "problem", detail, reinstall)
    if not has_cuda:
        return Finding(name, "missing", "no CUDA provider", f"only --backend onnx-cuda needs it: {reinstall}")
    reason = "its log above says why"
    try:
        with contextlib.redirect_stdout(sys.stderr):  # as the backend does
            onnxruntime.preload_dlls()
        session = onnxruntime.InferenceSession(_SMALLEST_GRAPH, providers=[provider], enable_fallback=0)
        if provider in session.get_providers():
            return Finding(name, "ok", "the CUDA provider loads")
    except Exception as error:  # ONNX Runtime's exceptions have no base class of their own
        reason = str(error)
    advice = "it needs a GPU, and the CUDA and cuDNN that this version was made for, where the linker finds them"
    return Finding(name, "problem", f"has a CUDA provider that does not load: {reason}", advice)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> Iterator[Finding]:
    try:
        count = gpus.count_gpus()
        yield Finding("NVIDIA driver", "ok", f"runs CUDA up to {gpus.cuda_version()}, {count} GPU{'s' * (count != 1)}")
    except gpus.GpuError as error:
        yield _gpu_error(error)
        return
    for index in range(count):
        try:
            gpu = gpus.find_gpu(index)
        except gpus.GpuError as error:
            yield _gpu_error(error)
        else:
            parts = (
                gpu.name,
                f"compute capability {gpu.compute_capability}",
                f"{gpu.multiprocessors} multiprocessors",
                f"{gpu.memory / 2**30:.1f} GiB",
            )
            yield Finding(f"GPU {index}", "ok", ", ".join(parts))


def _gpu_error(error: gpus.GpuError) -> Finding:
    return Finding(error.part, "missing" if error.missing else "problem", error.detail, error.advice)


def _tensorrt(product: str) -> Finding:
    listed = tensorrt_api.PRODUCTS[product]
    advice = f"only `{listed.build}` and --backend {product} need it: {listed.install}"
    tensorrt = _load(listed.title, advice, *listed.modules)
    if isinstance(tensorrt, Finding):
        return tensorrt
    if not tensorrt_api.is_supported(tensorrt):
        return Finding(listed.title, "problem", f"{tensorrt.__version__} is not supported", listed.supported)
    return Finding(listed.title, "ok", tensorrt.__version__)


def _export_package(name: str) -> Finding:
    if version := _version(name):
        return Finding(name, "ok", version)
    advice = "only exporting needs it: pip install 'sam2edge[export]'"
    if name == "onnx":
        advice = "tracking does not need it; export, calibrate, build and inspect --device do: pip install onnx"
    return Finding(name, "missing", "not installed", advice)
