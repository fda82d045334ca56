"""Small holes and islands of masks, in which pixels touch at corners too.

Upstream: sam2/utils/amg.py, remove_small_regions; sam2/utils/transforms.py, postprocess_masks, with a CUDA kernel.
"""

from __future__ import annotations

import cv2
import numpy as np

from sam2edge.types import Bools, Floats

_FILLED = 10.0
"""How far beyond the threshold upstream sets the logits that it fills or clears."""


def remove_small_components(mask: Bools, min_area: float) -> tuple[Bools, bool]:
    """Return the mask (bool [H,W]) without holes, then islands, of less than `min_area` pixels; and whether it changed.

    If every island is smaller, the largest stays.
    """
    filled = _drop_small(~mask, min_area)
    holes = mask if filled is None else ~filled
    islands = _drop_small(holes, min_area, keep_largest=True)
    return holes if islands is None else islands, not (filled is None and islands is None)


def fill_small_components(logits: Floats, threshold: float, max_hole_area: float, max_sprinkle_area: float) -> Floats:
    """Return a copy of logits [...,h,w] with holes and islands of up to these many pixels filled and cleared."""
    filled: Floats = logits.copy()
    for index in np.ndindex(logits.shape[:-2]):
        above = logits[index] > threshold
        for mask, area, value in ((~above, max_hole_area, _FILLED), (above, max_sprinkle_area, -_FILLED)):
            kept = _drop_small(mask, np.floor(area) + 1)
            if kept is not None:
                filled[index][mask & ~kept] = threshold + value
    return filled


def _drop_small(mask: Bools, min_area: float, *, keep_largest: bool = False) -> Bools | None:
    """Return the mask without its components below `min_area`; None if it has none of those."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    keep = areas >= min_area
    if keep.all():
        return None
    if keep_largest and not keep.any():
        keep[areas.argmax()] = True
    dropped: Bools = np.concatenate(([False], keep))[labels]
    return dropped
