"""Scripted sessions, by frame. Both trackers play them; see test_tracker.py.

Prompts are in fractions of the frame, so that one script fits every clip.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

FRAMES = 20
"""More than an object has memories (7) and pointers (16), so that the oldest are dropped."""
HIDDEN = range(5, 13)
"""Frames on which nothing of the scene is to be seen: as many as an object has memories, and one more."""
LEFT, RIGHT, CENTRE = (0.18, 0.3, 0.46, 0.82), (0.55, 0.35, 0.9, 0.9), (0.33, 0.55)


@dataclass(frozen=True)
class Scenario:
    """`events`: frame → prompts (object id and arguments) and removals (a bare id), in order."""

    events: dict[int, list[Any]]
    played: int = FRAMES
    """How many frames are tracked, of a clip whose length is at least 16: upstream divides pointers' ages by less."""
    reverse: bool = False
    hidden: range = range(0)
    tracker: dict[str, Any] = field(default_factory=dict)

    def frames(self, clip: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return the clip as this session sees it."""
        return hide(clip[:FRAMES], self.hidden)


def hide(clip: npt.NDArray[np.uint8], frames: range) -> npt.NDArray[np.uint8]:
    """Return a copy whose frames in that range show nothing of the scene."""
    clip = clip.copy()
    clip[frames.start : frames.stop] = np.linspace(40, 90, clip.shape[2], dtype=np.uint8)[:, None]
    return clip


def prompt(object_id: int, **arguments: Any) -> tuple[int, dict[str, Any]]:
    """Return an event."""
    return object_id, arguments


def in_pixels(arguments: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """Return a prompt's arguments in pixels; `mask` is an ellipse (x, y, rx, ry)."""
    out = dict(arguments)
    if "points" in out:
        out["points"] = np.array(out["points"]) * (width, height)
    if "box" in out:
        out["box"] = np.array(out["box"]) * (width, height, width, height)
    if "mask" in out:
        x, y, rx, ry = out["mask"]
        rows, columns = np.mgrid[0:height, 0:width]
        out["mask"] = ((columns / width - x) / rx) ** 2 + ((rows / height - y) / ry) ** 2 <= 1
    return out


SCENARIOS = {
    "prompts of every kind": Scenario(
        {
            0: [
                prompt(1, points=[CENTRE]),
                prompt(2, box=LEFT),
                prompt(3, box=LEFT, points=[CENTRE, (0.2, 0.35)], labels=[1, 0]),
                prompt(4, mask=(0.35, 0.55, 0.17, 0.29)),
                prompt(5, points=[CENTRE]),
                prompt(5, points=[CENTRE, (0.2, 0.35)], labels=[1, 0]),
            ]
        },
        played=9,
    ),
    "corrected later": Scenario(
        {
            0: [prompt(1, box=LEFT)],
            4: [prompt(1, points=[CENTRE])],
            11: [prompt(1, points=[CENTRE, (0.7, 0.6)], labels=[1, 0]), prompt(1, points=[CENTRE])],
            16: [prompt(1, mask=(0.4, 0.6, 0.1, 0.2)), prompt(1, points=[(0.42, 0.6)])],
        }
    ),
    "objects on different frames": Scenario(
        {0: [prompt(7, box=LEFT)], 5: [prompt(3, points=[(0.7, 0.6)])], 9: [prompt(5, mask=(0.6, 0.3, 0.1, 0.1))]}
    ),
    "removal": Scenario({0: [prompt(1, box=LEFT), prompt(2, box=RIGHT), prompt(3, points=[CENTRE])], 5: [2], 8: [1]}),
    "removed and prompted again": Scenario({0: [prompt(1, box=LEFT)], 8: [1], 9: [prompt(1, box=RIGHT)]}),
    "occlusion and return": Scenario({0: [prompt(1, box=LEFT), prompt(2, box=RIGHT)]}, hidden=HIDDEN),
    "reverse": Scenario(
        {19: [prompt(1, box=LEFT)], 14: [prompt(2, points=[CENTRE])], 9: [prompt(1, points=[CENTRE])]}, reverse=True
    ),
    "several conditioning frames": Scenario(
        {
            0: [prompt(1, box=LEFT)],
            3: [prompt(1, points=[CENTRE])],
            8: [prompt(1, box=LEFT), prompt(1, points=[CENTRE]), prompt(2, box=RIGHT)],
            14: [prompt(2, points=[(0.7, 0.6)])],
        },
        tracker={"max_conditioning_frames": 3},
    ),
}
