"""Fixtures of the INT8 tests: a cache of ranges, and ranges that are wrong on purpose."""

import pytest

from sam2edge.calibration.int8 import calibrate as module


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def spoil_ranges(monkeypatch):
    """Return a function that multiplies the ranges that `calibrate` collects by `factor(graph, activation)`."""
    collect = module._collect

    def spoil(factor):
        def collected(*arguments):
            ranges, *rest = collect(*arguments)
            spoiled = {g: {name: factor(g, name) * x for name, x in of.items()} for g, of in ranges.items()}
            return spoiled, *rest

        monkeypatch.setattr(module, "_collect", collected)

    return spoil
