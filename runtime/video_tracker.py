"""Track prompted objects through a stream of frames: SAM 2's memory loop around the four graphs.

The rules are those of the upstream video predictor (sam2_video_predictor.py, sam2_base.py); docs/architecture.md
lists them. The memory of a frame is written when the next frame arrives, so that corrections of the frame cost one
decoder run and its memory is encoded once, for all objects together.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sam2edge.bundle import GRAPHS, Bundle
from sam2edge.errors import ObjectIdError, PromptError
from sam2edge.runtime import arguments, prompts
from sam2edge.runtime.backend import Array
from sam2edge.runtime.closing import Closing
from sam2edge.runtime.graphs import Graphs
from sam2edge.runtime.memory_bank import MemoryBank
from sam2edge.runtime.preprocess import check_frame, resize
from sam2edge.runtime.result import ABSENT_LOGIT, LOGIT_LIMIT, FrameResult


@dataclass
class _Objects:
    """What is known of every object on the current frame; one row an object."""

    conditioned: Array  # [N,C,h,h]
    first: Array  # bool [N]: the object joined on this frame, so `conditioned` saw no memory
    prompted: Array  # bool [N]
    logits: Array  # [N,1,4h,4h] raw
    ious: Array  # [N,1]
    scores: Array  # [N,1]
    pointers: Array  # [N,C]

    def arrays(self) -> dict[str, Array]:
        return dict(vars(self))

    def put(self, row: int, values: _Objects) -> None:
        """Overwrite a row with the only row of `values`, or append it."""
        for name, new in values.arrays().items():
            old = getattr(self, name)
            if row < len(old):
                old[row] = new[0]
            else:
                setattr(self, name, np.concatenate([old, new]))

    def delete(self, row: int) -> None:
        for name, values in self.arrays().items():
            setattr(self, name, np.delete(values, row, axis=0))


@dataclass
class _Frame:
    """The frame last given."""

    index: int
    size: tuple[int, int]
    encoded: dict[str, Array]
    objects: _Objects


class VideoTracker(Closing):
    """Streaming tracker over an exported bundle.

    bundle: a Bundle or the path of one. backend: "auto", "onnx" or "onnx-cuda". max_objects: how many objects may be
    tracked at a time; memory for them is reserved at once. max_conditioning_frames: 1 is SAM 2's default, where a
    correction refines its frame; with more, corrected frames become conditioning frames too, which are never
    forgotten until there are more than that (upstream's add_all_frames_to_correct_as_cond).

    Not safe for use by several threads at a time; several trackers are. Raises BundleError and BackendError.
    """

    def __init__(
        self,
        bundle: Bundle | str | os.PathLike[str],
        backend: str = "auto",
        *,
        max_objects: int = 16,
        max_conditioning_frames: int = 1,
    ) -> None:
        for name, value in (("max_objects", max_objects), ("max_conditioning_frames", max_conditioning_frames)):
            arguments.integer(name, value, 1)
        self._graphs = Graphs(bundle, backend, GRAPHS, "tracker")
        self._model = self._graphs.model
        self._max_objects = max_objects
        self._corrections_condition = max_conditioning_frames > 1
        self._bank = MemoryBank(self._model, max_objects, max_conditioning_frames)
        self._ids: list[int] = []
        self._frame: _Frame | None = None

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Ids of the objects that are tracked, in the order in which they joined."""
        return tuple(self._ids)

    def track(self, frame: npt.NDArray[np.uint8]) -> FrameResult:
        """Make a frame the current one and find every object in it.

        frame: RGB uint8 [H,W,3], the same size throughout. Raises FrameError; the tracker is then as before.
        """
        self._graphs.check_open()
        check_frame(frame, self._frame.size if self._frame else None)
        index = self._frame.index + 1 if self._frame else 0
        encoded = self._graphs.run("image_encoder", image=resize(frame, self._model.image_size)[None])
        if self._frame and self._ids:
            self._remember(self._frame)
        self._frame = _Frame(index, frame.shape[:2], encoded, self._find(index, encoded))
        return self._result(self._frame)

    def prompt(
        self,
        object_id: int,
        points: npt.ArrayLike | None = None,
        labels: npt.ArrayLike | None = None,
        box: npt.ArrayLike | None = None,
        mask: npt.NDArray[np.bool_] | None = None,
    ) -> FrameResult:
        """Say where an object is on the frame last given, and get the refined result of that frame.

        object_id: any integer; a new one joins, a known one is corrected. points: [P,2] x, y in pixels, with labels
        [P] 1 (object, the default) or 0 (background). box: x0, y0, x1, y1. mask: bool [H,W], taken as the truth.
        Points and a box may come together, a mask only alone. A further prompt for the same object on the same frame
        replaces the points before it and refines the mask that came of them: give all points that hold.

        Raises PromptError or ObjectIdError; the tracker is then as before.
        """
        self._graphs.check_open()
        object_id = prompts.check_object_id(object_id)
        if self._frame is None:
            raise PromptError("there is no frame yet; call track(frame) first, then prompt on it")
        if object_id not in self._ids and len(self._ids) == self._max_objects:
            raise ObjectIdError(
                f"{self._max_objects} objects are tracked already; "
                "remove() one or make the tracker with a larger max_objects"
            )
        row = self._ids.index(object_id) if object_id in self._ids else len(self._ids)
        if mask is None:
            encoded = prompts.encode_points(points, labels, box, self._frame.size, self._model.image_size)
            values = self._prompt_points(self._frame, row, *encoded)
        elif points is None and labels is None and box is None:
            values = self._prompt_mask(self._frame, row, mask)
        else:
            raise PromptError("a mask cannot be combined with points or a box; give one or the other")
        self._frame.objects.put(row, values)
        if row == len(self._ids):
            self._ids.append(object_id)
        return self._result(self._frame)

    def remove(self, object_id: int) -> None:
        """Stop tracking an object and forget it. Raises ObjectIdError for an id that is not tracked."""
        self._graphs.check_open()
        object_id = prompts.check_object_id(object_id)
        if object_id not in self._ids:
            raise ObjectIdError(f"object {object_id} is not tracked; tracked are {self._ids or 'none'}")
        row = self._ids.index(object_id)
        self._bank.delete(row)
        if self._frame:
            self._frame.objects.delete(row)
        del self._ids[row]

    def reset(self) -> None:
        """Forget all objects and frames; the graphs stay loaded. The next frame is number 0 and may have any size."""
        self._bank.clear()
        self._ids.clear()
        self._frame = None

    def close(self) -> None:
        """Free the graphs; the tracker cannot be used any more."""
        self.reset()
        self._graphs.close()

    def _remember(self, frame: _Frame) -> None:
        """Write the memories and pointers of a frame that is left behind."""
        objects = frame.objects
        memory = self._graphs.run(
            "memory_encoder",
            features=frame.encoded["features"],
            mask=objects.logits,
            object_score=objects.scores,
            binarize=objects.prompted,
        )["memory"]
        conditioning = objects.first | (objects.prompted & self._corrections_condition)
        self._bank.write(frame.index, memory, objects.pointers, conditioning)

    def _find(self, index: int, encoded: dict[str, Array]) -> _Objects:
        """Condition the features on each object's memories and decode."""
        n = len(self._ids)
        never = np.zeros(n, bool)
        if not n:
            side, channels = self._model.grid, self._model.hidden_dim
            conditioned = np.empty((0, channels, side, side), np.float32)
            masks = np.empty((0, 1, self._model.mask_size, self._model.mask_size), np.float32)
            numbers = np.empty((0, 1), np.float32)
            return _Objects(conditioned, never, never, masks, numbers, numbers, np.empty((0, channels), np.float32))
        memories = self._bank.read(n, index)
        conditioned = self._graphs.run("memory_attention", features=encoded["features"], **memories)["conditioned"]
        decoded = self._graphs.decode(encoded, conditioned, never, *prompts.no_points(n), None, self._multimask(0))
        return self._rows(decoded, conditioned, never, prompted=False)

    def _prompt_points(self, frame: _Frame, row: int, points: Array, labels: Array) -> _Objects:
        objects, known = frame.objects, row < len(self._ids)
        conditioned = objects.conditioned[row : row + 1] if known else frame.encoded["features"]
        first = objects.first[row : row + 1] if known else np.ones(1, bool)
        previous = None
        if known:
            shown = _shown(objects.logits[row : row + 1], objects.scores[row : row + 1])
            previous = np.clip(shown, -LOGIT_LIMIT, LOGIT_LIMIT)
        several = self._multimask(points.shape[1] - 1, bool(first[0]))
        decoded = self._graphs.decode(frame.encoded, conditioned, first, points, labels, previous, several)
        return self._rows(decoded, conditioned, first, prompted=True)

    def _prompt_mask(self, frame: _Frame, row: int, mask: object) -> _Objects:
        """A mask prompt is itself the output; only its pointer comes from the decoder, on features without memory."""
        objects, known = frame.objects, row < len(self._ids)
        logits, mask_input = prompts.encode_mask(mask, frame.size, self._model)
        features, never = frame.encoded["features"], np.zeros(1, bool)
        decoded = self._graphs.decode(frame.encoded, features, never, *prompts.no_points(1), mask_input, False)
        return _Objects(
            conditioned=objects.conditioned[row : row + 1] if known else features,
            first=objects.first[row : row + 1] if known else np.ones(1, bool),
            prompted=np.ones(1, bool),
            logits=logits,
            ious=np.ones((1, 1), np.float32),
            scores=np.full((1, 1), prompts.MASK_LOGIT, np.float32),
            pointers=decoded["pointer"],
        )

    def _multimask(self, points: int, first: bool = False) -> bool:
        """Whether the best of three masks is taken, for so many points (sam2_base.py, _use_multimask)."""
        model = self._model
        in_range = model.multimask_min_points <= points <= model.multimask_max_points
        return in_range and (first or model.multimask_for_tracking)

    @staticmethod
    def _rows(decoded: dict[str, Array], conditioned: Array, first: Array, *, prompted: bool) -> _Objects:
        return _Objects(
            conditioned=conditioned,
            first=first,
            prompted=np.full(len(conditioned), prompted),
            logits=decoded["mask"],
            ious=decoded["iou"],
            scores=decoded["object_score"],
            pointers=decoded["pointer"],
        )

    def _result(self, frame: _Frame) -> FrameResult:
        objects = frame.objects
        return FrameResult(
            frame_index=frame.index,
            object_ids=self.object_ids,
            logits=_shown(objects.logits, objects.scores)[:, 0],
            ious=objects.ious[:, 0].copy(),
            object_scores=objects.scores[:, 0].copy(),
            frame_size=frame.size,
        )


def _shown(logits: Array, scores: Array) -> Array:
    """Logits [N,1,4h,4h] with -1024 where the object's score [N,1] says that it is absent; a new array."""
    return np.where(scores[:, :, None, None] > 0, logits, np.float32(ABSENT_LOGIT))
