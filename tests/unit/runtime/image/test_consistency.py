"""Whether slightly different prompts give the same mask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sam2edge import Bundle, ImagePredictor
from sam2edge.errors import InputError, PromptError
from sam2edge.runtime.image.consistency import consistency
from tests.helpers import BALL, BLOCK, clip_frames


@pytest.fixture(scope="module")
def predictor(nano: Bundle) -> Iterator[ImagePredictor]:
    with ImagePredictor(nano) as predictor:
        predictor.set_image(clip_frames(1)[0])
        yield predictor


def test_consistency(predictor: ImagePredictor) -> None:
    """A clear object's box gives the same mask again and again, a point between two objects does not."""
    clear = consistency(predictor, box=BALL, multimask_output=False)
    assert (clear.dtype, clear.shape) == (np.float32, (1,))
    between = consistency(predictor, [(200, 130)], [1], multimask_output=False)
    assert 0 <= between[0] < 0.8 < 0.95 < clear[0] <= 1
    assert consistency(predictor, [(138, 84)], [1]).shape == (3,)


def test_consistency_is_one_without_perturbation(predictor: ImagePredictor) -> None:
    low = predictor.predict(box=BALL, multimask_output=False)[2]
    agreement = consistency(predictor, [(138, 84)], [1], BALL, low, jitter=0, noise=0)
    np.testing.assert_allclose(agreement, 1)


def test_consistency_is_repeatable(predictor: ImagePredictor) -> None:
    first, same, other = (consistency(predictor, [(150, 84), (20, 20)], [1, 0], seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_consistency_is_the_mean_of_pairs(predictor: ImagePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run of n prompts, near the prompt and in the image, and the IoUs of the masks it gives."""
    runs = []
    decode = predictor.decode

    def recorded(*args: Any, **kwargs: Any) -> Any:
        runs.append((args, kwargs, decode(*args, **kwargs)))
        return runs[-1][2]

    monkeypatch.setattr(predictor, "decode", recorded)
    box = np.array(BALL)
    agreement = consistency(predictor, [(2, 238), (138, 84)], [0, 1], box, multimask_output=False, n=5, jitter=0.1)
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
    assert agreement[0] == pytest.approx(np.mean(pairs), rel=1e-6)
    assert 0 < agreement[0] < 1


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
        ({"box": [BALL, BLOCK]}, PromptError, "takes one prompt but got 2; call it for each"),
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
