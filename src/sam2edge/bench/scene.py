"""Frames to measure on, with boxes around objects and, where they are known, the true masks of some of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.truth import TrueMasks
from sam2edge.errors import InputError
from sam2edge.types import Frame

FRAMES = 48
"""Frames that are held in memory and come again and again."""
_SIZE = (480, 640)
_BOX = 0.15


@dataclass(frozen=True)
class Scene:
    """A clip (a path as for `Clip`) with the path of its true masks or "", or the drawn one if `clip` is "".

    Objects are boxed on the first frame: those with true masks first, then boxes spread over the frame, since what
    they hold takes no time.
    """

    clip: str = ""
    masks: str = ""

    def __str__(self) -> str:
        return self.clip or f"a drawn scene of {_SIZE[1]}×{_SIZE[0]}"

    def frames(self, objects: int) -> list[Frame]:
        """The first FRAMES frames, RGB uint8 [H,W,3]. Raises what Clip does, and InputError for an empty one."""
        if not self.clip:
            return [_picture(_discs(objects, t)) for t in range(FRAMES)]
        found = list(Clip(self.clip, FRAMES))
        if not found:
            raise InputError(f"{self.clip}: has no frames")
        return found

    def boxes(self, objects: int, size: tuple[int, int]) -> npt.NDArray[np.float64]:
        """Boxes of the objects on the first frame: [N,4] x0, y0, x1, y1. size: (H,W)."""
        truth = self.truth(0, objects, size)
        known = [_box(mask) for mask in truth] if truth is not None else []
        height, width = size
        half = _BOX * min(size)
        spread = np.random.default_rng(0).uniform((half, half), (width - half, height - half), (objects, 2))
        return np.array([*known, *np.hstack([spread - half, spread + half])[len(known) :]])

    def truth(self, frame: int, objects: int, size: tuple[int, int]) -> npt.NDArray[np.bool_] | None:
        """True masks of the first objects on a frame of `size` (H,W): bool [≤ N,H,W]; None if none are known.

        Raises MediaError, and InputError for masks of another size or of fewer frames.
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


def _box(mask: npt.NDArray[np.bool_]) -> list[int]:
    ys, xs = np.nonzero(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def _discs(objects: int, t: int) -> npt.NDArray[np.bool_]:
    """Discs that circle in the cells of a grid, eight or more, and come back after FRAMES frames: bool [cells,H,W]."""
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


def _picture(discs: npt.NDArray[np.bool_]) -> Frame:
    """The discs in colours, on noise."""
    noise = np.random.default_rng(2).normal(1, 0.04, (12, 16, 1)).astype(np.float32)
    picture = cv2.resize(noise, _SIZE[::-1], interpolation=cv2.INTER_CUBIC)[..., None] * (70.0, 84.0, 108.0)
    for n, disc in enumerate(discs):
        picture[disc] = 140 + 100 * np.cos(2.4 * n + np.array((0.0, 2.1, 4.2)))  # hues that differ
    frame: Frame = np.clip(picture, 0, 255).astype(np.uint8)
    return frame
