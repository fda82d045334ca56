"""Find everything in an image: SAM 2 prompted with a grid of points, and what comes of it filtered.

Parameters, records and their order are those of upstream's SAM2AutomaticMaskGenerator
(sam2/automatic_mask_generator.py). Candidates are filtered by predicted IoU before they are brought to the image's
size, and then one after the other only where they are, which gives the same masks in less time and memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from sam2edge import checks
from sam2edge.bundle import Bundle
from sam2edge.closeable import Closeable
from sam2edge.errors import InputError
from sam2edge.runtime.backends.base import Backend
from sam2edge.runtime.image.candidates import Candidate, Shape, best, of_smallest_crops, without_small_regions
from sam2edge.runtime.image.crops import Box, Crop, crops, point_grid
from sam2edge.runtime.image.predictor import ImagePredictor
from sam2edge.runtime.image.upsampling import patches
from sam2edge.runtime.media import rle
from sam2edge.runtime.model.logits import LOGIT_LIMIT, stability_score
from sam2edge.runtime.model.resize import check_frame

_OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")

Progress = Callable[[str, float], None]
Floats = npt.NDArray[np.float32]


class AutomaticMaskGenerator(Closeable):
    """Masks for everything in an image, from a grid of points.

    predictor: an ImagePredictor, which has no image set afterwards, or a Bundle or the path of one. The other arguments
    are upstream's, with its defaults:

    points_per_side: the grid has its square of points; None with point_grids, one array [P,2] of x, y from 0 to 1 for
    the image and for each layer of crops. points_per_batch: points in one run of the decoder.
    pred_iou_thresh: masks whose predicted IoU is not above it go; 0 keeps all. stability_score_thresh: masks whose
    stability is below it go; the stability is the IoU of the mask at mask_threshold ± stability_score_offset.
    mask_threshold: logits above it are the mask. box_nms_thresh: of two masks whose boxes overlap by a larger IoU the
    one with the lower predicted IoU goes. crop_n_layers: how often the image is cut up further, into 4, 16, … crops
    with a grid of their own; crop_overlap_ratio: by how much of the image's shorter side those of the first layer
    overlap; crop_n_points_downscale_factor: the grid of layer n has fewer points a side by this factor to the power n;
    crop_nms_thresh: as box_nms_thresh between crops, where masks of smaller crops stay.
    min_mask_region_area: holes and islands of fewer pixels go, and masks that are duplicates then. (Upstream's SAM 2
    class has this step from SAM's but never calls it. What it does instead needs CUDA: it fills them in the
    low-resolution logits, where a pixel is larger.)
    output_mode: "binary_mask", "uncompressed_rle" or "coco_rle". use_m2m: decode each mask once more with its own
    logits as prompt. multimask_output: three masks a point instead of one.
    backend: with a bundle, a name of sam2edge.runtime.BACKENDS or a Backend.
    progress: called with a message and the fraction done.

    Raises InputError for an argument that cannot be meant, BundleError and BackendError.
    """

    def __init__(
        self,
        predictor: ImagePredictor | Bundle | str | os.PathLike[str],
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.8,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        mask_threshold: float = 0.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: Sequence[npt.ArrayLike] | None = None,
        min_mask_region_area: float = 0,
        output_mode: str = "binary_mask",
        use_m2m: bool = False,
        multimask_output: bool = True,
        *,
        backend: str | Backend = "auto",
        progress: Progress | None = None,
    ) -> None:
        self._points_per_batch = checks.integer("points_per_batch", points_per_batch, 1)
        self._pred_iou_thresh = checks.number("pred_iou_thresh", pred_iou_thresh, 0, 1)
        self._stability_score_thresh = checks.number("stability_score_thresh", stability_score_thresh, 0, 1)
        self._stability_score_offset = checks.number("stability_score_offset", stability_score_offset, 0)
        self._mask_threshold = checks.number("mask_threshold", mask_threshold)
        self._box_nms_thresh = checks.number("box_nms_thresh", box_nms_thresh, 0, 1)
        self._crop_n_layers = checks.integer("crop_n_layers", crop_n_layers, 0)
        self._crop_nms_thresh = checks.number("crop_nms_thresh", crop_nms_thresh, 0, 1)
        self._crop_overlap_ratio = checks.number("crop_overlap_ratio", crop_overlap_ratio, 0, 1, below=True)
        downscale = checks.integer("crop_n_points_downscale_factor", crop_n_points_downscale_factor, 1)
        self._grids = _grids(points_per_side, point_grids, self._crop_n_layers, downscale)
        self._min_mask_region_area = checks.number("min_mask_region_area", min_mask_region_area, 0)
        if output_mode not in _OUTPUT_MODES:
            raise InputError(f"unknown output_mode {output_mode!r}; choose from {', '.join(_OUTPUT_MODES)}")
        self._output_mode = output_mode
        self._use_m2m = checks.flag("use_m2m", use_m2m)
        self._multimask_output = checks.flag("multimask_output", multimask_output)
        if progress is not None and not callable(progress):
            raise InputError(f"progress must be a function of a message and a fraction but got {progress!r}")
        self._progress = progress
        self._owns_predictor = not isinstance(predictor, ImagePredictor)
        self._predictor = _predictor(predictor, backend)

    def generate(self, image: npt.NDArray[np.uint8]) -> list[dict[str, Any]]:
        """The masks of an image, RGB uint8 [H,W,3], as upstream's records, best predicted IoU first within a crop.

        segmentation: bool [H,W], or {"size": [H,W], "counts": run lengths column by column, or COCO's string of them}.
        area: int, pixels. bbox: x, y, width, height in pixels, where as upstream the width is from the first to the
        last column, one less than their number. predicted_iou: the model's estimate. point_coords: [[x, y]], the point
        that gave the mask. stability_score. crop_box: x, y, width, height of the crop. All numbers but `area` are
        floats. Raises FrameError for the image, InputError if it is too small for crop_n_layers.
        """
        check_frame(image)
        size = image.shape[:2]
        parts = crops(size, self._crop_n_layers, self._crop_overlap_ratio)
        total, done = sum(len(self._grids[crop.layer]) for crop in parts), 0
        found: list[Candidate] = []
        for number, crop in enumerate(parts, 1):
            in_crop: list[Candidate] = []
            for count, candidates in self._process(image, crop):
                in_crop += candidates
                done += count
                self._tell(
                    f"{done}/{total} points" + (f", crop {number}/{len(parts)}" * (len(parts) > 1)), done / total
                )
            found += best(in_crop, self._box_nms_thresh)
        self._predictor.reset_predictor()
        if len(parts) > 1:
            found = of_smallest_crops(found, self._crop_nms_thresh)
        if self._min_mask_region_area > 0:
            threshold = max(self._box_nms_thresh, self._crop_nms_thresh)
            found = without_small_regions(found, self._min_mask_region_area, size, threshold)
        return [self._record(candidate, size) for candidate in found]

    def close(self) -> None:
        """Free the graphs, unless they are a predictor's that was given."""
        if self._owns_predictor:
            self._predictor.close()

    def _tell(self, message: str, fraction: float) -> None:
        if self._progress:
            self._progress(message, fraction)

    def _process(self, image: npt.NDArray[np.uint8], crop: Crop) -> Iterator[tuple[int, list[Candidate]]]:
        """Encode a crop and decode its grid: for each batch the number of points and what passes the filters."""
        x0, y0, x1, y1 = crop.box
        self._predictor.set_image(np.ascontiguousarray(image[y0:y1, x0:x1]))
        grid = (self._grids[crop.layer] * (x1 - x0, y1 - y0)).astype(np.float32)
        with ThreadPoolExecutor(1) as thread:  # one batch is filtered while the next one is decoded
            pending: tuple[int, Future[list[Candidate]]] | None = None
            for start in range(0, len(grid), self._points_per_batch):
                points = grid[start : start + self._points_per_batch]
                decoded = self._decode(points)
                if pending:
                    yield pending[0], pending[1].result()
                pending = len(points), thread.submit(self._filter, *decoded, crop, image.shape[:2])
            if pending:
                yield pending[0], pending[1].result()

    def _decode(self, points: Floats) -> tuple[Floats, Floats, Floats]:
        """Logits [M,4h,4h], predicted IoUs [M] and points [M,2] of all masks of a batch of points [P,2]."""
        names = ("masks", "ious") if self._multimask_output else ("mask", "iou")
        decoded = self._predictor.decode(*_clicks(points), multimask=self._multimask_output, wanted=names)
        logits, ious = (decoded[name] for name in names)
        points = points.repeat(logits.shape[1], axis=0)
        logits, ious = logits.reshape(-1, *logits.shape[2:]), ious.ravel()
        if self._use_m2m:
            refined = [
                self._predictor.decode(
                    *_clicks(points[part]),
                    mask_input=np.clip(logits[part, None], -LOGIT_LIMIT, LOGIT_LIMIT),
                    multimask=False,
                    wanted=("mask", "iou"),
                )
                for start in range(0, len(points), self._points_per_batch)
                for part in [slice(start, start + self._points_per_batch)]
            ]
            logits = np.concatenate([one["mask"][:, 0] for one in refined])
            ious = np.concatenate([one["iou"][:, 0] for one in refined])
        return logits, ious, points

    def _filter(
        self, logits: Floats, ious: Floats, points: Floats, crop: Crop, image_size: tuple[int, int]
    ) -> list[Candidate]:
        """Candidates that are good enough, stable, and not cut off by the crop."""
        if self._pred_iou_thresh > 0:
            good = ious > self._pred_iou_thresh
            logits, ious, points = logits[good], ious[good], points[good]
        found = []
        level = self._mask_threshold - self._stability_score_offset
        for patch, iou, point in zip(patches(logits, crop.size, level), ious, points, strict=True):
            stability = float(stability_score(patch.logits, self._mask_threshold, self._stability_score_offset))
            if self._stability_score_thresh > 0 and stability < self._stability_score_thresh:
                continue
            left, top = crop.box[:2]
            mask = patch.logits > np.float32(self._mask_threshold)
            x, y = (patch.x, patch.y) if mask.any() else (0, 0)  # upstream's box of an empty mask is the crop's corner
            shape = Shape.of(mask, (left + x, top + y))
            if not crop.cuts(shape.box, image_size):
                at = (float(point[0]) + left, float(point[1]) + top)
                found.append(Candidate(shape, float(iou), stability, at, crop))
        return found

    def _record(self, candidate: Candidate, size: tuple[int, int]) -> dict[str, Any]:
        mask = candidate.shape.mask(size)
        modes: dict[str, Callable[[Any], Any]] = {
            "binary_mask": lambda mask: mask,
            "uncompressed_rle": rle.encode_uncompressed,
            "coco_rle": rle.encode,
        }
        return {
            "segmentation": modes[self._output_mode](mask),
            "area": candidate.shape.area,
            "bbox": _xywh(candidate.shape.box),
            "predicted_iou": candidate.iou,
            "point_coords": [list(candidate.point)],
            "stability_score": candidate.stability,
            "crop_box": _xywh(candidate.crop.box),
        }


def _predictor(given: Any, backend: str | Backend) -> ImagePredictor:
    if isinstance(given, ImagePredictor):
        return given
    if isinstance(given, (Bundle, str, os.PathLike)):
        return ImagePredictor(given, backend)
    got = type(given).__name__
    raise InputError(f"predictor must be an ImagePredictor, a Bundle or the path of one but got {got}")


def _clicks(points: Floats) -> tuple[Floats, npt.NDArray[np.int32]]:
    """Points [N,2] as N prompts of one click each."""
    return points[:, None], np.ones((len(points), 1), np.int32)


def _xywh(box: Box) -> list[float]:
    x0, y0, x1, y1 = box
    return [float(x0), float(y0), float(x1 - x0), float(y1 - y0)]


def _grids(
    points_per_side: int | None, point_grids: Sequence[npt.ArrayLike] | None, layers: int, downscale: int
) -> list[npt.NDArray[np.float64]]:
    """The grid of each layer: [P,2] x, y from 0 to 1."""
    if (points_per_side is None) == (point_grids is None):
        raise InputError("give either points_per_side or point_grids, and None for the other")
    if point_grids is not None:
        if not isinstance(point_grids, (list, tuple, np.ndarray)):
            raise InputError(f"point_grids must be a list of arrays [P,2] but got {point_grids!r}")
        grids = [_check_grid(grid) for grid in point_grids]
        if len(grids) <= layers:
            raise InputError(f"point_grids must have a grid for each layer: {layers + 1} but got {len(grids)}")
        return grids
    side = checks.integer("points_per_side", points_per_side, 1)
    if side < downscale**layers:
        raise InputError(
            f"{side} points a side are none in layer {layers} with crop_n_points_downscale_factor={downscale}; "
            "raise points_per_side or lower the factor"
        )
    return [point_grid(side // downscale**layer) for layer in range(layers + 1)]


def _check_grid(grid: npt.ArrayLike) -> npt.NDArray[np.float64]:
    try:
        points = np.asarray(grid, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"a point grid must be numbers [P,2] but got {grid!r}") from error
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise InputError(f"a point grid must be [P,2] (x, y) with P ≥ 1 but got shape {list(points.shape)}")
    outside = ~((points >= 0) & (points <= 1)).all(axis=1)
    if outside.any():
        raise InputError(f"points of a grid must lie between 0 and 1 but got {points[outside][0].tolist()}")
    return points
