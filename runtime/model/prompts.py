"""Prompts: checked in pixels of the frame, then encoded as the mask decoder takes them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sam2edge.bundle import Model
from sam2edge.errors import ObjectIdError, PromptError
from sam2edge.runtime.model.logits import has_pixels
from sam2edge.runtime.model.resize import resize
from sam2edge.types import Bools, Floats

BACKGROUND, FOREGROUND, BOX_FROM, BOX_TO, NO_POINT = 0, 1, 2, 3, -1
MASK_LOGIT = 10.0
"""Logit of a mask prompt's pixels: the mask itself is the output (sam2_base.py, _use_mask_as_output)."""

_TOLERANCE = 1.0
"""Pixels by which a coordinate may lie outside the frame, as detectors' boxes and clicks on its edge do; it is moved
onto the edge. Those that lie farther out belong to another frame size or another convention."""

Ints = npt.NDArray[np.int32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Prompt:
    """A prompt for one object on a frame: the arguments of `VideoTracker.prompt`, which checks them.

    `origin` is where it came from, such as a file, with which errors about it then begin.
    """

    points: npt.ArrayLike | None = None
    labels: npt.ArrayLike | None = None
    box: npt.ArrayLike | None = None
    mask: npt.NDArray[Any] | None = None
    origin: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of `VideoTracker.prompt`, without the object's id."""
        return {name: value for name, value in vars(self).items() if value is not None and name != "origin"}

    def check(self, size: tuple[int, int]) -> None:
        """Raise a PromptError, which names the origin, for a prompt that is invalid on frames of `size` (H,W)."""
        with self.naming():
            self._check(size)

    def encode(self, size: tuple[int, int], model: Model) -> EncodedPrompt:
        """Check the prompt for a frame of `size` (H,W) and encode it; raise PromptError for one that is invalid."""
        with self.naming():
            checked = self._check(size)
            if isinstance(checked, tuple):
                return EncodedPrompt.of_points(*checked, size, model)
            return EncodedPrompt.of_mask(checked, size, model)

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Let every PromptError of the block name the origin."""
        try:
            yield
        except PromptError as error:
            if not self.origin:
                raise
            raise PromptError(f"{self.origin}: {error}") from error

    def _check(self, size: tuple[int, int]) -> tuple[Doubles, Ints] | Bools:
        """Return points and labels as `check_points` does, or a mask."""
        if self.mask is None:
            return check_prompt(self.points, self.labels, self.box, size)
        if self.points is None and self.labels is None and self.box is None:
            return check_mask(self.mask, size)
        raise PromptError("a mask cannot be combined with points or a box; give one or the other")


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """N prompts as the mask decoder takes them."""

    points: Floats  # [N,P,2] in pixels of the model's square, box corners first, a padding point last
    labels: Ints  # [N,P]
    mask_input: Floats | None = None  # [N,1,4h,4h]
    logits: Floats | None = None  # [N,1,4h,4h] of mask prompts, which are themselves the output

    def inputs(self, model: Model, add_no_memory: Bools, multimask: bool) -> dict[str, npt.NDArray[Any]]:
        """Return the mask decoder's inputs that do not depend on the frame; multimask: `mask` is the best of three."""
        n, side = len(self.points), model.mask_size
        return {
            "add_no_memory": add_no_memory,
            "points": self.points,
            "labels": self.labels,
            "mask_input": np.zeros((n, 1, side, side), np.float32) if self.mask_input is None else self.mask_input,
            "has_mask_input": np.full(n, self.mask_input is not None),
            "multimask": np.full(n, multimask),
        }

    @property
    def marks_object(self) -> bool:
        """Whether it says where the object is, and not only where it is not."""
        return self.logits is not None or bool(np.isin(self.labels, (FOREGROUND, BOX_FROM)).any())

    @staticmethod
    def none(n: int) -> EncodedPrompt:
        """Encode N objects without a prompt on this frame: two padding points each."""
        return EncodedPrompt(np.zeros((n, 2, 2), np.float32), np.full((n, 2), NO_POINT, np.int32))

    @staticmethod
    def of_points(
        points: npt.NDArray[Any],
        labels: npt.NDArray[Any],
        size: tuple[int, int],
        model: Model,
        mask_input: Floats | None = None,
    ) -> EncodedPrompt:
        """Encode points [N,P,2] in pixels of an image of `size` (H,W) with labels [N,P].

        Without any point there is no padding either (sam2_image_predictor.py, _predict: a mask is the only prompt).
        """
        n, p, _ = points.shape
        padded = p + 1 if p else 0
        scaled, kinds = np.zeros((n, padded, 2), np.float32), np.full((n, padded), NO_POINT, np.int32)
        scaled[:, :p] = points / size[::-1] * model.image_size
        kinds[:, :p] = labels
        return EncodedPrompt(scaled, kinds, mask_input)

    @staticmethod
    def of_mask(mask: object, size: tuple[int, int], model: Model) -> EncodedPrompt:
        """Check and encode a mask [H,W] of the frame's `size`; raise PromptError for one that is invalid."""
        side = model.mask_size
        square = (resize(check_mask(mask, size).astype(np.float32), model.image_size) >= 0.5).astype(np.float32)
        logits = resize((2 * square - 1) * np.float32(MASK_LOGIT), side)
        if not has_pixels(logits[None], size).all():
            raise PromptError(
                f"the mask is too small: nothing is left of it at the {side}×{side} pixels of the model's masks; give "
                "a point or a box instead, or export the model with a larger --image-size"
            )
        kernel = np.array(model.mask_prompt_kernel, np.float32)
        downsampled = np.einsum("yixj,ij->yx", square.reshape(side, 4, side, 4), kernel)
        downsampled += np.float32(model.mask_prompt_bias)
        return replace(EncodedPrompt.none(1), mask_input=downsampled[None, None], logits=logits[None, None])


def check_object_id(object_id: object) -> int:
    """Return the id as int; raise ObjectIdError for anything but an integer."""
    if isinstance(object_id, bool) or not isinstance(object_id, (int, np.integer)):
        raise ObjectIdError(f"an object id must be an integer but got {object_id!r}")
    return int(object_id)


def check_new(object_id: int, prompt: EncodedPrompt) -> None:
    """Raise a PromptError if a prompt that starts an object does not say where it is."""
    if not prompt.marks_object:
        raise PromptError(
            f"object {object_id} is new, and points with label 0 only say where it is not: give a point on it (label "
            "1), a box or a mask too, or correct a known object by its id"
        )


def check_prompt(
    points: npt.ArrayLike | None,
    labels: npt.ArrayLike | None,
    box: npt.ArrayLike | None,
    size: tuple[int, int],
    *,
    in_pixels: bool = True,
    needs_labels: bool = False,
) -> tuple[Doubles, Ints]:
    """Check one prompt as `check_points` does; a PromptError also says that it has neither points nor a box."""
    coordinates, kinds = check_points(points, labels, box, size, in_pixels=in_pixels, needs_labels=needs_labels)
    if not kinds.size:
        raise PromptError("a prompt needs points, a box or a mask")
    return coordinates, kinds


def check_points(
    points: npt.ArrayLike | None,
    labels: npt.ArrayLike | None,
    boxes: npt.ArrayLike | None,
    size: tuple[int, int],
    *,
    in_pixels: bool = True,
    needs_labels: bool = True,
    several: bool = False,
) -> tuple[Doubles, Ints]:
    """Check prompts and return points [N,P,2] in pixels of an image of `size` (H,W), box corners first, and labels.

    One prompt has points [P,2] or [2] with labels 1 (object) or 0 (background), and a box [4]; N is 1. With `several`,
    points may be [N,P,2] and boxes [N,4], label -1 is padding, and errors use the image predictor's names. Without
    `in_pixels` all coordinates are in 0…1 of the image; without `needs_labels` points are on the object by default.

    No points, as [] or [0,2], are the same as None. Coordinates up to a pixel outside are moved onto the image's edge.
    """
    names = ("point_coords", "point_labels") if several else ("points", "labels")
    if points is None or _is_empty(points):
        points, labels = None, None if _is_empty(labels) else labels
    if (points is None and labels is not None) or (needs_labels and points is not None and labels is None):
        given, missing = names if labels is None else names[::-1]
        raise PromptError(f"{given} were given without {missing}; give both, one label for each point")
    coordinates, kinds = np.empty((1, 0, 2)), np.empty((1, 0), np.int32)
    if points is not None:
        coordinates = _check_shape(names[0], points, several)
        kinds = _check_labels(names[1], labels, coordinates.shape[:-1], several)
        coordinates = np.where(kinds[..., None] == NO_POINT, 0.0, coordinates)
        coordinates = _in_pixels(names[0], coordinates, size, in_pixels).reshape(-1, *coordinates.shape[-2:])
        kinds = kinds.reshape(-1, kinds.shape[-1])
        if len(outside := coordinates[_is_outside(coordinates, size)]):
            raise PromptError(f"point {outside[0].tolist()} lies outside the {size[1]}×{size[0]} frame")
        coordinates = np.clip(coordinates, 0, size[::-1])
    corners = None if boxes is None else _check_boxes(boxes, size, in_pixels, several)
    if in_pixels:
        _refuse_fractions(coordinates, corners, size)
    if corners is None:
        return coordinates, kinds
    n = len(corners)
    corner_kinds = np.full((n, 2), (BOX_FROM, BOX_TO), np.int32)
    if points is None:
        return corners, corner_kinds
    if len(coordinates) != n:
        raise PromptError(
            f"got {n} boxes but points for {len(coordinates)} prompts; give one set of points for each box, as [N,P,2]"
        )
    return np.concatenate([corners, coordinates], 1), np.concatenate([corner_kinds, kinds], 1)


def check_arrays(points: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Doubles, Ints]:
    """Check points [N,P,2] and labels [N,P] of any kind that the decoder knows; raise PromptError for others."""
    numbers, kinds = _numbers("points", points), _numbers("labels", labels)
    if numbers.ndim != 3 or numbers.shape[2] != 2 or not len(numbers):
        raise PromptError(f"points must be [N,P,2] (x, y) with N ≥ 1 but got shape {list(numbers.shape)}")
    if kinds.shape != numbers.shape[:2]:
        raise PromptError(
            f"labels must be {list(numbers.shape[:2])}, one for each point, but got shape {list(kinds.shape)}"
        )
    return numbers, _check_kinds(kinds, (NO_POINT, BACKGROUND, FOREGROUND, BOX_FROM, BOX_TO), "labels are -1 to 3")


def check_logits(mask_input: npt.ArrayLike, count: int, side: int) -> Floats:
    """Check logits that are fed back for `count` prompts and return them as float32 [N,1,side,side].

    One [1,side,side] or [1,1,side,side] for all prompts is repeated; several [N,1,side,side] may be for one prompt.
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
        raise PromptError(f"mask_input is for {len(numbers)} prompts but there are {count}; give one for each prompt")
    return np.repeat(numbers, count, axis=0) if len(numbers) == 1 else numbers


def _is_empty(value: npt.ArrayLike | None) -> bool:
    """Tell whether there are no points or labels: [], an array [0,2], a tensor without elements."""
    shape = getattr(value, "shape", None)
    return 0 in shape if shape is not None else isinstance(value, (list, tuple)) and not len(value)


def _numbers(name: str, value: npt.ArrayLike) -> Doubles:
    try:
        numbers = np.asarray(value, np.float64)
    except Exception as error:  # foreign arrays, as tensors on a GPU, raise what they like
        raise PromptError(f"{name} must be numbers but got {value!r}") from error
    if not np.isfinite(numbers).all():
        raise PromptError(f"{name} must be finite but got {numbers.tolist()}")
    return numbers


def _check_shape(name: str, points: npt.ArrayLike, several: bool) -> Doubles:
    numbers = _numbers(name, points)
    if not several:
        numbers = np.atleast_2d(numbers)
    if numbers.ndim not in ((2, 3) if several else (2,)) or numbers.shape[-1] != 2 or 0 in numbers.shape:
        expected = "[P,2] or [N,P,2]" if several else "[P,2]"
        raise PromptError(f"{name} must be {expected} (x, y) with P ≥ 1 but got shape {list(numbers.shape)}")
    return numbers


def _check_labels(name: str, labels: npt.ArrayLike | None, shape: tuple[int, ...], several: bool) -> Ints:
    if labels is None:
        return np.full(shape, FOREGROUND, np.int32)
    kinds = _numbers(name, labels)
    if not several:
        kinds = np.atleast_1d(kinds)
    if kinds.shape != shape:
        expected = list(shape) if several else shape[0]
        raise PromptError(f"{name} must be one for each point: {expected} but got shape {list(kinds.shape)}")
    known, meaning = [BACKGROUND, FOREGROUND], "1 is the object, 0 the background"
    if several:
        known, meaning = [NO_POINT, *known], f"{meaning}, -1 no point"
    return _check_kinds(kinds, known, f"{meaning} (give a box as box=)")


def _check_kinds(kinds: Doubles, known: Sequence[int], meaning: str) -> Ints:
    unknown = kinds[~np.isin(kinds, known)]
    if len(unknown):
        raise PromptError(f"unknown label {unknown[0]:g}; {meaning}")
    return kinds.astype(np.int32)


def _check_boxes(boxes: npt.ArrayLike, size: tuple[int, int], in_pixels: bool, several: bool) -> Doubles:
    """Return the corners of N boxes, [N,2,2] in pixels."""
    numbers = _numbers("box", boxes)
    if numbers.shape[-1:] != (4,) or numbers.ndim > (2 if several else 1) or not len(numbers):
        expected = "box must be [4] or [N,4] (x0, y0, x1, y1)" if several else "a box must be x0, y0, x1, y1"
        raise PromptError(f"{expected} but got shape {list(numbers.shape)}")
    rows = np.atleast_2d(_in_pixels("box", numbers, size, in_pixels))
    corners = np.clip(rows.reshape(-1, 2, 2), 0, size[::-1])
    for box, (start, end) in zip(rows, corners, strict=True):
        if _is_outside(box.reshape(2, 2), size).any():
            raise PromptError(f"box {box.tolist()} reaches outside the {size[1]}×{size[0]} frame; clip it to the frame")
        if (start >= end).any():
            raise PromptError(f"box {box.tolist()} is inverted or empty; it must be x0 < x1 and y0 < y1")
    return corners


def _is_outside(coordinates: Doubles, size: tuple[int, int]) -> Bools:
    """Tell which coordinates [...,2] lie too far outside an image of `size` (H,W) to be moved onto its edge."""
    beyond = (coordinates < -_TOLERANCE) | (coordinates > np.add(size[::-1], _TOLERANCE))
    outside: Bools = np.any(beyond, axis=-1)
    return outside


def _refuse_fractions(points: Doubles, corners: Doubles | None, size: tuple[int, int]) -> None:
    """Raise a PromptError if all coordinates lie in the first pixel, as those do that are in 0…1 of the image."""
    coordinates = points if corners is None else np.append(points, corners)
    if (coordinates <= 1).all() and (corners is not None or (coordinates % 1).any()):
        what, shown = ("point", points[0, 0]) if corners is None else ("box", corners[0].ravel())
        raise PromptError(
            f"{what} {shown.tolist()} looks like fractions of the frame, but coordinates are pixels: multiply x by "
            f"{size[1]} and y by {size[0]} (a predictor also takes normalize_coords=False)"
        )


def _in_pixels(name: str, numbers: Doubles, size: tuple[int, int], in_pixels: bool) -> Doubles:
    """Return coordinates [...,2 or 4] in pixels."""
    if in_pixels:
        return numbers
    pixels = numbers.reshape(*numbers.shape[:-1], -1, 2) * np.array(size[::-1], np.float64)
    if _is_outside(pixels, size).any():
        raise PromptError(
            f"{name} must be in 0…1 of the image with normalize_coords=False but got {numbers.tolist()}; "
            "pixels are normalize_coords=True"
        )
    return pixels.reshape(numbers.shape)


def check_mask(mask: object, size: tuple[int, int]) -> Bools:
    """Return a mask of the frame's `size` as bool [H,W]; raise PromptError for one that is invalid.

    It may be an array of any library or an image, with leading axes of 1, of False and True or of 0 and one other
    number: grey levels and several ids do not say what is meant.
    """
    if not isinstance(mask, np.ndarray) and (hasattr(mask, "__array__") or hasattr(mask, "__array_interface__")):
        try:
            mask = np.asarray(mask)
        except Exception as error:  # foreign arrays, as tensors on a GPU, raise what they like
            raise PromptError(f"the mask cannot be converted to a numpy array: {error}") from error
    if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "biuf":
        kind = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
        raise PromptError(f"a mask must be a bool or integer array [H,W] but got {kind}")
    if mask.dtype.kind == "f" and not ((mask == 0) | (mask == 1)).all():
        raise PromptError(f"a mask of {mask.dtype} must be of 0 and 1; of logits give logits > 0")
    pixels = mask
    while pixels.ndim > 2 and len(pixels) == 1:
        pixels = pixels[0]
    if pixels.shape != size:
        raise PromptError(f"a mask must be of the frame's size {list(size)} but got shape {list(mask.shape)}")
    values = pixels[pixels != 0]
    if not len(values):
        raise PromptError("the mask is empty; remove(object_id) ends the tracking of an object")
    if (values != values[0]).any():
        raise PromptError(
            f"a mask must be of 0 and one other value but has {', '.join(map(str, np.unique(values)[:4].tolist()))} …: "
            "of a label image give labels == id, of a soft mask the pixels that are at least half"
        )
    shown: Bools = pixels != 0
    return shown
