"""The two frames on which an export is compared with PyTorch."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge.errors import MediaError
from sam2edge.files import IMAGE_SUFFIXES
from sam2edge.runtime.media.image_files import read_image
from sam2edge.runtime.media.sources import open_source
from sam2edge.runtime.model.resize import resize


def parity_frames(path: str | os.PathLike[str] | None, size: int) -> tuple[npt.NDArray[np.uint8], str]:
    """Two frames uint8 [2,size,size,3] and what to call them: an image and its mirror image, the first of what
    open_source opens, or drawn. Raises InputError and MediaError.
    """
    if path is None:
        return np.stack(drawn(size)), "drawn"
    file = Path(path)
    if file.suffix.lower() in IMAGE_SUFFIXES:
        image = read_image(file)
        frames = [image, np.ascontiguousarray(image[:, ::-1])]
    else:
        with open_source(os.fspath(path)) as source:
            frames = []
            for frame in islice(source, 2):
                if isinstance(frame, MediaError):
                    raise frame
                frames.append(frame)
    if len(frames) < 2:
        raise MediaError(f"{path}: has {len(frames)} frame, but two are compared; give a longer video or a photograph")
    return np.stack([resize(frame, size) for frame in frames]), file.name


def drawn(size: int) -> list[npt.NDArray[np.uint8]]:
    """Two frames of a textured scene in which a disc and a box move; always the same for one size."""
    random = np.random.default_rng(0)
    scene = np.full((size, size, 3), 128.0)
    for cells in (4, 16, 64):  # noise of several scales has edges and smooth parts like a photograph
        noise = random.normal(0, 30, (cells, cells, 3))
        scene += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    frames = []
    for shift in (0, size // 40):
        frame = np.clip(scene, 0, 255).astype(np.uint8)
        cv2.circle(frame, (size // 2 + shift, size // 2), size // 6, (200, 60, 40), -1, cv2.LINE_AA)
        corner = (size // 5, size // 4 + shift)
        cv2.rectangle(frame, corner, (corner[0] + size // 5, corner[1] + size // 3), (30, 80, 190), -1)
        frames.append(frame)
    return frames
