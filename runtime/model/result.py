"""What a tracker returns for one frame."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from sam2edge.runtime.model.logits import patches, stability_score
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
    """

    frame_index: int
    object_ids: tuple[int, ...]
    logits: Floats
    ious: Floats
    object_scores: Floats
    frame_size: tuple[int, int]
    lost: tuple[int, ...] = ()
    time: float | None = None

    @staticmethod
    def empty(
        frame_index: int, frame_size: tuple[int, int], time: float | None = None, mask_size: int = 0
    ) -> FrameResult:
        """Return the result of a frame without objects; mask_size: side of the logits."""
        none = np.empty(0, np.float32)
        return FrameResult(frame_index, (), none.reshape(0, mask_size, mask_size), none, none, frame_size, time=time)

    @property
    def visible(self) -> npt.NDArray[np.bool_]:
        """Which objects are in view: bool [N]."""
        return self.object_scores > 0

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
        visible = np.flatnonzero(self.visible)
        for n, (x, y, patch) in zip(visible, patches(self.logits[visible], self.frame_size, 0), strict=True):
            np.greater(patch, 0, out=masks[n, y : y + len(patch), x : x + patch.shape[1]])
        return masks
