"""Frames to measure on, with boxes around objects and, where they are known, true masks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge.calibration.measure.clip import Clip, TrueMasks
from sam2edge.errors import InputError
from sam2edge.runtime.media.image_files import ValueRange
from sam2edge.types import Bools, Frame

FRAMES = 48
"""Frames that are held in memory and repeated."""
_SIZE = (480, 640)
_BOX = 0.15


@dataclass(frozen=True)
class Scene:
    """A clip with objects that are boxed on the first frame.

    Those with true masks come first, then boxes spread over the frame, whose content does not affect the time.
    """

    clip: str = ""  # a path as for `Clip`; "" for a drawn clip
    masks: str = ""  # path of its true masks
    value_range: ValueRange | None = None  # as for `Clip`

    def __str__(self) -> str:
        return self.clip or f"a drawn scene of {_SIZE[1]}×{_SIZE[0]}"

    def frames(self, objects: int) -> list[Frame]:
        """Return the first FRAMES frames, RGB uint8 [H,W,3]; raises what Clip does, and InputError for an empty one."""
        if not self.clip:
            return [_picture(_discs(objects, t)) for t in range(FRAMES)]
        frames = list(Clip(self.clip, FRAMES, self.value_range))
        if not frames:
            raise InputError(f"{self.clip}: has no frames")
        return frames

    def boxes(self, objects: int, size: tuple[int, int]) -> npt.NDArray[np.float64]:
        """Return the objects' boxes [N,4] (x0, y0, x1, y1) on the first frame of `size` (H,W)."""
        truth = self.truth(0, objects, size)
        known = [_box(mask) for mask in truth] if truth is not None else []
        height, width = size
        half = _BOX * min(size)
        spread = np.random.default_rng(0).uniform((half, half), (width - half, height - half), (objects, 2))
        return np.array([*known, *np.hstack([spread - half, spread + half])[len(known) :]])

    def truth(self, frame: int, objects: int, size: tuple[int, int]) -> Bools | None:
        """Return the true masks bool [≤ N,H,W] of the first objects on a frame of `size` (H,W); None if unknown.

        MediaError and InputError for masks that cannot be read, of another size, or of fewer frames.
        """
        if not self.clip:
            return _discs(objects, frame)[:objects]
        if self._truth is None:
            return None
        if frame >= len(self._truth):
            raise InputError(f"{self.masks}: has true masks of {len(self._truth)} frames, but the clip has more")
        return self._truth.masks(frame, self._truth.object_ids[:objects], size)

    @cached_property
    def _truth(self) -> TrueMasks | None:
        return TrueMasks(self.masks, self.clip) if self.masks else None


def _box(mask: Bools) -> list[int]:
    ys, xs = np.nonzero(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def _discs(objects: int, t: int) -> Bools:
    """Return discs bool [cells,H,W] that circle in the eight or more cells of a grid and return after FRAMES frames."""
    height, width = _SIZE
    columns, rows = next((c, r) for r in itertools.count(2) if (c := 2 * r) * r >= objects)
    cell = min(width / columns, height / rows)
    masks = np.zeros((columns * rows, height, width), np.uint8)
    for n, mask in enumerate(masks):
        angle = 2 * np.pi * t / FRAMES + n
        x = int((n % columns + 0.5) * width / columns + 0.15 * cell * np.cos(angle))
        y = int((n // columns + 0.5) * height / rows + 0.15 * cell * np.sin(angle))
        cv2.circle(mask, (x, y), max(2, int(0.3 * cell)), 1, -1)
    return masks > 0


def _picture(discs: Bools) -> Frame:
    """Draw the discs in colours on noise."""
    noise = np.random.default_rng(2).normal(1, 0.04, (12, 16, 1)).astype(np.float32)
    picture = cv2.resize(noise, _SIZE[::-1], interpolation=cv2.INTER_CUBIC)[..., None] * (70.0, 84.0, 108.0)
    for n, disc in enumerate(discs):
        picture[disc] = 140 + 100 * np.cos(2.4 * n + np.array((0.0, 2.1, 4.2)))  # with different hues
    frame: Frame = np.clip(picture, 0, 255).astype(np.uint8)
    return frame
