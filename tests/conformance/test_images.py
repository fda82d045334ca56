"""ImagePredictor against transformers' Sam2Model: low-resolution logits and predicted IoUs of every kind of prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional
from transformers import EdgeTamConfig, EdgeTamModel, EdgeTamVideoModel, Sam2Config, Sam2Model

from sam2edge import Bundle, ImagePredictor
from sam2edge.runtime.media.image_files import read_image
from sam2edge.runtime.model.resize import resize
from tests.conformance.reference import MEAN, STD, load_reference
from tests.conftest import NANO
from tests.helpers import BALL, BLOCK, HEIGHT, STAR, WIDTH, assert_close, clip_frames

RELATIVE = 1e-3

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

PROMPTS: dict[str, dict[str, Any]] = {
    "point": {"points": [(0.3, 0.55)], "labels": [1]},
    "points with a negative": {"points": [(0.3, 0.55), (0.7, 0.3), (0.1, 0.1)], "labels": [1, 1, 0]},
    "box": {"box": (0.18, 0.3, 0.46, 0.82)},
    "box and points": {"box": (0.18, 0.3, 0.46, 0.82), "points": [(0.3, 0.5), (0.2, 0.35)], "labels": [1, 0]},
    "several boxes": {"box": [(0.18, 0.3, 0.46, 0.82), (0.55, 0.35, 0.9, 0.9), (0.0, 0.0, 1.0, 1.0)]},
    "several boxes, each with a point": {
        "box": [(0.18, 0.3, 0.46, 0.82), (0.55, 0.35, 0.9, 0.9)],
        "points": [[(0.3, 0.5)], [(0.6, 0.4)]],
        "labels": [[1], [0]],
    },
    "several points, one of them none": {
        "points": [[(0.3, 0.5), (0.2, 0.35)], [(0.6, 0.4), (0.0, 0.0)]],
        "labels": [[1, 0], [1, -1]],
    },
}


@dataclass
class Pair:
    """The same model on both sides, with the image that was set last on ours."""

    predictor: ImagePredictor
    model: Sam2Model
    image: Image | None = None
    maps: list[torch.Tensor] | None = None

    def set_image(self, image: Image) -> None:
        self.predictor.set_image(image)
        if image is self.image:
            return
        pixels = (resize(image, self.predictor.model.image_size) / 255 - MEAN) / STD
        batch = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
        self.image, self.maps = image, self.model.get_image_embeddings(batch)

    def predict(self, prompt: dict[str, Any], mask_input: Floats | None, multimask: bool) -> Any:
        """Return the predictor's masks, IoUs and logits; the prompt is in fractions of the image."""
        height, width = self.predictor.embedding.size
        given = {}
        if "points" in prompt:
            given["point_coords"] = np.array(prompt["points"]) * (width, height)
            given["point_labels"] = np.array(prompt["labels"])
        if "box" in prompt:
            given["box"] = np.array(prompt["box"]) * (width, height, width, height)
        return self.predictor.predict(**given, mask_input=mask_input, multimask_output=multimask, return_logits=True)

    def expect(self, prompt: dict[str, Any], mask_input: Floats | None, multimask: bool) -> tuple[Floats, Floats]:
        """Return the model's logits [N,C,4h,4h] and IoUs [N,C]; its prompts are in pixels of its square."""
        size = self.model.config.prompt_encoder_config.image_size
        given: dict[str, Any] = {}
        if "points" in prompt:
            labels = torch.tensor(prompt["labels"])
            given["input_labels"] = labels.reshape(1, -1, labels.shape[-1])
            points = torch.tensor(prompt["points"], dtype=torch.float32) * size
            given["input_points"] = points.reshape(1, -1, *points.shape[-2:])
        if "box" in prompt:
            given["input_boxes"] = (torch.tensor(prompt["box"]) * size).reshape(1, -1, 4)
        if mask_input is not None:
            given["input_masks"] = torch.from_numpy(mask_input)[None]
        if set(given) == {"input_masks"}:
            return self._expect_of_mask(given["input_masks"], multimask)
        out = self.model(image_embeddings=list(self.maps or ()), multimask_output=multimask, **given)
        return out.pred_masks[0].numpy(), out.iou_scores[0].numpy()

    def _expect_of_mask(self, mask_input: torch.Tensor, multimask: bool) -> tuple[Floats, Floats]:
        """Decode a mask alone as upstream does, without any point; transformers adds a padding point."""
        assert self.maps is not None
        *high_res, features = self.maps
        masks, ious, *_ = self.model.mask_decoder(
            image_embeddings=features,
            image_positional_embeddings=self.model.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=torch.empty(1, 1, 0, features.shape[1]),
            dense_prompt_embeddings=self.model.prompt_encoder.mask_embed(mask_input),
            multimask_output=multimask,
            high_resolution_features=high_res,
        )
        return masks[0].numpy(), ious[0].numpy()


def as_image_model(directory: Path) -> Sam2Model:
    """Return the image side of a video model: the weights that both classes have."""
    video = load_reference(directory)
    edge = isinstance(video, EdgeTamVideoModel)
    config = (EdgeTamConfig if edge else Sam2Config)(
        vision_config=video.config.vision_config,
        prompt_encoder_config=video.config.prompt_encoder_config,
        mask_decoder_config=video.config.mask_decoder_config,
    )
    model = (EdgeTamModel if edge else Sam2Model)(config)
    weights = video.state_dict()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model.eval()


@pytest.fixture(scope="module")
def nano_pair(nano: Bundle) -> Iterator[Pair]:
    with ImagePredictor(nano) as predictor, torch.inference_mode():
        yield Pair(predictor, as_image_model(NANO))


@pytest.fixture(scope="module")
def tiny_pair(tiny: Bundle, tiny_model: Path) -> Iterator[Pair]:
    """It has every branch of the architecture."""
    with ImagePredictor(tiny) as predictor, torch.inference_mode():
        yield Pair(predictor, as_image_model(tiny_model))


@pytest.fixture(scope="module")
def edgetam_pair(edgetam: Bundle, edgetam_model: Path) -> Iterator[Pair]:
    with ImagePredictor(edgetam) as predictor, torch.inference_mode():
        yield Pair(predictor, as_image_model(edgetam_model))


@pytest.fixture(scope="module")
def truck(shared_data: Path) -> Image:
    return read_image(shared_data / "truck.jpg")


@pytest.fixture(params=["nano", "tiny", "edgetam"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return request.getfixturevalue(f"{request.param}_pair")


@pytest.fixture
def image(request: pytest.FixtureRequest, truck: Image, bedroom: Image) -> Image:
    """Each model sees one, and both in `test_batches_of_images`."""
    return truck if request.node.callspec.params["pair"] == "tiny" else bedroom[24]


def check(pair: Pair, prompt: dict[str, Any], mask_input: Floats | None, multimask: bool, what: str) -> Floats:
    """Compare the two sides, and return the predictor's low-resolution logits, clamped as they are fed back."""
    masks, ious, low = pair.predict(prompt, mask_input, multimask)
    expected, expected_ious = pair.expect(prompt, mask_input, multimask)
    assert pair.image is not None
    full = functional.interpolate(torch.from_numpy(expected), pair.image.shape[:2], mode="bilinear").numpy()
    if len(expected) == 1:
        expected, expected_ious, full = expected[0], expected_ious[0], full[0]
    assert low.shape == expected.shape, what
    assert np.abs(ious - expected_ious).max() <= RELATIVE, what
    assert_close([low, masks], [expected.clip(-32, 32), full], RELATIVE, f"{what}: logits")
    return low


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts(name: str, pair: Pair, image: Image) -> None:
    pair.set_image(image)
    for multimask in (True, False):
        check(pair, PROMPTS[name], None, multimask, f"multimask {multimask}")


def test_refinement(pair: Pair, image: Image) -> None:
    """The best mask of a point goes back in with further points, then with a box, then alone."""
    pair.set_image(image)
    low = check(pair, PROMPTS["point"], None, True, "point")[1:2]
    for name in ("points with a negative", "box and points"):
        low = check(pair, PROMPTS[name], low, False, name)
    low = check(pair, {}, low, True, "mask alone, three")[:1]
    check(pair, {}, low, False, "mask alone, one")


def test_single_mask_falls_back_where_unstable(nano_pair: Pair) -> None:
    """Both ways are taken: the single mask itself, and the best of three in its place."""
    nano_pair.set_image(clip_frames(1)[0])
    fell_back = set()
    boxes = np.array([BALL, BLOCK, STAR]) / np.tile((WIDTH, HEIGHT), 2)
    for prompt in (*({"box": box} for box in boxes), {"points": [(0.05, 0.5)], "labels": [1]}, PROMPTS["point"]):
        three = nano_pair.predict(prompt, None, True)[1]
        check(nano_pair, prompt, None, False, str(prompt))
        fell_back.add(bool(np.isin(nano_pair.predict(prompt, None, False)[1], three)[0]))
    assert fell_back == {True, False}


def test_embeddings(pair: Pair, image: Image) -> None:
    pair.set_image(image)
    assert pair.maps is not None
    assert_close(pair.predictor.get_image_embedding(), pair.maps[-1].numpy(), RELATIVE)


def test_batches_of_images(pair: Pair, truck: Image, bedroom: Image) -> None:
    """Images of different sizes in one encoder run, and each alone against the model."""
    images = [truck, bedroom[0], np.ascontiguousarray(truck[100:500, 200:500])]
    pair.predictor.set_image_batch(images)
    box = [np.array([0.2, 0.3, 0.7, 0.9])] * 3
    _, ious, logits = pair.predictor.predict_batch(box_batch=box, normalize_coords=False)
    for n, one in enumerate(images):
        pair.set_image(one)
        expected, expected_ious = pair.expect({"box": (0.2, 0.3, 0.7, 0.9)}, None, True)
        assert_close(logits[n], expected[0].clip(-32, 32), RELATIVE)
        assert np.abs(ious[n] - expected_ious[0]).max() <= RELATIVE
