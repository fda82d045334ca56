"""The gate: whether a set of graphs may stand in for the reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sam2edge.calibration.measure.closed_loop import LOST_AFTER, Agreement
from sam2edge.calibration.measure.graph_errors import Errors, largest, most_sensitive
from sam2edge.errors import InputError

if TYPE_CHECKING:  # it imports onnx, which only INT8 needs
    from sam2edge.calibration.int8.range_ratios import RangeRatio


@dataclass(frozen=True)
class Verdict:
    """failures: each condition that was not met, with the numbers. sensitive: the graph that differs most, if known.

    wide: the INT8 ranges that are too wide, the widest first.
    """

    failures: tuple[str, ...]
    sensitive: str | None
    wide: tuple[RangeRatio, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether all conditions were met."""
        return not self.failures


@dataclass(frozen=True)
class Gate:
    """Conditions on the closed loop over a clip, and on INT8 ranges.

    min_mean_iou: lowest mean IoU with the reference, 0 to 1. min_worst_iou: lowest IoU of any object on any frame; by
    default that is free, since one frame on which an object is nearly gone says little. No object may be lost
    (`Agreement.lost`), and what the graphs give must be finite. max_range_ratio: how many times the largest magnitude
    on the clip an INT8 range may be; docs/calibration.md says what clips give. Raises InputError.
    """

    min_mean_iou: float = 0.97
    min_worst_iou: float = 0.0
    max_range_ratio: float = 6.0

    def __post_init__(self) -> None:
        for name in ("min_mean_iou", "min_worst_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be from 0 to 1 but is {getattr(self, name)}")
        if not self.max_range_ratio >= 1:
            raise InputError(f"max_range_ratio must be 1 or more but is {self.max_range_ratio}")

    def judge(self, comparison: Agreement, errors: Errors | None = None, ratios: Sequence[RangeRatio] = ()) -> Verdict:
        """Judge a run by its comparison with the reference, and by errors and ranges of its graphs where known.

        Nothing is done about a failure here: whoever asks may give the most sensitive graph more precision.
        """
        failures = []
        for graph, outputs in (errors or {}).items():
            if not math.isfinite(largest(outputs)):
                failures.append(f"{graph} gives values that are not finite")
        wide = tuple(one for one in ratios if one.ratio > self.max_range_ratio)
        if wide:
            failures.append(
                f"{wide[0].graph}: the INT8 range of {wide[0].activation} is {wide[0].ratio:.1f} times what the clip "
                f"shows, above {self.max_range_ratio:g}" + (f", and {len(wide) - 1} more" if wide[1:] else "")
            )
        if comparison.mean < self.min_mean_iou:
            failures.append(f"mean IoU {comparison.mean:.6f} is below {self.min_mean_iou:g}")
        iou, frame, object_id = comparison.worst
        if iou < self.min_worst_iou:
            failures.append(f"IoU {iou:.6f} of object {object_id} on frame {frame} is below {self.min_worst_iou:g}")
        for object_id in comparison.lost:
            failures.append(f"object {object_id} is lost for {LOST_AFTER} frames or more")
        return Verdict(tuple(failures), most_sensitive(errors) if errors else None, wide)


DEFAULT_GATE = Gate()
