"""Small holes and islands of masks.

Pixels touch at corners too, as upstream's (sam2/utils/amg.py, remove_small_regions; sam2/utils/transforms.py,
postprocess_masks, which needs a CUDA kernel there).
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

_FILLED = 10.0
"""How far beyond the threshold upstream sets the logits of what it fills or clears."""


def remove_small_regions(mask: Mask, min_area: float) -> tuple[Mask, bool]:
    """The mask (bool [H,W]) without holes, then islands, of less than `min_area` pixels; and whether that changed it.

    If every island is smaller, the largest stays.
    """
    filled = _drop_small(~mask, min_area)
    holes = mask if filled is None else ~filled
    islands = _drop_small(holes, min_area, keep_largest=True)
    return holes if islands is None else islands, not (filled is None and islands is None)


def fill_small_regions(logits: Floats, threshold: float, max_hole_area: float, max_sprinkle_area: float) -> Floats:
    """Logits [...,h,w], a copy, where holes and islands of at most so many pixels are filled or cleared; 0: none is."""
    filled: Floats = logits.copy()
    for index in np.ndindex(logits.shape[:-2]):
        above = logits[index] > threshold
        for mask, area, value in ((~above, max_hole_area, _FILLED), (above, max_sprinkle_area, -_FILLED)):
            kept = _drop_small(mask, np.floor(area) + 1)
            if kept is not None:
                filled[index][mask & ~kept] = threshold + value
    return filled


def _drop_small(mask: Mask, min_area: float, *, keep_largest: bool = False) -> Mask | None:
    """The mask without its components below `min_area`; None if there are none."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    keep = areas >= min_area
    if keep.all():
        return None
    if keep_largest and not keep.any():
        keep[areas.argmax()] = True
    dropped: Mask = np.concatenate(([False], keep))[labels]
    return dropped
