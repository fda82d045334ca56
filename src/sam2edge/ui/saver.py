"""Masks on disk: a folder for each time that saving was switched on."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

from sam2edge.closeable import Closeable
from sam2edge.runtime.media.sinks import JsonSink, MaskSink
from sam2edge.runtime.media.sinks.base import make_directory
from sam2edge.runtime.media.sources import Frame
from sam2edge.runtime.model.result import FrameResult


class Saver(Closeable):
    """Writes label images `masks/00000.png` and COCO's RLE, `masks.jsonl`, into the first free of PARENT/001, 002, …

    folder: that folder, absolute. frames: how many were written. Raises MediaError for a folder that cannot be made.
    """

    def __init__(self, parent: Path) -> None:
        self.frames = 0
        self.folder = _new_folder(parent.absolute())
        with contextlib.ExitStack() as stack:
            self._sinks = [
                stack.enter_context(MaskSink(self.folder / "masks")),
                stack.enter_context(JsonSink(self.folder / "masks.jsonl")),
            ]
            self._open = stack.pop_all()

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Write a frame under its result's frame_index. Raises MediaError, as when the disk is full."""
        for sink in self._sinks:
            sink.write(frame, result)
        self.frames += 1

    def close(self) -> None:
        """Finish the files. May be called again. Raises MediaError."""
        self._open.close()


def _new_folder(parent: Path) -> Path:
    make_directory(parent)
    folder = next(folder for number in itertools.count(1) if not (folder := parent / f"{number:03d}").exists())
    make_directory(folder)
    return folder
