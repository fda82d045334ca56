"""The image predictor's face: what it accepts, refuses and returns. That its masks are SAM 2's is tests/conformance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch.nn import functional

from sam2edge import Bundle, ImagePredictor
from sam2edge.bundle import Model
from sam2edge.errors import BackendError, FrameError, InputError, MediaError, PromptError, Sam2EdgeError
from sam2edge.runtime.image import predictor as predictor_module
from sam2edge.runtime.image.predictor import default_batch_size
from sam2edge.runtime.model.graphs import Embedding
from sam2edge.runtime.model.logits import upsample
from tests.helpers import BALL, BLOCK, HEIGHT, STAR, WIDTH, assert_close, assert_same, clip_frames

POINT = {"point_coords": [(138, 84)], "point_labels": [1]}

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def image() -> Pixels:
    return clip_frames(1)[0]


@pytest.fixture(scope="module")
def shared_predictor(nano: Bundle) -> Iterator[ImagePredictor]:
    with ImagePredictor(nano) as predictor:
        yield predictor


@pytest.fixture
def predictor(shared_predictor: ImagePredictor, image: Pixels) -> ImagePredictor:
    shared_predictor.set_image(image)
    return shared_predictor


def test_code_written_for_upstream(nano: Bundle, image: Pixels) -> None:
    """The steps of upstream's image_predictor_example.ipynb, but for the model that the predictor is made of."""
    predictor = ImagePredictor(nano)
    predictor.set_image(image)
    assert predictor.get_image_embedding().shape == (1, 256, 8, 8)
    input_point, input_label = np.array([[138, 84]]), np.array([1])
    masks, scores, logits = predictor.predict(point_coords=input_point, point_labels=input_label, multimask_output=True)
    sorted_ind = np.argsort(scores)[::-1]
    masks, scores, logits = masks[sorted_ind], scores[sorted_ind], logits[sorted_ind]
    assert (masks.shape, scores.shape, logits.shape) == ((3, HEIGHT, WIDTH), (3,), (3, 32, 32))
    assert set(np.unique(masks)) == {0, 1}

    mask_input = logits[np.argmax(scores), :, :]
    masks, scores, _ = predictor.predict(
        point_coords=np.array([[138, 84], [110, 70], [20, 20]]),
        point_labels=np.array([1, 1, 0]),
        mask_input=mask_input[None, :, :],
        multimask_output=False,
    )
    assert (masks.shape, scores.shape) == ((1, HEIGHT, WIDTH), (1,))

    masks, scores, _ = predictor.predict(
        point_coords=None, point_labels=None, box=np.array(BALL)[None, :], multimask_output=False
    )
    x0, y0, x1, y1 = BALL
    assert masks[0, y0:y1, x0:x1].sum() > 0.9 * masks.sum() > 0.5 * (x1 - x0) * (y1 - y0)

    boxes = np.array([BALL, BLOCK, STAR])
    masks, scores, _ = predictor.predict(point_coords=None, point_labels=None, box=boxes, multimask_output=False)
    assert (masks.shape, scores.shape) == ((3, 1, HEIGHT, WIDTH), (3, 1))
    for mask in masks:
        assert mask.squeeze(0).any()

    predictor.set_image_batch([image, image[:120, :200]])
    points = [np.array([[[138, 84]], [[260, 60]]]), np.array([[[138, 84]]])]
    labels = [np.array([[1], [1]]), np.array([[1]])]
    masks_batch, scores_batch, _ = predictor.predict_batch(points, labels, box_batch=None, multimask_output=True)
    assert [masks.shape for masks in masks_batch] == [(2, 3, HEIGHT, WIDTH), (3, 120, 200)]
    assert [scores.shape for scores in scores_batch] == [(2, 3), (3,)]
    predictor.reset_predictor()


def test_masks_are_the_logits_above_the_threshold(nano: Bundle, image: Pixels) -> None:
    for threshold in (0.0, -2.5, np.float32(1)):
        with ImagePredictor(nano, mask_threshold=threshold) as predictor:
            predictor.set_image(image)
            masks, ious, low = predictor.predict(box=BALL)
            logits, *same = predictor.predict(box=BALL, return_logits=True)
        assert_same(masks, (logits > threshold).astype(np.float32))
        assert_same(same, [ious, low])
        assert {values.dtype for values in (masks, logits, ious, low)} == {np.dtype(np.float32)}
        assert all(values.flags.writeable for values in (masks, logits, ious, low))


def test_low_resolution_logits_are_clamped(predictor: ImagePredictor) -> None:
    decode = predictor._graphs.decode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor._graphs, "decode", lambda *args: {name: 50 * v for name, v in decode(*args).items()})
        full, _, low = predictor.predict(box=BALL, multimask_output=False, return_logits=True)
    assert (low.min(), low.max()) == (-32, 32)
    assert full.max() > 100


@pytest.mark.parametrize("size", [(240, 320), (33, 500), (20, 10), (1, 1)])
def test_upsample(size: tuple[int, int]) -> None:
    logits = np.random.default_rng(0).normal(0, 9, (2, 3, 32, 32)).astype(np.float32)
    expected = functional.interpolate(torch.from_numpy(logits), size, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(upsample(logits, size), expected.numpy(), atol=2e-4)


def test_normalised_coordinates(predictor: ImagePredictor) -> None:
    size = np.array([WIDTH, HEIGHT])
    prompt = {"point_coords": np.array([[138, 84], [20, 20]]), "point_labels": [1, 0], "box": np.array(BALL)}
    expected = predictor.predict(**prompt)
    prompt |= {"point_coords": prompt["point_coords"] / size, "box": prompt["box"] / np.tile(size, 2)}
    assert_close(predictor.predict(**prompt, normalize_coords=False), expected)


def test_prompts_of_a_run_do_not_see_each_other(predictor: ImagePredictor) -> None:
    several = predictor.predict(box=[BALL, BLOCK, STAR])
    for n, box in enumerate((BALL, BLOCK, STAR)):
        assert_close([values[n] for values in several], predictor.predict(box=box))


def test_points_that_are_none_fill_up(predictor: ImagePredictor) -> None:
    """Where they lie does not matter. They are tokens for the model, so that the masks are not quite the same."""
    points, labels = [[(138, 84), (100, 60)], [(260, 60), (-5, 999)]], [[1, 0], [1, -1]]
    first = predictor.predict(point_coords=points, point_labels=labels)
    points[1][1] = (0, 0)
    assert_same(predictor.predict(point_coords=points, point_labels=labels), first)


def test_one_mask_input_for_several_boxes(predictor: ImagePredictor) -> None:
    low = predictor.predict(**POINT, multimask_output=False)[2]
    shared = predictor.predict(box=[BALL, BLOCK], mask_input=low)
    assert_same(predictor.predict(box=[BALL, BLOCK], mask_input=np.stack([low, low])), shared)
    for n, box in enumerate((BALL, BLOCK)):
        assert_close([values[n] for values in shared], predictor.predict(box=box, mask_input=low))


def test_several_mask_inputs(predictor: ImagePredictor) -> None:
    """Alone, and with one prompt for all of them."""
    low = predictor.predict(box=[BALL, BLOCK], multimask_output=False)[2]
    for prompt in ({}, POINT):
        several = predictor.predict(**prompt, mask_input=low, multimask_output=False)
        assert several[0].shape == (2, 1, HEIGHT, WIDTH)
        for n in range(2):
            alone = predictor.predict(**prompt, mask_input=low[n], multimask_output=False)
            assert_close([values[n] for values in several], alone)


def test_decode(predictor: ImagePredictor) -> None:
    _, ious, low = predictor.predict(box=[BALL, BLOCK])
    corners = np.array([BALL, BLOCK]).reshape(2, 2, 2)
    decoded = predictor.decode(corners, [[2, 3], [2, 3]])
    assert_same((decoded["masks"].clip(-32, 32), decoded["ious"]), (low, ious))
    best = ious.argmax(axis=1)
    np.testing.assert_array_equal(decoded["mask"][:, 0], decoded["masks"][[0, 1], best])
    _, iou, single = predictor.predict(box=[BALL, BLOCK], mask_input=low[:, :1], multimask_output=False)
    decoded = predictor.decode(corners, [[2, 3], [2, 3]], low[:, :1], False)
    assert_same((decoded["mask"].clip(-32, 32), decoded["iou"]), (single, iou))


def test_decode_on_other_features(predictor: ImagePredictor, image: Pixels) -> None:
    points, labels = np.array([[[138, 84]]] * 2), np.ones((2, 1))
    own = predictor.embedding.features
    decoded = predictor.decode(points, labels, features=np.concatenate([own, 0 * own]))
    assert_close([decoded["masks"][0]], [predictor.decode(points, labels)["masks"][0]])
    assert np.abs(decoded["masks"][1] - decoded["masks"][0]).max() > 1


def test_image_kinds(predictor: ImagePredictor, image: Pixels) -> None:
    expected = predictor.predict(box=BALL)
    strided = np.repeat(image, 2, 0)[::2]
    for kind in (Image.fromarray(image), torch.from_numpy(image), np.asfortranarray(image), strided):
        predictor.set_image(kind)
        assert_same(predictor.predict(box=BALL), expected)


def test_the_caller_may_change_images_and_results(predictor: ImagePredictor, image: Pixels) -> None:
    expected = predictor.predict(box=BALL)
    own = image.copy()
    predictor.set_image(own)
    own[:] = 0
    for values in (*predictor.predict(box=BALL), predictor.get_image_embedding()):
        values[:] = 99
    assert_same(predictor.predict(box=BALL), expected)


def test_set_embedding(predictor: ImagePredictor, image: Pixels) -> None:
    expected, embedding = predictor.predict(box=BALL), predictor.embedding
    predictor.set_image(image[:100, :50])
    assert predictor.embedding.size == (100, 50)
    predictor.set_embedding(embedding)
    with pytest.raises(FrameError, match=r"what encode\(\) returns but got ndarray"):
        predictor.set_embedding(embedding.features)  # type: ignore[arg-type]
    other = Embedding(embedding.features[:, :, :4, :4], embedding.size, embedding.high_res_0, embedding.high_res_1)
    with pytest.raises(FrameError, match=r"another model's: its features are \[1, 256, 4, 4\]"):
        predictor.set_embedding(other)
    assert_same(predictor.predict(box=BALL), expected)


def test_batch_is_as_one_image_after_the_other(predictor: ImagePredictor, image: Pixels) -> None:
    images = [image, np.ascontiguousarray(image[:, ::-1]), image[:100, 40:200]]
    boxes = [np.array(BALL), np.array([[20, 30, 90, 120]]), np.array([(5, 5, 90, 80), (0, 0, 160, 100)])]
    predictor.set_image_batch(images)
    assert predictor.get_image_embedding().shape == (3, 256, 8, 8)
    batch = predictor.predict_batch(box_batch=boxes, multimask_output=False)
    assert_same(predictor.predict(box=boxes[2], multimask_output=False), [values[2] for values in batch])
    for n, one in enumerate(images):
        predictor.set_image(one)
        assert_close([values[n] for values in batch], predictor.predict(box=boxes[n], multimask_output=False))


def test_batch_with_prompts_of_different_kinds(predictor: ImagePredictor, image: Pixels) -> None:
    low = predictor.predict(**POINT, multimask_output=False)[2]
    predictor.set_image_batch([image] * 3)
    batch = predictor.predict_batch(
        [POINT["point_coords"], None, None], [[1], None, None], [None, BALL, None], [None, None, low]
    )
    predictor.set_image(image)
    for n, prompt in enumerate(({**POINT}, {"box": BALL}, {"mask_input": low})):
        assert_close([values[n] for values in batch], predictor.predict(**prompt))


def sizes(image: Pixels) -> list[Pixels]:
    return [image[: 240 - 30 * n, : 320 - 11 * n] for n in range(7)]


@pytest.mark.parametrize("batch_size", [1, 3, 7, 50, None])
def test_encode_many(predictor: ImagePredictor, image: Pixels, batch_size: int | None) -> None:
    images = sizes(image)
    encoded = list(predictor.encode_many(images, batch_size))
    assert [index for index, _ in encoded] == list(range(7))
    for (_, embedding), alone in zip(encoded, images, strict=True):
        expected = predictor.encode(alone)
        assert isinstance(embedding, Embedding)
        assert embedding.size == alone.shape[:2]
        for name in ("features", "high_res_0", "high_res_1"):
            values = getattr(embedding, name)
            assert not isinstance(values.base, np.ndarray), "a view would keep the whole batch alive"
            assert_close([values], [getattr(expected, name)])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_bad_images_do_not_lose_the_others(predictor: ImagePredictor, image: Pixels, batch_size: int) -> None:
    images = sizes(image)
    broken: dict[int, tuple[Any, type[Exception], str]] = {
        0: (image / 255, FrameError, "uint8"),
        1: (MediaError("1.jpg: cannot be read"), MediaError, "1.jpg: cannot be read"),
        3: ("a.jpg", FrameError, "but got str"),
        4: (image[..., 0], FrameError, "[H,W,3]"),
        6: (FileNotFoundError("6.jpg"), MediaError, "an image cannot be read: 6.jpg"),
    }

    def load(n: int) -> Any:
        item = broken[n][0] if n in broken else images[n]
        if isinstance(item, Exception):
            raise item
        return item

    encoded = dict(predictor.encode_many(map(load, range(7)), batch_size))
    assert list(encoded) == list(range(7))
    for n, value in encoded.items():
        if n in broken:
            assert type(value) is broken[n][1]
            assert broken[n][2] in str(value)
        else:
            assert isinstance(value, Embedding)
            assert_close([value.features], [predictor.encode(images[n]).features])


def test_encode_many_holds_a_bounded_number(predictor: ImagePredictor, image: Pixels) -> None:
    """An endless collection: no more is read than the next batch needs."""
    read = []
    endless = (read.append(n) or (image if n % 5 else None) for n in count())
    for taken, (index, _) in enumerate(islice(predictor.encode_many(endless, 4), 10)):
        assert index == taken
        assert len(read) == 4 * (taken // 4 + 1)


def test_encode_many_leaves_the_image_set(predictor: ImagePredictor, image: Pixels) -> None:
    expected = predictor.predict(box=BALL)
    assert len(list(predictor.encode_many(sizes(image)))) == 7
    assert list(predictor.encode_many([])) == []
    assert_same(predictor.predict(box=BALL), expected)


def test_default_batch_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, nano: Bundle) -> None:
    def model(image_size: int) -> Model:
        return Model(**{**vars(nano.model), "image_size": image_size})

    class Meminfo(type(tmp_path)):  # type: ignore[misc]
        def __new__(cls, _: str) -> Any:
            return tmp_path / "meminfo"

    monkeypatch.setattr(predictor_module, "Path", Meminfo)
    assert default_batch_size(model(1024)) == 1
    for gigabytes, expected in ((1, 1), (8, 1), (16, 2), (64, 10), (512, 16)):
        (tmp_path / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable:   {gigabytes << 20} kB\n")
        assert default_batch_size(model(1024)) == expected
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\n")
    assert default_batch_size(model(128)) == 1


LOW = np.zeros((1, 32, 32), np.float32)
HALF = {"normalize_coords": False}
BAD_PROMPTS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "needs point_coords, a box or a mask_input"),
    "points without labels": ({"point_coords": [(5, 5)]}, "point_coords were given without point_labels"),
    "labels without points": ({"point_labels": [1], "box": BALL}, "point_labels were given without point_coords"),
    "no points": ({"point_coords": np.empty((0, 2)), "point_labels": []}, "needs point_coords, a box or a mask_input"),
    "fractions as pixels": ({"box": (0.1, 0.2, 0.5, 0.6)}, r"looks like fractions .* normalize_coords=False"),
    "one bare point": ({"point_coords": (5, 5), "point_labels": 1}, r"\[P,2\] or \[N,P,2\] .* shape \[2\]"),
    "points [P,3]": ({"point_coords": [(5, 5, 5)], "point_labels": [1]}, r"got shape \[1, 3\]"),
    "four axes": ({"point_coords": [[[(5, 5)]]], "point_labels": [[[1]]]}, r"got shape \[1, 1, 1, 2\]"),
    "ragged points": ({"point_coords": [[(5, 5)], [(5, 5), (6, 6)]], "point_labels": [[1], [1]]}, "must be numbers"),
    "NaN point": ({"point_coords": [(np.nan, 5)], "point_labels": [1]}, "point_coords must be finite"),
    "point outside": ({"point_coords": [(322, 5)], "point_labels": [1]}, "outside the 320×240"),
    "point above": ({"point_coords": [(5, -2)], "point_labels": [0]}, "outside the 320×240"),
    "too few labels": ({"point_coords": [(5, 5), (6, 6)], "point_labels": [1]}, r"one for each point: \[2\] .* \[1\]"),
    "labels [1,P]": ({"point_coords": [(5, 5)], "point_labels": [[1]]}, r"one for each point: \[1\] .* \[1, 1\]"),
    "label of a corner": ({"point_coords": [(5, 5)], "point_labels": [2]}, "unknown label 2; .* box as box="),
    "half a label": ({"point_coords": [(5, 5)], "point_labels": [0.5]}, "unknown label 0.5"),
    "label in words": ({"point_coords": [(5, 5)], "point_labels": ["object"]}, "point_labels must be numbers"),
    "pixels as fractions": ({"point_coords": [(5, 5)], "point_labels": [1], **HALF}, "0…1 .* normalize_coords=True"),
    "fraction beyond the edge": ({"point_coords": [(1.1, 0)], "point_labels": [1], **HALF}, "must be in 0…1"),
    "box of pixels as fractions": ({"box": BALL, **HALF}, "box must be in 0…1"),
    "box of three": ({"box": (1, 2, 3)}, r"box must be \[4\] or \[N,4\] .* shape \[3\]"),
    "box [2,2]": ({"box": [(1, 2), (3, 4)]}, r"got shape \[2, 2\]"),
    "box [1,1,4]": ({"box": [[BALL]]}, r"got shape \[1, 1, 4\]"),
    "no boxes": ({"box": np.empty((0, 4))}, r"got shape \[0, 4\]"),
    "box as text": ({"box": "1,2,3,4"}, "box must be numbers"),
    "infinite box": ({"box": (1, 2, np.inf, 4)}, "box must be finite"),
    "inverted box": ({"box": [BALL, (9, 9, 5, 20)]}, r"box \[9.0, 9.0, 5.0, 20.0\] is inverted"),
    "box outside": ({"box": (5, 5, 330, 20)}, "outside the 320×240"),
    "boxes and one prompt's points": ({"box": [BALL, BLOCK], **POINT}, "2 boxes but points for 1 prompts"),
    "mask of full size": ({"mask_input": np.zeros((1, HEIGHT, WIDTH))}, r"\[1,32,32\] .* shape \[1, 240, 320\]"),
    "mask [H,W]": ({"mask_input": LOW[0]}, r"shape \[32, 32\]; of several masks give one"),
    "three masks": ({"mask_input": np.zeros((3, 32, 32))}, r"shape \[3, 32, 32\]; of several masks give one"),
    "no masks": ({"mask_input": np.zeros((0, 1, 32, 32))}, r"shape \[0, 1, 32, 32\]"),
    "NaN mask": ({"mask_input": LOW * np.nan}, "mask_input must be finite"),
    "mask as text": ({"mask_input": "mask.png"}, "mask_input must be numbers"),
    "masks and boxes": ({"box": [BALL, BLOCK], "mask_input": np.zeros((3, 1, 32, 32))}, "3 prompts but there are 2"),
}
BAD_PROMPTS |= {
    f"{name}={value}": ({"box": BALL, name: value}, f"{name} must be True or False")
    for name in ("multimask_output", "return_logits", "normalize_coords")
    for value in (None, 1, "yes")
}


@pytest.mark.parametrize(("prompt", "words"), BAD_PROMPTS.values(), ids=BAD_PROMPTS)
def test_a_refused_prompt_changes_nothing(predictor: ImagePredictor, prompt: dict[str, Any], words: str) -> None:
    expected = predictor.predict(box=BALL)
    with pytest.raises(PromptError, match=words):
        predictor.predict(**prompt)
    assert_same(predictor.predict(box=BALL), expected)


BAD_DECODES: dict[str, tuple[dict[str, Any], str]] = {
    "points [P,2]": ({"points": [(5, 5)], "labels": [1]}, r"points must be \[N,P,2\] .* shape \[1, 2\]"),
    "no prompts": ({"points": np.empty((0, 1, 2)), "labels": np.empty((0, 1))}, "N ≥ 1"),
    "NaN": ({"points": [[(np.nan, 5)]], "labels": [[1]]}, "points must be finite"),
    "labels [N]": ({"points": [[(5, 5)]], "labels": [1]}, r"labels must be \[1, 1\]"),
    "label 4": ({"points": [[(5, 5)]], "labels": [[4]]}, "unknown label 4; labels are -1 to 3"),
    "masks": ({"points": [[(5, 5)]], "labels": [[1]], "mask_input": np.zeros((2, 1, 32, 32))}, "for 2 prompts"),
    "mask size": ({"points": [[(5, 5)]], "labels": [[1]], "mask_input": np.zeros((1, 9, 9))}, r"shape \[1, 9, 9\]"),
    "multimask": ({"points": [[(5, 5)]], "labels": [[1]], "multimask": 1}, "multimask must be True or False"),
    "features": ({"points": [[(5, 5)]], "labels": [[1]], "features": LOW}, r"features must be \[1, 256, 8, 8\]"),
}


@pytest.mark.parametrize(("arguments", "words"), BAD_DECODES.values(), ids=BAD_DECODES)
def test_decode_refuses(predictor: ImagePredictor, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        predictor.decode(**arguments)


class Torn:
    """An image that fails when its pixels are asked for, as PIL's do for files cut short."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise OSError("image file is truncated")


BAD_IMAGES = {
    "list": ([[[0, 0, 0]]], "an image must be a numpy array uint8 .* but got list"),
    "path": ("truck.jpg", "but got str"),
    "none": (None, "but got NoneType"),
    "floats": (np.zeros((9, 9, 3)), "an image must be uint8"),
    "grey": (np.zeros((9, 9), np.uint8), r"an image must be \[H,W,3\] \(RGB\) but got shape \[9, 9\]"),
    "deep PIL": (Image.new("I;16", (9, 9)), "has more than 8 bits"),
    "no pixels": (np.zeros((0, 9, 3), np.uint8), r"got shape \[0, 9, 3\]"),
    "batch": (np.zeros((2, 9, 9, 3), np.uint8), r"got shape \[2, 9, 9, 3\]"),
    "torn": (Torn(), "cannot be converted to an array: image file is truncated"),
}


@pytest.mark.parametrize(("wrong", "words"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_a_refused_image_changes_nothing(predictor: ImagePredictor, image: Pixels, wrong: Any, words: str) -> None:
    expected = predictor.predict(box=BALL)
    with pytest.raises(FrameError, match=words):
        predictor.set_image(wrong)
    with pytest.raises(FrameError, match=words):
        predictor.encode(wrong)
    with pytest.raises(FrameError, match=f"image 1 of 3: .*{words}"):
        predictor.set_image_batch([image, wrong, image])
    assert_same(predictor.predict(box=BALL), expected)


@pytest.mark.parametrize(
    ("images", "words"),
    [([], "got an empty one"), (np.zeros((2, 9, 9, 3), np.uint8), "got ndarray"), (None, "got NoneType")],
    ids=["empty", "array", "none"],
)
def test_set_image_batch_refuses(predictor: ImagePredictor, images: Any, words: str) -> None:
    with pytest.raises(FrameError, match=f"image_list must be a list of images .* but {words}"):
        predictor.set_image_batch(images)


def test_encode_many_refuses(predictor: ImagePredictor) -> None:
    for images in (np.zeros((2, 9, 9, 3), np.uint8), "folder", 5, None):
        with pytest.raises(InputError, match="images must be a list or iterator of images but got"):
            predictor.encode_many(images)  # type: ignore[arg-type]
    for batch_size in (0, -1, 1.5, True, "8"):
        with pytest.raises(InputError, match=f"batch_size must be an integer of at least 1 but got {batch_size!r}"):
            predictor.encode_many([], batch_size)  # type: ignore[arg-type]


def test_predict_batch_refuses(predictor: ImagePredictor, image: Pixels) -> None:
    with pytest.raises(PromptError, match=r"call set_image_batch\(image_list\) first"):
        predictor.predict_batch(box_batch=[BALL])
    predictor.set_image_batch([image] * 2)
    for name in ("point_coords_batch", "point_labels_batch", "box_batch", "mask_input_batch"):
        for wrong, got in (([None], "1"), ((None for _ in range(2)), "generator")):
            message = f"{name} must be a list with one entry per image \\(2\\) but got {got}"
            with pytest.raises(PromptError, match=message):
                predictor.predict_batch(**{name: wrong})  # type: ignore[arg-type]
    with pytest.raises(PromptError, match=r"image 1 of 2: box \[9.0, 9.0, 5.0, 20.0\] is inverted"):
        predictor.predict_batch(box_batch=[BALL, (9, 9, 5, 20)])
    for name in ("multimask_output", "return_logits"):
        with pytest.raises(InputError, match=f"image 0 of 2: {name} must be True or False"):
            predictor.predict_batch(box_batch=[BALL, BALL], **{name: None})  # type: ignore[arg-type]


USES: dict[str, Callable[[ImagePredictor], object]] = {
    "predict": lambda predictor: predictor.predict(box=BALL),
    "decode": lambda predictor: predictor.decode([[(5, 5)]], [[1]]),
    "check_prompt": lambda predictor: predictor.check_prompt(box=BALL),
    "get_image_embedding": lambda predictor: predictor.get_image_embedding(),
    "embedding": lambda predictor: predictor.embedding,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_no_image(predictor: ImagePredictor, use: Callable[[ImagePredictor], object]) -> None:
    predictor.reset_predictor()
    with pytest.raises(PromptError, match=r"no image is set; call set_image\(image\) first"):
        use(predictor)


def test_close(nano: Bundle, image: Pixels) -> None:
    with ImagePredictor(str(nano.path), "onnx") as predictor:
        predictor.set_image(image)
        pending = predictor.encode_many([image])
    predictor.close()
    uses = {
        **USES,
        "set_image": lambda closed: closed.set_image(image),
        "set_image_batch": lambda closed: closed.set_image_batch([image]),
        "encode_many": lambda closed: closed.encode_many([image]),
        "started before": lambda closed: next(pending),
        "predict_batch": lambda closed: closed.predict_batch(),
    }
    for name, use in uses.items():
        with pytest.raises(BackendError, match="the predictor is closed; make a new one"):
            pytest.fail(f"{name} returned {use(predictor)}")


@pytest.mark.parametrize(
    ("name", "value", "number"),
    [
        *(("mask_threshold", value, "a finite number") for value in (np.nan, np.inf, "0", True, None)),
        *(("max_hole_area", value, "a finite number of at least 0") for value in (-1, np.nan, "9")),
        *(("max_sprinkle_area", value, "a finite number of at least 0") for value in (-1, np.nan, "9")),
    ],
)
def test_wrong_arguments(nano: Bundle, name: str, value: Any, number: str) -> None:
    with pytest.raises(InputError, match=f"{name} must be {number} but got {value!r}"):
        ImagePredictor(nano, **{name: value})


def test_small_components_go_from_the_masks_alone(nano: Bundle, predictor: ImagePredictor, image: Pixels) -> None:
    plain, _, low = predictor.predict(box=BALL)
    with ImagePredictor(nano, max_hole_area=1e6, max_sprinkle_area=1e6) as filling:
        filling.set_image(image)
        masks, _, same = filling.predict(box=BALL)
    np.testing.assert_array_equal(low, same)
    # Everything is small: the background is filled, then, as upstream does it, the object's islands are cleared.
    np.testing.assert_array_equal(masks[:, 0, 0], plain[:, 0, 0] == 0)
    assert not masks[plain > 0].all()


def test_unknown_backend_and_no_bundle(nano: Bundle, tmp_path: Any) -> None:
    with pytest.raises(BackendError, match="unknown backend 'openvino'"):
        ImagePredictor(nano, "openvino")
    with pytest.raises(Sam2EdgeError, match="no such bundle directory"):
        ImagePredictor(tmp_path / "nothing")
