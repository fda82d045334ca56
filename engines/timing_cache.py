"""The timing cache: how long kernels took on this GPU, so that the next build need not measure them again.

There is one file for each TensorRT version, GPU and board. It is locked (fcntl) and replaced as a whole, so that it
survives concurrent builds and kills. A build starts from a copy, and at its end merges its measurements with the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from sam2edge.bundle.engines import Target
from sam2edge.errors import EngineError
from sam2edge.files import cache_directory, replacing_file


def timing_cache_path(target: Target) -> Path:
    """Return $XDG_CACHE_HOME/sam2edge/timing-VERSION-HARDWARE.cache; without that variable in ~/.cache."""
    return cache_directory() / f"timing-{target.version}-{re.sub(r'[^A-Za-z0-9]+', '-', target.hardware)}.cache"


def read(file: Path) -> bytes:
    """Return the content of the file; b"" if there is none."""
    with _locked(file):
        return file.read_bytes() if file.exists() else b""


def merge(file: Path, merged_with: Callable[[bytes], bytes]) -> None:
    """Replace the content by what `merged_with` makes of it, while the file is locked."""
    with _locked(file), replacing_file(file) as new:
        new.write_bytes(merged_with(file.read_bytes() if file.exists() else b""))


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    try:
        # on a file of its own, since the cache itself is replaced
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
