"""transformers' SAM 2 video model as the reference, with upstream's rules where the port departs from them.

Departures of the port (transformers 5.23, modeling_sam2_video.py) that are undone here, 6 to 8 in ReferencePredictor,
each checked against facebookresearch/sam2, sam2_video_predictor.py:

1. Stored memories are rounded to bfloat16. Upstream does that too, but under autocast, for the GPU's sake.
2. A correction does not feed the frame's previous logits, clamped to ±32, back into the decoder.
3. A mask prompt's pointer comes from the best of three masks; upstream runs the decoder for a single mask.
4. A mask prompt's memory is encoded from the full-size mask; upstream encodes the stored low-resolution logits.
5. All objects of a session share `binarize`. Here every object has a session of its own, as upstream's objects do.
6. Prompts are memories at once; upstream's become memories when the next propagation starts.
7. A conditioning frame that propagation passes counts as tracked, so that a further prompt corrects it.
8. That correction's memory goes into the output that it corrects, not into its own.

EdgeTAM's port (modeling_edgetam_video.py) encodes the memory of each object on its own and does not have 1, 5 and 8.
Its modules compute what the authors' do (tests/unit/export/test_edgetam.py); the perceiver of both takes only one
object at a time.

Two rules are not those of today's upstream code. Propagation keeps corrected frames, as in upstream's first release
(sam2_video_predictor_legacy.py) and as the comments in today's say, which tracks them again and loses the correction. A
corrected conditioning frame takes the new output, which upstream drops.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F
from transformers import EdgeTamVideoModel, Sam2VideoModel
from transformers.models.sam2_video import modeling_sam2_video
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from sam2edge.export.source import load_source
from sam2edge.runtime.model.prompts import check_points
from sam2edge.runtime.model.resize import resize

MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
CONDITIONING, OTHERS = "cond_frame_outputs", "non_cond_frame_outputs"


class _FloatMemories:
    """The torch module as the port sees it, without bfloat16 (departure 1)."""

    bfloat16 = torch.float32

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


modeling_sam2_video.torch = _FloatMemories()


class _Upstream:
    """A model of transformers with departures 2 to 4 undone, which also keeps each frame's predicted IoU."""

    _from_mask = False

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._encoded: dict[bytes, Any] = {}

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        """Encode an image; those that were encoded before are remembered, since many sessions play one clip."""
        key = pixel_values.numpy().tobytes()
        if key not in self._encoded:
            self._encoded[key] = super().get_image_features(pixel_values, **kwargs)
        return self._encoded[key]

    def _run_single_frame_inference(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if kwargs["point_inputs"] is not None:
            session = kwargs["inference_session"]
            stored = [session.pending, *session.output_dict_per_obj[kwargs["obj_idx"]].values()]
            logits = [frames[kwargs["frame_idx"]]["pred_masks"] for frames in stored if kwargs["frame_idx"] in frames]
            kwargs["prev_sam_mask_logits"] = logits[0].clamp(-32, 32) if logits else None
        out = super()._run_single_frame_inference(*args, **kwargs)
        out["iou"] = torch.ones(1) if kwargs["mask_inputs"] is not None else self._iou
        return out

    def _use_mask_as_output(self, *args: Any, **kwargs: Any) -> Any:
        self._from_mask = True
        out = super()._use_mask_as_output(*args, **kwargs)
        self._from_mask = False
        size = (self.image_size, self.image_size)
        out.high_res_masks = F.interpolate(out.pred_masks, size=size, mode="bilinear", align_corners=False)
        return out

    def _single_frame_forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._from_mask:
            kwargs["multimask_output"] = False
        out = super()._single_frame_forward(*args, **kwargs)
        self._iou = out.iou_scores.flatten().max()[None]
        return out


class UpstreamModel(_Upstream, Sam2VideoModel):
    """SAM 2."""


class UpstreamEdgeTam(_Upstream, EdgeTamVideoModel):
    """EdgeTAM."""


def load_reference(checkpoint: Path) -> Any:
    """Return a directory of transformers as the reference, in float32.

    SAM 2 is loaded by transformers itself. It cannot load EdgeTAM without timm; test_edgetam.py holds our loading to
    numbers of the authors' code.
    """
    if json.loads((checkpoint / "config.json").read_text())["model_type"] == "sam2_video":
        return UpstreamModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    loaded = load_source(checkpoint).model
    model = UpstreamEdgeTam(loaded.config)
    model.load_state_dict(loaded.state_dict())
    return model.eval()


@dataclass
class Expected:
    """One object on one frame: logits [4h,4h], mask [H,W], iou, score, pointer [C]."""

    logits: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    iou: float
    score: float
    pointer: npt.NDArray[np.float32]


class ReferenceTracker:
    """Plays a clip through the model in any order of frames, with one session for each object.

    frames: uint8 [T,H,W,3], resized by sam2edge's own resize, which is compared elsewhere.
    """

    def __init__(
        self, model: UpstreamModel, frames: npt.NDArray[np.uint8], corrections_condition: bool = False
    ) -> None:
        self.model, self.frames = model, frames
        self.size = frames.shape[1:3]
        self.corrections_condition = corrections_condition
        square = np.stack([resize(frame, model.config.image_size) for frame in frames])
        pixels = (square / 255 - MEAN) / STD
        self.pixels = torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2)
        self.sessions: dict[int, Sam2VideoInferenceSession] = {}
        self.cache: Any = None
        self.reverse = False

    def track(self, frame: int, reverse: bool = False) -> dict[int, Expected]:
        self.reverse = reverse
        for session in self.sessions.values():
            self.model(session, frame_idx=frame, reverse=reverse)
        return self.results(frame)

    def prompt(self, frame: int, object_id: int, **prompt: Any) -> dict[int, Expected]:
        session = self._prompted_session(frame, object_id, **prompt)
        conditioning, others = session.output_dict_per_obj[0].values()
        if frame in conditioning and frame in session.frames_tracked_per_obj[0]:
            others[frame] = conditioning.pop(frame)  # a correction does not see the one before it
        self.model(session, frame_idx=frame, reverse=self.reverse)
        if self.corrections_condition and frame in others:
            conditioning[frame] = others.pop(frame)
        return self.results(frame)

    def remove(self, object_id: int) -> None:
        del self.sessions[object_id]

    def results(self, frame: int) -> dict[int, Expected]:
        return {object_id: self._expected(session, frame) for object_id, session in self.sessions.items()}

    def _prompted_session(self, frame: int, object_id: int, **prompt: Any) -> Sam2VideoInferenceSession:
        session = self.sessions.setdefault(object_id, self._session())
        if "mask" in prompt:
            size = (self.model.config.image_size,) * 2
            mask = torch.from_numpy(prompt["mask"]).float()[None, None]
            mask = (F.interpolate(mask, size=size, mode="bilinear", antialias=True) >= 0.5).float()
            session.add_mask_inputs(0, frame, mask)
            session.remove_point_inputs(0, frame)
        else:
            points, labels = check_points(
                prompt.get("points"), prompt.get("labels"), prompt.get("box"), self.size, needs_labels=False
            )
            scaled = points / self.size[::-1] * self.model.config.image_size
            inputs = {"point_coords": scaled[None].astype(np.float32), "point_labels": labels[None]}
            session.add_point_inputs(0, frame, {k: torch.from_numpy(v) for k, v in inputs.items()})
            session.remove_mask_inputs(0, frame)
        session.obj_with_new_inputs = [1]
        return session

    def _session(self) -> Sam2VideoInferenceSession:
        height, width = self.size
        session = Sam2VideoInferenceSession(
            video=self.pixels,
            video_height=height,
            video_width=width,
            dtype=torch.float32,
            max_vision_features_cache_size=len(self.frames),
        )
        session.obj_id_to_idx(1)
        session.pending = {}  # ReferencePredictor's outputs of prompts that are not memories yet
        self.cache = self.cache or session.cache
        session.cache = self.cache  # one encoder run a frame, whatever the number of objects
        return session

    def _expected(self, session: Sam2VideoInferenceSession, frame: int) -> Expected:
        out = {}
        for outputs in (session.pending, *session.output_dict_per_obj[0].values()):
            out = out or outputs.get(frame, {})
        if not out:
            side = self.model.config.image_size // 4
            return Expected(np.full((side, side), -1024, np.float32), np.zeros(self.size, bool), 0, 0, np.zeros(0))
        logits = out["pred_masks"]
        mask = F.interpolate(logits, size=self.size, mode="bilinear", align_corners=False)[0, 0] > 0
        return Expected(
            logits=logits[0, 0].numpy(),
            mask=mask.numpy(),
            iou=float(out["iou"]),
            score=float(out["object_score_logits"]),
            pointer=out["object_pointer"].flatten().numpy(),
        )


class ReferencePredictor(ReferenceTracker):
    """Prompts on any frame and propagation in both directions, one session an object."""

    def prompt(self, frame: int, object_id: int, **prompt: Any) -> dict[int, Expected]:
        session = self._prompted_session(frame, object_id, **prompt)
        stored, tracked = session.output_dict_per_obj[0], session.frames_tracked_per_obj[0]
        before = {kind: {t: dict(out) for t, out in stored[kind].items()} for kind in stored}
        first = frame not in tracked
        self.model(session, frame_idx=frame, reverse=tracked.get(frame, {"reverse": False})["reverse"])
        out = stored[CONDITIONING if first else OTHERS][frame]
        if isinstance(self.model, Sam2VideoModel):  # departure 8
            written = stored[CONDITIONING].get(frame, out)
            out = {**out, **{name: written[name] for name in ("maskmem_features", "maskmem_pos_enc")}}
        out["conditions"] = first or self.corrections_condition or frame in before[CONDITIONING]
        session.pending[frame] = out
        session.output_dict_per_obj[0] = before
        return self.results(frame)

    def propagate(
        self, start: int | None = None, length: int | None = None, reverse: bool = False
    ) -> Iterator[tuple[int, dict[int, Expected]]]:
        for session in self.sessions.values():
            stored = session.output_dict_per_obj[0]
            for frame, out in session.pending.items():
                for kind in stored.values():
                    kind.pop(frame, None)
                stored[CONDITIONING if out["conditions"] else OTHERS][frame] = out
            session.pending.clear()
        if start is None:
            start = min(t for session in self.sessions.values() for t in session.output_dict_per_obj[0][CONDITIONING])
        last = len(self.frames) - 1
        length = last if length is None else length
        if reverse:  # upstream yields nothing backward from the first frame
            order = range(start, max(start - length, 0) - 1, -1) if start else range(0)
        else:
            order = range(start, min(start + length, last) + 1)
        for frame in order:
            for session in self.sessions.values():
                stored = session.output_dict_per_obj[0]
                prompted = frame in session.point_inputs_per_obj[0] or frame in session.mask_inputs_per_obj[0]
                if frame not in stored[CONDITIONING] and not (prompted and frame in stored[OTHERS]):
                    self.model(session, frame_idx=frame, reverse=reverse)
                session.frames_tracked_per_obj[0][frame] = {"reverse": reverse}  # departure 7
            yield frame, self.results(frame)

    def clear(self, frame: int, object_id: int) -> dict[int, Expected]:
        session = self.sessions[object_id]
        session.remove_point_inputs(0, frame)
        session.remove_mask_inputs(0, frame)
        session.pending.pop(frame, None)
        stored = session.output_dict_per_obj[0]
        if frame in stored[CONDITIONING]:
            stored[OTHERS][frame] = stored[CONDITIONING].pop(frame)
            session.frames_tracked_per_obj[0].pop(frame, None)
        return self.results(frame)

    def reset(self) -> None:
        self.sessions.clear()
