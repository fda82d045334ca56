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
from sam2edge.runtime.media.sources import Frame
from sam2edge.runtime.model.result import FrameResult

_LONGEST_SIDE = 1280
"""Pixels: larger frames are sent smaller, which no screen beside a list of objects shows anyway."""
_QUALITY = 88
_TOLERANCE = 0.2
"""Pixels by which leaving out points may move an outline."""


@dataclass(frozen=True)
class Click:
    """Label 1: the pixel x, y belongs to the object, 0: it does not."""

    object_id: int
    x: float
    y: float
    label: int


@dataclass(frozen=True, eq=False)
class View:
    """The current frame and all that is known of it; masks, outlines and JPEG are made when first asked for.

    source: its name, None if nothing is open. serial: counts the frames since the program started, whatever their
    source; number: of the frame in its source, count: how many that claims to hold. pixels: RGB uint8 [H,W,3]. result:
    None without objects. clicks: of this frame, in their order. folder: where masks are being saved, saved: how many
    frames were. message: what happened to the source last. version, playing, rate (frames a second): the player's.
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
    version: int = 0
    playing: bool = False
    rate: float = 0.0

    @cached_property
    def state(self) -> dict[str, Any]:
        """Everything but the pixels, for JSON. Coordinates are pixels of the frame, whole ones at their centres."""
        size = (0, 0) if self.pixels is None else self.pixels.shape[:2]
        names = ("source", "live", "ended", "serial", "number", "count", "folder", "saved", "message", "version")
        return {
            **{name: getattr(self, name) for name in names},
            "playing": self.playing,
            "rate": round(self.rate, 1),
            "height": size[0],
            "width": size[1],
            "objects": [] if self.result is None else _objects(self.result),
            "clicks": [
                {"object": one.object_id, "x": one.x, "y": one.y, "label": one.label, "color": css_color(one.object_id)}
                for one in self.clicks
            ],
        }

    @cached_property
    def jpeg(self) -> bytes:
        """The frame, empty if there is none."""
        if self.pixels is None:
            return b""
        scale = _LONGEST_SIDE / max(self.pixels.shape)
        small = cv2.resize(self.pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else None
        picture = cv2.cvtColor(self.pixels if small is None else small, cv2.COLOR_RGB2BGR)
        return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


def css_color(object_id: int) -> str:
    """Return an object's colour as #rrggbb, the one that it has in videos too."""
    return "#{:02x}{:02x}{:02x}".format(*overlay.color(object_id))


def outlines(mask: npt.NDArray[np.bool_]) -> list[list[float]]:
    """Return the outlines of a mask bool [H,W] and of its holes, each as x0, y0, x1, y1, …

    Filled by the even-odd rule they give the mask, but for a pixel or so at its edge. Whole numbers are centres of
    pixels.
    """
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return [
        cv2.approxPolyDP(_smooth(one), _TOLERANCE, True).ravel().astype(float).round(1).tolist() for one in contours
    ]


def _smooth(contour: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """Average each point of a closed contour with its neighbours: the pixels' stairs become a line."""
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
            "iou": finite(round(float(iou), 3)),
            "outlines": outlines(mask),
        }
        for object_id, state, iou, mask in zip(result.object_ids, result.states, result.ious, result.masks, strict=True)
    ]
