"""Masks at the frame's size and their stability, both from low-resolution logits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from sam2edge.errors import InputError
from sam2edge.runtime.model.logits import stability_score
from sam2edge.runtime.model.result import FrameResult


def result_of(logits: np.ndarray, scores: list[float], frame_size: tuple[int, int]) -> FrameResult:
    n = len(logits)
    return FrameResult(5, tuple(range(n)), logits, np.ones(n, np.float32), np.array(scores, np.float32), frame_size)


@pytest.mark.parametrize("frame_size", [(90, 160), (480, 271), (32, 32), (16, 16), (20, 13), (64, 9), (1, 50), (1, 1)])
def test_masks_are_resized_logits(frame_size: tuple[int, int]) -> None:
    logits = np.random.default_rng(0).normal(size=(2, 32, 32)).astype(np.float32)
    result = result_of(logits, [1, 2], frame_size)
    [resized] = functional.interpolate(torch.from_numpy(logits)[None], frame_size, mode="bilinear").numpy()
    assert (result.masks.dtype, result.masks.shape) == (bool, (2, *frame_size))
    decided = np.abs(resized) > 1e-5
    np.testing.assert_array_equal(result.masks[decided], resized[decided] > 0)
    assert decided.mean() > 0.99


def test_absent_objects_have_empty_masks() -> None:
    logits = np.ones((4, 8, 8), np.float32)
    result = result_of(logits, [3, 0, -0.1, 1e-6], (10, 12))
    assert result.visible.tolist() == [True, False, False, True]
    for reduce in (np.all, np.any):
        assert reduce(result.masks, axis=(1, 2)).tolist() == [True, False, False, True]


@pytest.mark.parametrize("frame_size", [(90, 160), (16, 16), (9, 7), (20, 64)])
def test_a_visible_object_has_a_pixel(frame_size: tuple[int, int]) -> None:
    """Whatever its score is: nothing above 0, single logits that may fall between the pixels, squares, everything."""
    logits = np.full((6, 32, 32), -5, np.float32)
    logits[1, 13, 17] = 0.1
    logits[2, 30, ::2] = 4
    logits[3, 7:9, 20:22] = 0.1
    logits[4, 3:9, 5:12] = 2
    logits[5] = 1
    result = result_of(logits, [1] * 6, frame_size)
    assert result.visible.tolist() == result.masks.any(axis=(1, 2)).tolist()
    assert (result.visible[0], result.visible[5]) == (False, True)
    assert result.states[0] == "occluded"


@pytest.mark.parametrize(("words", "kept"), [((), ()), (("cup", "", "mug"), ("cup", "mug"))])
def test_without_an_object(words: tuple[str, ...], kept: tuple[str, ...]) -> None:
    logits = np.arange(3, dtype=np.float32).reshape(3, 1, 1) * np.ones((3, 8, 8), np.float32)
    result = replace(result_of(logits, [1, 2, 3], (10, 12)), words=words, lost=(1, 2))
    rest = result.without(1)
    assert (rest.object_ids, rest.words, rest.lost, rest.object_scores.tolist()) == ((0, 2), kept, (2,), [1, 3])
    assert rest.logits[:, 0, 0].tolist() == [0, 2]


@pytest.mark.parametrize(
    "result", [FrameResult.empty(3, (10, 12)), result_of(np.empty((0, 8, 8), np.float32), [], (10, 12))]
)
def test_no_objects(result: FrameResult) -> None:
    assert (result.masks.dtype, result.masks.shape) == (bool, (0, 10, 12))
    assert (result.visible.dtype, result.visible.shape) == (bool, (0,))
    assert result.stability.shape == (0,)
    assert result.states == ()


def test_masks_are_computed_once_and_only_when_asked_for() -> None:
    logits = np.ones((1, 8, 8), np.float32)
    result = result_of(logits, [1], (10, 12))
    logits[:] = -1
    first = result.masks
    assert not first.any()
    logits[:] = 1
    assert result.masks is first


LOGITS = np.array([[[3, 3, 0.5, -0.5], [2, 1, -1, -4]], [[-9, -9, -9, -9], [-9, -9, -9, -9]], [[9] * 4, [9] * 4]])
"""The first: four above 0, three above 1 (not the 1), five above -1 (not the -1), two above 2, seven above -2."""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, [3 / 6, 0, 1]),
        ({"offset": 2}, [2 / 7, 0, 1]),
        ({"offset": 0}, [1, 0, 1]),
        ({"threshold": 1.5, "offset": 0.75}, [2 / 4, 0, 1]),
        ({"threshold": 10}, [0, 0, 0]),
    ],
)
def test_stability_score(arguments: dict[str, float], expected: list[float]) -> None:
    score = stability_score(LOGITS, **arguments)
    assert score.dtype == np.float32
    np.testing.assert_allclose(score, expected, rtol=1e-6)
    np.testing.assert_array_equal(stability_score(LOGITS[0], **arguments), score[0])
    np.testing.assert_array_equal(stability_score(LOGITS[:, None], **arguments), score[:, None])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"logits": [1, 2]}, r"logits must be \[...,H,W\] but got shape \[2\]"),
        ({"logits": [[1], [1, 2]]}, "logits must be numbers"),
        ({"logits": "mask"}, "logits must be numbers but got str"),
        ({"logits": LOGITS, "threshold": np.nan}, "threshold must be a finite number but got nan"),
        ({"logits": LOGITS, "threshold": "0"}, "threshold must be a finite number but got '0'"),
        ({"logits": LOGITS, "offset": -1}, "offset must be a finite number of at least 0 but got -1"),
        ({"logits": LOGITS, "offset": None}, "offset must be a finite number of at least 0 but got None"),
    ],
)
def test_stability_score_refuses(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        stability_score(**arguments)
