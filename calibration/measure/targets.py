"""What to track in a clip: object ids and their prompts on the first frame."""

from __future__ import annotations

import math
from typing import Any

from sam2edge.bundle import Bundle
from sam2edge.calibration.measure.clip import TrueMasks
from sam2edge.errors import PromptError
from sam2edge.runtime.backends.base import Backend
from sam2edge.runtime.image.mask_generator import AutomaticMaskGenerator
from sam2edge.runtime.media.packed import PackedMask
from sam2edge.runtime.model.prompts import Prompt
from sam2edge.types import Frame

Prompts = dict[int, Prompt]

_FILTERS: dict[str, Any] = {"points_per_side": 16, "pred_iou_thresh": 0.7, "stability_score_thresh": 0.85}
_LARGEST = 0.5
_OVERLAP = 0.1


def prompts_from_truth(truth: TrueMasks, size: tuple[int, int]) -> Prompts:
    """Prompt each object with its first true mask, as in DAVIS' semi-supervised challenge.

    Raises PromptError if there is none, InputError if they are not of the clip's `size` (H,W).
    """
    object_ids = truth.object_ids
    if not object_ids:
        raise PromptError(f"{truth.path}: the first true mask is empty; give --point, --box or --mask")
    masks = truth.masks(0, object_ids, size)
    return {object_id: Prompt(mask=mask) for object_id, mask in zip(object_ids, masks, strict=True)}


def automatic_prompts(bundle: Bundle, frame: Frame, backend: str | Backend = "auto", count: int = 3) -> Prompts:
    """Box the `count` largest objects that a bundle finds on a frame, RGB uint8 [H,W,3]; the same ones each time.

    Masks come from a grid of 16×16 points, with predicted IoU above 0.7 and stability from 0.85: looser than the
    generator's own filters, since any object that can be followed will do. Masks that cover more than half of the
    frame are left out, and those that overlap a more confident one by more than a tenth of the smaller.

    Raises:
        PromptError: no object is found.
    """
    with AutomaticMaskGenerator(bundle, backend=backend, **_FILTERS) as generator:
        found = generator.find(frame)
    objects: list[PackedMask] = []
    for mask in (candidate.mask for candidate in sorted(found, key=lambda candidate: -candidate.iou)):
        small = mask.area <= _LARGEST * math.prod(mask.size)
        if small and not any(_overlap(mask, other) for other in objects):
            objects.append(mask)
    if not objects:
        raise PromptError(
            "no object was found on the first frame; mark one (--point, --box, --mask), or use another clip"
        )
    prompts: Prompts = {}
    for object_id, mask in enumerate(sorted(objects, key=lambda mask: -mask.area)[:count], 1):
        x, y, width, height = mask.bounds
        prompts[object_id] = Prompt(box=(x, y, x + width, y + height))
    return prompts


def _overlap(one: PackedMask, other: PackedMask) -> bool:
    return one.shared(other) > _OVERLAP * min(one.area, other.area)
