"""The GPUs of this machine, as the CUDA driver describes them: no CUDA package has to be installed."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2edge.errors import BackendError
from sam2edge.runtime.backends.cuda import driver

BOARD_MODEL = Path("/proc/device-tree/model")


@dataclass(frozen=True)
class Gpu:
    """A GPU: its memory in bytes, and the number of its multiprocessors, by which GPUs of one name may differ."""

    name: str
    compute_capability: str
    memory: int
    multiprocessors: int


class GpuError(BackendError):
    """The NVIDIA driver or a GPU (`part`) cannot be used, or is not even there (`missing`)."""

    def __init__(self, part: str, detail: str, advice: str, *, missing: bool = False) -> None:
        super().__init__(f"{part}: {detail} ({advice})")
        self.part, self.detail, self.advice, self.missing = part, detail, advice, missing


def no_such_gpu(index: int, count: int) -> GpuError:
    """Make the error for a GPU beyond those that the driver has."""
    advice = "they are numbered from 0, after CUDA_VISIBLE_DEVICES; run nvidia-smi"
    return GpuError(f"GPU {index}", f"the driver has {count or 'no GPU'}", advice, missing=True)


def count_gpus() -> int:
    """Start the driver and count its GPUs, or raise GpuError."""
    part = "NVIDIA driver"
    try:
        driver.library()
    except BackendError as error:
        advice = "only the GPU backends need it; install the driver, or start the container with --gpus all"
        raise GpuError(part, f"{driver.LIBCUDA} is not there", advice, missing=True) from error
    advice = "run nvidia-smi; reboot after a driver update, and start a container with --gpus all"
    if board():
        advice = "on a Jetson be in the groups video and render, and start a container with --runtime nvidia"
    count = ctypes.c_int()
    _call(part, advice, "cuInit", 0)
    _call(part, advice, "cuDeviceGetCount", ctypes.byref(count))
    return count.value


def cuda_version() -> str:
    """Return the newest version of CUDA that the driver runs, such as "12.8"."""
    version = ctypes.c_int()
    _call("NVIDIA driver", "run nvidia-smi", "cuDriverGetVersion", ctypes.byref(version))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def find_gpu(index: int = 0) -> Gpu:
    """Describe the GPU of a number, by default the one that CUDA programs use; raise GpuError if there is none."""
    if index >= (count := count_gpus()):
        raise no_such_gpu(index, count)
    device, memory, title = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
    major, minor, multiprocessors = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    ask = functools.partial(_call, f"GPU {index}", "run nvidia-smi")
    ask("cuDeviceGet", ctypes.byref(device), index)
    ask("cuDeviceGetName", title, len(title), device)
    ask("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    ask("cuDeviceGetAttribute", ctypes.byref(major), 75, device)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    ask("cuDeviceGetAttribute", ctypes.byref(minor), 76, device)  # …_MINOR
    ask("cuDeviceGetAttribute", ctypes.byref(multiprocessors), 16, device)  # …_MULTIPROCESSOR_COUNT
    return Gpu(title.value.decode(), f"{major.value}.{minor.value}", memory.value, multiprocessors.value)


def board() -> str:
    """Return the model of a board that has a device tree, such as a Jetson; "" elsewhere."""
    try:
        return BOARD_MODEL.read_text(encoding="utf-8", errors="replace").rstrip("\0\n")  # strings there end with a zero
    except OSError:
        return ""


def _call(part: str, advice: str, name: str, *arguments: Any) -> None:
    if code := getattr(driver.library(), name)(*arguments):
        raise GpuError(part, driver.failure(name, code), advice)
