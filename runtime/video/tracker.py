"""Track prompted objects through a stream of frames; `frame.py` shows what happens to each frame.

A frame's memories are encoded with it but written only when the next frame arrives, so that corrections of the frame
still count: its memories are then encoded again, for all objects together.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sam2edge import checks
from sam2edge.bundle import GRAPHS, Bundle
from sam2edge.closeable import Closeable
from sam2edge.errors import InputError, ObjectIdError, PromptError
from sam2edge.runtime.backends.base import Backend
from sam2edge.runtime.model.graphs import Embedding, Graphs, in_turn
from sam2edge.runtime.model.prompts import Prompt, check_new, check_object_id
from sam2edge.runtime.model.resize import check_frame
from sam2edge.runtime.model.result import FrameResult
from sam2edge.runtime.model.staging import Staging
from sam2edge.runtime.video.frame import MemoryRules, ObjectStates, TrackedFrame
from sam2edge.runtime.video.memory_bank import MemoryBank
from sam2edge.types import Frame


@dataclass(frozen=True, eq=False)
class Earlier:
    """A frame that was given to a tracker since its last reset: its number, and what `encode` made of it."""

    frame_index: int
    embedding: Embedding


class VideoTracker(Closeable):
    """A streaming tracker over an exported bundle.

    What an object remembers is as in SAM 2 by default; docs/how-to/knobs.md measures other settings. Any thread may
    call any method: calls wait for each other, except for `encode`. Raises BundleError, BackendError and InputError.

    Args:
        bundle: a Bundle or the path of one.
        backend: a name of sam2edge.runtime.BACKENDS or a Backend.
        max_objects: how many objects may be tracked at a time, and no more than the engines take; memory for them is
            reserved at once.
        max_conditioning_frames: with 1 a correction refines its frame. With more, corrected frames become
            conditioning frames too, which are never forgotten until there are more than that (upstream's
            add_all_frames_to_correct_as_cond).
        memory_frames: recent frames to attend to, from 1; None: the model's 6.
        memory_stride: attend to the last frame and to every Nth one before it.
        track_every: look at every Nth frame only; the others repeat its result at no cost.
        min_confidence: 0 to 1. Above 0, frames on which an object is absent or has a lower predicted IoU stay out of
            its memory, which would otherwise learn from its own mistakes.
        lost_after: frames looked at in a row without the object, or with it in doubt, after which its state is
            "lost": it needs a new prompt.
        on_lost: called once when an object is lost, with its id and the frame's result, at the end of `track` (and in
            `prompt`, when that tracks a frame that track_every left out); it may prompt and remove objects. Calls of
            other threads wait for it, so it must not wait for them.
    """

    def __init__(
        self,
        bundle: Bundle | str | os.PathLike[str],
        backend: str | Backend = "auto",
        *,
        max_objects: int = 16,
        max_conditioning_frames: int = 1,
        memory_frames: int | None = None,
        memory_stride: int = 1,
        track_every: int = 1,
        min_confidence: float = 0.0,
        lost_after: int = 30,
        on_lost: Callable[[int, FrameResult], None] | None = None,
    ) -> None:
        self._max_objects = checks.integer("max_objects", max_objects, 1)
        conditioning = checks.integer("max_conditioning_frames", max_conditioning_frames, 1)
        stride = checks.integer("memory_stride", memory_stride, 1)
        self._track_every = checks.integer("track_every", track_every, 1)
        self._rules = MemoryRules(checks.number("min_confidence", min_confidence, 0, 1), conditioning > 1)
        self._lost_after = checks.integer("lost_after", lost_after, 1)
        if on_lost is not None and not callable(on_lost):
            raise InputError(f"on_lost must be a function of an object's id and a result but got {on_lost!r}")
        self._on_lost = on_lost
        self._graphs = Graphs(bundle, backend, GRAPHS, "tracker")
        most = self._graphs.model.memory_frames
        recent = most if memory_frames is None else checks.integer("memory_frames", memory_frames, 1)
        if recent > most:
            raise InputError(f"memory_frames must be at most {most}, the model's own, but got {recent}")
        limit = self._graphs.max_size("memory_attention", "memory")
        self._limit_hint = "make the tracker with a larger max_objects"
        if limit is not None and limit < self._max_objects:
            self._max_objects, self._limit_hint = limit, "build engines with a larger --max-objects"
        self._bank = MemoryBank(self._graphs, self._max_objects, conditioning, recent, stride)
        # Two frames take turns: an error halfway leaves the previous one as it was
        self._tracked: TrackedFrame | None = None
        loader, staging = self._graphs.loader(self._graphs.backend), Staging(self._graphs.backend)
        self._spare = [TrackedFrame(self._graphs, self._max_objects, loader, staging) for _ in range(2)]
        self._ids: list[int] = []
        # What `track` found of objects that were prompted on the frame afterwards; None if they joined on it
        self._before_prompts: dict[int, tuple[ObjectStates, int] | None] = {}
        self._index = -1
        self._size: tuple[int, int] | None = None
        # The frame last given, until something needs to look at it
        self._unseen: Frame | Embedding | None = None

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Ids of the objects that are tracked, in the order in which they joined."""
        return tuple(self._ids)

    @property
    def frame_index(self) -> int:
        """Number of the frame last given, -1 before the first."""
        return self._index

    @property
    def max_objects(self) -> int:
        """How many objects may be tracked at a time."""
        return self._max_objects

    def looks_at(self, frame_index: int) -> bool:
        """Tell whether `track` looks at the frame of this number: if there are objects, and track_every allows it."""
        return bool(self._ids) and frame_index % self._track_every == 0

    def encode(self, frame: Frame) -> Embedding:
        """Encode a frame, RGB uint8 [H,W,3], for `track`, even while another thread tracks; FrameError if invalid."""
        return self._graphs.encode(check_frame(frame))

    @in_turn
    def track(self, frame: Frame | Embedding) -> FrameResult:
        """Make a frame the current one and find every object in it.

        The frame is RGB uint8 [H,W,3], or what `encode` made of one; all are of one size until `reset`. Anything else
        raises FrameError and leaves the tracker as before. Without objects nothing is computed before a prompt.
        """
        self._graphs.check_open()
        if isinstance(frame, Embedding):
            size = self._graphs.check_embedding(frame, self._size).size
        else:
            size = check_frame(frame, self._size).shape[:2]
        if self.looks_at(self._index + 1):
            return self._result(self._track(frame, self._index + 1))
        self._unseen = frame if isinstance(frame, Embedding) else frame.copy()
        self._index, self._size = self._index + 1, size
        self._before_prompts.clear()
        if self._tracked is None:
            return FrameResult.empty(self._index, size, mask_size=self._graphs.model.mask_size)
        return self._result(self._tracked)

    @in_turn
    def prompt(
        self,
        object_id: int,
        points: npt.ArrayLike | None = None,
        labels: npt.ArrayLike | None = None,
        box: npt.ArrayLike | None = None,
        mask: npt.NDArray[Any] | None = None,
        earlier: Earlier | None = None,
    ) -> FrameResult:
        """Mark an object on the frame last given, and return the refined result of that frame.

        Points and a box may come together, a mask only alone. A further prompt for the same object on the same frame
        replaces its earlier points and refines the mask that they gave: give all points that still apply. A frame that
        `track` did not look at is tracked first. Raises PromptError or ObjectIdError; the tracker is then as before.

        Args:
            object_id: any integer; a new one joins, a known one is corrected.
            points: [P,2] x, y in pixels; up to a pixel outside the frame counts as its edge, for boxes too.
            labels: [P], 1 on the object (the default) or 0 on the background.
            box: x0, y0, x1, y1 in pixels.
            mask: [H,W] or [1,H,W], bool or of 0 and one other number; taken as the truth.
            earlier: the frame that the prompt is about, if it is not the one last given. Only a new object can be
                prompted there. It is found in the frame last given by its memory of the earlier one, which costs no
                run of the image encoder; the frames between the two are not looked at.
        """
        self._graphs.check_open()
        object_id = check_object_id(object_id)
        if self._size is None:
            raise PromptError("there is no frame yet; call track(frame) first, then prompt on it")
        if object_id not in self._ids and len(self._ids) == self._max_objects:
            raise ObjectIdError(f"{self._max_objects} objects are tracked already; remove() one or {self._limit_hint}")
        prompt = Prompt(points, labels, box, mask).encode(self._size, self._graphs.model)
        if earlier:
            self._check_earlier(earlier, object_id)
        if object_id not in self._ids:
            check_new(object_id, prompt)
        if self._unseen is not None:
            self._track(self._unseen, self._index)
        now = self._tracked
        if now is None:
            raise PromptError("on_lost called reset() and so took the frame away; call track(frame), then prompt on it")
        is_known = object_id in self._ids
        if earlier and earlier.frame_index < self._index:
            now.prompt_earlier(earlier.embedding, self._index - earlier.frame_index, prompt, self._bank)
            self._before_prompts[object_id] = None
            self._ids.append(object_id)
            return self._result(now)
        row = self._ids.index(object_id) if is_known else len(self._ids)
        snapshot = now.snapshot(row) if is_known and object_id not in self._before_prompts else None
        now.prompt(row, prompt)
        self._before_prompts.setdefault(object_id, snapshot)
        if not is_known:
            self._ids.append(object_id)
        return self._result(now)

    def _check_earlier(self, earlier: Earlier, object_id: int) -> None:
        number, now = earlier.frame_index, self._index
        self._graphs.check_embedding(earlier.embedding, self._size)
        if not 0 <= number <= now:
            raise PromptError(f"frame {number} is not an earlier one: the frame last given is {now}")
        if number < now and object_id in self._ids:
            raise PromptError(f"object {object_id} is tracked already: prompt it on frame {now}, or remove() it first")

    @in_turn
    def clear_prompts(self, object_id: int) -> FrameResult:
        """Take back the prompts for an object on the frame last given, and return the result without them.

        An object that joined on this frame is removed; another is as `track` found it. Raises ObjectIdError for an id
        that is not tracked, PromptError if the object was not prompted on this frame.
        """
        row = self._row(object_id)
        if self._tracked is None or self._ids[row] not in self._before_prompts:
            raise PromptError(f"object {object_id} was not prompted on this frame, so there is nothing to take back")
        snapshot = self._before_prompts[self._ids[row]]
        if snapshot is None:
            self.remove(object_id)
        else:
            self._tracked.write(row, *snapshot)
            del self._before_prompts[self._ids[row]]
        return self._result(self._tracked)

    @in_turn
    def remove(self, object_id: int) -> None:
        """Stop tracking an object and forget it. Raises ObjectIdError for an id that is not tracked."""
        row = self._row(object_id)
        self._bank.delete(row)
        if self._tracked:
            self._tracked.delete(row)
        self._before_prompts.pop(self._ids.pop(row), None)

    @in_turn
    def rename(self, object_id: int, new_id: int) -> None:
        """Give an object another id. Raises ObjectIdError if it is not tracked or the new id is another object's."""
        row, new_id = self._row(object_id), check_object_id(new_id)
        if new_id in self._ids and self._ids[row] != new_id:
            raise ObjectIdError(f"object {new_id} is tracked already; remove() it first, or take another id")
        old_id, self._ids[row] = self._ids[row], new_id
        self._before_prompts = {new_id if key == old_id else key: was for key, was in self._before_prompts.items()}

    def _row(self, object_id: int) -> int:
        self._graphs.check_open()
        object_id = check_object_id(object_id)
        if object_id not in self._ids:
            raise ObjectIdError(f"object {object_id} is not tracked; tracked are {self._ids or 'none'}")
        return self._ids.index(object_id)

    @in_turn
    def reset(self) -> None:
        """Forget all objects and frames; the graphs stay loaded. The next frame is number 0 and may have any size."""
        self._bank.clear()
        if self._tracked:
            for row in reversed(range(self._tracked.count)):  # for on_lost, after which a result is made of the frame
                self._tracked.delete(row)
            self._spare.append(self._tracked)
        self._forget()

    @in_turn
    def close(self) -> None:
        """Free the graphs; the tracker cannot be used any more."""
        self._forget()
        self._spare.clear()
        self._bank.free()
        self._graphs.close()

    def _forget(self) -> None:
        self._ids.clear()
        self._before_prompts.clear()
        self._index, self._size, self._tracked, self._unseen = -1, None, None, None

    def _track(self, frame: Frame | Embedding, index: int) -> TrackedFrame:
        before, now = self._tracked, self._spare[0]
        now.track(frame, before, self._bank, self._rules)
        self._spare = [*self._spare[1:], *([before] if before else [])]
        self._tracked, self._index, self._unseen = now, index, None
        self._before_prompts.clear()
        if self._on_lost:
            for object_id in [self._ids[row] for row in np.flatnonzero(now.doubtful == self._lost_after)]:
                result = self._result(now)
                if object_id in result.lost:  # the call for another object may have removed or prompted it
                    self._on_lost(object_id, result)
        return now

    def _result(self, now: TrackedFrame) -> FrameResult:
        objects = now.objects()
        return FrameResult(
            frame_index=self._index,
            object_ids=self.object_ids,
            logits=objects.shown[:, 0],
            ious=objects.iou[:, 0].copy(),
            object_scores=objects.object_score[:, 0].copy(),
            frame_size=now.embedding.size,
            lost=tuple(self._ids[row] for row in np.flatnonzero(now.doubtful >= self._lost_after)),
        )
