"""The file of the timing cache: concurrent builds lose none of each other's timings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sam2edge.bundle.engines import Target
from sam2edge.engines import timing_cache
from sam2edge.errors import EngineError

ADD_ONE = """
import sys, time
from pathlib import Path
from sam2edge.engines import timing_cache

def add(content):
    time.sleep(0.02)  # without a lock another process would read the same content now
    return content + b"x"

for _ in range(10):
    timing_cache.merge(Path(sys.argv[1]), add)
"""


def test_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    target = Target("tensorrt", "10.3.0", "NVIDIA RTX 4090/x", 128, "", ("8.9",))
    file = Path("/c/sam2edge/timing-10.3.0-NVIDIA-RTX-4090-x-with-128-multiprocessors.cache")
    assert timing_cache.timing_cache_path(target) == file
    monkeypatch.delenv("XDG_CACHE_HOME")
    orin = Target("tensorrt", "8.6.0", "Orin", 8, "NVIDIA Jetson Orin Nano", ("8.7",))
    file = Path.home() / ".cache/sam2edge/timing-8.6.0-Orin-with-8-multiprocessors-on-NVIDIA-Jetson-Orin-Nano.cache"
    assert timing_cache.timing_cache_path(orin) == file


def test_merges_of_several_processes(tmp_path: Path) -> None:
    file = tmp_path / "t.cache"
    running = [subprocess.Popen([sys.executable, "-c", ADD_ONE, str(file)]) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert timing_cache.read(file) == b"x" * 30


def test_a_merge_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "t.cache"
    timing_cache.merge(file, lambda others: b"good")
    with pytest.raises(ZeroDivisionError):
        timing_cache.merge(file, lambda others: bytes(1 // 0))
    write = Path.write_bytes

    def write_half(self: Path, content: bytes) -> int:
        write(self, content[: len(content) // 2])
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(OSError, match="no space left"):
        timing_cache.merge(file, lambda others: others + b" and better")
    monkeypatch.undo()
    assert timing_cache.read(file) == b"good"
    timing_cache.merge(file, lambda others: others + b"!")
    assert timing_cache.read(file) == b"good!"


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match=r"t\.cache: the timing cache cannot be used \(.*\); set XDG_CACHE_HOME"):
        timing_cache.read(tmp_path / "file" / "t.cache")
