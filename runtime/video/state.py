"""The video predictor's state between calls: a video, the objects in it, and what each of them remembers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sam2edge.bundle import Model
from sam2edge.runtime.backends.base import AnyArray, Array
from sam2edge.runtime.model.graphs import Embedding
from sam2edge.runtime.video.frame import ObjectStates
from sam2edge.runtime.video.frames import Frames
from sam2edge.runtime.video.memory_bank import EMPTY
from sam2edge.types import Frame

_EMBEDDINGS = 3
"""Number of frames whose embeddings are held: the one that is prompted or tracked, and the last two."""

Points = tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]
"""Points [1,P,2] in pixels of the frame, box corners first, and their labels [1,P]."""


@dataclass
class Output:
    """One object on one frame."""

    logits: npt.NDArray[np.floating]
    """[1,1,4h,4h], -1024 where the object is absent; float16 on tracked frames far from where the work stands."""
    score: Array  # [1,1]
    pointer: Array  # [1,C]
    prompted: bool

    @staticmethod
    def of(state: ObjectStates) -> Output:
        """Copy the state of one object, so that it does not keep other objects' arrays alive."""
        pointer = np.array(state.pointer)
        return Output(state.shown, state.object_score.copy(), pointer, bool(state.prompted[0]))

    def as_known(self, conditioned: AnyArray, first: bool) -> ObjectStates:
        """Return the state that a further prompt refines."""
        return ObjectStates(
            conditioned=conditioned,
            first=np.full(1, first),
            prompted=np.full(1, self.prompted),
            mask=self.logits.astype(np.float32),
            iou=np.ones((1, 1), np.float32),
            object_score=self.score,
            pointer=self.pointer,
        )


class VideoObject:
    """One object; all dictionaries are by frame."""

    def __init__(self) -> None:
        # Outputs that are memories, on conditioning frames and elsewhere
        self.conditioning: dict[int, Output] = {}
        self.others: dict[int, Output] = {}
        # Outputs of prompts that become memories when the next propagation starts, and whether their frames condition
        self.pending: dict[int, tuple[Output, bool]] = {}
        self.inputs: dict[int, Points | None] = {}  # prompts that hold, None for a mask
        self.reverse: dict[int, bool] = {}  # the direction in which a frame was last tracked
        self.memories: dict[int, Array] = {}  # [L,M], of the conditioning frames and the few others used last

    def output(self, frame: int) -> Output | None:
        """Return the object's output on a frame, with the last prompt; None if there is none."""
        if frame in self.pending:
            return self.pending[frame][0]
        return self.conditioning.get(frame) or self.others.get(frame)

    def stored(self, frame: int) -> Output:
        """Return the output that is the memory of a frame; there must be one."""
        return self.conditioning[frame] if frame in self.conditioning else self.others[frame]

    def is_kept(self, frame: int) -> bool:
        """Tell whether propagation leaves the frame as it is, since a prompt there is a memory already."""
        corrected = frame in self.inputs and frame in self.others and self.others[frame].prompted
        return frame in self.conditioning or corrected

    def store(self, frame: int, output: Output, conditioning: bool) -> None:
        """Make an output the memory of a frame, in place of an earlier one."""
        for known in (self.conditioning, self.others, self.memories):
            known.pop(frame, None)
        (self.conditioning if conditioning else self.others)[frame] = output

    def commit(self) -> None:
        """Turn the outputs of prompts into memories."""
        for frame, (output, conditioning) in self.pending.items():
            self.store(frame, output, conditioning)
        self.pending.clear()

    def clear_prompts(self, frame: int) -> None:
        """Take back the prompts on a frame; their output stays as if it had been tracked."""
        self.inputs.pop(frame, None)
        self.pending.pop(frame, None)
        if frame in self.conditioning:
            self.others[frame] = self.conditioning.pop(frame)
            self.reverse.pop(frame, None)

    def attended(self, frame: int, reverse: bool, model: Model) -> tuple[dict[int, int], dict[int, int]]:
        """Return the frames whose memories, and those whose pointers, a frame attends to, with their ages.

        Conditioning frames have age 0 wherever they lie; the last frames in the direction of travel have their
        distance. Pointers of conditioning frames that are still to come are left out (sam2_base.py,
        _prepare_memory_conditioned_features).
        """
        sign = -1 if reverse else 1
        last = {frame - sign * age: age for age in range(1, max(model.max_pointers, model.memory_frames + 1))}
        others = {t: age for t, age in last.items() if t in self.others}
        memories = dict.fromkeys(self.conditioning, 0)
        memories |= {t: age for t, age in others.items() if age <= model.memory_frames}
        pointers = {t: sign * (frame - t) for t in self.conditioning if sign * (frame - t) >= 0}
        pointers |= {t: age for t, age in others.items() if age < model.max_pointers}
        return memories, pointers

    def forget_far(self, held: int) -> None:
        """Drop spatial memories except those of conditioning frames and of the `held` others used last."""
        others = [frame for frame in self.memories if frame not in self.conditioning]
        for frame in others[:-held]:
            del self.memories[frame]
            if not self.others[frame].prompted:
                self.others[frame].logits = self.others[frame].logits.astype(np.float16)


class InferenceState:
    """One video, its prompts and results, made by `VideoPredictor.init_state`.

    state["num_frames"], state["video_height"], state["video_width"] and state["obj_ids"] are upstream's; the rest of
    upstream's dictionary has no counterpart.
    """

    def __init__(self, owner: object, frames: Frames) -> None:
        self.owner, self.frames = owner, frames
        self.objects: dict[int, VideoObject] = {}
        self._embeddings: dict[int, Embedding] = {}

    def __getitem__(self, key: str) -> int | list[int]:
        values: dict[str, int | list[int]] = {
            "num_frames": self.frames.count,
            "video_height": self.frames.size[0],
            "video_width": self.frames.size[1],
            "obj_ids": list(self.objects),
        }
        if key not in values:
            raise KeyError(f"{key!r}: a state has {', '.join(values)}")
        return values[key]

    def embedding(self, frame: int, encode: Callable[[Frame], Embedding]) -> Embedding:
        """Return a frame's embedding, encoded unless it is one of those used last."""
        embedding = self._embeddings.pop(frame, None) or encode(self.frames.read(frame))
        self._embeddings[frame] = embedding
        if len(self._embeddings) > _EMBEDDINGS:
            del self._embeddings[next(iter(self._embeddings))]
        return embedding


def gather(objects: Sequence[VideoObject], frame: int, reverse: bool, model: Model) -> dict[str, Array]:
    """Return memory attention's inputs for N objects on a frame; all their spatial memories must be held."""
    attended = [item.attended(frame, reverse, model) for item in objects]
    n = len(objects)
    slots = max(len(memories) for memories, _ in attended)
    pointer_slots = max(1, *(len(pointers) for _, pointers in attended))
    inputs: dict[str, Array] = {
        "memory": np.zeros((n, slots, model.memory_tokens, model.memory_dim), np.float32),
        "memory_age": np.full((n, slots), EMPTY, np.int32),
        "pointers": np.zeros((n, pointer_slots, model.hidden_dim), np.float32),
        "pointer_age": np.full((n, pointer_slots), EMPTY, np.int32),
    }
    for row, (item, (memories, pointers)) in enumerate(zip(objects, attended, strict=True)):
        for slot, (t, age) in enumerate(memories.items()):
            inputs["memory"][row, slot] = item.memories[t]
            inputs["memory_age"][row, slot] = age
        for slot, (t, age) in enumerate(pointers.items()):
            inputs["pointers"][row, slot] = item.stored(t).pointer[0]
            inputs["pointer_age"][row, slot] = age
    return inputs
