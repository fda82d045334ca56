"""The tracker against transformers' model: every frame's logits, masks, IoUs, scores and pointers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sam2edge import Bundle, FrameResult, VideoTracker
from sam2edge.export import export
from tests.conformance.reference import Expected, ReferenceTracker, UpstreamModel, load_reference
from tests.conformance.scenarios import CENTRE, FRAMES, HIDDEN, LEFT, SCENARIOS, Scenario, in_pixels, prompt
from tests.conftest import ALL, NANO
from tests.helpers import assert_close, iou
from tests.models import write_random

RELATIVE = 1e-3

Played = Iterator[tuple[str, FrameResult, npt.NDArray[np.float32], dict[int, Expected]]]


def play(scenario: Scenario, clip: npt.NDArray[np.uint8], bundle: Bundle, model: UpstreamModel) -> Played:
    """Play a scenario on both sides, and yield both results after every event."""
    frames = scenario.frames(clip)
    height, width = frames.shape[1:3]
    condition = "max_conditioning_frames" in scenario.tracker
    with VideoTracker(bundle, **scenario.tracker) as tracker, torch.inference_mode():
        reference = ReferenceTracker(model, frames, condition)

        def state(what: str, result: FrameResult, expected: dict[int, Expected]) -> tuple:
            seen = tracker._tracked  # None before the first object
            return what, result, seen.objects().pointer.copy() if seen else np.empty(0, np.float32), expected

        order = reversed(range(len(frames))) if scenario.reverse else range(len(frames))
        for t in islice(order, scenario.played):
            yield state(f"frame {t}", tracker.track(frames[t]), reference.track(t, scenario.reverse))
            for event in scenario.events.get(t, []):
                if isinstance(event, int):
                    tracker.remove(event)
                    reference.remove(event)
                    continue
                object_id, arguments = event
                arguments = in_pixels(arguments, height, width)
                result = tracker.prompt(object_id, **arguments)
                yield state(f"prompt on {t}", result, reference.prompt(t, object_id, **arguments))


def check(played: Played) -> list[FrameResult]:
    """Compare everything and return the tracker's results, since a scenario must have shown something."""
    results = []
    for what, result, pointers, expected in played:
        assert result.object_ids == tuple(expected), what
        for n, (object_id, one) in enumerate(expected.items()):
            where = f"{what}, object {object_id}"
            assert_close(result.logits[n], one.logits, RELATIVE, f"{where}: logits")
            assert_close(pointers[n], one.pointer, RELATIVE, f"{where}: pointer")
            assert result.ious[n] == pytest.approx(one.iou, abs=RELATIVE), where
            assert result.object_scores[n] == pytest.approx(one.score, abs=RELATIVE * max(1, abs(one.score))), where
            assert iou(result.masks[n], one.mask) >= 0.999, where
        results.append(result)
    return results


@pytest.fixture(scope="module")
def nano_model() -> UpstreamModel:
    return load_reference(NANO)


@pytest.mark.parametrize("name", SCENARIOS)
def test_nano(name: str, bedroom: npt.NDArray[np.uint8], nano: Bundle, nano_model: UpstreamModel) -> None:
    results = check(play(SCENARIOS[name], bedroom, nano, nano_model))
    assert any(result.masks.any() for result in results)


@pytest.mark.parametrize("name", ["wary", "nano_2_0"])
def test_absent_objects(request: pytest.FixtureRequest, name: str, bedroom: npt.NDArray[np.uint8]) -> None:
    bundle = request.getfixturevalue(name)
    model = load_reference(bundle.path.parent / "model")
    results = check(play(SCENARIOS["occlusion and return"], bedroom, bundle, model))
    visible = np.array([result.visible for result in results if len(result.object_ids) == 2])
    assert visible[: HIDDEN.start - 1].any()
    assert not visible[HIDDEN.start + 1 : HIDDEN.stop - 1].all()
    assert visible[HIDDEN.stop + 1 :].any()


@pytest.mark.parametrize("name", SCENARIOS if ALL else ["several conditioning frames"])
def test_edgetam(name: str, bedroom: npt.NDArray[np.uint8], edgetam: Bundle, edgetam_reference: Any) -> None:
    scenario = SCENARIOS[name] if ALL else replace(SCENARIOS[name], played=12)
    results = check(play(scenario, bedroom, edgetam, edgetam_reference))
    assert any(result.masks.any() for result in results)


@pytest.mark.slow
def test_random_tiny(request: pytest.FixtureRequest, bedroom: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    """256 unless SAM2EDGE_TINY_SIZE says otherwise; `make conformance-1024` sets it."""
    size = int(os.environ.get("SAM2EDGE_TINY_SIZE", "256"))
    if size == 256:
        bundle = request.getfixturevalue("tiny")
        model = load_reference(request.getfixturevalue("tiny_model"))
    else:
        checkpoint = write_random(tmp_path / "model", size)
        bundle, model = export(checkpoint, tmp_path / "bundle"), load_reference(checkpoint)
    scenario = Scenario(
        {
            0: [prompt(1, box=LEFT)],
            2: [prompt(2, points=[CENTRE])],
            4: [prompt(1, points=[CENTRE])],
            6: [prompt(2, mask=(0.6, 0.5, 0.2, 0.2))],
        },
        played=FRAMES if ALL or size > 256 else 9,
    )
    results = check(play(scenario, bedroom, bundle, model))
    assert any(result.masks.any() for result in results)
