"""What boards and cards can do at most, for those who choose one before they own it (`sam2edge inspect --device`).

Peaks are dense and of the GPU alone (no sparsity, no DLA). Where a data sheet gives only the sparse figure, it is
halved here; `note` says so, and what else was derived. FP16 is with FP16 accumulation where that is faster (GeForce).
"""

from __future__ import annotations

from dataclasses import dataclass

from sam2edge.errors import InputError

_JETSON = "https://developer.nvidia.com/embedded/jetson-modules"
_ORIN = (
    "https://www.nvidia.com/content/dam/en-zz/Solutions/gtcf21/jetson-orin/nvidia-jetson-agx-orin-technical-brief.pdf"
)
_SUPER = "https://developer.nvidia.com/blog/nvidia-jetson-orin-nano-developer-kit-gets-a-super-boost/"
_THOR = "https://www.nvidia.com/en-us/autonomous-machines/embedded-systems/jetson-thor/"
_AMPERE = "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.1.pdf"
_ADA = "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
_DATA_CENTER = "https://www.nvidia.com/en-us/data-center"
_CORES = "tensor cores × clock × 512 FP16 or 1024 INT8 operations"


@dataclass(frozen=True)
class Device:
    """A board or card. fp16, int8: peaks in 10¹² operations a second. bandwidth: GB/s. memory: GB.

    source: where the figures are from. note: what of them was derived, and how; empty if nothing.
    """

    title: str
    fp16: float
    int8: float
    bandwidth: float
    memory: int
    source: str
    note: str = ""


DEVICES = {
    "orin-nano": Device("Jetson Orin Nano 8 GB", 10, 20, 68, 8, _JETSON, f"peaks: {_CORES}, 32 at 625 MHz"),
    "orin-nano-super": Device("Jetson Orin Nano 8 GB, Super", 17, 33, 102, 8, _SUPER),
    "orin-nx-8": Device("Jetson Orin NX 8 GB", 12.5, 25, 102, 8, _JETSON, f"peaks: {_CORES}, 32 at 765 MHz"),
    "orin-nx": Device("Jetson Orin NX 16 GB", 15, 30, 102, 16, _JETSON, f"peaks: {_CORES}, 32 at 918 MHz"),
    "agx-orin-32": Device("Jetson AGX Orin 32 GB", 26.7, 53, 204.8, 32, _ORIN, "peaks: half of the sparse ones"),
    "agx-orin": Device("Jetson AGX Orin 64 GB", 42.5, 85, 204.8, 64, _ORIN, "peaks: half of the sparse ones"),
    "xavier-nx": Device(
        "Jetson Xavier NX", 6.8, 13.5, 59.7, 8, _JETSON, "peaks: 48 tensor cores × 1100 MHz × 128 or 256 operations"
    ),
    "thor": Device(
        "Jetson AGX Thor (T5000)", 258, 517, 273, 128, _THOR, "peaks: 1/8 and 1/4 of sparse FP4, INT8 taken as FP8"
    ),
    "rtx-3060": Device("GeForce RTX 3060 12 GB", 51, 102, 360, 12, _AMPERE, "peaks: RTX 3070's × cores × clock"),
    "rtx-4060": Device("GeForce RTX 4060", 60.5, 121, 272, 8, _ADA, "peaks: 1/4 and 1/2 of 242 sparse INT8"),
    "rtx-4090": Device("GeForce RTX 4090", 330, 661, 1008, 24, _ADA),
    "a10": Device("A10", 125, 250, 600, 24, f"{_DATA_CENTER}/products/a10-gpu/"),
    "l4": Device("L4", 121, 242, 300, 24, f"{_DATA_CENTER}/l4/", "peaks: half of the sparse ones"),
    "t4": Device("T4", 65, 130, 320, 16, f"{_DATA_CENTER}/tesla-t4/"),
    "a100": Device("A100 80 GB SXM", 312, 624, 2039, 80, f"{_DATA_CENTER}/a100/"),
    "h100": Device("H100 SXM", 989, 1979, 3350, 80, f"{_DATA_CENTER}/h100/", "peaks: half of the sparse ones"),
    "h200": Device("H200 SXM", 989, 1979, 4800, 141, f"{_DATA_CENTER}/h200/", "peaks: half of the sparse ones"),
}
"""By the name that the command takes."""


def find_device(name: str) -> Device:
    """A device by its name in DEVICES. Raises InputError."""
    if name not in DEVICES:
        raise InputError(f"unknown device {name!r}; choose from {', '.join(DEVICES)}")
    return DEVICES[name]
