"""Prompts in pixels of the frame become the decoder's inputs, or an error that says what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch.nn import functional

from sam2edge.bundle import Model
from sam2edge.errors import ObjectIdError, PromptError
from sam2edge.runtime.model import prompts
from sam2edge.runtime.model.prompts import EncodedPrompt, Prompt, check_object_id
from sam2edge.runtime.model.result import FrameResult
from tests.helpers import box_mask

WIDTH, HEIGHT, SIDE = 200, 100, 128
FRAME = (HEIGHT, WIDTH)
KERNEL = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
MODEL = Model(SIDE, 256, 64, 6, 16, 0, 1, True, tuple(map(tuple, KERNEL.tolist())), 0.75, (0.0,) * 256)


@pytest.mark.parametrize(
    ("prompt", "points", "labels"),
    [
        pytest.param({"points": [(50, 25)]}, [(32, 32)], [1], id="label 1 by default"),
        pytest.param({"points": (50, 25)}, [(32, 32)], [1], id="one point without brackets"),
        pytest.param({"points": (50, 25), "labels": 0}, [(32, 32)], [0], id="one label without brackets"),
        pytest.param({"points": [(0, 0), (199.5, 99)], "labels": [0, 1]}, [(0, 0), (127.68, 126.72)], [0, 1]),
        pytest.param({"box": (50, 25, 200, 100)}, [(32, 32), (128, 128)], [2, 3], id="box"),
        pytest.param(
            {"points": [(100, 50), (1, 2)], "labels": np.array([1, 0]), "box": np.array([0, 0, 10.5, 20])},
            [(0, 0), (6.72, 25.6), (64, 64), (0.64, 2.56)],
            [2, 3, 1, 0],
            id="box before points",
        ),
        pytest.param({"points": [(200, 100.9), (-1, 50)]}, [(128, 128), (0, 64)], [1, 1], id="points beside the frame"),
        pytest.param({"box": (-0.4, -1, 200.3, 101)}, [(0, 0), (128, 128)], [2, 3], id="box a pixel too large"),
        pytest.param({"points": [], "labels": [], "box": (50, 25, 200, 100)}, [(32, 32), (128, 128)], [2, 3]),
        pytest.param(
            {"points": torch.empty(0, 2), "box": torch.tensor([50, 25, 200, 100])}, [(32, 32), (128, 128)], [2, 3]
        ),
        pytest.param({"points": torch.tensor([[50, 25]]), "labels": torch.tensor([0])}, [(32, 32)], [0], id="tensors"),
        pytest.param({"points": (0, 1)}, [(0, 1.28)], [1], id="whole numbers are pixels, even in the corner"),
        pytest.param({"points": [(0.5, 0.5), (50, 25)]}, [(0.32, 0.64), (32, 32)], [1, 1], id="one in the first pixel"),
    ],
)
def test_encode_points(prompt: dict[str, Any], points: list[tuple[float, float]], labels: list[int]) -> None:
    encoded = Prompt(**prompt).encode(FRAME, MODEL)
    assert (encoded.points.dtype, encoded.labels.dtype) == (np.float32, np.int32)
    np.testing.assert_allclose(encoded.points, [[*points, (0, 0)]], rtol=1e-6)
    assert encoded.labels.tolist() == [[*labels, -1]]
    assert (encoded.mask_input, encoded.logits) == (None, None)


def test_no_prompt() -> None:
    encoded = EncodedPrompt.none(3)
    assert (encoded.points.dtype, encoded.labels.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(encoded.points, np.zeros((3, 2, 2)))
    np.testing.assert_array_equal(encoded.labels, -np.ones((3, 2)))


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ({}, "needs points, a box or a mask"),
        ({"labels": [1], "box": (0, 0, 9, 9)}, "labels were given without points"),
        ({"points": []}, "needs points, a box or a mask"),
        ({"points": np.empty((0, 2)), "labels": []}, "needs points, a box or a mask"),
        ({"points": [], "labels": [1], "box": (0, 0, 9, 9)}, "labels were given without points"),
        ({"points": [(1, 1)], "labels": torch.ones(1, requires_grad=True)}, "labels must be numbers"),
        ({"points": 5}, r"points must be \[P,2\] .* got shape \[1, 1\]"),
        ({"points": (1, 2, 3)}, r"points must be \[P,2\] .* got shape \[1, 3\]"),
        ({"points": [[(1, 2)]]}, r"points must be \[P,2\] .* got shape \[1, 1, 2\]"),
        ({"points": [(1, 2), (3,)]}, "points must be numbers"),
        ({"points": [("left", 2)]}, "points must be numbers"),
        ({"points": [(10**400, 1)]}, "points must be numbers"),
        ({"points": [(1, None)]}, "points must be finite"),
        ({"points": [(1, np.nan)]}, r"points must be finite but got \[\[1.0, nan\]\]"),
        ({"points": [(1, 1), (201.5, 1)]}, r"point \[201.5, 1.0\] lies outside the 200×100 frame"),
        ({"points": [(1, 102)]}, r"point \[1.0, 102.0\] lies outside the 200×100 frame"),
        ({"points": [(-1.5, 1)]}, r"point \[-1.5, 1.0\] lies outside"),
        ({"points": [(1, -2)]}, r"point \[1.0, -2.0\] lies outside"),
        ({"points": [(0.5, 0.25)]}, r"point \[0.5, 0.25\] looks like fractions .* multiply x by 200 and y by 100"),
        ({"points": [(1, 1), (0.2, 0)]}, r"point \[1.0, 1.0\] looks like fractions of the frame"),
        ({"box": (0.1, 0.2, 0.5, 0.6)}, r"box \[0.1, 0.2, 0.5, 0.6\] looks like fractions of the frame"),
        ({"box": (0, 0, 1, 1), "points": (0.5, 0.5)}, r"box \[0.0, 0.0, 1.0, 1.0\] looks like fractions"),
        ({"points": (1, 1), "labels": []}, r"one for each point: 1 but got shape \[0\]"),
        ({"points": [(1, 1), (2, 2)], "labels": [1]}, r"one for each point: 2 but got shape \[1\]"),
        ({"points": [(1, 1)], "labels": [[1]]}, r"one for each point: 1 but got shape \[1, 1\]"),
        ({"points": [(1, 1)], "labels": ["object"]}, "labels must be numbers"),
        ({"points": [(1, 1)], "labels": [np.nan]}, "labels must be finite"),
        ({"points": [(1, 1)], "labels": [2]}, "unknown label 2; 1 is the object, 0 the background"),
        ({"points": [(1, 1)], "labels": [-1]}, "unknown label -1"),
        ({"points": [(1, 1), (2, 2)], "labels": [1, 5]}, "unknown label 5"),
        ({"points": [(1, 1)], "labels": [0.5]}, "unknown label 0.5"),
        ({"box": (1, 2, 3, 4, 5)}, r"a box must be x0, y0, x1, y1 but got shape \[5\]"),
        ({"box": [(1, 2), (3, 4)]}, r"a box must be x0, y0, x1, y1 but got shape \[2, 2\]"),
        ({"box": "1,2,3,4"}, "box must be numbers"),
        ({"box": (1, 2, 3, np.nan)}, "box must be finite"),
        ({"box": (1, 2, np.inf, 4)}, "box must be finite"),
        ({"box": (5, 2, 3, 4)}, r"box \[5.0, 2.0, 3.0, 4.0\] is inverted or empty"),
        ({"box": (1, 4, 3, 2)}, "inverted or empty"),
        ({"box": (1, 2, 1, 4)}, "inverted or empty"),
        ({"box": (1, 2, 3, 2)}, "inverted or empty"),
        ({"box": (-1.1, 2, 3, 4)}, "reaches outside the 200×100 frame; clip it"),
        ({"box": (1, -2, 3, 4)}, "reaches outside"),
        ({"box": (1, 2, 202, 4)}, "reaches outside"),
        ({"box": (1, 2, 3, 101.5)}, "reaches outside"),
        ({"box": (200, 2, 201, 4)}, r"box \[200.0, 2.0, 201.0, 4.0\] is inverted or empty"),
        ({"box": (5, 2, 3, 4), "points": [(1, 1)]}, "inverted or empty"),
        ({"points": [(1, 1)], "mask": np.ones(FRAME, bool)}, "a mask cannot be combined with points or a box"),
        ({"box": (1, 2, 3, 4), "mask": np.ones(FRAME, bool)}, "cannot be combined"),
        ({"labels": [1], "mask": np.ones(FRAME, bool)}, "cannot be combined"),
        ({"mask": np.full(FRAME, 3.0, np.float32)}, "mask of float32 must be of 0 and 1; of logits give logits > 0"),
        ({"mask": np.full(FRAME, np.nan)}, "mask of float64 must be of 0 and 1"),
        ({"mask": np.full(FRAME, "x")}, "must be a bool or integer array .* but got <U1"),
        ({"mask": [[True]]}, "must be a bool or integer array .* but got list"),
        ({"mask": np.ones((WIDTH, HEIGHT), bool)}, r"frame's size \[100, 200\] but got shape \[200, 100\]"),
        ({"mask": np.ones((*FRAME, 1), bool)}, r"frame's size \[100, 200\] but got shape \[100, 200, 1\]"),
        ({"mask": np.zeros(FRAME, bool)}, "the mask is empty"),
        ({"mask": np.zeros(FRAME, np.uint8)}, "the mask is empty"),
        ({"mask": np.eye(*FRAME, dtype=np.uint8) + box_mask(0, 0, 9, 9, FRAME)}, "one other value but has 1, 2"),
        ({"mask": torch.ones(FRAME, requires_grad=True)}, "cannot be converted to a numpy array: .*requires grad"),
        ({"mask": Image.new("RGB", FRAME[::-1])}, r"size \[100, 200\] but got shape \[100, 200, 3\]"),
    ],
)
def test_encode_refuses(prompt: dict[str, Any], words: str) -> None:
    with pytest.raises(PromptError, match=words):
        Prompt(**prompt).encode(FRAME, MODEL)


@pytest.mark.parametrize("object_id", [0, -3, 2**40, np.uint8(7), np.int64(-1)])
def test_check_object_id(object_id: int) -> None:
    checked = check_object_id(object_id)
    assert (type(checked), checked) == (int, object_id)


@pytest.mark.parametrize("object_id", [True, np.True_, "1", 1.0, None, (1,)])
def test_check_object_id_refuses(object_id: object) -> None:
    with pytest.raises(ObjectIdError, match="must be an integer but got"):
        check_object_id(object_id)


def blobs(height: int, width: int) -> npt.NDArray[np.bool_]:
    """Two discs, one of them cut off by the edge, with a hole."""
    y, x = np.ogrid[:height, :width]
    near = np.hypot((y - 0.4 * height) / height, (x - 0.3 * width) / width)
    far = np.hypot((y - 0.9 * height) / height, (x - 0.9 * width) / width)
    return (near > 0.06) & (near < 0.23) | (far < 0.3)


@pytest.mark.parametrize("size", [(97, 211), (540, 960), (128, 128), (61, 43)])
def test_encode_mask(size: tuple[int, int]) -> None:
    """As Sam2VideoInferenceSession resizes a mask and Sam2VideoModel uses it, computed by PyTorch."""
    mask = blobs(*size)
    given = torch.from_numpy(mask)[None, None].float()
    square = functional.interpolate(given, (SIDE, SIDE), mode="bilinear", antialias=True).ge(0.5).float()
    expected = functional.interpolate(20 * square - 10, scale_factor=0.25, mode="bilinear", antialias=True)
    downsampled = functional.conv2d(square, torch.from_numpy(KERNEL)[None, None], torch.tensor([0.75]), stride=4)
    for kind, value in ((bool, 1), (np.uint8, 3), (np.int32, 3), (np.float32, 1)):
        encoded = Prompt(mask=mask.astype(kind) * kind(value)).encode(size, MODEL)
        assert encoded.logits.dtype == encoded.mask_input.dtype == np.float32
        np.testing.assert_allclose(encoded.logits, expected.numpy(), atol=1e-5)
        np.testing.assert_allclose(encoded.mask_input, downsampled.numpy(), atol=1e-5)
        np.testing.assert_array_equal(encoded.labels, [[-1, -1]])
    for foreign in (torch.from_numpy(mask), torch.from_numpy(mask)[None], Image.fromarray(mask)):
        np.testing.assert_array_equal(Prompt(mask=foreign).encode(size, MODEL).logits, encoded.logits)
    assert encoded.logits.min() == pytest.approx(-prompts.MASK_LOGIT)
    assert encoded.logits.max() == pytest.approx(prompts.MASK_LOGIT)


@pytest.mark.parametrize("side", [2, 8])
def test_encode_refuses_a_mask_of_which_nothing_is_left(side: int) -> None:
    """At the model's 128 pixels there is something of the larger one, but not at the 32 of its masks."""
    size = (240, 320)
    mask = box_mask(100, 100, 100 + side, 100 + side, size)
    with pytest.raises(PromptError, match=r"a.png: the mask is too small: nothing is left of it at the 32×32 pixels"):
        Prompt(mask=mask, origin="a.png").encode(size, MODEL)
    large = box_mask(100, 100, 116, 116, size)
    encoded = Prompt(mask=large).encode(size, MODEL)
    result = FrameResult(0, (1,), encoded.logits[0], *np.ones((2, 1), np.float32), size)
    assert result.masks.any()


def test_errors_name_the_origin() -> None:
    prompt = Prompt(box=(0, 0, 999, 9), origin="boxes.jsonl, line 3")
    for use in (lambda: prompt.check(FRAME), lambda: prompt.encode(FRAME, MODEL)):
        with pytest.raises(PromptError, match=r"^boxes.jsonl, line 3: box .* reaches outside"):
            use()
    assert prompt.arguments == {"box": (0, 0, 999, 9)}


@pytest.mark.parametrize(
    ("prompt", "marks"),
    [
        ({"points": [(1, 1), (2, 2)], "labels": [0, 0]}, False),
        ({"points": [(1, 1), (2, 2)], "labels": [0, 1]}, True),
        ({"points": [(1, 1)], "labels": [0], "box": (0, 0, 9, 9)}, True),
        ({"mask": np.ones(FRAME, bool)}, True),
    ],
)
def test_only_some_prompts_start_an_object(prompt: dict[str, Any], marks: bool) -> None:
    encoded = Prompt(**prompt).encode(FRAME, MODEL)
    if marks:
        prompts.check_new(4, encoded)
    else:
        with pytest.raises(PromptError, match="object 4 is new, and points with label 0 only say where it is not"):
            prompts.check_new(4, encoded)
