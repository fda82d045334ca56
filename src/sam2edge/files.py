"""Numbers for JSON, which has no NaN and no infinities; Python would write ones that other readers refuse."""

from __future__ import annotations

import math


def finite(value: float) -> float | None:
    """The value, None if it is not finite."""
    return value if math.isfinite(value) else None
