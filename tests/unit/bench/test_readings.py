"""Memory and power, from files and programs that stand in for a Jetson's and a GPU's."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

import pytest

from sam2edge.bench import readings


def rail(folder: Path, channel: int, label: str, millivolts: int, milliamperes: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"in{channel}_label").write_text(f"{label}\n")
    (folder / f"in{channel}_input").write_text(f"{millivolts}\n")
    (folder / f"curr{channel}_input").write_text(f"{milliamperes}\n")


def test_power_of_an_orin_nx(tmp_path: Path) -> None:
    """The board's input, not the sum with the rails behind it; the channel of shunt voltages has no current."""
    folder = tmp_path / "1-0040" / "hwmon" / "hwmon1"
    rail(folder, 1, "VDD_IN", 5000, 2400)
    rail(folder, 2, "VDD_CPU_GPU_CV", 5000, 1000)
    (folder / "in7_label").write_text("sum of shunt voltages\n")
    assert readings.power(ina3221=tmp_path) == pytest.approx(12)


def test_power_of_an_agx_orin(tmp_path: Path) -> None:
    """It has no such input: all rails of both monitors."""
    rail(tmp_path / "1-0040" / "hwmon" / "hwmon3", 1, "VDD_GPU_SOC", 20_000, 500)
    rail(tmp_path / "1-0041" / "hwmon" / "hwmon4", 2, "VIN_SYS_5V0", 5000, 1200)
    assert readings.power(ina3221=tmp_path) == pytest.approx(16)


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    body = 'case "$*" in *power.draw*--id=1) echo 71.25;; *memory.used*--id=1) echo 512;; *used*2) echo 7;; esac'
    nvidia_smi(tmp_path, monkeypatch, body)
    assert readings.power(ina3221=tmp_path) == 71.25
    assert (readings.gpu_memory(), readings.gpu_memory(1)) == (512, 7)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert (readings.gpu_memory(1), readings.gpu_memory(2)) == (512, 7)


@pytest.mark.parametrize("body", ["echo '[N/A]'", "echo 12; exit 9"])
def test_gpu_that_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    nvidia_smi(tmp_path, monkeypatch, body)
    assert readings.gpu_memory() is None


def test_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (readings.gpu_memory(), readings.power(ina3221=tmp_path)) == (None, None)


def test_host_memory() -> None:
    before = readings.host_memory()
    with mmap.mmap(-1, 64 * 2**20) as held:  # the allocator may have as much left over from another test
        held[:] = bytes(len(held))
        after = readings.host_memory()
    assert after - before >= 60


@pytest.mark.parametrize("watts", [[10.0, 20.0, 30.0, 40.0], []])
def test_power_is_read_until_there_is_none(monkeypatch: pytest.MonkeyPatch, watts: list[float]) -> None:
    values = iter(watts)
    monkeypatch.setattr(readings, "power", lambda gpu: next(values, None))
    monkeypatch.setattr(readings, "_PAUSE", 0.001)
    with readings.power_readings() as read:
        time.sleep(0.2)
    assert read == watts
