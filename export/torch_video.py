"""transformers' own video predictor on a stream of frames: what the exported graphs are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import interpolate
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from sam2edge.export.source import IMAGENET_MEAN, IMAGENET_STD, load_source

_PARTS = ("vision_encoder", "memory_attention", "mask_decoder", "memory_encoder")
_NORMAL = IMAGENET_MEAN, IMAGENET_STD
Colour = Sequence[float]


def preprocess(
    frames: npt.NDArray[np.uint8], side: int, device: str = "cpu", normal: tuple[Colour, Colour] = _NORMAL
) -> torch.Tensor:
    """Resize and normalise frames uint8 [T,H,W,3] as the image processor does: float32 [T,3,side,side].

    normal: mean and standard deviation of the colours, 0 to 1.
    """
    mean, std = torch.tensor(normal, device=device)[..., None, None]
    pixels = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).contiguous()
    pixels = interpolate(pixels, (side, side), mode="bilinear", antialias=True)
    return (pixels / 255 - mean) / std


class TorchVideo:
    """Sam2VideoModel: on CUDA under bfloat16 autocast, as upstream runs, or in float32 on the CPU.

    source, image_size: as for load_source, whose errors it raises. mode: "eager", or "compile" with its four parts
    through torch.compile.
    """

    def __init__(self, source: str, mode: str, image_size: int | None = None) -> None:
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded = load_source(source, image_size=image_size)
        self._model, self._normal = loaded.model.float().eval().to(self._device), (loaded.mean, loaded.std)
        for part in _PARTS if mode == "compile" else ():
            compiled = torch.compile(getattr(self._model, part), mode="max-autotune-no-cudagraphs")
            setattr(self._model, part, compiled)
        self._side = self._model.config.image_size
        places = dict.fromkeys(("inference_device", "inference_state_device", "video_storage_device"), self._device)
        size = {"video_height": self._side, "video_width": self._side}
        self._session = Sam2VideoInferenceSession(**size, dtype=torch.float32, **places)

    def track(self, frame: npt.NDArray[np.uint8], boxes: npt.ArrayLike = ()) -> npt.NDArray[np.bool_]:
        """Masks bool [N,H,W] of the next frame, RGB uint8 [H,W,3]. boxes: of objects [N,4], on the first frame only."""
        height, width = frame.shape[:2]
        session, device = self._session, self._device
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            (pixels,) = preprocess(frame[None], self._side, device, self._normal)
            for object_id, box in enumerate(np.asarray(boxes, np.float64).reshape(-1, 2, 2)):
                corners = torch.tensor(box * self._side / (width, height)).float()[None, None]
                labels = torch.tensor([[[2, 3]]], dtype=torch.int32)
                points = {"point_coords": corners.to(device), "point_labels": labels.to(device)}
                session.add_point_inputs(session.obj_id_to_idx(object_id), 0, points)
                session.obj_with_new_inputs.append(object_id)
            logits: Any = self._model(session, frame=pixels).pred_masks.float()
            masks: npt.NDArray[np.bool_] = (
                (interpolate(logits, (height, width), mode="bilinear") > 0)[:, 0].cpu().numpy()
            )
            return masks
