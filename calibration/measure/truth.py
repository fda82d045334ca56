"""True masks of a clip: one label image a frame, whose pixels are object ids."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge.errors import InputError, MediaError
from sam2edge.runtime.media.sources.files import natural

Labels = npt.NDArray[np.integer]

VOID = 255
"""In a label image beside other ids: the pixel belongs to nobody for sure (DAVIS 2017). Counts as no object here."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3


class TrueMasks:
    """Label images of a clip, integer [H,W] each, in the order of the frames; 0 is no object.

    path: one of
        - a folder of PNGs, one a frame, in the order of the numbers in their names: grey, or with a palette, whose
          indices count (as in DAVIS);
        - the root of a data set in DAVIS' layout, if the clip is its JPEGImages/RESOLUTION/NAME: the masks are then
          Annotations/RESOLUTION/NAME;
        - an .npz with `labels`, integer [T,H,W], as samples/clip_masks.npz.
    clip: path of the clip, for DAVIS' layout.

    A folder whose only value beside 0 is 255 holds black and white masks of one object (DAVIS 2016): it gets id 1.
    Raises MediaError.
    """

    def __init__(self, path: str | os.PathLike[str], clip: str | os.PathLike[str] = "") -> None:
        self.path = Path(path)
        self._labels: Labels | None = None
        self._files: list[Path] = []
        if self.path.suffix == ".npz":
            self._labels = _read_npz(self.path)
        else:
            self._files = _find(self.path, Path(clip))
        self._white = set(np.unique(self._read(0))) - {0} == {VOID}

    def __len__(self) -> int:
        return len(self._files) if self._labels is None else len(self._labels)

    def __getitem__(self, frame: int) -> Labels:
        labels = self._read(frame)
        return np.where(labels == VOID, int(self._white), labels)

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Ids on the first frame, sorted: what DAVIS gives to a tracker and scores."""
        return tuple(int(i) for i in np.unique(self[0]) if i)

    def masks(self, frame: int, object_ids: tuple[int, ...], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Masks bool [N,H,W] of objects on a frame. Raises InputError if they are not of `size` (H,W)."""
        labels = self[frame]
        if labels.shape != size:
            height, width = labels.shape
            raise InputError(
                f"{self.path}: the true mask of frame {frame} is {width}×{height} but the frame {size[1]}×{size[0]}"
            )
        return np.stack([labels == i for i in object_ids]) if object_ids else np.zeros((0, *size), bool)

    def _read(self, frame: int) -> Labels:
        return read_labels(self._files[frame]) if self._labels is None else self._labels[frame]


def read_labels(path: Path) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Ids [H,W] from a PNG: its grey values, or the indices into its palette. Raises MediaError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        depth, kind, data = _without_palette(data)
        labels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (ValueError, IndexError, struct.error, cv2.error) as error:
        raise MediaError(f"{path}: no PNG, or a damaged one ({error})") from error
    if labels is None:
        raise MediaError(f"{path}: a damaged PNG")
    if kind not in (_GREY, _PALETTE):
        raise MediaError(f"{path}: has colours, but a label image is grey or has a palette; its values are object ids")
    if depth < 8:
        labels = labels // (255 // (2**depth - 1))  # OpenCV stretches 1, 2 and 4 bits to 8
    ids: npt.NDArray[np.uint8] | npt.NDArray[np.uint16] = labels
    return ids


def _without_palette(data: bytes) -> tuple[int, int, bytes]:
    """Bit depth, colour type, and a PNG's bytes; one with a palette becomes a grey one, whose values are the indices.

    OpenCV gives only the palette's colours. The pixels of both kinds are stored alike (PNG specification, 11.2).
    """
    if not data.startswith(_SIGNATURE):
        raise ValueError("another kind of file")
    depth, kind = data[24], data[25]
    if kind != _PALETTE:
        return depth, kind, data
    chunks, at = [_SIGNATURE], len(_SIGNATURE)
    while at < len(data):
        (length,), name = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        content = data[at + 8 : at + 8 + length]
        at += 12 + length
        if name == b"IHDR":
            content = content[:9] + bytes([_GREY]) + content[10:]
        if name in (b"IHDR", b"IDAT", b"IEND"):
            chunks.append(struct.pack(">I", length) + name + content + struct.pack(">I", zlib.crc32(name + content)))
    return depth, kind, b"".join(chunks)


def _find(path: Path, clip: Path) -> list[Path]:
    """The label images of a folder, or those of a clip in DAVIS' layout."""
    resolution, name = clip.absolute().parts[-2:] if len(clip.absolute().parts) > 2 else ("", "")
    folder = path / "Annotations" / resolution / name if (path / "Annotations").is_dir() else path
    if not folder.is_dir():
        raise MediaError(f"{folder}: no such folder of true masks")
    files = sorted(folder.glob("*.png"), key=natural)
    if not files:
        raise MediaError(f"{folder}: no PNG files; give the folder with a label image for each frame")
    return files


def _read_npz(path: Path) -> Labels:
    try:
        with path.open("rb") as stream, np.load(stream) as arrays:
            labels: Labels = arrays["labels"]
    except Exception as error:  # numpy's, zipfile's and zlib's own, whichever meets the damage
        raise MediaError(f"{path}: no .npz with an array `labels` ({error})") from error
    if labels.ndim != 3 or not np.issubdtype(labels.dtype, np.integer) or not len(labels):
        raise MediaError(f"{path}: labels must be integer [T,H,W] but are {labels.dtype} {list(labels.shape)}")
    return labels
