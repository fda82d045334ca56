"""Small holes and islands of masks (upstream: remove_small_regions in sam2/utils/amg.py)."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def remove_small_regions(mask: Mask, min_area: float) -> tuple[Mask, bool]:
    """The mask (bool [H,W]) without holes, then islands, of less than `min_area` pixels; and whether that changed it.

    Pixels touch at corners too. If every island is smaller, the largest stays.
    """
    filled = _drop_small(~mask, min_area)
    holes = mask if filled is None else ~filled
    islands = _drop_small(holes, min_area, keep_largest=True)
    return holes if islands is None else islands, not (filled is None and islands is None)


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
