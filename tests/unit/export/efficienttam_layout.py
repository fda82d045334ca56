"""Checkpoints in EfficientTAM's layout, made up as upstream_layout.py makes those of SAM 2, and what is done with them.

make_efficienttam_golden.py lets the authors' code do it, and test_efficienttam.py ours.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from tests.unit.export.upstream_layout import Layout, formula_tensor

WIDTHS = {"ti": 192, "s": 384}
SESSIONS = {
    "box": (0, {"box": (30, 40, 130, 150)}),
    "click": (3, {"points": [(180, 160)]}),
    "mask": (0, {"mask": (20, 150, 110, 240)}),
}
"""Objects: the frame on which each is prompted, and how, in pixels of 256×256; a mask is a box to fill."""

PLAYED = {
    "ti": (256, 18, ("mask",)),
    "ti_1": (256, 18, ("box", "click")),
    "ti_2": (256, 18, ("box",)),
    "s": (256, 3, ("box",)),
    "ti_512x512": (512, 2, ("box",)),
}
"""Models by the authors' names: the image size, the number of frames, and which sessions are played.

18 frames are more than an object has pointers.
"""

SAMPLES = 32
"""Logits of a mask that are kept as numbers; of the rest only the sign."""


class EfficientTamLayout(Layout):
    """Name → shape; what is neither image encoder nor conv_s0 or conv_s1 is as in SAM 2.0."""

    def __init__(self, size: str) -> None:
        super().__init__("tiny", "2.0")
        gone = ("image_encoder.", "sam_mask_decoder.conv_s")
        for name in [name for name in self if name.startswith(gone)]:
            del self[name]
        width, trunk, neck = WIDTHS[size], "image_encoder.trunk", "image_encoder.neck.convs.0"
        self[f"{trunk}.pos_embed"] = (1, 197, width)
        self._affine(f"{trunk}.patch_embed.proj", width, 3, 16, 16)
        for number in range(12):
            self._transformer(f"{trunk}.blocks.{number}", width, width)
        self[f"{neck}.conv_1x1.weight"] = (256, width, 1, 1)
        self[f"{neck}.conv_3x3.weight"] = (256, 256, 3, 3)
        self._affine(f"{neck}.norm_0", 256)
        self._affine(f"{neck}.norm_1", 256)


def formula_state(size: str) -> dict[str, torch.Tensor]:
    """Return a made-up state dict of the authors' model, with objects that are mostly in view."""
    state = {name: formula_tensor(name, shape) for name, shape in EfficientTamLayout(size).items()}
    state["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] = torch.ones(1)
    return state


def write_checkpoint(folder: Path, model: str) -> Path:
    """Write the made-up checkpoint of one of the models under the authors' name, and return the path."""
    path = folder / f"efficienttam_{model}.pt"
    torch.save({"model": formula_state(model.partition("_")[0])}, path)
    return path


def clip(size: int, count: int) -> npt.NDArray[np.uint8]:
    """Draw frames uint8 [T,S,S,3] in which a disc and a box move over a pattern."""
    scale = size / 256
    y, x = np.mgrid[0:size, 0:size] / scale
    frames = np.empty((count, size, size, 3), np.uint8)
    for t in range(count):
        scene = 40 * np.sin(0.11 * x + 0.05 * y)[..., None] + 30 * np.cos(0.002 * x * y)[..., None] * (1, 0.5, -1)
        scene += 128
        scene[(x - 80 - 2 * t) ** 2 + (y - 95 - t) ** 2 < 45**2] += (60, -70, -60)
        scene[(abs(x - 180 + t) < 30) & (abs(y - 160) < 35)] += (-60, -20, 80)
        frames[t] = scene.clip(0, 255).round()
    return frames


def prompt(session: str, size: int) -> dict[str, object]:
    """Return a session's prompt in pixels of frames of this size."""
    _, given = SESSIONS[session]
    scaled = {name: np.array(values) * (size / 256) for name, values in given.items()}
    if "mask" in scaled:
        x0, y0, x1, y1 = scaled["mask"].astype(int)
        mask = np.zeros((size, size), bool)
        mask[y0:y1, x0:x1] = True
        return {"mask": mask}
    return dict(scaled)


def sampled(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return SAMPLES of the logits [4h,4h], always at the same places."""
    places = np.random.RandomState(0).choice(logits.size, SAMPLES, replace=False)
    return logits.ravel()[places]


def attention_inputs(side: int, tokens: int | None = None) -> dict[str, torch.Tensor]:
    """Return made-up inputs of the memory attention: seven memories, and nine pointers.

    A memory has `tokens` tokens, by default one for each place of the grid.
    """
    return {
        "features": formula_tensor("features", (1, 256, side, side)),
        "memory": formula_tensor("memory", (1, 7, tokens or side * side, 64)),
        "pointers": formula_tensor("pointers", (1, 9, 256)),
    }
