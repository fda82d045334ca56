"""The timing cache: how long kernels took on this GPU, shared by all builds so that the next one need not measure.

One file for each TensorRT version and GPU, under a lock (fcntl), replaced whole, so that builds in other processes
and a kill at any time leave it readable. A build takes a copy, and merges its own measurements with what the file
holds by then.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from sam2edge.errors import EngineError
from sam2edge.files import cache_directory, replacing_file


def timing_cache_path(tensorrt: str, gpu: str) -> Path:
    """$XDG_CACHE_HOME/sam2edge/timing-VERSION-GPU.cache; ~/.cache without that variable."""
    return cache_directory() / f"timing-{tensorrt}-{re.sub(r'[^A-Za-z0-9]+', '-', gpu)}.cache"


def read(file: Path) -> bytes:
    """What the file holds; b"" where there is none."""
    with _locked(file):
        return file.read_bytes() if file.exists() else b""


def merge(file: Path, merged_with: Callable[[bytes], bytes]) -> None:
    """Replace the content by what `merged_with` makes of it, with nobody else between."""
    with _locked(file), replacing_file(file) as new:
        new.write_bytes(merged_with(file.read_bytes() if file.exists() else b""))


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    try:
        # a file of its own: the cache itself is replaced, and a lock on the old one would hold nobody
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.with_name(f"{file.name}.lock").open("w")
    except OSError as error:
        raise EngineError(
            f"{file}: the timing cache cannot be used ({error.strerror}); set XDG_CACHE_HOME to a directory that can "
            "be written"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
