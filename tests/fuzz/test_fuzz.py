"""A few spoiled inputs of every kind; `make fuzz` reads 500, and sees that none hangs or takes too much memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sam2edge import Bundle
from tests.fuzz.kinds import KINDS, Shared, attempt

QUICK = 6
SLOW = {"manifest.json": 3, "config.json": 2, "safetensors": 2, "video": 3, "words": 3, "prompts.jsonl": 3, "mask": 3}
"""How many inputs are read of kinds that take more than some milliseconds each."""


@pytest.fixture(scope="module")
def shared(nano: Bundle) -> Iterator[Shared]:
    with Shared(nano) as shared:
        yield shared


@pytest.mark.parametrize("name", KINDS)
def test_spoiled_inputs_give_an_error_or_a_result(shared: Shared, name: str) -> None:
    outcomes = [attempt(name, seed, shared) for seed in range(SLOW.get(name, QUICK))]
    assert set(outcomes) <= {"error", "result"}
    if name not in ("pt", "page's call"):  # of which the valid ones have few weights, or may find nothing to undo
        assert attempt(name, None, shared) == "result"
