"""Scripted sessions, by frame. Both trackers play them; see test_tracker.py.

Prompts are in fractions of the frame, so that one script fits every clip.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

FRAMES = 30
LEFT, RIGHT, CENTRE = (0.18, 0.3, 0.46, 0.82), (0.55, 0.35, 0.9, 0.9), (0.33, 0.55)


@dataclass(frozen=True)
class Scenario:
    """`events`: frame → prompts (object id and arguments) and removals (a bare id), in order."""

    events: dict[int, list[Any]]
    length: int = FRAMES
    """At least 16: upstream divides the ages of pointers by the clip's length if that is shorter."""
    played: int = FRAMES
    """How many of those frames are tracked."""
    reverse: bool = False
    hidden: range = range(0)
    """Frames on which nothing of the scene is to be seen."""
    tracker: dict[str, Any] = field(default_factory=dict)

    def frames(self, clip: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return the clip as this session sees it."""
        frames = clip[: self.length].copy()
        frames[self.hidden.start : self.hidden.stop] = np.linspace(40, 90, frames.shape[2], dtype=np.uint8)[:, None]
        return frames


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
    "one point": Scenario({0: [prompt(1, points=[CENTRE])]}),
    "box": Scenario({0: [prompt(1, box=LEFT)]}),
    "box and points": Scenario({0: [prompt(1, box=LEFT, points=[CENTRE, (0.2, 0.35)], labels=[1, 0])]}),
    "mask": Scenario({0: [prompt(1, mask=(0.35, 0.55, 0.17, 0.29))]}),
    "refined on the first frame": Scenario(
        {0: [prompt(1, points=[CENTRE]), prompt(1, points=[CENTRE, (0.2, 0.35)], labels=[1, 0])]}
    ),
    "corrected later": Scenario(
        {
            0: [prompt(1, box=LEFT)],
            6: [prompt(1, points=[CENTRE])],
            17: [prompt(1, points=[CENTRE, (0.7, 0.6)], labels=[1, 0]), prompt(1, points=[CENTRE])],
            24: [prompt(1, mask=(0.4, 0.6, 0.1, 0.2)), prompt(1, points=[(0.42, 0.6)])],
        }
    ),
    "objects on different frames": Scenario(
        {0: [prompt(7, box=LEFT)], 5: [prompt(3, points=[(0.7, 0.6)])], 13: [prompt(5, mask=(0.6, 0.3, 0.1, 0.1))]}
    ),
    "removal": Scenario({0: [prompt(1, box=LEFT), prompt(2, box=RIGHT), prompt(3, points=[CENTRE])], 9: [2], 15: [1]}),
    "removed and prompted again": Scenario({0: [prompt(1, box=LEFT)], 8: [1], 9: [prompt(1, box=RIGHT)]}),
    "occlusion and return": Scenario({0: [prompt(1, box=LEFT), prompt(2, box=RIGHT)]}, hidden=range(8, 18)),
    "reverse": Scenario(
        {29: [prompt(1, box=LEFT)], 20: [prompt(2, points=[CENTRE])], 14: [prompt(1, points=[CENTRE])]}, reverse=True
    ),
    "several conditioning frames": Scenario(
        {
            0: [prompt(1, box=LEFT)],
            4: [prompt(1, points=[CENTRE])],
            12: [prompt(1, box=LEFT), prompt(1, points=[CENTRE]), prompt(2, box=RIGHT)],
            20: [prompt(2, points=[(0.7, 0.6)])],
        },
        tracker={"max_conditioning_frames": 3},
    ),
}
