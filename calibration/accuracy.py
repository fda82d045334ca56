"""How well predicted masks cover true ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def region_similarity(predicted: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Return the Jaccard index J (intersection over union) of masks, as DAVIS 2017 defines it.

    Source: Pont-Tuset et al., "The 2017 DAVIS Challenge on Video Object Segmentation", section 3.

    Args:
        predicted: bool [..., H, W].
        true: bool, of the same shape.

    Returns:
        float32 [...], from 0 to 1; two empty masks agree and give 1.

    Raises:
        ValueError: another dtype or fewer dimensions than two, or shapes that differ.

    """
    _check("predicted", predicted)
    _check("true", true)
    if predicted.shape != true.shape:
        raise ValueError(f"predicted and true must have one shape but are {predicted.shape} and {true.shape}")
    both = np.count_nonzero(predicted & true, axis=(-2, -1))
    either = np.count_nonzero(predicted | true, axis=(-2, -1))
    return np.where(either == 0, 1.0, both / np.maximum(either, 1)).astype(np.float32)


def in_view(true: npt.NDArray[np.bool_], pixels: int = 16) -> npt.NDArray[np.bool_]:
    """Say which true masks show enough of their object to score it.

    A mean over frames leaves the others out: an object that is away scores 1 for an empty mask and 0 for one
    stray pixel, and either would weigh as much as a frame that shows all of it.

    Args:
        true: bool [..., H, W].
        pixels: the least number of visible pixels; at least 1.

    Returns:
        bool [...].

    Raises:
        ValueError: another dtype, fewer dimensions than two, or ``pixels`` below 1.

    """
    _check("true", true)
    if pixels < 1:
        raise ValueError(f"pixels must be at least 1 but is {pixels}")
    return np.asarray(np.count_nonzero(true, axis=(-2, -1)) >= pixels)


def _check(name: str, masks: npt.NDArray[np.bool_]) -> None:
    # A mask of 0 and 255 would pass through & and | as bits and give a wrong count without a word.
    if masks.dtype != np.bool_ or masks.ndim < 2:
        raise ValueError(f"{name} must be bool [..., H, W] but is {masks.dtype} {list(masks.shape)}")
