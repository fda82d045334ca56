"""A clip that is read once for each set of graphs and again for the report's pictures, and its true masks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

import numpy as np

from sam2edge.checks import integer
from sam2edge.errors import InputError, MediaError
from sam2edge.files import user_path
from sam2edge.runtime.media.image_files import ValueRange, check_range, find_images
from sam2edge.runtime.media.mask_files import VOID, Labels, read_labels
from sam2edge.runtime.media.sources import open_source
from sam2edge.runtime.model.resize import fit
from sam2edge.types import Bools, Frame


class Clip:
    """The frames of a video file, or of a folder or pattern of images, the same on every pass.

    Args:
        path: as for `open_source`.
        limit: the number of frames to read at most, 1 or more; None for all.
        value_range: the two values of images that become black and white, as for `read_image`.
    """

    def __init__(
        self, path: str | os.PathLike[str], limit: int | None = None, value_range: ValueRange | None = None
    ) -> None:
        self.name, self._limit = os.fspath(path), None if limit is None else integer("the number of frames", limit, 1)
        self.value_range = None if value_range is None else check_range(value_range)
        self.length: int | None = None  # known once the clip was read to its end

    def __iter__(self) -> Generator[Frame, None, None]:
        """Open the clip and yield its frames, RGB uint8 [H,W,3]; InputError for a camera or a stream.

        Frames of another size than the first are resized, as by a Grabber. Even a single broken frame raises
        MediaError: without it, those after it would be compared with the wrong masks.
        """
        number = 0
        with open_source(self.name, value_range=self.value_range) as source:
            if source.live:
                raise InputError(f"{self.name}: cannot be read twice; record it and give the file")
            for frame in source:
                if number == self._limit:
                    break
                if isinstance(frame, MediaError):
                    raise frame
                yield fit(frame, (source.height, source.width))
                number += 1
        self.length = number

    def fraction(self, frames: int) -> float:
        """Return which part of the clip this number of frames is; 0 as long as its length is not known."""
        return frames / self.length if self.length else 0.0

    def first(self) -> Frame:
        """Return the first frame; raises what iterating does."""
        with contextlib.closing(iter(self)) as frames:
            return next(frames)


class TrueMasks:
    """Label images of a clip, integer [H,W] each, in the order of the frames; 0 is the background.

    A folder whose only value besides 0 is 255 holds black and white masks of one object (DAVIS 2016), which gets id 1.

    Args:
        path: a folder of PNGs in the order of the numbers in their names, grey or with a palette, whose indices count
            (as in DAVIS); or the root of a data set in DAVIS' layout, where the masks of the clip
            JPEGImages/RESOLUTION/NAME are in Annotations/RESOLUTION/NAME; or an .npz with `labels`, integer [T,H,W].
        clip: path of the clip, for DAVIS' layout.
    """

    def __init__(self, path: str | os.PathLike[str], clip: str | os.PathLike[str] | None = None) -> None:
        self.path = user_path(path)
        self._images: Labels | list[Path]
        if self.path.suffix == ".npz":
            self._images = _read_npz(self.path)
        else:
            self._images = _label_files(self.path, None if clip is None else user_path(clip).absolute())
        self._white = set(np.unique(self._read(0))) - {0} == {VOID}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, frame: int) -> Labels:
        labels = self._read(frame)  # void counts as background here
        return np.where(labels == VOID, int(self._white), labels)

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Ids on the first frame, sorted: the objects that DAVIS prompts and scores."""
        return tuple(int(i) for i in np.unique(self[0]) if i)

    def masks(self, frame: int, object_ids: tuple[int, ...], size: tuple[int, int]) -> Bools:
        """Return the masks bool [N,H,W] of objects on a frame; InputError if they are not of `size` (H,W)."""
        labels = self[frame]
        if labels.shape != size:
            height, width = labels.shape
            raise InputError(
                f"{self._name(frame)}: the true mask of frame {frame} is {width}×{height} but the frame "
                f"{size[1]}×{size[0]}"
            )
        return np.stack([labels == i for i in object_ids]) if object_ids else np.zeros((0, *size), bool)

    def _name(self, frame: int) -> Path:
        image = self._images[frame]
        return image if isinstance(image, Path) else self.path

    def _read(self, frame: int) -> Labels:
        image = self._images[frame]
        return read_labels(image) if isinstance(image, Path) else image


def _label_files(path: Path, clip: Path | None) -> list[Path]:
    """Return the label images of a folder, or of a clip in DAVIS' layout."""
    folder = path
    if clip is not None and (path / "Annotations").is_dir():
        folder = path / "Annotations" / clip.parent.name / clip.name
    if not folder.is_dir():
        raise MediaError(f"{folder}: no such folder; give the one of this clip's true masks")
    files = [file for file in find_images([folder])[0] if file.suffix.lower() == ".png"]
    if not files:
        raise MediaError(f"{folder}: no PNG files; give the folder with a label image for each frame")
    return files


def _read_npz(path: Path) -> Labels:
    try:
        with path.open("rb") as stream, np.load(stream) as arrays:
            labels: Labels = arrays["labels"]
    except Exception as error:  # damage surfaces as an exception of numpy, zipfile or zlib
        raise MediaError(f"{path}: not an .npz with an array `labels` ({error})") from error
    if labels.ndim != 3 or not np.issubdtype(labels.dtype, np.integer) or not len(labels):
        raise MediaError(f"{path}: labels must be integer [T,H,W] but are {labels.dtype} {list(labels.shape)}")
    return labels
