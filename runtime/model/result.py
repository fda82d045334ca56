"""What a tracker returns for one frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from sam2edge.runtime.model.logits import has_pixels, patches, stability_score
from sam2edge.types import Floats

State = Literal["visible", "occluded", "lost"]


@dataclass(frozen=True, eq=False)
class FrameResult:
    """Masks and confidences of N objects on one frame, in the order in which the objects joined.

    Attributes:
        frame_index: number of the frame since the start or reset.
        object_ids: the objects' ids.
        logits: float32 [N,4h,4h], > 0 is the object; all -1024 where the object is absent.
        ious: float32 [N], the model's estimate of each mask's IoU, 1 for a mask prompt.
        object_scores: float32 [N], the logit that the object is in view.
        frame_size: (H,W).
        lost: ids of objects that have been in doubt for `lost_after` frames and need a new prompt.
        time: when the frame was shown or taken, in seconds since its source's start; None if nobody said so.
        words: the word that found each object, "" for one that was prompted otherwise; empty without a Follower.
    """

    frame_index: int
    object_ids: tuple[int, ...]
    logits: Floats
    ious: Floats
    object_scores: Floats
    frame_size: tuple[int, int]
    lost: tuple[int, ...] = ()
    time: float | None = None
    words: tuple[str, ...] = ()

    @staticmethod
    def empty(
        frame_index: int, frame_size: tuple[int, int], time: float | None = None, mask_size: int = 0
    ) -> FrameResult:
        """Return the result of a frame without objects; mask_size: side of the logits."""
        none = np.empty(0, np.float32)
        return FrameResult(frame_index, (), none.reshape(0, mask_size, mask_size), none, none, frame_size, time=time)

    def without(self, object_id: int) -> FrameResult:
        """Return the result without one of its objects."""
        kept = [n for n, other in enumerate(self.object_ids) if other != object_id]
        arrays = {name: getattr(self, name)[kept] for name in ("logits", "ious", "object_scores")}
        ids, words = tuple(self.object_ids[n] for n in kept), tuple(self.words[n] for n in kept if self.words)
        lost = tuple(other for other in self.lost if other != object_id)
        return replace(self, object_ids=ids, words=words, lost=lost, **arrays)

    @cached_property
    def visible(self) -> npt.NDArray[np.bool_]:
        """Which objects are in view: bool [N]; their score is > 0 and their mask has a pixel."""
        return (self.object_scores > 0) & has_pixels(self.logits, self.frame_size)

    @property
    def states(self) -> tuple[State, ...]:
        """Each object's state: "visible", "occluded" (absent, for now) or "lost"."""
        return tuple(
            "lost" if object_id in self.lost else "visible" if visible else "occluded"
            for object_id, visible in zip(self.object_ids, self.visible, strict=True)
        )

    @cached_property
    def stability(self) -> Floats:
        """The stability_score of each mask: float32 [N], 0 where the object is absent."""
        return stability_score(self.logits)

    @cached_property
    def masks(self) -> npt.NDArray[np.bool_]:
        """Masks at the frame's size, bool [N,H,W]: where the resized logits are > 0. Computed when first asked for."""
        masks = np.zeros((len(self.object_ids), *self.frame_size), bool)
        for n, x, y, patch in self.patches():
            np.greater(patch, 0, out=masks[n, y : y + len(patch), x : x + patch.shape[1]])
        return masks

    def patches(self) -> Iterator[tuple[int, int, int, Floats]]:
        """Yield the logits at the frame's size of each object whose score is > 0, but only around its mask.

        Yields:
            The object's row, x and y of the part's upper left pixel, and its logits float32 [h,w].
        """
        present = np.flatnonzero(self.object_scores > 0)
        for n, patch in zip(present.tolist(), patches(self.logits[present], self.frame_size, 0), strict=True):
            yield n, *patch
