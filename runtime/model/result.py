"""What a tracker returns for one frame."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from sam2edge.runtime.model.logits import stability_score, upsample
from sam2edge.types import Floats

State = Literal["visible", "occluded", "lost"]


@dataclass(frozen=True, eq=False)
class FrameResult:
    """Masks and confidences of N objects on one frame, in the order in which the objects joined.

    frame_index: number of the frame since the start or reset. logits: float32 [N,4h,4h], > 0 is object; all -1024
    where the object is absent. ious: float32 [N], the model's own estimate of each mask's IoU, 1 for a mask
    prompt. object_scores: float32 [N], logit that the object is in view. frame_size: (H,W). lost: ids of
    objects that were not seen for sure for so long that they need a new prompt.
    """

    frame_index: int
    object_ids: tuple[int, ...]
    logits: Floats
    ious: Floats
    object_scores: Floats
    frame_size: tuple[int, int]
    lost: tuple[int, ...] = ()

    @staticmethod
    def empty(frame_index: int, frame_size: tuple[int, int]) -> FrameResult:
        """Of a frame without objects."""
        none = np.empty(0, np.float32)
        return FrameResult(frame_index, (), none.reshape(0, 0, 0), none, none, frame_size)

    @property
    def visible(self) -> npt.NDArray[np.bool_]:
        """Whether each object is in view: bool [N]."""
        return self.object_scores > 0

    @property
    def states(self) -> tuple[State, ...]:
        """What to make of each object: "visible", "occluded" (absent, for now) or "lost"."""
        return tuple(
            "lost" if object_id in self.lost else "visible" if visible else "occluded"
            for object_id, visible in zip(self.object_ids, self.visible, strict=True)
        )

    @cached_property
    def stability(self) -> Floats:
        """How little each mask depends on the threshold: stability_score of the logits, float32 [N]; 0 if absent."""
        return stability_score(self.logits)

    @cached_property
    def masks(self) -> npt.NDArray[np.bool_]:
        """Masks at the frame's size, computed when first asked for: bool [N,H,W]; logits resized, then > 0."""
        masks = np.zeros((len(self.object_ids), *self.frame_size), bool)
        for n in np.flatnonzero(self.visible):
            np.greater(upsample(self.logits[n], self.frame_size), 0, out=masks[n])
        return masks
