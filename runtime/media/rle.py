"""Masks as COCO run lengths, the compressed strings in COCO's JSON.

The format is that of pycocotools (cocoapi, common/maskApi.c: rleEncode, rleToString, rleFrString); the tests compare
with it byte for byte. pycocotools itself is not used: the runtime needs only numpy, OpenCV and ONNX Runtime, and
another C extension would be another build on every device.

A mask is read column by column as alternating runs of zeros and ones, the first of zeros and possibly empty. From the
fourth on, a run is stored as its difference from the run two before it. Each number becomes groups of five bits, lowest
first, one character per group: bit 5 says that more follow, bit 4 of the last group is the sign, and 48 is added.
"""

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from sam2edge.errors import InputError
from sam2edge.runtime.media.packed import PackedMask
from sam2edge.types import Bools

# Seven groups of five bits hold any difference between two runs of a mask of up to 2³¹ pixels.
_MAX_GROUPS = 7
_MAX_PIXELS = 2**28
"""Of run lengths that came from outside: a frame of 16384×16384."""


class Rle(TypedDict):
    """COCO's compressed run lengths: `size` is [height, width], `counts` an ASCII string."""

    size: list[int]
    counts: str


def encode(mask: Bools | PackedMask) -> Rle:
    """Return the run lengths of a mask (bool [H,W], or packed); InputError if it is anything else."""
    packed = _packed(mask)
    return {"size": list(packed.size), "counts": _pack(packed.runs())}


def encode_uncompressed(mask: Bools | PackedMask) -> dict[str, list[int]]:
    """Return `size` and the run lengths `counts` of a mask as lists, which pycocotools reads too."""
    packed = _packed(mask)
    return {"size": list(packed.size), "counts": packed.runs().tolist()}


def check(value: object) -> Rle:
    """Return run lengths that came from outside if `decode` would take them, else raise InputError.

    This takes no more memory than the text: the size, which may be an invention, is not allocated.
    """
    if not isinstance(value, Mapping) or value.keys() != {"size", "counts"}:
        raise InputError('COCO run lengths must be {"size": [height, width], "counts": "…"}')
    size, counts = value["size"], value["counts"]
    sides = size if isinstance(size, (list, tuple)) else ()
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise InputError(f"the size of run lengths must be [height, width] but is {str(size)[:40]}")
    height, width = sides
    if height * width > _MAX_PIXELS:
        raise InputError(f"the size of run lengths is {height}×{width}; at most {_MAX_PIXELS} pixels are taken")
    if not isinstance(counts, (str, bytes)):
        raise InputError("run lengths must be COCO's compressed ones, a string, not a list of numbers")
    _runs(height, width, counts)
    return {"size": [height, width], "counts": counts if isinstance(counts, str) else counts.decode("ascii")}


def decode(rle: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Return the mask (bool [H,W]) of run lengths from `encode` or pycocotools; InputError if they are damaged."""
    height, width = rle["size"]
    runs = _runs(height, width, rle["counts"])
    values = np.arange(len(runs)) % 2 == 1
    mask: npt.NDArray[np.bool_] = np.repeat(values, runs).reshape(width, height).T
    return mask


def area(rle: Mapping[str, Any]) -> int:
    """Return how many pixels the mask of run lengths has; InputError if they are damaged."""
    height, width = rle["size"]
    return int(_runs(height, width, rle["counts"])[1::2].sum())


def _runs(height: int, width: int, counts: str | bytes) -> npt.NDArray[np.int64]:
    """Return the lengths of the runs of zeros and ones in turn."""
    runs = _unpack(counts)
    if (runs < 0).any() or runs.sum() != height * width:
        raise InputError(f"the run lengths do not add up to {height}×{width} pixels: {counts[:40]!r}")
    return runs


def _packed(mask: Bools | PackedMask) -> PackedMask:
    if isinstance(mask, PackedMask):
        return mask
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise InputError(f"a mask must be bool [H,W] but is {mask.dtype} {list(mask.shape)}")
    return PackedMask.pack(mask)


def _pack(runs: npt.NDArray[np.int64]) -> str:
    rest = runs.copy()
    rest[3:] -= runs[1:-2]
    groups = np.empty((len(runs), _MAX_GROUPS), np.uint8)
    used = np.empty(groups.shape, bool)
    more = np.ones(len(runs), bool)
    for i in range(_MAX_GROUPS):
        group = rest & 0x1F
        rest >>= 5
        used[:, i] = more
        # The sign bit of the last group stands for all the bits above it.
        more &= rest != np.where(group & 0x10, -1, 0)
        groups[:, i] = group + (more << 5) + 48
    return groups[used].tobytes().decode("ascii")


def _unpack(counts: str | bytes) -> npt.NDArray[np.int64]:
    text = (counts if counts.isascii() else "").encode("ascii") if isinstance(counts, str) else counts
    groups = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(groups) or groups.min() < 0 or groups.max() > 63 or groups[-1] & 0x20:
        raise InputError(f"not COCO run lengths: {counts[:40]!r}")
    ends = np.flatnonzero((groups & 0x20) == 0)
    lengths = np.diff(ends, prepend=-1)
    if lengths.max() > _MAX_GROUPS:
        raise InputError(f"a run length is too long: {counts[:40]!r}")
    starts = ends - lengths + 1
    place = 5 * (np.arange(len(groups)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((groups & 0x1F) << place, starts)
    runs -= np.where(groups[ends] & 0x10, 1 << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
