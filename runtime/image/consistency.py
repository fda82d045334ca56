"""Whether slightly different prompts give the same mask: the costliest of three measures of a mask's confidence.

- The predicted IoU that `predict` returns costs nothing. It is how well the model thinks the mask fits, and ranks the
  masks of a prompt.
- `stability_score` (sam2edge.runtime.model.logits) looks at the logits: whether the outline depends on the threshold.
  With the predicted IoU it drops vague masks, as SAM 2's mask generator does.
- `consistency` costs a decoder run for n prompts. Use it before something expensive is done with a mask.

The first two are SAM 2's own. The predicted IoU is learned and may be overconfident on images unlike the training data.
None of the three knows which object was meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from sam2edge import checks
from sam2edge.errors import PromptError
from sam2edge.runtime.model import prompts
from sam2edge.types import Floats

if TYPE_CHECKING:
    from sam2edge.runtime.image.predictor import ImagePredictor


def consistency(
    predictor: ImagePredictor,
    point_coords: npt.ArrayLike | None = None,
    point_labels: npt.ArrayLike | None = None,
    box: npt.ArrayLike | None = None,
    mask_input: npt.ArrayLike | None = None,
    multimask_output: bool = True,
    normalize_coords: bool = True,
    *,
    n: int = 8,
    jitter: float = 0.02,
    noise: float = 0.05,
    seed: int = 0,
) -> Floats:
    """Return the mean IoU of all pairs of masks from n perturbed copies of one prompt: float32 [C], 0 to 1.

    The prompt is given as to `predictor.predict`, on the image that is set; C is 3, or 1 without `multimask_output`.
    `jitter` is the standard deviation of the shift of points, as a fraction of the image's shorter side, and of box
    corners, as a fraction of the box's sides; all stay in the image. `noise` is that of noise added to the features, as
    a fraction of their own. The same `seed` gives the same numbers. All copies take one decoder run.

    A low value means that the prompt is ambiguous or lies on an edge. The order of three masks may differ between
    copies, which counts as disagreement: to decide on a number, pass multimask_output=False. Two empty masks agree.

    Raises:
        PromptError: The prompt is invalid, or is more than one.
        InputError: Another argument is invalid.
    """
    checks.integer("n", n, 2)
    checks.integer("seed", seed, 0)
    checks.number("jitter", jitter, 0)
    checks.number("noise", noise, 0)
    checks.flag("multimask_output", multimask_output, PromptError)
    with predictor._graphs.turn:  # no other thread may set another image meanwhile
        embedding = predictor.embedding
        points, labels, mask = predictor.check_prompt(point_coords, point_labels, box, mask_input, normalize_coords)
        if len(points) != 1:
            raise PromptError(f"consistency takes one prompt but got {len(points)}; call it for each")
        random = np.random.default_rng(seed)
        moved = _jittered(points[0], labels[0], embedding.size, jitter, random.standard_normal((n, *points[0].shape)))
        features = predictor.features(embedding)
        noisy = random.standard_normal((n, *features.shape[1:]), np.float32)
        noisy *= np.float32(noise) * features.std()
        noisy += features
        name = "masks" if multimask_output else "mask"
        decoded = predictor.decode(
            moved,
            np.repeat(labels, n, axis=0),
            None if mask is None else np.repeat(mask, n, axis=0),
            multimask_output,
            features=noisy,
            wanted=[name],
        )
    return _mean_pairwise_iou(decoded[name] > predictor.mask_threshold)


def _jittered(
    points: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int32],
    size: tuple[int, int],
    jitter: float,
    normal: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Return copies [n,P,2] of points [P,2], moved by `normal` times their scale; box corners keep their order."""
    height, width = size
    scale = np.full(points.shape, float(min(size)))
    corners = np.isin(labels, (prompts.BOX_FROM, prompts.BOX_TO))
    if corners.any():
        scale[corners] = np.ptp(points[corners], axis=0)
    moved = np.clip(points + jitter * scale * normal, 0, (width, height))
    if corners.any():
        moved[:, corners] = np.sort(moved[:, corners], axis=1)
    return moved


def _mean_pairwise_iou(masks: npt.NDArray[np.bool_]) -> Floats:
    """Return the mean over pairs of masks [n,C,H,W]: [C]."""
    n, count = masks.shape[:2]
    flat = masks.reshape(n, count, -1).transpose(1, 0, 2).astype(np.float32)
    shared = flat @ flat.transpose(0, 2, 1)
    areas = flat.sum(axis=2)
    union = areas[:, :, None] + areas[:, None, :] - shared
    ious = np.where(union > 0, shared / np.maximum(union, 1), 1)
    first, second = np.triu_indices(n, 1)
    return cast(Floats, ious[:, first, second].mean(axis=1).astype(np.float32))
