"""Memory and power of this machine; None where they cannot be read."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

_STATUS = Path("/proc/self/status")
_INA3221 = Path("/sys/bus/i2c/drivers/ina3221")
_PAUSE = 0.1


def host_memory() -> float | None:
    """Return this process's memory in RAM, MiB; Linux only."""
    if not _STATUS.exists():
        return None
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def gpu_memory(gpu: int = 0) -> float | None:
    """Return the memory of all processes on a GPU, MiB."""
    return _nvidia_smi("memory.used", gpu)


def power(gpu: int = 0, ina3221: Path = _INA3221) -> float | None:
    """Return the watts of a Jetson's board (VDD_IN of its INA3221s, or else all rails), or of a GPU."""
    rails = {}
    for label in sorted(ina3221.glob("*/hwmon/hwmon*/in*_label")):
        channel = label.name.removeprefix("in").removesuffix("_label")
        volts, amperes = label.with_name(f"in{channel}_input"), label.with_name(f"curr{channel}_input")
        if volts.exists() and amperes.exists():  # both are in thousandths
            rails[label.read_text().strip()] = int(volts.read_text()) * int(amperes.read_text()) / 1e6
    if rails:
        return rails.get("VDD_IN", sum(rails.values()))
    return _nvidia_smi("power.draw", gpu)


def _nvidia_smi(what: str, gpu: int) -> float | None:
    """Return a number of a GPU by nvidia-smi, which answers [N/A] on Jetsons, and does not know CUDA's numbers."""
    if shutil.which("nvidia-smi") is None:
        return None
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    name = visible[gpu] if gpu < len(visible) else gpu
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits", f"--id={name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    text = done.stdout.strip()
    return float(text) if done.returncode == 0 and text.replace(".", "", 1).isdigit() else None


@contextlib.contextmanager
def power_readings(gpu: int = 0) -> Iterator[list[float]]:
    """Yield a list to which a thread adds watts as long as the context lasts; not for use while frames are timed."""
    readings: list[float] = []
    stop = threading.Event()

    def watch() -> None:
        while (watts := power(gpu)) is not None and not stop.wait(_PAUSE):
            readings.append(watts)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield readings
    finally:
        stop.set()
        thread.join()
