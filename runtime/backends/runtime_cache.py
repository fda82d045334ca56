"""Kernels that TensorRT for RTX compiled on this machine, kept beside their engine for the next process.

They are compiled when a shape is first used, which takes time. Loading a cache runs its code: like an engine it is
compared with the machine and with its hash before the library sees a byte of it. No fault of a cache stops tracking: a
warning reports it once, and the kernels are compiled again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from sam2edge.bundle.engines import CACHE_SUFFIX, Target
from sam2edge.files import replacing_file

if TYPE_CHECKING:
    import tensorrt

    from sam2edge.runtime.backends.tensorrt_api import TensorRTForRTX

_FORMAT = "sam2edge-runtime-cache"
_SETTLED = 100
"""How many frames must pass without a new shape before the kernels are written while tracking goes on."""


class RuntimeCache:
    """The cache of one engine; its CUDA context must be current in all calls."""

    def __init__(self, api: TensorRTForRTX, engine: tensorrt.ICudaEngine, file: Path, target: Target) -> None:
        """`file` is that of the engine; `target` is this machine."""
        self._api, self._file, self._target = api, file.with_suffix(CACHE_SUFFIX), target
        self._saving = threading.Lock()
        self._used: set[tuple[tuple[int, ...], ...]] = set()
        self._written: str | None = ""  # the sha256 of what the file holds; None where it cannot be written
        self._frames_left = 0
        content, reason = self._read()
        api.errors.clear()
        self.tensorrt, accepted = api.new_cache(engine, content)
        if accepted and content:
            self._written = hashlib.sha256(content).hexdigest()
        elif not accepted:
            reason = f"{api.title} refuses it: {api.explain_errors()[0]}"
        if reason:
            warnings.warn(
                f"{self._file}: {reason}; this process compiles the kernels again, so its first frames are slow, and "
                "replaces the file",
                RuntimeWarning,
                stacklevel=2,
            )

    def used(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """Announce a run with these shapes of the dynamic inputs: for new ones kernels were compiled."""
        if shapes not in self._used:
            self._used.add(shapes)
            self._frames_left = _SETTLED

    def frame(self) -> None:
        """Announce that a frame is done: some time after the last new shape the cache is written."""
        if self._frames_left == 1:
            self.save()
        elif self._frames_left:
            self._frames_left -= 1

    def save(self) -> None:
        """Write what was compiled since the cache was read or written; warn once if it cannot be written."""
        with self._saving:  # trackers in several threads may share the engine
            if self._frames_left and self._written is not None:
                self._save()
            self._frames_left = 0

    def _save(self) -> None:
        self._api.errors.clear()
        content = self._api.serialized_cache(self.tensorrt)
        if content is None:
            self._warn_unwritten(self._api.explain_errors()[0])
            return
        digest = hashlib.sha256(content).hexdigest()
        if digest == self._written:
            return
        self._written = digest
        header = {"format": _FORMAT, "target": dataclasses.asdict(self._target), "sha256": digest}
        try:
            with replacing_file(self._file) as new:
                new.write_bytes(json.dumps(header).encode() + b"\n" + content)
        except OSError as error:
            self._warn_unwritten(error.strerror or str(error))

    def _warn_unwritten(self, reason: str) -> None:
        self._written = None
        warnings.warn(
            f"{self._file}: cannot be written ({reason}); every process compiles its kernels anew, so that its first "
            "frames are slow",
            RuntimeWarning,
            stacklevel=4,
        )

    def _read(self) -> tuple[bytes, str]:
        """Return the content of the file, or why it is not used; neither if there is no file."""
        if not self._file.is_file():
            return b"", ""
        try:
            head, _, content = self._file.read_bytes().partition(b"\n")
            header = json.loads(head)
            target, digest = Target.from_json(header["target"]), str(header["sha256"])
        except (OSError, KeyError, OverflowError, TypeError, ValueError, RecursionError) as error:
            return b"", f"not a runtime cache ({error!r})"
        if reasons := target.mismatches(self._target):
            return b"", "; ".join(reasons)
        if hashlib.sha256(content).hexdigest() != digest:
            return b"", "its sha256 is not the one in its first line"
        return content, ""
