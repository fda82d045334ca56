"""The inputs and outputs of the models, as data, and how outputs are made of what was found."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from sam2edge.runtime.image.segments import Segment
from sam2edge.runtime.media import rle
from sam2edge.runtime.media.packed import PackedMask, pack_masks
from sam2edge.runtime.model.result import FrameResult
from sam2edge.types import Floats

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Found:
    """N objects on a frame or an image.

    Attributes:
        size: (H,W) of the frame.
        ids: The objects' ids.
        ious: float32 [N], the model's estimate of each mask's IoU.
        packed: Their masks, or the tracker's result that they are made of when they are asked for.
    """

    size: tuple[int, int]
    ids: tuple[int, ...]
    ious: Floats
    packed: list[PackedMask] | FrameResult

    @staticmethod
    def on_frame(result: FrameResult) -> Found:
        """Return what a tracker found."""
        return Found(result.frame_size, result.object_ids, result.ious, result)

    @staticmethod
    def on_image(size: tuple[int, int], segments: Sequence[Segment]) -> Found:
        """Return what was found on an image of `size` (H,W)."""
        ious = np.array([segment.predicted_iou for segment in segments], np.float32)
        ids = tuple(segment.object_id for segment in segments)
        return Found(size, ids, ious, [segment.mask for segment in segments])

    @cached_property
    def masks(self) -> list[PackedMask]:
        """The mask of each object; without a pixel where it is absent."""
        if isinstance(self.packed, list):
            return self.packed
        return pack_masks(self.packed)

    def outputs(self, wanted: Collection[str]) -> dict[str, Array]:
        """Return the outputs that are wanted by name; nothing is computed for the others."""
        values = {name: output.of(self) for name, output in OUTPUTS.items() if name in wanted}
        if isinstance(self.packed, FrameResult):
            result = self.packed
            values |= {name: output.of(result) for name, output in VIDEO_OUTPUTS.items() if name in wanted}
        return values


@dataclass(frozen=True)
class Input:
    """An input of both models: Triton's type, its shape (-1: any), and what it holds."""

    dtype: str
    shape: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Output:
    """An output: Triton's type, its shape (-1: any), what it holds, and how it is made."""

    dtype: str
    shape: tuple[int, ...]
    text: str
    of: Callable[[Any], Array]


def _texts(values: Collection[str]) -> Array:
    return np.array(values, np.object_)


def _bits(found: Found) -> Array:
    height, width = found.size
    rows = np.zeros((len(found.masks), -(-height * width // 8)), np.uint8)
    for row, mask in zip(rows, found.masks, strict=True):
        row[:] = np.packbits(mask.unpack())
    return rows


INPUTS = {
    "FRAME": Input("UINT8", (-1, -1, 3), "pixels [H,W,3], RGB"),
    "ENCODED": Input("STRING", (1,), "in place of `FRAME`, a JPEG, PNG or WebP file"),
    "PROMPTS": Input("STRING", (1,), "prompts as JSON"),
}
OUTPUTS = {
    "SIZE": Output("INT32", (2,), "height and width of the frame", lambda found: np.array(found.size, np.int32)),
    "IDS": Output("INT64", (-1,), "ids of the N objects", lambda found: np.array(found.ids, np.int64)),
    "IOUS": Output(
        "FP32", (-1,), "the model's estimate of each mask's IoU", lambda found: np.asarray(found.ious, np.float32)
    ),
    "BOXES": Output(
        "INT32",
        (-1, 4),
        "x, y, width and height of each mask; zeros for one without pixels",
        lambda found: np.array([mask.bounds for mask in found.masks], np.int32).reshape(-1, 4),
    ),
    "RLE": Output(
        "STRING",
        (-1,),
        "`counts` of COCO's compressed run lengths of each mask, whose `size` is `SIZE`",
        lambda found: _texts([rle.encode(mask)["counts"] for mask in found.masks]),
    ),
    "BITS": Output(
        "UINT8", (-1, -1), "each mask row by row, eight pixels in a byte, the first one the highest bit", _bits
    ),
}
VIDEO_OUTPUTS = {
    "FRAME_INDEX": Output(
        "INT32", (1,), "number of the frame in its stream", lambda result: np.array([result.frame_index], np.int32)
    ),
    "OBJECT_SCORES": Output(
        "FP32",
        (-1,),
        "the logit that each object is in view",
        lambda result: np.asarray(result.object_scores, np.float32),
    ),
    "STATES": Output(
        "STRING", (-1,), '"visible", "occluded" or "lost" for each object', lambda result: _texts(result.states)
    ),
}
