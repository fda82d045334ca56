"""References that several files of tests play sessions through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conformance.reference import load_reference


@pytest.fixture(scope="session")
def edgetam_reference(edgetam_model: Path) -> Any:
    return load_reference(edgetam_model)
