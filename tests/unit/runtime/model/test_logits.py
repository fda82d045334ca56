"""Whether a mask is stable. That `upsample` is PyTorch's is tested in test_result.py and image/test_predictor.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sam2edge.errors import InputError
from sam2edge.runtime.model.logits import stability_score

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
    ],
)
def test_stability_score_refuses(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        stability_score(**arguments)


@pytest.mark.parametrize("offset", [-1, np.inf, "1", None])
def test_stability_score_refuses_offset(offset: Any) -> None:
    with pytest.raises(InputError, match="offset must be a finite number of at least 0"):
        stability_score(LOGITS, offset=offset)
