"""Numbers that are none, which no argument takes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sam2edge import checks
from sam2edge.errors import InputError


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.25), np.int8(1)])
def test_numbers(value: Any) -> None:
    assert checks.number("part", value, 0, 1) == value


@pytest.mark.parametrize("value", [10**400, -(10**400), math.inf, math.nan, -0.1, 1.1, "1", True, None, [1], 1j])
def test_no_numbers(value: Any) -> None:
    with pytest.raises(InputError, match=r"^part must be a finite number from 0 to 1 but got "):
        checks.number("part", value, 0, 1)
