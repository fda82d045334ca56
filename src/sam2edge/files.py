"""Paths and values that go into files."""

from __future__ import annotations

import math
import os
from pathlib import Path

from sam2edge.errors import InputError


def finite(value: float) -> float | None:
    """Return the value, or None if it is not finite: JSON has neither NaN nor infinities."""
    return value if math.isfinite(value) else None


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that a user gave, with a leading `~` or `~user` expanded; `./~` is a file of that name.

    Raises:
        InputError: `path` is not a path, or is empty.

    """
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(text, str):
        raise InputError(f"expected a path but got {path!r}")
    if not text or "\0" in text:
        raise InputError(f"{text!r} cannot be the path of a file")
    expanded = Path(os.path.expanduser(text))
    # pathlib drops the "./" of "./~x"; an absolute path is not expanded if it comes here a second time.
    return expanded.absolute() if str(expanded).startswith("~") else expanded
