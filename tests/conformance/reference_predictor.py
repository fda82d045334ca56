"""transformers' model as upstream's video predictor, with upstream's rules where the port departs from them.

Beside those listed in reference.py, each checked against facebookresearch/sam2, sam2_video_predictor.py:

6. The port's prompts are memories at once; upstream's become memories when the next propagation starts.
7. A conditioning frame that propagation passes counts as tracked, so that a further prompt corrects it.
8. That correction's memory goes into the output that it corrects, not into its own.

Two rules are not those of today's code. Propagation keeps corrected frames, as in upstream's first release
(sam2_video_predictor_legacy.py) and as the comments in today's say, which tracks them again and loses the correction. A
corrected conditioning frame takes the new output, which upstream drops.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from tests.conformance.reference import Expected, ReferenceTracker

CONDITIONING, OTHERS = "cond_frame_outputs", "non_cond_frame_outputs"


class ReferencePredictor(ReferenceTracker):
    """Prompts on any frame and propagation in both directions, one session an object."""

    def prompt(self, frame: int, object_id: int, **prompt: Any) -> dict[int, Expected]:
        """Prompt an object on a frame."""
        session = self._prompted_session(frame, object_id, **prompt)
        stored, tracked = session.output_dict_per_obj[0], session.frames_tracked_per_obj[0]
        before = {kind: {t: dict(out) for t, out in stored[kind].items()} for kind in stored}
        first = frame not in tracked
        self.model(session, frame_idx=frame, reverse=tracked.get(frame, {"reverse": False})["reverse"])
        out = stored[CONDITIONING if first else OTHERS][frame]
        written = stored[CONDITIONING].get(frame, out)  # departure 8
        out = {**out, **{name: written[name] for name in ("maskmem_features", "maskmem_pos_enc")}}
        out["conditions"] = first or self.corrections_condition or frame in before[CONDITIONING]
        session.pending[frame] = out
        session.output_dict_per_obj[0] = before
        return self.results(frame)

    def propagate(
        self, start: int | None = None, length: int | None = None, reverse: bool = False
    ) -> Iterator[tuple[int, dict[int, Expected]]]:
        """Yield the results of each frame."""
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
        """Take back an object's prompts on a frame."""
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
        """Forget all objects."""
        self.sessions.clear()

    def _session(self) -> Sam2VideoInferenceSession:
        session = super()._session()
        session.pending = {}
        return session

    def _expected(self, session: Sam2VideoInferenceSession, frame: int) -> Expected:
        stored = session.output_dict_per_obj[0]
        for outputs in (session.pending, stored[CONDITIONING], stored[OTHERS]):
            if frame in outputs:
                return self._as_expected(outputs[frame])
        side = self.model.config.image_size // 4
        return Expected(np.full((side, side), -1024, np.float32), np.zeros(self.size, bool), 0, 0, np.zeros(0))
