"""References that several files of tests play sessions through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.conformance.reference import load_reference


@pytest.fixture(scope="session")
def edgetam_reference(edgetam_model: Path) -> Any:
    return load_reference(edgetam_model)


@pytest.fixture(scope="session")
def bedroom(bedroom: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The clip with a quarter of its pixels, uint8 [32,270,480,3]: its size matters only to resizing."""
    return np.ascontiguousarray(bedroom[:, ::2, ::2])
