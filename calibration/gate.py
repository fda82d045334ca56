"""The gate: whether a set of graphs may stand in for the reference."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sam2edge.calibration.closed_loop import LOST_AFTER, Comparison
from sam2edge.calibration.graph_errors import Errors, largest, most_sensitive
from sam2edge.errors import InputError


@dataclass(frozen=True)
class Verdict:
    """failures: each condition that was not met, with the numbers. sensitive: the graph that differs most, if known."""

    failures: tuple[str, ...]
    sensitive: str | None

    @property
    def passed(self) -> bool:
        """Whether all conditions were met."""
        return not self.failures


@dataclass(frozen=True)
class Gate:
    """Conditions on the closed loop over a clip.

    min_mean_iou: lowest mean IoU with the reference, 0 to 1. min_worst_iou: lowest IoU of any object on any frame; by
    default that is free, since one frame on which an object is nearly gone says little. No object may be lost
    (`Comparison.lost`), and what the graphs give must be finite. Raises InputError.
    """

    min_mean_iou: float = 0.97
    min_worst_iou: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise InputError(f"{name} must be from 0 to 1 but is {value}")

    def judge(self, comparison: Comparison, errors: Errors | None = None) -> Verdict:
        """Judge a run by its comparison with the reference, and by the errors of its graphs where they are known.

        Nothing is done about a failure here: whoever asks may give the most sensitive graph more precision.
        """
        failures = []
        for graph, outputs in (errors or {}).items():
            if not math.isfinite(largest(outputs)):
                failures.append(f"{graph} gives values that are not finite")
        if comparison.mean < self.min_mean_iou:
            failures.append(f"mean IoU {comparison.mean:.6f} is below {self.min_mean_iou:g}")
        iou, frame, object_id = comparison.worst
        if iou < self.min_worst_iou:
            failures.append(f"IoU {iou:.6f} of object {object_id} on frame {frame} is below {self.min_worst_iou:g}")
        for object_id in comparison.lost:
            failures.append(f"object {object_id} is lost for {LOST_AFTER} frames or more")
        return Verdict(tuple(failures), most_sensitive(errors) if errors else None)


DEFAULT_GATE = Gate()
