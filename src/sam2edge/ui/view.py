"""What the page shows at one moment, as JSON and JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge.files import finite
from sam2edge.runtime.media import overlay
from sam2edge.runtime.model.result import FrameResult
from sam2edge.types import Frame

_LONGEST_SIDE = 1280
"""Pixels to which larger frames are reduced; beside the list of objects a screen has no room for more."""
_QUALITY = 88
_TOLERANCE = 0.2
"""Pixels by which an outline may move when points are left out."""


@dataclass(frozen=True)
class Click:
    """A click on the pixel x, y, which belongs to the object with label 1 and does not with label 0."""

    object_id: int
    x: float
    y: float
    label: int


@dataclass(frozen=True, eq=False)
class View:
    """The current frame and its results; masks, outlines and JPEG are made when first asked for.

    serial counts the frames that were shown, over all sources; number and count belong to the source. pixels are RGB
    uint8 [H,W,3]. folder is where masks are being saved, and saved how many frames were. message says what last
    happened to the source. words are those that are looked for, with commas between, None without a word detector. The
    player sets version (a new one for every change), playing and rate (frames per second).
    """

    source: str | None
    live: bool
    ended: bool
    serial: int
    number: int
    count: int | None
    pixels: Frame | None
    result: FrameResult | None
    clicks: tuple[Click, ...]
    folder: str | None
    saved: int
    message: str
    words: str | None = None
    version: int = 0
    playing: bool = False
    rate: float = 0.0

    @cached_property
    def state(self) -> dict[str, Any]:
        """Everything but the pixels, for JSON; whole numbers are the centres of the frame's pixels."""
        size = (0, 0) if self.pixels is None else self.pixels.shape[:2]
        names = ("source", "live", "ended", "serial", "number", "count", "folder", "saved", "message", "words")
        return {
            **{name: getattr(self, name) for name in names},
            "version": self.version,
            "playing": self.playing,
            "rate": round(self.rate, 1),
            "height": size[0],
            "width": size[1],
            "objects": [] if self.result is None else _objects(self.result),
            "clicks": [
                {"object": click.object_id, "x": click.x, "y": click.y, "label": click.label}
                | {"color": css_color(click.object_id)}
                for click in self.clicks
            ],
        }

    @cached_property
    def jpeg(self) -> bytes:
        """The frame as JPEG, or nothing if there is none."""
        if self.pixels is None:
            return b""
        scale = _LONGEST_SIDE / max(self.pixels.shape)
        small = cv2.resize(self.pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else None
        picture = cv2.cvtColor(self.pixels if small is None else small, cv2.COLOR_RGB2BGR)
        return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


def css_color(object_id: int) -> str:
    """Return an object's colour, the same as in videos, as #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*overlay.color(object_id))


def outlines(mask: npt.NDArray[np.bool_]) -> list[list[float]]:
    """Return the outlines of a mask bool [H,W] and of its holes, each as x0, y0, x1, y1, and so on.

    Filled by the even-odd rule, they give the mask to about a pixel. Whole numbers are the centres of pixels.
    """
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return [
        cv2.approxPolyDP(_smooth(contour), _TOLERANCE, True).ravel().astype(float).round(1).tolist()
        for contour in contours
    ]


def _smooth(contour: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """Average each point of a closed contour with its neighbours, which turns the stairs of pixels into a line."""
    shifts = range(-2, 3) if len(contour) >= 8 else (0,)
    smooth: npt.NDArray[np.float32] = np.mean(
        [np.roll(contour, shift, axis=0) for shift in shifts], axis=0, dtype=np.float32
    )
    return smooth


def _objects(result: FrameResult) -> list[dict[str, Any]]:
    return [
        {
            "id": object_id,
            "color": css_color(object_id),
            "state": state,
            "word": word,
            "iou": finite(round(float(iou), 3)),
            "outlines": outlines(mask),
        }
        for object_id, state, iou, mask, word in zip(
            result.object_ids,
            result.states,
            result.ious,
            result.masks,
            result.words or [""] * len(result.object_ids),
            strict=True,
        )
    ]
