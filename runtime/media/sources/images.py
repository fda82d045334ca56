"""A folder of images as a video."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sam2edge.errors import MediaError
from sam2edge.files import user_path
from sam2edge.runtime.media.image_files import find_images, read_image
from sam2edge.runtime.media.sources.base import Frame, Source


class ImageFolderSource(Source):
    """The images of a folder, or those that match a pattern, in the order of the numbers in their names.

    path: the folder, or a pattern such as "run/*.png" (quoted, if in a shell). fps: frames a second, if known. An
    image that cannot be read is a broken frame, not the end; width and height are those of the first that can.

    Raises MediaError if there are no images, or none that can be read.
    """

    def __init__(self, path: str | os.PathLike[str], *, fps: float | None = None) -> None:
        self.name, self.fps = str(user_path(path)), fps
        files, wrong = find_images([path])
        if wrong:
            raise MediaError(wrong[0])
        self.frame_count = len(files)
        rest = _read(sorted(files, key=natural))
        start: list[Frame | MediaError] = []
        for image in rest:
            start.append(image)
            if not isinstance(image, MediaError):
                self.height, self.width = image.shape[:2]
                break
        else:
            raise MediaError(f"{self.name}: none of its {len(files)} images can be read; the first: {start[0]}")
        self._frames: Iterator[Frame | MediaError] = itertools.chain(start, rest)

    def __iter__(self) -> Iterator[Frame | MediaError]:
        """Yield the images that were not read yet."""
        return self._frames

    def close(self) -> None:
        """Let go of the frames; iterating again gives none."""
        self._frames = iter(())


def _read(files: Sequence[Path]) -> Iterator[Frame | MediaError]:
    for file in files:
        try:
            yield read_image(file)
        except MediaError as error:
            yield error


def natural(path: Path) -> list[str | int]:
    """Sort frame2 before frame10: the parts of odd index are numbers."""
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]
