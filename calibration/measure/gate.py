"""The gate: whether a set of graphs may stand in for the reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sam2edge.calibration.measure.closed_loop import LOST_AFTER, Agreement
from sam2edge.calibration.measure.graph_errors import Errors, largest
from sam2edge.errors import InputError


@dataclass(frozen=True)
class RangeRatio:
    """How many times the largest magnitude of an activation its INT8 range is."""

    graph: str
    activation: str
    ratio: float


@dataclass(frozen=True)
class Verdict:
    """The gate's verdict on a set of graphs."""

    failures: tuple[str, ...]  # each condition that was not met, with the numbers
    sensitive: str | None  # the graph whose outputs differ most, if known
    wide: tuple[RangeRatio, ...] = ()  # INT8 ranges that are too wide, the widest first

    @property
    def passed(self) -> bool:
        """Whether all conditions were met."""
        return not self.failures


@dataclass(frozen=True)
class Gate:
    """Conditions that a set of graphs must meet on a clip.

    Besides these limits, no object may be lost (`Agreement.lost`), and all outputs must be finite.

    Args:
        min_mean_iou: lowest mean IoU with the reference in closed loop, 0 to 1.
        min_worst_iou: lowest IoU of any object on any frame, 0 to 1. Not limited by default, since a frame on which an
            object has nearly disappeared says little.
        max_range_ratio: how many times the largest magnitude on the clip an INT8 range may be;
            docs/how-to/calibration.md lists what clips give.

    Raises:
        InputError: a limit is out of range.
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

    def judge(self, agreement: Agreement, errors: Errors | None = None, ratios: Sequence[RangeRatio] = ()) -> Verdict:
        """Judge a run by its agreement with the reference, and by its graphs' errors and ranges where they are known.

        The gate only judges: its caller may give the most sensitive graph more precision.
        """
        failures = [
            f"{graph} gives values that are not finite"
            for graph, outputs in (errors or {}).items()
            if not math.isfinite(largest(outputs))
        ]
        wide = tuple(ratio for ratio in ratios if ratio.ratio > self.max_range_ratio)
        if wide:
            failures.append(
                f"{wide[0].graph}: the INT8 range of {wide[0].activation} is {wide[0].ratio:.1f} times what the clip "
                f"shows, above {self.max_range_ratio:g}" + (f", and {len(wide) - 1} more" if wide[1:] else "")
            )
        if agreement.mean < self.min_mean_iou:
            failures.append(f"mean IoU {agreement.mean:.6f} is below {self.min_mean_iou:g}")
        iou, frame, object_id = agreement.worst
        if iou < self.min_worst_iou:
            failures.append(f"IoU {iou:.6f} of object {object_id} on frame {frame} is below {self.min_worst_iou:g}")
        failures += [f"object {object_id} is lost for {LOST_AFTER} frames or more" for object_id in agreement.lost]
        # by RMS: a single value that is far off among a million is harmless, and common in INT8
        rms = {graph: max(error.rms for error in outputs.values()) for graph, outputs in (errors or {}).items()}
        return Verdict(tuple(failures), max(rms, key=lambda graph: rms[graph], default=None), wide)


DEFAULT_GATE = Gate()
