"""Fixtures of the INT8 tests: clips that calibration did not see, and ranges that are wrong on purpose."""

import sys

import pytest

from sam2edge.calibration.int8 import calibrate as module
from sam2edge.runtime.model.prompts import Prompt
from tests.conftest import REPO


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def toys():
    """Return a function that draws a clip with other toys on other ways by a seed: frames and prompts, their boxes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(REPO / "samples"), *sys.path])
        import knob_costs
        import make_clip

    def draw(seed):
        frames, labels = make_clip.render(knob_costs.toys(seed))
        return frames, {number: Prompt(box=make_clip.box(labels[0] == number)) for number in (1, 2, 3)}

    return draw


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
