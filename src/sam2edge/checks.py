"""Checks of plain arguments: each function returns the value, or raises an error that names the argument."""

from __future__ import annotations

import math

import numpy as np

from sam2edge.errors import InputError


def flag(name: str, value: object, error: type[InputError] = InputError) -> bool:
    """Return a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise error(f"{name} must be True or False but got {value!r}")
    return bool(value)


def integer(name: str, value: object, least: int) -> int:
    """Return an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{name} must be an integer of at least {least} but got {value!r}")
    return int(value)


def number(name: str, value: object, least: float = -math.inf, most: float = math.inf, *, below: bool = False) -> float:
    """Return a finite number from `least` to `most`, or below `most` with `below`."""
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    try:
        checked = float(value) if is_number else math.nan  # type: ignore[arg-type]
    except OverflowError:  # an integer beyond all floats
        checked = math.inf
    if math.isfinite(checked) and least <= checked <= most and not (below and checked == most):
        return checked
    limits = ""
    if most < math.inf:
        limits = f" from {least:g} {'to below' if below else 'to'} {most:g}"
    elif least > -math.inf:
        limits = f" of at least {least:g}"
    raise InputError(f"{name} must be a finite number{limits} but got {value!r}")
