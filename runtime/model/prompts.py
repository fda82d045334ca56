"""Check prompts given in pixels of the frame and turn them into what the mask decoder takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sam2edge.bundle import Model
from sam2edge.errors import ObjectIdError, PromptError
from sam2edge.runtime.model.resize import resize

BACKGROUND, FOREGROUND, BOX_FROM, BOX_TO, NO_POINT = 0, 1, 2, 3, -1
MASK_LOGIT = 10.0
"""Logit of a mask prompt's pixels: the mask itself is the output (sam2_base.py, _use_mask_as_output)."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class PointPrompt:
    """Points [1,P,2] in pixels of the model's square and labels [1,P], box corners first, a padding point last."""

    points: Floats
    labels: Ints


@dataclass(frozen=True)
class MaskPrompt:
    """A mask as low-resolution logits [1,1,4h,4h], and as the decoder's mask input of the same shape."""

    logits: Floats
    mask_input: Floats


def check_object_id(object_id: object) -> int:
    """The id as int; ObjectIdError for anything but an integer."""
    if isinstance(object_id, bool) or not isinstance(object_id, (int, np.integer)):
        raise ObjectIdError(f"an object id must be an integer but got {object_id!r}")
    return int(object_id)


def encode(
    points: npt.ArrayLike | None,
    labels: npt.ArrayLike | None,
    box: npt.ArrayLike | None,
    mask: object,
    frame_size: tuple[int, int],
    model: Model,
) -> PointPrompt | MaskPrompt:
    """A prompt for a frame of `frame_size` (H,W): points, a box or both, or a mask alone. Raises PromptError."""
    if mask is None:
        return PointPrompt(*encode_points(points, labels, box, frame_size, model.image_size))
    if points is None and labels is None and box is None:
        return MaskPrompt(*encode_mask(mask, frame_size, model))
    raise PromptError("a mask cannot be combined with points or a box; give one or the other")


def encode_points(
    points: npt.ArrayLike | None,
    labels: Sequence[int] | npt.ArrayLike | None,
    box: npt.ArrayLike | None,
    frame_size: tuple[int, int],
    image_size: int,
) -> tuple[Floats, Ints]:
    """Points [1,P,2] in pixels of the model's square and labels [1,P], box corners first, a padding point last.

    As check_points, at the model's size. Raises PromptError for what cannot be meant.
    """
    return to_model(*check_points(points, labels, box, frame_size), frame_size, image_size)


def check_points(
    points: npt.ArrayLike | None,
    labels: Sequence[int] | npt.ArrayLike | None,
    box: npt.ArrayLike | None,
    frame_size: tuple[int, int],
    *,
    in_pixels: bool = True,
) -> tuple[npt.NDArray[np.float64], Ints]:
    """Points and box corners of one prompt on a frame: [1,P,2] in its pixels, box first, and labels [1,P].

    points: [P,2] or [2], x and y in pixels of the frame; labels: 1 object (default), 0 background, one a point;
    box: x0, y0, x1, y1. frame_size: (H,W). in_pixels: else all are in 0…1 of the frame. Raises PromptError.
    """
    if points is None and box is None:
        raise PromptError("a prompt needs points, a box or a mask")
    if points is None and labels is not None:
        raise PromptError("labels were given without points")
    height, width = frame_size
    coordinates = [np.empty((0, 2))]
    kinds: list[int] = []
    if box is not None:
        coordinates.append(_check_box(box, width, height, in_pixels).reshape(2, 2))
        kinds += [BOX_FROM, BOX_TO]
    if points is not None:
        checked = _check_points(points, width, height, in_pixels)
        coordinates.append(checked)
        kinds += _check_labels(labels, len(checked))
    return np.concatenate(coordinates)[None], np.array([kinds], np.int32)


def check_batch(
    points: npt.ArrayLike | None,
    labels: npt.ArrayLike | None,
    boxes: npt.ArrayLike | None,
    size: tuple[int, int],
    *,
    in_pixels: bool = True,
) -> tuple[npt.NDArray[np.float64], Ints]:
    """Points and box corners of N prompts on an image: [N,P,2] in its pixels, box first, and labels [N,P].

    points: [P,2] or [N,P,2], with labels [P] or [N,P] 1 object, 0 background, -1 a point that is none, so that
    prompts may have differently many. boxes: [4] or [N,4] x0, y0, x1, y1. size: (H,W). in_pixels: else all are in
    0…1 of the image. Without points and boxes N is 1 and P is 0. Raises PromptError.
    """
    height, width = size
    coordinates = np.empty((1, 0, 2))
    kinds = np.empty((1, 0), np.int32)
    if (points is None) != (labels is None):
        given, missing = ("point_labels", "point_coords") if points is None else ("point_coords", "point_labels")
        raise PromptError(f"{given} were given without {missing}; give both, one label a point")
    if points is not None and labels is not None:
        coordinates, kinds = _check_point_batch(points, labels, width, height, in_pixels)
    if boxes is not None:
        numbers = _numbers("box", boxes)
        if numbers.shape[-1:] != (4,) or numbers.ndim > 2 or not len(numbers):
            raise PromptError(f"box must be [4] or [N,4] (x0, y0, x1, y1) but got shape {list(numbers.shape)}")
        rows = np.atleast_2d(_in_pixels("box", numbers, width, height, in_pixels))
        corners = np.stack([_check_box(row, width, height) for row in rows]).reshape(-1, 2, 2)
        if points is not None and len(corners) != len(coordinates):
            raise PromptError(
                f"got {len(corners)} boxes but points for {len(coordinates)} prompts; "
                "give as many, point_coords as [N,P,2]"
            )
        corner_kinds = np.tile(np.array([BOX_FROM, BOX_TO], np.int32), (len(corners), 1))
        coordinates = np.concatenate([corners, np.broadcast_to(coordinates, (len(corners), *coordinates.shape[1:]))], 1)
        kinds = np.concatenate([corner_kinds, np.broadcast_to(kinds, (len(corners), kinds.shape[1]))], 1)
    return coordinates, kinds


def to_model(
    points: npt.NDArray[Any], labels: npt.NDArray[Any], size: tuple[int, int], image_size: int
) -> tuple[Floats, Ints]:
    """Points [N,P,2] of an image of `size` (H,W), labels [N,P] → the decoder's, in its square, a padding point last.

    Without any point there is no padding either (sam2_image_predictor.py, _predict: a mask is the only prompt).
    """
    if not points.shape[1]:
        return points.astype(np.float32), labels.astype(np.int32)
    height, width = size
    scaled = np.zeros((len(points), points.shape[1] + 1, 2), np.float32)
    scaled[:, :-1] = points / (width, height) * image_size
    kinds = np.full(scaled.shape[:2], NO_POINT, np.int32)
    kinds[:, :-1] = labels
    return scaled, kinds


def check_arrays(points: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], Ints]:
    """Points [N,P,2] and labels [N,P] of any kind that the decoder knows; PromptError for other shapes and values."""
    numbers, kinds = _numbers("points", points), _numbers("labels", labels)
    if numbers.ndim != 3 or numbers.shape[2] != 2 or not len(numbers):
        raise PromptError(f"points must be [N,P,2] (x, y) with N ≥ 1 but got shape {list(numbers.shape)}")
    if kinds.shape != numbers.shape[:2]:
        raise PromptError(f"labels must be {list(numbers.shape[:2])}, one a point, but got shape {list(kinds.shape)}")
    unknown = kinds[~np.isin(kinds, (NO_POINT, BACKGROUND, FOREGROUND, BOX_FROM, BOX_TO))]
    if len(unknown):
        raise PromptError(f"unknown label {unknown[0]:g}; labels are -1 to 3")
    return numbers, kinds.astype(np.int32)


def check_logits(mask_input: npt.ArrayLike, count: int, side: int) -> Floats:
    """Logits fed back for `count` prompts, [N,1,side,side]; one for all is repeated, and several may be for one.

    mask_input: [1,side,side], [1,1,side,side] or [N,1,side,side]. Raises PromptError.
    """
    numbers = _numbers("mask_input", mask_input).astype(np.float32)
    if numbers.ndim == 3:
        numbers = numbers[None]
    if numbers.ndim != 4 or numbers.shape[1:] != (1, side, side) or not len(numbers):
        raise PromptError(
            f"mask_input must be logits of an earlier prediction, [1,{side},{side}] or [N,1,{side},{side}], but got "
            f"shape {list(np.shape(mask_input))}; of several masks give one, as logits[i:i+1]"
        )
    if len(numbers) != count and 1 not in (len(numbers), count):
        raise PromptError(f"mask_input is for {len(numbers)} prompts but there are {count}; give one a prompt")
    return np.repeat(numbers, count, axis=0) if len(numbers) == 1 else numbers


def no_points(rows: int) -> tuple[Floats, Ints]:
    """What the decoder takes for objects without a prompt on this frame: two padding points each."""
    return np.zeros((rows, 2, 2), np.float32), np.full((rows, 2), NO_POINT, np.int32)


def encode_mask(mask: object, frame_size: tuple[int, int], model: Model) -> tuple[Floats, Floats]:
    """A mask prompt as low-resolution logits [1,1,4h,4h], and as the decoder's mask input of the same shape.

    mask: bool or integer [H,W] of the frame's size, nonzero is the object; or float of 0 and 1, as the image predictor
    gives them. Raises PromptError.
    """
    square = (resize(_check_mask(mask, frame_size).astype(np.float32), model.image_size) >= 0.5).astype(np.float32)
    if not square.any():
        raise PromptError(
            f"the mask covers less than half a pixel of the model's {model.image_size}×{model.image_size} image; "
            "give a larger mask, or a point or box"
        )
    logits = resize((2 * square - 1) * np.float32(MASK_LOGIT), model.mask_size)
    side = model.mask_size
    blocks = square.reshape(side, 4, side, 4)
    kernel = np.array(model.mask_prompt_kernel, np.float32)
    downsampled = np.einsum("yixj,ij->yx", blocks, kernel) + np.float32(model.mask_prompt_bias)
    return logits[None, None], downsampled[None, None]


def _numbers(what: str, value: npt.ArrayLike) -> npt.NDArray[np.float64]:
    try:
        numbers = np.asarray(value, np.float64)
    except (OverflowError, TypeError, ValueError) as error:
        raise PromptError(f"{what} must be numbers but got {value!r}") from error
    if not np.isfinite(numbers).all():
        raise PromptError(f"{what} must be finite but got {numbers.tolist()}")
    return numbers


def _in_pixels(
    what: str, numbers: npt.NDArray[np.float64], width: int, height: int, in_pixels: bool
) -> npt.NDArray[np.float64]:
    """Coordinates [...,2 or 4] in pixels."""
    if in_pixels:
        return numbers
    if (numbers < 0).any() or (numbers > 1).any():
        raise PromptError(
            f"{what} must be in 0…1 of the image with normalize_coords=False but got {numbers.tolist()}; "
            "pixels are normalize_coords=True"
        )
    scale = np.array([width, height] * (numbers.shape[-1] // 2), np.float64)
    return numbers * scale


def _check_point_batch(
    points: npt.ArrayLike, labels: npt.ArrayLike, width: int, height: int, in_pixels: bool
) -> tuple[npt.NDArray[np.float64], Ints]:
    numbers = _numbers("point_coords", points)
    if numbers.ndim not in (2, 3) or numbers.shape[-1] != 2 or 0 in numbers.shape:
        raise PromptError(
            f"point_coords must be [P,2] or [N,P,2] (x, y) with P ≥ 1 but got shape {list(numbers.shape)}"
        )
    kinds = _numbers("point_labels", labels)
    if kinds.shape != numbers.shape[:-1]:
        raise PromptError(
            f"point_labels must be one a point: {list(numbers.shape[:-1])} but got shape {list(kinds.shape)}"
        )
    unknown = kinds[~np.isin(kinds, (NO_POINT, BACKGROUND, FOREGROUND))]
    if len(unknown):
        raise PromptError(
            f"unknown label {unknown[0]:g}; 1 is the object, 0 the background, -1 no point (give a box as box=)"
        )
    numbers = _in_pixels("point_coords", np.where(kinds[..., None] < 0, 0.0, numbers), width, height, in_pixels)
    _check_inside(numbers.reshape(-1, 2), width, height)
    return numbers.reshape(-1, *numbers.shape[-2:]), kinds.reshape(-1, kinds.shape[-1]).astype(np.int32)


def _check_points(points: npt.ArrayLike, width: int, height: int, in_pixels: bool = True) -> npt.NDArray[np.float64]:
    numbers = np.atleast_2d(_numbers("points", points))
    if numbers.ndim != 2 or numbers.shape[1] != 2 or not len(numbers):
        raise PromptError(f"points must be [P,2] (x, y) with P ≥ 1 but got shape {list(numbers.shape)}")
    numbers = _in_pixels("points", numbers, width, height, in_pixels)
    _check_inside(numbers, width, height)
    return numbers


def _check_inside(points: npt.NDArray[np.float64], width: int, height: int) -> None:
    inside = (points >= 0).all(axis=1) & (points[:, 0] < width) & (points[:, 1] < height)
    if not inside.all():
        raise PromptError(f"point {points[~inside][0].tolist()} lies outside the {width}×{height} frame")


def _check_labels(labels: Any, count: int) -> list[int]:
    if labels is None:
        return [FOREGROUND] * count
    numbers = np.atleast_1d(_numbers("labels", labels))
    if numbers.shape != (count,):
        raise PromptError(f"labels must be one a point: {count} but got shape {list(numbers.shape)}")
    unknown = numbers[~np.isin(numbers, (BACKGROUND, FOREGROUND))]
    if len(unknown):
        raise PromptError(f"unknown label {unknown[0]:g}; 1 is the object, 0 the background (give a box as box=)")
    return [int(label) for label in numbers]


def _check_box(box: npt.ArrayLike, width: int, height: int, in_pixels: bool = True) -> npt.NDArray[np.float64]:
    numbers = _numbers("box", box)
    if numbers.shape != (4,):
        raise PromptError(f"a box must be x0, y0, x1, y1 but got shape {list(numbers.shape)}")
    numbers = _in_pixels("box", numbers, width, height, in_pixels)
    x0, y0, x1, y1 = numbers
    if x0 >= x1 or y0 >= y1:
        raise PromptError(f"box {numbers.tolist()} is inverted or empty; it must be x0 < x1 and y0 < y1")
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        raise PromptError(f"box {numbers.tolist()} reaches outside the {width}×{height} frame; clip it to the frame")
    return numbers


def _check_mask(mask: object, frame_size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "biuf":
        kind = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
        raise PromptError(f"a mask must be a bool or integer array [H,W] but got {kind}")
    if mask.dtype.kind == "f" and not ((mask == 0) | (mask == 1)).all():
        raise PromptError(f"a mask of {mask.dtype} must be of 0 and 1; of logits give logits > 0")
    if mask.shape != frame_size:
        raise PromptError(f"a mask must be of the frame's size {list(frame_size)} but got shape {list(mask.shape)}")
    if not mask.any():
        raise PromptError("the mask is empty; remove(object_id) ends the tracking of an object")
    return mask.astype(bool)
