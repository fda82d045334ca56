"""Drawing masks on the image that they belong to."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge.runtime.media.packed import PackedMask
from sam2edge.runtime.model.result import FrameResult
from sam2edge.types import Bools

Color = tuple[int, int, int]

_OPACITY = 0.4
_SUBPIXEL_BITS = 4
_CACHED_COLORS = 256
"""Limited, since a camera that never stops may bring ever new object ids."""


def draw(frame: npt.NDArray[np.uint8], result: FrameResult) -> npt.NDArray[np.uint8]:
    """Return a copy of `frame` (RGB uint8 [H,W,3]) with each mask as a tint, a contour, and its word and id."""
    return draw_masks(frame, result.object_ids, result.masks, result.words)


def draw_masks(
    image: npt.NDArray[np.uint8], object_ids: Sequence[int], masks: Iterable[Bools], words: Sequence[str] = ()
) -> npt.NDArray[np.uint8]:
    """Return a copy of `image` (RGB uint8 [H,W,3]) with masks (bool [H,W] each), their words and ids on it."""
    picture: npt.NDArray[np.uint8] = image.copy()
    for object_id, mask, word in zip(object_ids, masks, words or [""] * len(object_ids), strict=True):
        _draw_object(picture, object_id, mask.view(np.uint8), f"{word} {object_id}".lstrip())
    return picture


def draw_everything(image: npt.NDArray[np.uint8], masks: Sequence[PackedMask]) -> npt.NDArray[np.uint8]:
    """Return a copy of `image` (RGB uint8 [H,W,3]) with many masks on it, without ids.

    The nth mask has the colour of object n, from 1. Masks may be nested: each pixel shows the smallest that covers it.
    """
    order = small_on_top(masks)
    labels = np.zeros(image.shape[:2], np.uint16)
    for i in order:
        labels[masks[i].place][masks[i].inside()] = i + 1
    palette = np.array([(0, 0, 0), *(color(i + 1) for i in range(len(masks)))], np.uint8)
    tinted = cv2.addWeighted(image, 1 - _OPACITY, palette[labels], _OPACITY, 0)
    picture: npt.NDArray[np.uint8] = np.where(labels[..., None] > 0, tinted, image)
    for i in order:
        _draw_contour(picture, masks[i].inside().view(np.uint8), masks[i].bounds[:2], color(i + 1))
    return picture


def small_on_top(masks: Sequence[PackedMask]) -> list[int]:
    """Return the order in which to paint masks: by area, the largest first."""
    return [int(i) for i in np.argsort([-mask.area for mask in masks], kind="stable")]


@lru_cache(maxsize=_CACHED_COLORS)
def color(object_id: int) -> Color:
    """Return the RGB colour of an object, always the same and far from those of neighbouring ids."""
    # Steps of the golden ratio never return to a hue, and each falls into the widest gap left.
    hue = (0.58 + object_id * 0.618034) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw_object(picture: npt.NDArray[np.uint8], object_id: int, mask: npt.NDArray[np.uint8], label: str) -> None:
    x, y, width, height = cv2.boundingRect(mask)
    if width == 0:
        return
    part = np.s_[y : y + height, x : x + width]
    inside = np.ascontiguousarray(mask[part])
    cv2.copyTo(cv2.LUT(picture[part], _tint(object_id)), inside, picture[part])
    _draw_contour(picture, inside, (x, y), color(object_id))
    top = x + int(inside[0].argmax())
    _draw_label(picture, label, (top, y), color(object_id))


@lru_cache(maxsize=_CACHED_COLORS)
def _tint(object_id: int) -> npt.NDArray[np.uint8]:
    """Return the look-up table [256, 1, 3] that mixes a channel's value with the object's colour."""
    values = np.arange(256).reshape(256, 1, 1) * (1 - _OPACITY) + np.array(color(object_id)) * _OPACITY
    tint: npt.NDArray[np.uint8] = values.round().astype(np.uint8)
    return tint


def _draw_contour(
    picture: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8], offset: tuple[int, int], line: Color
) -> None:
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=offset)
    smooth = [_smooth(contour) for contour in contours]
    thickness = max(1, round(min(picture.shape[:2]) / 360))
    cv2.polylines(picture, smooth, True, line, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)


def _smooth(contour: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Average each point of a closed contour with its neighbours, which turns the pixels' stairs into a line."""
    scaled = contour << _SUBPIXEL_BITS
    if len(contour) < 8:
        return scaled
    rolled = [np.roll(scaled, shift, axis=0) for shift in (-2, -1, 0, 1, 2)]
    smooth: npt.NDArray[np.int32] = np.mean(rolled, axis=0).astype(np.int32)
    return smooth


def _draw_label(picture: npt.NDArray[np.uint8], text: str, corner: tuple[int, int], plate: Color) -> None:
    """Write `text` on a plate that stands on `corner`, moved so that it lies within the picture."""
    height, width = picture.shape[:2]
    scale = max(0.4, min(height, width) / 1000)
    (text_width, text_height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    pad = max(2, round(4 * scale))
    plate_width, plate_height = text_width + 2 * pad, text_height + 2 * pad
    x = max(0, min(corner[0], width - plate_width))
    y = max(plate_height, corner[1])
    cv2.rectangle(picture, (x, y - plate_height), (x + plate_width, y), plate, cv2.FILLED)
    luma = np.dot(plate, (0.299, 0.587, 0.114))
    ink = (0, 0, 0) if luma > 128 else (255, 255, 255)
    cv2.putText(picture, text, (x + pad, y - pad), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)
