"""Masks in little memory, one of which covers a small part of a large image."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge.runtime.model.result import FrameResult
from sam2edge.types import Bools

Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class PackedMask:
    """The mask of an object in an image, as the runs of its pixels.

    Attributes:
        size: (H,W) of the image.
        box: x0, y0, x1, y1, of which the last two are, as upstream's, the mask's last column and row, inclusive.
        changes: Where runs of the mask begin and end in turn, uint32, counted column by column through the box and
            through one pixel below each of its columns, which is never part of the mask.
    """

    size: tuple[int, int]
    box: Box
    changes: npt.NDArray[np.uint32]

    @staticmethod
    def pack(mask: Bools, offset: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None) -> PackedMask:
        """Pack `mask` (bool [h,w]), whose first pixel lies at `offset` (x, y) of an image of `size` (default: its own).

        The box of a mask without pixels is the pixel at `offset`.
        """
        left, top = offset
        bits = mask.view(np.uint8)
        x, y, width, height = cv2.boundingRect(bits) if mask.size else (0, 0, 0, 0)
        size = mask.shape[:2] if size is None else size
        if not width:
            return PackedMask(size, (left, top, left, top), np.empty(0, np.uint32))
        inside = cv2.copyMakeBorder(bits[y : y + height, x : x + width], 0, 1, 0, 0, cv2.BORDER_CONSTANT, value=0)
        pixels = cv2.transpose(inside).ravel()
        changes = np.flatnonzero(pixels[1:] != pixels[:-1]).astype(np.uint32) + np.uint32(1)
        if pixels[0]:
            changes = np.concatenate((np.zeros(1, np.uint32), changes))
        return PackedMask(size, (left + x, top + y, left + x + width - 1, top + y + height - 1), changes)

    @property
    def area(self) -> int:
        """The number of pixels."""
        return int(self.changes[1::2].sum(dtype=np.int64) - self.changes[::2].sum(dtype=np.int64))

    @property
    def bounds(self) -> Box:
        """COCO's box: x, y, width, height; zeros for a mask without pixels."""
        x0, y0, x1, y1 = self.box
        return (x0, y0, x1 - x0 + 1, y1 - y0 + 1) if len(self.changes) else (0, 0, 0, 0)

    @property
    def place(self) -> tuple[slice, slice]:
        """Where the box lies in an image: rows, columns."""
        x, y, width, height = self.bounds
        return slice(y, y + height), slice(x, x + width)

    def inside(self) -> Bools:
        """Return the mask within its box: bool [h,w]."""
        _, _, width, height = self.bounds
        if not width:
            return np.zeros((0, 0), bool)
        ends = np.concatenate((self.changes, [width * (height + 1)])).astype(np.int64)
        lengths = ends - np.concatenate(([0], ends[:-1]))
        pixels = np.repeat(np.arange(len(lengths), dtype=np.uint8) & 1, lengths).reshape(width, height + 1)
        inside: Bools = cv2.transpose(pixels)[:-1].view(bool)
        return inside

    def unpack(self) -> Bools:
        """Return the mask as bool [H,W]."""
        mask = np.zeros(self.size, bool)
        mask[self.place] = self.inside()
        return mask

    def shared(self, other: PackedMask) -> int:
        """Return how many pixels this mask has in common with another one of the same image."""
        boxes = np.array([self.box, other.box])
        (x0, y0), (x1, y1) = boxes[:, :2].max(axis=0), boxes[:, 2:].min(axis=0) + 1
        if x0 >= x1 or y0 >= y1 or not (len(self.changes) and len(other.changes)):
            return 0
        rows, columns = slice(y0, y1), slice(x0, x1)
        return int(np.count_nonzero(self._cut(rows, columns) & other._cut(rows, columns)))

    def runs(self) -> npt.NDArray[np.int64]:
        """Return the lengths of the runs of zeros and of ones in turn, column by column through the whole image."""
        x, y, _, height = self.bounds
        columns, rows = np.divmod(self.changes.astype(np.int64), height + 1)
        places = (x + columns) * self.size[0] + y + rows
        if height == self.size[0]:  # the end of a run may be the beginning of the next, at the head of a column
            apart = np.diff(places, prepend=-1) > 0
            apart[:-1] &= apart[1:]
            places = places[apart]
        total = self.size[0] * self.size[1]
        if len(places) and places[-1] == total:
            places = places[:-1]
        return np.diff(places, prepend=0, append=total)

    def _cut(self, rows: slice, columns: slice) -> Bools:
        """Return these rows and columns of the image, which are within the box."""
        x, y, _, _ = self.bounds
        return self.inside()[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]


def pack_masks(result: FrameResult) -> list[PackedMask]:
    """Return the mask of each object on a frame, of which only the part around it is made at the frame's size."""
    masks = [PackedMask.pack(np.zeros((0, 0), bool), size=result.frame_size)] * len(result.object_ids)
    for n, x, y, patch in result.patches():
        masks[n] = PackedMask.pack(patch > 0, (x, y), result.frame_size)
    return masks
