"""Peak performance of boards and cards, to choose one before buying it (`sam2edge inspect --device`).

Peaks are dense and of the GPU alone (no sparsity, no DLA). Where a source has only the sparse figure, it is halved;
`note` says so, and what else was derived. FP16 is with FP16 accumulation where that is faster (GeForce).
"""

from __future__ import annotations

from dataclasses import dataclass

from sam2edge.errors import InputError

_ORIN_NANO = "https://www.scribd.com/document/673174036/Orin-nano-datasheet"
_ORIN_SUPER = "https://github.com/golemfactory/yagna/issues/3405"
_ORIN_NX = "https://developer.nvidia.com/downloads/jetson-orin-nx-module-series-data-sheet"
_AGX_ORIN_32 = "https://static.generation-robots.com/media/Jetson-AGX-Orin-Data-Sheet.pdf"
_AGX_ORIN = "https://github.com/NVIDIA/Deep-Learning-Accelerator-SW"
_XAVIER_NX = (
    "https://documents.pub/document/data-sheet-preliminary-nvidia-jetson-xavier-nx-jetson-xavier-nx-integrates.html"
)
_AGX_XAVIER = "https://gist.github.com/discort/2213fcd6a2d408e930d3b53334332f9d"
_THOR = "https://developer.nvidia.com/blog/introducing-nvidia-jetson-thor-the-ultimate-platform-for-physical-ai/"
_RTX_3060 = "https://sysrqmts.com/en/gpus/compare/nvidia-geforce-rtx-3060-vs-nvidia-rtx-a6000"
_RTX_3090 = "https://holynerdvana.blogspot.com/2022/10/nvidia-geforce-rtx-3090-specifications.html"
_RTX_4060 = "https://fpsbench.com/compare/gpu/nvidia-geforce-rtx-4060-vs-nvidia-t600"
_RTX_4090 = "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
_RTX_5090 = "https://pocketmags.com/linux-format-magazine/may-2025/articles/nvidia-geforce-rtx-5090"
_RTX_A2000 = "https://sysrqmts.com/en/gpus/compare/nvidia-geforce-rtx-2060-tu104-vs-nvidia-rtx-a2000-12-gb"
_A10 = "https://sysrqmts.com/en/gpus/compare/nvidia-a10-pcie-vs-nvidia-quadro-rtx-4000"
_L4 = "https://store.sourcecode.com/en-us/bg-bucket-compare/125/9820"
_T4 = "https://sysrqmts.com/en/gpus/nvidia/tesla/t4"
_A100 = "https://gist.github.com/gengwg/3520df2ebf8872e5ee4818367e3a4122"
_H100 = "https://glennklockwood.com/garden/processors/h100"
_H200 = "https://www.nvidia.com/en-us/data-center/h200/"

# operations per clock of one tensor core: Xavier and Turing; GeForce and workstation cards; Orin and A100
_QUARTER = "peaks: tensor cores × clock × 128 FP16 or 256 INT8 operations"
_HALF = "peaks: tensor cores × clock × 256 FP16 or 512 INT8 operations"
_FULL = "peaks: tensor cores × clock × 512 FP16 or 1024 INT8 operations"
_FROM_SPARSE = "peaks: a quarter and half of sparse INT8"
_SPARSE = "peaks: half of the sparse ones"
_QUOTED = "bandwidth not checked: others quote it"
_UNREAD = "not checked: this page could not be opened, others quote it so"


@dataclass(frozen=True)
class Device:
    """A board or card: peaks in 10¹² operations per second, bandwidth in GB/s, memory in GB.

    Attributes:
        source: A page with these figures or those they are derived from; it was read unless `note` says otherwise.
        note: Which figures were derived or not checked, and how.
    """

    title: str
    fp16: float
    int8: float
    bandwidth: float
    memory: int
    source: str
    note: str = ""


DEVICES = {
    "orin-nano": Device("Jetson Orin Nano 8 GB", 10.2, 20.5, 68, 8, _ORIN_NANO, f"{_FULL}, 32 at 625 MHz; {_QUOTED}"),
    "orin-nano-super": Device("Jetson Orin Nano 8 GB, Super", 16.7, 33.5, 102, 8, _ORIN_SUPER, f"{_FROM_SPARSE}, 67"),
    "orin-nx-8": Device("Jetson Orin NX 8 GB", 12.5, 25, 102, 8, _ORIN_NX, f"{_FULL}, 32 at 765 MHz; {_UNREAD}"),
    "orin-nx-8-super": Device(
        "Jetson Orin NX 8 GB, Super", 19.2, 38.4, 102, 8, _ORIN_NX, f"{_FULL}, 32 at 1173 MHz; {_UNREAD}"
    ),
    "orin-nx": Device("Jetson Orin NX 16 GB", 15, 30, 102, 16, _ORIN_NX, f"{_FULL}, 32 at 918 MHz; {_UNREAD}"),
    "orin-nx-super": Device(
        "Jetson Orin NX 16 GB, Super", 19.2, 38.4, 102, 16, _ORIN_NX, f"{_FULL}, 32 at 1173 MHz; {_UNREAD}"
    ),
    "agx-orin-32": Device("Jetson AGX Orin 32 GB", 27, 54, 204.8, 32, _AGX_ORIN_32, f"{_FROM_SPARSE}, 108; {_UNREAD}"),
    "agx-orin": Device("Jetson AGX Orin 64 GB", 42.7, 85.5, 204.8, 64, _AGX_ORIN, f"{_FROM_SPARSE}, 171; {_QUOTED}"),
    "xavier-nx": Device(
        "Jetson Xavier NX", 6.8, 13.5, 59.7, 8, _XAVIER_NX, f"{_QUARTER}, 48 at 1100 MHz; {_QUOTED} (51.2 here)"
    ),
    "agx-xavier": Device(
        "Jetson AGX Xavier 32 GB", 11, 22, 137, 32, _AGX_XAVIER, "peaks not checked: others quote them from NVIDIA"
    ),
    "thor": Device("Jetson AGX Thor (T5000)", 258.5, 517, 273, 128, _THOR, f"{_SPARSE}; {_UNREAD}"),
    "thor-t4000": Device("Jetson Thor T4000", 150, 300, 273, 64, _THOR, f"{_SPARSE}; {_UNREAD}"),
    "rtx-3060": Device("GeForce RTX 3060 12 GB", 51, 102, 360, 12, _RTX_3060, f"{_HALF}, 112 at 1777 MHz"),
    "rtx-3090": Device("GeForce RTX 3090", 142, 284, 936, 24, _RTX_3090, f"{_HALF}, 328 at 1695 MHz"),
    "rtx-4060": Device("GeForce RTX 4060", 60.5, 121, 272, 8, _RTX_4060, f"{_HALF}, 96 at 2460 MHz"),
    "rtx-4090": Device("GeForce RTX 4090", 330, 661, 1008, 24, _RTX_4090, _UNREAD),
    "rtx-5090": Device("GeForce RTX 5090", 419, 838, 1792, 32, _RTX_5090, f"{_HALF}, 680 at 2407 MHz"),
    "rtx-a2000": Device("RTX A2000 12 GB", 31.9, 63.9, 288, 12, _RTX_A2000, f"{_HALF}, 104 at 1200 MHz"),
    "a10": Device("A10", 125, 250, 600, 24, _A10, f"{_HALF}, 288 at 1695 MHz"),
    "l4": Device("L4", 121, 242, 300, 24, _L4, f"{_FROM_SPARSE}, 485"),
    "t4": Device("T4", 65, 130, 320, 16, _T4, f"{_QUARTER}, 320 at 1590 MHz"),
    "a100": Device(
        "A100 80 GB SXM", 312, 624, 2039, 80, _A100, f"{_FULL}, 432 at 1410 MHz; bandwidth: 2 × 1593 MHz × 5120 bit"
    ),
    "h100": Device("H100 SXM", 989, 1979, 3350, 80, _H100),
    "h200": Device("H200 SXM", 989, 1979, 4800, 141, _H200, f"{_SPARSE}; {_UNREAD}"),
}
"""Devices by their names on the command line."""


def find_device(name: str) -> Device:
    """Return a device by its name in DEVICES, or raise InputError."""
    if name not in DEVICES:
        raise InputError(f"unknown device {name!r}; choose from {', '.join(DEVICES)}")
    return DEVICES[name]
