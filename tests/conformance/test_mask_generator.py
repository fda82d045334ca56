"""The mask generator against upstream's algorithm, written down plainly and driven by PyTorch.

The reference does everything at full size, one mask after the other, on the unmodified modules of transformers. Its
steps are those of sam2/automatic_mask_generator.py and sam2/utils/amg.py, except for min_mask_region_area, where it
does what upstream documents (and SAM's first version did; SAM 2's class has the step and never calls it).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sam2edge import AutomaticMaskGenerator, Bundle
from sam2edge.export.reference import Reference, reference_of
from sam2edge.export.source import load_source
from sam2edge.runtime.media.image_files import read_image
from tests.conftest import NANO
from tests.helpers import clip_frames, iou

Image = npt.NDArray[np.uint8]

# The bundled model does not know trucks, so these thresholds leave some of its masks.
LOW = {"points_per_side": 8, "pred_iou_thresh": 0.4, "stability_score_thresh": 0.5, "stability_score_offset": 0.5}


@dataclasses.dataclass
class Expected:
    """A mask of the reference; its box is x0, y0, x1, y1, with the last pixel inclusive."""

    mask: Tensor
    iou: float
    stability: float
    point: tuple[float, float]
    box: list[int]
    crop: list[int]


@dataclasses.dataclass
class UpstreamGenerator:
    """The algorithm, with upstream's parameters and defaults."""

    model: Reference
    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.8
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    mask_threshold: float = 0.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: int = 0
    use_m2m: bool = False
    multimask_output: bool = True

    def generate(self, image: Image) -> list[Expected]:
        height, width = image.shape[:2]
        masks = []
        crops = self.crops(height, width)
        for box, layer in crops:
            in_crop = self.in_crop(image, box, self.points_per_side // self.crop_n_points_downscale_factor**layer)
            masks += suppress(in_crop, [one.iou for one in in_crop], self.box_nms_thresh)
        if len(crops) > 1:
            areas = [(one.crop[2] - one.crop[0]) * (one.crop[3] - one.crop[1]) for one in masks]
            masks = suppress(masks, [1 / area for area in areas], self.crop_nms_thresh)
        if self.min_mask_region_area > 0:
            unchanged = [self.clean(one) for one in masks]
            masks = suppress(masks, unchanged, max(self.box_nms_thresh, self.crop_nms_thresh))
        return masks

    def crops(self, height: int, width: int) -> list[tuple[list[int], int]]:
        crops = [([0, 0, width, height], 0)]
        for layer in range(1, self.crop_n_layers + 1):
            n = 2**layer
            overlap = int(self.crop_overlap_ratio * min(height, width) * 2 / n)
            w = int(np.ceil((overlap * (n - 1) + width) / n))
            h = int(np.ceil((overlap * (n - 1) + height) / n))
            for i in range(n):
                for j in range(n):
                    x, y = i * (w - overlap), j * (h - overlap)
                    crops.append(([x, y, min(x + w, width), min(y + h, height)], layer))
        return crops

    def in_crop(self, image: Image, crop: list[int], side: int) -> list[Expected]:
        x0, y0, x1, y1 = crop
        size, square = (y1 - y0, x1 - x0), 16 * self.model.grid
        pixels = torch.from_numpy(image[y0:y1, x0:x1].copy()).permute(2, 0, 1)[None]
        pixels = F.interpolate(pixels, (square, square), mode="bilinear", antialias=True)
        encoded = self.model.image_encoder(pixels.permute(0, 2, 3, 1))
        masks = []
        for row in range(side):
            for column in range(side):
                point = ((column + 0.5) / side, (row + 0.5) / side)
                for logits, predicted in self.decode(encoded, [square * point[0], square * point[1]]):
                    full = F.interpolate(logits[None, None], size, mode="bilinear", align_corners=False)[0, 0]
                    at = (point[0] * size[1], point[1] * size[0])
                    masks += self.judge(full, float(predicted), at, crop, image.shape[:2])
        return masks

    def decode(self, encoded: dict[str, Tensor], point: list[float]) -> list[tuple[Tensor, Tensor]]:
        """Return low-resolution logits and predicted IoU of all masks of a point."""
        out = self.run(encoded, point, None)
        if not self.multimask_output:
            masks = [(out["mask"][0, 0], out["iou"][0, 0])]
        else:
            masks = list(zip(out["masks"][0], out["ious"][0], strict=True))
        if self.use_m2m:
            again = [self.run(encoded, point, logits.clamp(-32, 32)) for logits, _ in masks]
            masks = [(out["mask"][0, 0], out["iou"][0, 0]) for out in again]
        return masks

    def run(self, encoded: dict[str, Tensor], point: list[float], mask: Tensor | None) -> dict[str, Tensor]:
        side = 4 * self.model.grid
        return self.model.mask_decoder(
            conditioned=encoded["features"],
            add_no_memory=torch.tensor([True]),
            high_res_0=encoded["high_res_0"],
            high_res_1=encoded["high_res_1"],
            points=torch.tensor([[point, [0, 0]]]),
            labels=torch.tensor([[1, -1]], dtype=torch.int32),
            mask_input=torch.zeros(1, 1, side, side) if mask is None else mask[None, None],
            has_mask_input=torch.tensor([mask is not None]),
            multimask=torch.tensor([False]),
        )

    def judge(
        self, logits: Tensor, iou: float, point: tuple[float, float], crop: list[int], image: tuple[int, ...]
    ) -> list[Expected]:
        if not iou > self.pred_iou_thresh > 0:
            return []
        threshold, offset = self.mask_threshold, self.stability_score_offset
        stability = float((logits > threshold + offset).sum() / (logits > threshold - offset).sum())
        if not stability >= self.stability_score_thresh > 0:
            return []
        x0, y0, x1, y1 = crop
        mask = torch.zeros(image, dtype=torch.bool)
        mask[y0:y1, x0:x1] = logits > threshold
        box = box_of(mask)
        edges = zip(box, crop, [0, 0, image[1], image[0]], strict=True)
        if any(abs(side - of_crop) <= 20 and abs(side - of_image) > 20 for side, of_crop, of_image in edges):
            return []
        return [Expected(mask, iou, stability, (point[0] + x0, point[1] + y0), box, crop)]

    def clean(self, mask: Expected) -> bool:
        """Fill holes and drop islands; return whether there were none."""
        before = mask.mask.numpy()
        after = before.copy()
        for inside in (False, True):
            _, labels, stats, _ = cv2.connectedComponentsWithStats((after == inside).astype(np.uint8), connectivity=8)
            parts = range(1, len(stats))
            small = [part for part in parts if stats[part, cv2.CC_STAT_AREA] < self.min_mask_region_area]
            if inside and len(small) == len(stats) - 1:
                small.remove(max(parts, key=lambda part: stats[part, cv2.CC_STAT_AREA]))
            for part in small:
                after[labels == part] = not inside
        mask.mask = torch.from_numpy(after)
        mask.box = box_of(mask.mask)
        return bool((before == after).all())


def box_of(mask: Tensor) -> list[int]:
    y, x = torch.nonzero(mask, as_tuple=True)
    return [int(x.min()), int(y.min()), int(x.max()), int(y.max())]


def suppress(masks: list[Expected], scores: list[float], threshold: float) -> list[Expected]:
    kept: list[Expected] = []
    for i in sorted(range(len(masks)), key=lambda i: -scores[i]):
        if all(box_iou(masks[i].box, one.box) <= threshold for one in kept):
            kept.append(masks[i])
    return kept


def box_iou(a: list[int], b: list[int]) -> float:
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(across, 0) * max(down, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union else 0.0


@pytest.fixture(scope="module")
def model() -> Reference:
    source = load_source(str(NANO))
    return Reference(source.model, source.mean, source.std)


@pytest.fixture(scope="module")
def truck(shared_data: Path) -> Image:
    """512×384."""
    return cv2.resize(read_image(shared_data / "truck.jpg"), (512, 384), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def toys() -> Image:
    """The first frame of the bundled clip, whose objects the bundled model knows: 320×240."""
    return clip_frames(1)[0]


def check(nano: Bundle, model: Reference, image: Image, least: int, **options: Any) -> list[dict[str, Any]]:
    """Compare all masks and their records, of which there must be at least `least`."""
    with AutomaticMaskGenerator(nano, **options) as generator:
        records = generator.generate(image)
    with torch.inference_mode():
        expected = UpstreamGenerator(model, **options).generate(image)
    assert len(records) == len(expected) >= least
    order = [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in (one.crop for one in expected)]
    assert [record["crop_box"] for record in records] == order
    left = list(records)
    for one in expected:
        mask = one.mask.numpy()
        ious = [iou(mask, record["segmentation"]) for record in left]
        assert max(ious) >= 0.99
        record = left.pop(int(np.argmax(ious)))
        x0, y0, x1, y1 = one.box
        assert record["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=2)
        assert record["area"] == record["segmentation"].sum() == pytest.approx(mask.sum(), rel=0.01, abs=2)
        assert record["predicted_iou"] == pytest.approx(one.iou, abs=1e-3)
        assert record["stability_score"] == pytest.approx(one.stability, abs=5e-3)
        assert record["point_coords"] == [pytest.approx(one.point, abs=1e-3)]
        x0, y0, x1, y1 = one.crop
        assert record["crop_box"] == [x0, y0, x1 - x0, y1 - y0]
    return records


def test_photograph(nano: Bundle, model: Reference, truck: Image) -> None:
    records = check(nano, model, truck, 10, **LOW)
    ious = [record["predicted_iou"] for record in records]
    assert ious == sorted(ious, reverse=True)


def test_what_the_model_knows(nano: Bundle, model: Reference, toys: Image) -> None:
    check(nano, model, toys, 3, points_per_side=8, pred_iou_thresh=0.6, stability_score_thresh=0.8)


def test_crops(nano: Bundle, model: Reference, truck: Image) -> None:
    options = LOW | {"points_per_side": 8, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2}
    records = check(nano, model, truck, 5, **options, crop_nms_thresh=0.3)
    assert len({tuple(record["crop_box"]) for record in records}) > 1


def test_small_regions(nano: Bundle, model: Reference, truck: Image) -> None:
    area = 400
    records = check(nano, model, truck, 5, **LOW, min_mask_region_area=area)
    with AutomaticMaskGenerator(nano, **LOW) as generator:
        assert len(records) <= len(generator.generate(truck))
    for record in records:
        stats = cv2.connectedComponentsWithStats(record["segmentation"].astype(np.uint8), connectivity=8)[2]
        assert len(stats) == 2 or stats[1:, cv2.CC_STAT_AREA].min() >= area


@pytest.mark.parametrize(
    ("least", "options"),
    [
        pytest.param(5, {"points_per_side": 5, "points_per_batch": 7, "use_m2m": True}, id="mask to mask"),
        pytest.param(3, {"multimask_output": False}, id="one mask a point"),
        pytest.param(3, {"points_per_side": 6, "mask_threshold": 0.4, "box_nms_thresh": 0.4}, id="thresholds"),
    ],
)
def test_options(nano: Bundle, model: Reference, truck: Image, least: int, options: dict[str, Any]) -> None:
    check(nano, model, truck, least, **LOW | options)


def test_edgetam(edgetam: Bundle, edgetam_model: Path, truck: Image) -> None:
    """Random weights make masks whose boxes are alike, all of which are kept: the bundled model tests suppression."""
    options = {"points_per_side": 2, "pred_iou_thresh": 0.01, "stability_score_thresh": 0.01, "box_nms_thresh": 1.0}
    check(edgetam, reference_of(load_source(edgetam_model)), truck, 3, **options)
