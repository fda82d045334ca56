"""Masks for everything in an image: SAM 2 prompted with a grid of points, and the results filtered.

Parameters, records and their order are those of upstream's SAM2AutomaticMaskGenerator
(sam2/automatic_mask_generator.py). Candidates are filtered by predicted IoU before they are brought to the image's
size, which is then done one by one and only where the mask is: the same masks in less time and memory.
"""

from __future__ import annotations

import math
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
from sam2edge.runtime.image.candidates import (
    Candidate,
    Crop,
    image_crops,
    point_grid,
    without_duplicates,
    without_small_components,
)
from sam2edge.runtime.image.pixels import rgb_pixels
from sam2edge.runtime.image.predictor import ImagePredictor
from sam2edge.runtime.media import rle
from sam2edge.runtime.media.packed import Box, PackedMask
from sam2edge.runtime.model.graphs import in_turn
from sam2edge.runtime.model.logits import LOGIT_LIMIT, patches, stability_score
from sam2edge.types import Floats, Frame, Progress

_ENCODINGS: dict[str, Callable[[PackedMask], Any]] = {
    "binary_mask": PackedMask.unpack,
    "uncompressed_rle": rle.encode_uncompressed,
    "coco_rle": rle.encode,
}


class AutomaticMaskGenerator(Closeable):
    """Masks for everything in an image, from a grid of points. Arguments and defaults are upstream's.

    Args:
        predictor: An ImagePredictor, which has no image set afterwards, or a Bundle or the path of one.
        points_per_side: Points along each side of the grid; None with `point_grids`.
        points_per_batch: Points in one run of the decoder.
        pred_iou_thresh: Keep masks whose predicted IoU is above this; 0 keeps all.
        stability_score_thresh: Keep masks whose stability is at least this.
        stability_score_offset: Stability is the IoU of the masks at `mask_threshold` ± this.
        mask_threshold: Logits above this are the mask.
        box_nms_thresh: Of two masks whose boxes overlap by an IoU above this, keep that of the higher predicted IoU.
        crop_n_layers: How many times to cut the image up further, into 4, 16, … crops, each with a grid of its own.
        crop_nms_thresh: The same as `box_nms_thresh`, between crops; masks of smaller crops are kept.
        crop_overlap_ratio: Overlap of the first layer's crops, as a fraction of the image's shorter side.
        crop_n_points_downscale_factor: The grid of layer n has this to the power of n times fewer points per side.
        point_grids: In place of `points_per_side`, an array [P,2] of x, y from 0 to 1 for the image and each layer.
        min_mask_region_area: Remove holes and islands of fewer pixels, then masks that have become duplicates.
            (Upstream's SAM 2 class has this step from SAM's but never calls it. Instead it fills them in the
            low-resolution logits, where a pixel is larger, which needs CUDA.)
        output_mode: "binary_mask", "uncompressed_rle" or "coco_rle". A binary mask takes a byte for each pixel of the
            image, run lengths a few kilobytes: take those of hundreds of masks of a large photograph.
        use_m2m: Decode each mask once more with its own logits as the prompt.
        multimask_output: Three masks per point instead of one.
        backend: With a bundle, a name of sam2edge.runtime.BACKENDS or a Backend.
        progress: Called with a message and the fraction done.

    Raises:
        Sam2EdgeError: An argument is invalid, the bundle cannot be used, or the backend is not available.
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
        if output_mode not in list(_ENCODINGS):  # a list, since the value may be unhashable
            raise InputError(f"unknown output_mode {output_mode!r}; choose from {', '.join(_ENCODINGS)}")
        self._encode = _ENCODINGS[output_mode]
        self._use_m2m = checks.flag("use_m2m", use_m2m)
        self._multimask_output = checks.flag("multimask_output", multimask_output)
        if progress is not None and not callable(progress):
            raise InputError(f"progress must be a function of a message and a fraction but got {progress!r}")
        self._progress = progress
        self._owns_predictor = not isinstance(predictor, ImagePredictor)
        self._predictor = _predictor(predictor, backend)
        self._graphs = self._predictor._graphs  # whose turn it is: the predictor's image is set for all of `generate`

    def generate(self, image: object) -> list[dict[str, Any]]:
        """Return the masks of an image as upstream's records, best predicted IoU first within a crop.

        Args:
            image: RGB uint8 [H,W,3], or whatever else `ImagePredictor.set_image` takes.

        Returns:
            A dict per mask. Numbers are floats except for `area`, and boxes are x, y, width, height in pixels:
            "segmentation", bool [H,W], or {"size": [H,W], "counts": run lengths column by column, or COCO's string of
            them}; "area", pixels; "bbox", whose width as upstream's is from the first to the last column, one less than
            their number; "predicted_iou", the model's estimate; "point_coords", [[x, y]], the point that gave the mask;
            "stability_score"; "crop_box".

        Raises:
            FrameError: The image is invalid.
            InputError: The image is too small for `crop_n_layers`.
        """
        return [self._record(candidate) for candidate in self.find(image)]

    @in_turn
    def find(self, image: object) -> list[Candidate]:
        """Return the masks of an image packed, in the order of `generate`, whose arguments and errors this has."""
        pixels = rgb_pixels(image)
        size = pixels.shape[:2]
        crops = image_crops(size, self._crop_n_layers, self._crop_overlap_ratio)
        total, done = sum(len(self._grids[crop.layer]) for crop in crops), 0
        kept: list[Candidate] = []
        for number, crop in enumerate(crops, 1):
            in_crop: list[Candidate] = []
            for count, candidates in self._process(pixels, crop):
                in_crop += candidates
                done += count
                if self._progress:
                    place = f", crop {number}/{len(crops)}" if len(crops) > 1 else ""
                    self._progress(f"{done}/{total} points{place}", done / total)
            kept += without_duplicates(in_crop, [candidate.iou for candidate in in_crop], self._box_nms_thresh)
        self._predictor.reset_predictor()
        if len(crops) > 1:
            smallness = [1 / math.prod(candidate.crop.size) for candidate in kept]
            kept = without_duplicates(kept, smallness, self._crop_nms_thresh)
        if self._min_mask_region_area > 0:
            threshold = max(self._box_nms_thresh, self._crop_nms_thresh)
            kept = without_small_components(kept, self._min_mask_region_area, threshold)
        return kept

    def close(self) -> None:
        """Free the graphs, unless they belong to a predictor that was passed in."""
        if self._owns_predictor:
            self._predictor.close()

    def _process(self, image: Frame, crop: Crop) -> Iterator[tuple[int, list[Candidate]]]:
        """Encode a crop and decode its grid; yield for each batch the number of points and what passes the filters."""
        x0, y0, x1, y1 = crop.box
        self._predictor.set_image(np.ascontiguousarray(image[y0:y1, x0:x1]))
        grid = (self._grids[crop.layer] * (x1 - x0, y1 - y0)).astype(np.float32)
        with ThreadPoolExecutor(1) as thread:  # filters one batch while the next one is decoded
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
        """Decode points [P,2]; return logits [M,4h,4h], predicted IoUs [M] and points [M,2] of all their masks."""
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
            logits = np.concatenate([outputs["mask"][:, 0] for outputs in refined])
            ious = np.concatenate([outputs["iou"][:, 0] for outputs in refined])
        return logits, ious, points

    def _filter(
        self, logits: Floats, ious: Floats, points: Floats, crop: Crop, image_size: tuple[int, int]
    ) -> list[Candidate]:
        """Return the candidates that are good enough, stable, and not cut off by the crop."""
        if self._pred_iou_thresh > 0:
            good = ious > self._pred_iou_thresh
            logits, ious, points = logits[good], ious[good], points[good]
        kept = []
        level = self._mask_threshold - self._stability_score_offset
        for (x, y, patch), iou, point in zip(patches(logits, crop.size, level), ious, points, strict=True):
            stability = float(stability_score(patch, self._mask_threshold, self._stability_score_offset))
            if self._stability_score_thresh > 0 and stability < self._stability_score_thresh:
                continue
            left, top = crop.box[:2]
            mask = patch > np.float32(self._mask_threshold)
            # Upstream's box of an empty mask is the crop's corner.
            packed = PackedMask.pack(mask, (left + x, top + y) if mask.any() else (left, top), image_size)
            if not crop.cuts(packed.box, image_size):
                in_image = (float(point[0]) + left, float(point[1]) + top)
                kept.append(Candidate(packed, float(iou), stability, in_image, crop))
        return kept

    def _record(self, candidate: Candidate) -> dict[str, Any]:
        return {
            "segmentation": self._encode(candidate.mask),
            "area": candidate.mask.area,
            "bbox": _xywh(candidate.mask.box),
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
    """Return points [N,2] as N prompts of one click each."""
    return points[:, None], np.ones((len(points), 1), np.int32)


def _xywh(box: Box) -> list[float]:
    x0, y0, x1, y1 = box
    return [float(x0), float(y0), float(x1 - x0), float(y1 - y0)]


def _grids(
    points_per_side: int | None, point_grids: Sequence[npt.ArrayLike] | None, layers: int, downscale: int
) -> list[npt.NDArray[np.float64]]:
    """Return the grid of each layer: [P,2] x, y from 0 to 1."""
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
            f"points_per_side={side} leaves no points in layer {layers} with "
            f"crop_n_points_downscale_factor={downscale}; raise points_per_side or lower the factor"
        )
    return [point_grid(side // downscale**layer) for layer in range(layers + 1)]


def _check_grid(grid: npt.ArrayLike) -> npt.NDArray[np.float64]:
    try:
        points = np.asarray(grid, np.float64)
    except (OverflowError, TypeError, ValueError) as error:
        raise InputError(f"a point grid must be numbers [P,2] but got {grid!r}") from error
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise InputError(f"a point grid must be [P,2] (x, y) with P ≥ 1 but got shape {list(points.shape)}")
    outside = ~((points >= 0) & (points <= 1)).all(axis=1)
    if outside.any():
        raise InputError(f"points of a grid must lie between 0 and 1 but got {points[outside][0].tolist()}")
    return points
