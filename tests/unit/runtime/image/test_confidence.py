"""The numbers that say how far a mask can be trusted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sam2edge import Bundle, ImagePredictor
from sam2edge.errors import InputError, PromptError
from sam2edge.runtime.image.confidence import consistency, logit_margin, stability_score
from sam2edge.runtime.media.sources import VideoSource
from tests.conftest import REPO

BALL, BLOCK = (101, 47, 176, 122), (220, 18, 305, 103)
LOGITS = np.array([[[3, 3, 0.5, -0.5], [2, 1, -1, -4]], [[-9, -9, -9, -9], [-9, -9, -9, -9]], [[9] * 4, [9] * 4]])
"""The first: four above 0, three above 1 (not the 1), five above -1 (not the -1), two above 2, seven above -2."""


@pytest.fixture(scope="module")
def predictor(nano: Bundle) -> Iterator[ImagePredictor]:
    with ImagePredictor(nano) as predictor, VideoSource(REPO / "samples" / "clip.mp4") as source:
        predictor.set_image(next(iter(source)))
        yield predictor


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


def test_logit_margin() -> None:
    margin = logit_margin(LOGITS)
    assert margin.dtype == np.float32
    np.testing.assert_allclose(margin, [(3 + 3 + 0.5 + 2 + 1) / 5 + (0.5 + 1 + 4) / 3, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(logit_margin(LOGITS[0], 2.5), 3 - (0.5 - 0.5 + 2 + 1 - 1 - 4) / 6, rtol=1e-6)
    np.testing.assert_allclose(logit_margin(LOGITS * 4), 4 * margin, rtol=1e-6)


@pytest.mark.parametrize("number", [stability_score, logit_margin])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"logits": [1, 2]}, r"logits must be \[...,H,W\] but got shape \[2\]"),
        ({"logits": [[1], [1, 2]]}, "logits must be numbers"),
        ({"logits": "mask"}, "logits must be numbers but got str"),
        ({"logits": LOGITS, "threshold": np.nan}, "threshold must be a finite number but got nan"),
        ({"logits": LOGITS, "threshold": "0"}, "threshold must be a finite number but got '0'"),
    ],
)
def test_numbers_refuse(number: Any, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        number(**arguments)


@pytest.mark.parametrize("offset", [-1, np.inf, "1", None])
def test_stability_score_refuses_offset(offset: Any) -> None:
    with pytest.raises(InputError, match="offset must be a finite number of at least 0"):
        stability_score(LOGITS, offset=offset)


def test_consistency(predictor: ImagePredictor) -> None:
    """A clear object's box gives the same mask again and again, a point between two objects does not."""
    clear = consistency(predictor, box=BALL, multimask_output=False)
    assert (clear.dtype, clear.shape) == (np.float32, (1,))
    between = consistency(predictor, [(200, 130)], [1], multimask_output=False)
    assert 0 <= between[0] < 0.8 < 0.95 < clear[0] <= 1
    assert consistency(predictor, [(138, 84)], [1]).shape == (3,)


def test_consistency_is_one_without_perturbation(predictor: ImagePredictor) -> None:
    low = predictor.predict(box=BALL, multimask_output=False)[2]
    found = consistency(predictor, [(138, 84)], [1], BALL, low, jitter=0, noise=0)
    np.testing.assert_allclose(found, 1)


def test_consistency_is_repeatable(predictor: ImagePredictor) -> None:
    def of(seed: int) -> npt.NDArray[np.float32]:
        return consistency(predictor, [(150, 84), (20, 20)], [1, 0], seed=seed)

    np.testing.assert_array_equal(of(3), of(3))
    assert (of(3) != of(4)).any()


def test_consistency_is_the_mean_of_pairs(predictor: ImagePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run of n prompts, near the prompt and in the image, and the IoUs of the masks it gives."""
    runs = []
    decode = predictor.decode

    def recorded(*args: Any, **kwargs: Any) -> Any:
        runs.append((args, kwargs, decode(*args, **kwargs)))
        return runs[-1][2]

    monkeypatch.setattr(predictor, "decode", recorded)
    box = np.array([101, 47, 176, 122])
    found = consistency(predictor, [(2, 238), (138, 84)], [0, 1], box, multimask_output=False, n=5, jitter=0.1)
    ((points, labels, mask_input, multimask), kwargs, decoded), *others = runs
    assert not others
    assert (mask_input, multimask) == (None, False)
    assert (points.shape, labels.tolist()) == ((5, 4, 2), [[2, 3, 0, 1]] * 5)
    assert (points >= 0).all()
    assert (points <= (320, 240)).all()
    assert (points[:, 0] <= points[:, 1]).all()
    assert 0 < np.abs(points[:, 3] - (138, 84)).max() < 0.1 * 240 * 5
    features = predictor.embedding.features
    assert np.std(kwargs["features"] - features) == pytest.approx(0.05 * features.std(), rel=0.02)
    masks = decoded["mask"][:, 0] > 0
    pairs = [(masks[i] & masks[j]).sum() / (masks[i] | masks[j]).sum() for i in range(5) for j in range(i)]
    assert found[0] == pytest.approx(np.mean(pairs), rel=1e-6)
    assert 0 < found[0] < 1


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"n": 1}, InputError, "n must be an integer of at least 2 but got 1"),
        ({"n": 2.5}, InputError, "n must be an integer"),
        ({"n": True}, InputError, "n must be an integer"),
        ({"seed": -1}, InputError, "seed must be an integer of at least 0"),
        ({"seed": None}, InputError, "seed must be an integer"),
        ({"jitter": -0.1}, InputError, "jitter must be a finite number of at least 0"),
        ({"jitter": np.nan}, InputError, "jitter must be a finite number"),
        ({"noise": -1}, InputError, "noise must be a finite number of at least 0"),
        ({"noise": "some"}, InputError, "noise must be a finite number"),
        ({"multimask_output": 1}, InputError, "multimask_output must be True or False"),
        ({"normalize_coords": 0}, InputError, "normalize_coords must be True or False"),
        ({"box": [BALL, BLOCK]}, PromptError, "of one prompt but got 2; call it for each"),
        ({"box": (9, 9, 5, 5)}, PromptError, "inverted"),
        ({"box": None}, PromptError, "needs point_coords, a box or a mask_input"),
        ({"point_coords": [(5, 5)]}, PromptError, "given without point_labels"),
        ({"point_labels": [1]}, PromptError, "given without point_coords"),
        ({"mask_input": [[1]]}, PromptError, "mask_input must be logits"),
    ],
    ids=str,
)
def test_consistency_refuses(
    predictor: ImagePredictor, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        consistency(predictor, **{"box": BALL, **arguments})
