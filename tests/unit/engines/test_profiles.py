"""Optimisation profiles against the graphs that the runtime runs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from sam2edge import Bundle, ImagePredictor, VideoTracker
from sam2edge.bundle import GRAPHS
from sam2edge.bundle.engines import Limits
from sam2edge.engines.profiles import PRESETS, profile
from sam2edge.errors import InputError
from tests.helpers import Counting


def test_memory_attention(nano: Bundle) -> None:
    limits = Limits(objects=3, conditioning_frames=2)
    assert profile(nano.model, limits, "memory_attention") == {
        "memory": ((1, 1, 64, 64), (1, 8, 64, 64), (3, 8, 64, 64)),
        "memory_age": ((1, 1), (1, 8), (3, 8)),
        "pointers": ((1, 1, 256), (1, 17, 256), (3, 17, 256)),
        "pointer_age": ((1, 1), (1, 17), (3, 17)),
    }


@pytest.mark.parametrize("graph", ["memory_attention", "mask_decoder", "memory_encoder"])
def test_kernels_are_chosen_for_the_usual_number_of_objects(nano: Bundle, graph: str) -> None:
    usual = {name: shapes[1] for name, shapes in profile(nano.model, Limits(usual_objects=8), graph).items()}
    one = {name: shapes[1] for name, shapes in profile(nano.model, Limits(), graph).items()}
    assert usual == {name: (8, *shape[1:]) for name, shape in one.items()}


def test_more_objects_are_usual_than_possible() -> None:
    with pytest.raises(InputError, match="usual_objects must be at most the largest number of objects, 2, but got 3"):
        Limits(objects=2, usual_objects=3)


def test_mask_decoder_takes_the_objects_and_the_prompts(nano: Bundle) -> None:
    assert profile(nano.model, Limits(objects=3, prompts=9, points=4), "mask_decoder")["points"] == (
        (1, 0, 2),
        (1, 2, 2),
        (9, 5, 2),
    )
    assert profile(nano.model, Limits(objects=9, prompts=3), "mask_decoder")["labels"][2] == (9, 17)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("preset", PRESETS)
def test_shapes_are_in_order(nano: Bundle, preset: str, graph: str) -> None:
    for smallest, usual, largest in profile(nano.model, PRESETS[preset].limits, graph).values():
        assert all(low <= side <= high for low, side, high in zip(smallest, usual, largest, strict=True))


def test_every_run_of_the_runtime_is_within_the_profiles(nano: Bundle) -> None:
    """Tracking until the bank is full, with corrections, and images with every kind of prompt."""
    limits, seen = Limits(objects=2, conditioning_frames=2, prompts=2, points=3), set()

    class Checked(Counting):
        def ran(self, graph: str, inputs: Mapping[str, np.ndarray]) -> None:
            for name, (smallest, _, largest) in profile(nano.model, limits, graph).items():
                shape = inputs[name].shape
                assert all(low <= side <= high for low, side, high in zip(smallest, shape, largest, strict=True)), name
                seen.update((name, edge) for edge, whole in (("min", smallest), ("max", largest)) if shape == whole)

    frame = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    with VideoTracker(nano, Checked(), max_objects=2, max_conditioning_frames=2) as tracker:
        for index in range(20):
            tracker.track(frame)
            if index in (0, 3):
                tracker.prompt(1, points=[[30, 40], [50, 60], [70, 20]])
                tracker.prompt(2, box=(20, 20, 80, 80))
    with ImagePredictor(nano, Checked()) as predictor:
        predictor.set_image(frame)
        _, _, low = predictor.predict(point_coords=[[30, 40]], point_labels=[1])
        predictor.predict(mask_input=low[:1])
        predictor.predict(box=np.float32([[1, 1, 50, 50], [2, 2, 60, 60]]))
    edges = {("memory", "max"), ("pointers", "max"), ("memory_age", "max"), ("points", "min"), ("image", "max")}
    assert edges <= seen
