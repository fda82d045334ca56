"""The mask generator on a drawn model whose masks are known, and everything that can be wrong with its arguments.

tests/conformance compares it with upstream's.
"""

from __future__ import annotations

import threading
import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
from PIL import Image

from sam2edge import AutomaticMaskGenerator, Bundle, ImagePredictor
from sam2edge.errors import BackendError, FrameError, InputError, MissingFileError
from sam2edge.runtime.media import rle
from sam2edge.runtime.media.sinks import paint_labels

SIDE = 32
IMAGE = np.zeros((96, 128, 3), np.uint8)


class DrawnPredictor(ImagePredictor):
    """Gives each point three squares around it, with sides 1/8, 1/4 and 1 of the image's; the first is the best."""

    def __init__(self) -> None:
        self._graphs: Any = SimpleNamespace(turn=threading.RLock())
        self.images: list[tuple[int, ...]] = []
        self.runs: list[tuple[int, bool, bool]] = []
        self.resets = self.closes = 0

    def set_image(self, image: Any) -> None:
        assert image.flags.c_contiguous
        self.images.append(image.shape[:2])

    def decode(self, points: Any, labels: Any, mask_input: Any = None, multimask: bool = True, **_: Any) -> Any:
        assert points.shape[1:] == (1, 2)
        assert labels.tolist() == [[1]] * len(points)
        self.runs.append((len(points), mask_input is not None, multimask))
        height, width = self.images[-1]
        at = points[:, 0] / (width, height) * SIDE - 0.5
        away = np.abs(np.arange(SIDE) - at[:, :, None])  # [N,2,SIDE], columns first
        far = np.maximum(away[:, 1, :, None], away[:, 0, None, :])
        masks = np.stack([4 * (SIDE * part - far) for part in (1 / 16, 1 / 8, 1 / 2)], axis=1).astype(np.float32)
        ious = np.tile(np.array([0.95, 0.9, 0.5], np.float32), (len(points), 1))
        return {"masks": masks, "ious": ious, "mask": masks[:, :1], "iou": ious[:, :1] - 0.01}

    def reset_predictor(self) -> None:
        self.resets += 1

    def close(self) -> None:
        self.closes += 1


def generate(predictor: DrawnPredictor | None = None, image: Any = IMAGE, **options: Any) -> list[dict[str, Any]]:
    options = {"stability_score_thresh": 0.2, **options}
    return AutomaticMaskGenerator(predictor or DrawnPredictor(), **options).generate(image)


def test_records() -> None:
    records = generate(points_per_side=2)
    assert len(records) == 8  # the two good masks of each of four points
    assert [record["predicted_iou"] for record in records] == pytest.approx([0.95] * 4 + [0.9] * 4)
    first = records[0]
    assert list(first) == [
        "segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box",
    ]  # fmt: skip
    assert first["segmentation"].dtype == np.bool_
    assert first["segmentation"].shape == (96, 128)
    assert first["area"] == first["segmentation"].sum() == 16 * 12 - 4, "interpolation rounds the corners"
    assert first["bbox"] == [24, 18, 15, 11], "from the first to the last pixel, as upstream's"
    assert first["point_coords"] == [[32.0, 24.0]]
    assert first["crop_box"] == [0, 0, 128, 96]
    assert 0.2 < first["stability_score"] < 1
    kinds = [type(first[name]) for name in ("area", "predicted_iou", "stability_score")]
    assert kinds == [int, float, float]
    assert {type(number) for name in ("bbox", "crop_box") for number in first[name]} == {float}


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_output_modes() -> None:
    masks = [record["segmentation"] for record in generate(points_per_side=3)]
    coco = [record["segmentation"] for record in generate(points_per_side=3, output_mode="coco_rle")]
    runs = [record["segmentation"] for record in generate(points_per_side=3, output_mode="uncompressed_rle")]
    for mask, compressed, uncompressed in zip(masks, coco, runs, strict=True):
        assert np.array_equal(rle.decode(compressed), mask)
        assert np.array_equal(pycocotools.mask.decode(compressed), mask)
        assert uncompressed["size"] == [96, 128]
        assert all(type(count) is int for count in uncompressed["counts"])
        assert np.array_equal(pycocotools.mask.decode(pycocotools.mask.frPyObjects(uncompressed, 96, 128)), mask)


def test_an_image_of_pil() -> None:
    predictor = DrawnPredictor()
    assert len(generate(predictor, Image.new("P", (128, 96)), points_per_side=2)) == 8
    assert predictor.images == [(96, 128)]


def test_many_masks_of_a_photograph_take_little_memory() -> None:
    """Of 12 megapixels, whose sides have no divisor in common with the masks'; a mask alone would take 12 MB."""
    image = np.zeros((3001, 4001, 3), np.uint8)
    with AutomaticMaskGenerator(DrawnPredictor(), points_per_side=8, stability_score_thresh=0.2) as generator:
        tracemalloc.start()
        masks = [candidate.mask for candidate in generator.find(image)]
        assert max(mask.area for mask in masks) > 500_000
        runs = [rle.encode(mask) for mask in masks]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (len(masks), len(runs)) == (128, 128)
    assert peak < 30e6
    labels = paint_labels((3001, 4001), [7] * len(masks), masks)
    assert labels.all(where=masks[-1].unpack())


def test_thresholds() -> None:
    """A square of side s loses an edge of 1/4 on each side at +1 and gains it at -1, in pixels of the model."""
    assert len(generate(points_per_side=1, pred_iou_thresh=0.92)) == 1
    scores = [record["stability_score"] for record in generate(points_per_side=1, pred_iou_thresh=0.0)]
    assert len(scores) == 3
    assert scores == sorted(scores)
    assert len(generate(points_per_side=1, pred_iou_thresh=0.0, stability_score_thresh=scores[1])) == 2
    assert generate(points_per_side=1, stability_score_thresh=1.0) == []
    assert len(generate(points_per_side=1, stability_score_thresh=1.0, stability_score_offset=0.0)) == 2
    plain, shrunk = (generate(points_per_side=1, mask_threshold=level)[0]["area"] for level in (0.0, 2.0))
    assert shrunk < plain


def test_duplicates_are_dropped() -> None:
    grid = np.array([[0.5, 0.5], [0.505, 0.5]])
    for threshold, count in ((0.7, 2), (1.0, 4)):
        assert len(generate(points_per_side=None, point_grids=[grid], box_nms_thresh=threshold)) == count
    assert generate(points_per_side=None, point_grids=[grid])[0]["point_coords"] == [[64.0, 48.0]]


def test_crops() -> None:
    predictor = DrawnPredictor()
    grids = [np.array([[0.5, 0.5]]), np.array([[0.4, 0.4], [0.95, 0.95]])]
    image = np.zeros((480, 640, 3), np.uint8)[::-1]
    records = generate(predictor, image, points_per_side=None, point_grids=grids, crop_n_layers=1)
    assert predictor.images == [(480, 640), (322, 402), (321, 402), (322, 401), (321, 401)]
    assert predictor.resets == 1
    boxes = [tuple(record["crop_box"]) for record in records]
    assert boxes[-1] == (0, 0, 640, 480), "masks of smaller crops first"
    # The second point's masks are cut off by every crop but the last one, whose corner is the image's.
    points = {(box, tuple(record["point_coords"][0])) for box, record in zip(boxes, records, strict=True)}
    corner = {box for box, (x, y) in points if (x - box[0]) > 0.9 * box[2]}
    assert corner == {(239.0, 159.0, 401.0, 321.0)}


def test_downscaled_grids() -> None:
    predictor = DrawnPredictor()
    generate(predictor, points_per_side=7, crop_n_layers=1, crop_n_points_downscale_factor=2)
    assert [run[0] for run in predictor.runs] == [49, 9, 9, 9, 9]


def test_batches_change_nothing() -> None:
    predictor = DrawnPredictor()
    records = generate(predictor, points_per_side=5, points_per_batch=7)
    assert [run[0] for run in predictor.runs] == [7, 7, 7, 4]
    expected = [record["point_coords"] for record in generate(points_per_side=5)]
    assert [record["point_coords"] for record in records] == expected


def test_mask_to_mask() -> None:
    predictor = DrawnPredictor()
    records = generate(predictor, points_per_side=3, points_per_batch=4, use_m2m=True)
    assert {round(record["predicted_iou"], 2) for record in records} == {0.94}
    batch = [(4, False, True), *[(4, True, False)] * 3]
    assert predictor.runs == [*batch, *batch, (1, False, True), (3, True, False)]


def test_one_mask_a_point() -> None:
    predictor = DrawnPredictor()
    assert len(generate(predictor, points_per_side=2, multimask_output=False)) == 4
    assert predictor.runs == [(4, False, False)]


def test_progress() -> None:
    told: list[tuple[str, float]] = []
    generate(points_per_side=3, points_per_batch=5, progress=lambda message, fraction: told.append((message, fraction)))
    assert told == [("5/9 points", 5 / 9), ("9/9 points", 1.0)]
    told.clear()
    generate(points_per_side=1, crop_n_layers=1, progress=lambda message, fraction: told.append((message, fraction)))
    assert told[1] == ("2/5 points, crop 2/5", 0.4)


def test_nothing_found() -> None:
    assert generate(pred_iou_thresh=1.0) == []
    assert generate(pred_iou_thresh=1.0, crop_n_layers=1, min_mask_region_area=9) == []


@pytest.mark.parametrize("offset", [1.0, 998.0])
def test_empty_masks_have_no_pixels(offset: float) -> None:
    """Thresholds of 0 keep everything, as upstream; with the larger offset there are logits above the lower one."""
    options = {"stability_score_thresh": 0, "stability_score_offset": offset, "mask_threshold": 1000.0}
    for record in (records := generate(points_per_side=1, pred_iou_thresh=0, **options)):
        assert (record["area"], record["bbox"], record["segmentation"].any()) == (0, [0.0] * 4, False)
    assert len(records) == 3


def test_a_given_predictor_stays_open() -> None:
    predictor = DrawnPredictor()
    with AutomaticMaskGenerator(predictor):
        pass
    assert predictor.closes == 0


def test_from_a_bundle(nano: Bundle) -> None:
    for source in (nano, nano.path, str(nano.path)):
        with AutomaticMaskGenerator(source, points_per_side=2, backend="onnx", pred_iou_thresh=0) as generator:
            generator.generate(IMAGE)
        with pytest.raises(BackendError, match="closed"):
            generator.generate(IMAGE)
    with pytest.raises(MissingFileError):
        AutomaticMaskGenerator("nowhere")
    with pytest.raises(InputError, match="predictor must be an ImagePredictor, a Bundle or the path of one but got"):
        AutomaticMaskGenerator(SimpleNamespace())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points_per_side": 0}, "points_per_side must be an integer of at least 1 but got 0"),
        ({"points_per_side": 2.5}, "points_per_side must be an integer of at least 1 but got 2.5"),
        ({"points_per_side": None}, "give either points_per_side or point_grids, and None for the other"),
        ({"point_grids": [[[0.5, 0.5]]]}, "give either points_per_side or point_grids, and None for the other"),
        ({"points_per_batch": 0}, "points_per_batch must be an integer of at least 1 but got 0"),
        ({"points_per_batch": True}, "points_per_batch must be an integer of at least 1 but got True"),
        ({"pred_iou_thresh": 1.5}, "pred_iou_thresh must be a finite number from 0 to 1 but got 1.5"),
        ({"pred_iou_thresh": "0.5"}, "pred_iou_thresh must be a finite number from 0 to 1 but got '0.5'"),
        ({"stability_score_thresh": -0.1}, "stability_score_thresh must be a finite number from 0 to 1 but got -0.1"),
        ({"stability_score_offset": -1}, "stability_score_offset must be a finite number of at least 0 but got -1"),
        ({"mask_threshold": float("nan")}, "mask_threshold must be a finite number but got nan"),
        ({"box_nms_thresh": 2}, "box_nms_thresh must be a finite number from 0 to 1 but got 2"),
        ({"crop_n_layers": -1}, "crop_n_layers must be an integer of at least 0 but got -1"),
        ({"crop_nms_thresh": None}, "crop_nms_thresh must be a finite number from 0 to 1 but got None"),
        ({"crop_overlap_ratio": 1.0}, "crop_overlap_ratio must be a finite number from 0 to below 1 but got 1.0"),
        (
            {"crop_n_points_downscale_factor": 0},
            "crop_n_points_downscale_factor must be an integer of at least 1 but got 0",
        ),
        (
            {"points_per_side": 3, "crop_n_layers": 2, "crop_n_points_downscale_factor": 2},
            "points_per_side=3 leaves no points in layer 2 with crop_n_points_downscale_factor=2; "
            "raise points_per_side or lower the factor",
        ),
        ({"min_mask_region_area": -5}, "min_mask_region_area must be a finite number of at least 0 but got -5"),
        ({"output_mode": "png"}, "unknown output_mode 'png'; choose from binary_mask, uncompressed_rle, coco_rle"),
        ({"output_mode": ["png"]}, r"unknown output_mode ['png']; choose from"),
        ({"use_m2m": 1}, "use_m2m must be True or False but got 1"),
        ({"multimask_output": None}, "multimask_output must be True or False but got None"),
        ({"progress": "bar"}, "progress must be a function of a message and a fraction but got 'bar'"),
        *(
            ({"points_per_side": None, "point_grids": grids, "crop_n_layers": 1}, message)
            for grids, message in (
                ([], "point_grids must have a grid for each layer: 2 but got 0"),
                ([[[0.5, 0.5]]], "point_grids must have a grid for each layer: 2 but got 1"),
                (5, "point_grids must be a list of arrays [P,2] but got 5"),
                ([[0.5, 0.5]] * 2, "a point grid must be [P,2] (x, y) with P ≥ 1 but got shape [2]"),
                ([np.empty((0, 2))] * 2, "a point grid must be [P,2] (x, y) with P ≥ 1 but got shape [0, 2]"),
                ([[["a", "b"]]] * 2, "a point grid must be numbers [P,2]"),
                ([[[0.5, 1.5]]] * 2, "points of a grid must lie between 0 and 1 but got [0.5, 1.5]"),
                ([[[float("nan"), 0.5]]] * 2, "points of a grid must lie between 0 and 1 but got [nan, 0.5]"),
            )
        ),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        AutomaticMaskGenerator(DrawnPredictor(), **options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("image", [None, IMAGE[..., 0], IMAGE.astype(np.float32), np.zeros((0, 5, 3), np.uint8)])
def test_wrong_images(image: Any) -> None:
    predictor = DrawnPredictor()
    with pytest.raises(FrameError):
        generate(predictor, image)
    assert not predictor.images


def test_image_too_small_for_its_crops() -> None:
    with pytest.raises(InputError, match="crop_n_layers=4 cuts a 9×9 image into empty crops; take fewer"):
        generate(image=np.zeros((9, 9, 3), np.uint8), crop_n_layers=4)
