"""Track prompted objects through a stream of frames: SAM 2's memory loop around the four graphs.

What objects remember of a frame is encoded with it and written when the next frame arrives, so that corrections of the
frame still count: then it is encoded again, for all objects together.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from sam2edge import checks
from sam2edge.bundle import GRAPHS, Bundle, Model
from sam2edge.closeable import Closeable
from sam2edge.errors import InputError, ObjectIdError, PromptError
from sam2edge.runtime.backends.base import Backend
from sam2edge.runtime.model.embedding import Embedding
from sam2edge.runtime.model.graphs import Graphs
from sam2edge.runtime.model.prompts import Prompt, check_object_id
from sam2edge.runtime.model.resize import check_frame
from sam2edge.runtime.model.result import FrameResult
from sam2edge.runtime.model.staging import Uploads
from sam2edge.runtime.video.frame import Frame, TrackedFrame
from sam2edge.runtime.video.memory_bank import MemoryBank, Times
from sam2edge.runtime.video.steps import MemoryLoop, Objects


class VideoTracker(Closeable):
    """Streaming tracker over an exported bundle.

    bundle: a Bundle or the path of one. backend: a name of sam2edge.runtime.BACKENDS or a Backend.
    max_objects:
    how many objects may be tracked at a time, and no more than the engines take; memory for them is reserved at once.

    What an object remembers, with SAM 2's defaults (docs/knobs.md measures the others). max_conditioning_frames: with
    1 a correction refines its frame; with more, corrected frames become conditioning frames too, which are never
    forgotten until there are more than that (upstream's add_all_frames_to_correct_as_cond). memory_frames: recent
    frames that are attended to, from 1; None: the model's 6. memory_stride: beside the last frame, only every so
    many-th is. track_every: only every so many-th frame is looked at; the others repeat its result at no cost.

    What is doubted. min_confidence: 0 to 1; above 0, frames on which an object is absent or its predicted IoU is lower
    stay out of its memory, which would otherwise learn from its own mistakes. lost_after: frames in a row, of those
    looked at, without the object or with it in doubt, after which its state is "lost": it needs a new prompt. on_lost:
    called then, once, with the object's id and the frame's result, at the end of `track` (and in `prompt`, when it
    tracks a frame that track_every left out); it may prompt and remove objects.

    Not safe for use by several threads at a time, `encode` apart; several trackers are. Raises BundleError,
    BackendError and InputError.
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
        self._corrections_condition = conditioning > 1
        stride = checks.integer("memory_stride", memory_stride, 1)
        self._track_every = checks.integer("track_every", track_every, 1)
        self._min_confidence = checks.number("min_confidence", min_confidence, 0, 1)
        self._lost_after = checks.integer("lost_after", lost_after, 1)
        if on_lost is not None and not callable(on_lost):
            raise InputError(f"on_lost must be a function of an object's id and a result but got {on_lost!r}")
        self._on_lost = on_lost
        self._graphs = Graphs(bundle, backend, GRAPHS, "tracker")
        recent = _memory_frames(memory_frames, self._graphs.model)
        most = self._graphs.max_size("memory_attention", "memory")
        self._more = "make the tracker with a larger max_objects"
        if most is not None and most < self._max_objects:
            self._max_objects, self._more = most, "build engines with a larger --max-objects"
        self._loop = MemoryLoop(self._graphs)
        self._bank = MemoryBank(self._graphs, self._max_objects, conditioning, recent, stride)
        # two in turn: an error halfway leaves the frame before as it was
        self._tracked: TrackedFrame | None = None
        loader, uploads = self._graphs.loader(), Uploads(self._graphs.backend)
        self._spare = [TrackedFrame(self._graphs, self._max_objects, loader, uploads) for _ in range(2)]
        self._ids: list[int] = []
        # of objects prompted on the current frame: what `track` had found, None if they joined on it
        self._found: dict[int, tuple[Objects, int] | None] = {}
        self._index = -1
        self._skipped: Frame | Embedding | None = None

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Ids of the objects that are tracked, in the order in which they joined."""
        return tuple(self._ids)

    @property
    def frame_index(self) -> int:
        """Number of the frame last given, -1 before the first."""
        return self._index

    def looks_at(self, frame_index: int) -> bool:
        """Whether `track` looks at a frame of this number, or leaves it out because of track_every."""
        return frame_index % self._track_every == 0

    def encode(self, frame: Frame) -> Embedding:
        """Encode a frame for `track`, without tracking it; another thread may do so while this one tracks.

        frame: RGB uint8 [H,W,3]. Raises FrameError.
        """
        self._graphs.check_open()
        return self._graphs.encode(check_frame(frame))

    def track(self, frame: Frame | Embedding) -> FrameResult:
        """Make a frame the current one and find every object in it.

        frame: RGB uint8 [H,W,3], or what `encode` made of one; the same size until `reset`. Raises FrameError;
        the tracker is then as before.
        """
        self._graphs.check_open()
        size = self._tracked.embedding.size if self._tracked else None
        if isinstance(frame, Embedding):
            self._graphs.check_embedding(frame, size)
        else:
            check_frame(frame, size)
        if self._tracked and not self.looks_at(self._index + 1):
            self._skipped = frame if isinstance(frame, Embedding) else frame.copy()
            self._index += 1
            self._found.clear()
            return self._result(self._tracked)
        return self._result(self._track(frame, self._index + 1))

    def prompt(
        self,
        object_id: int,
        points: npt.ArrayLike | None = None,
        labels: npt.ArrayLike | None = None,
        box: npt.ArrayLike | None = None,
        mask: npt.NDArray[Any] | None = None,
    ) -> FrameResult:
        """Say where an object is on the frame last given, and get the refined result of that frame.

        object_id: any integer; a new one joins, a known one is corrected. points: [P,2] x, y in pixels, with labels [P]
        1 (object, the default) or 0 (background). box: x0, y0, x1, y1. mask: [H,W] bool or integer, nonzero is the
        object, or float of 0 and 1; taken as the truth. Points and a box may come together, a mask only alone. A
        further prompt for the same object on the same frame replaces the points before it and refines the mask that
        came of them: give all points that hold. A frame that `track_every` left out is tracked first.

        Raises PromptError or ObjectIdError; the tracker is then as before.
        """
        self._graphs.check_open()
        object_id = check_object_id(object_id)
        if self._tracked is None:
            raise PromptError("there is no frame yet; call track(frame) first, then prompt on it")
        if object_id not in self._ids and len(self._ids) == self._max_objects:
            raise ObjectIdError(f"{self._max_objects} objects are tracked already; remove() one or {self._more}")
        prompt = Prompt(points, labels, box, mask).encode(self._tracked.embedding.size, self._graphs.model)
        now = self._tracked if self._skipped is None else self._track(self._skipped, self._index)
        if self._tracked is None:
            raise PromptError("on_lost called reset() and so took the frame away; call track(frame), then prompt on it")
        row = self._ids.index(object_id) if object_id in self._ids else len(self._ids)
        known = now.objects(row, row + 1) if row < len(self._ids) else None
        found = now.found(row) if known and object_id not in self._found else None
        now.put(row, self._loop.prompt(now.embedding, known, prompt))
        self._found.setdefault(object_id, found)
        if known is None:
            self._ids.append(object_id)
        return self._result(now)

    def clear_prompts(self, object_id: int) -> FrameResult:
        """Take back what was prompted for an object on the frame last given, and get the result without it.

        An object that joined on this frame is removed; another is as `track` had found it. Raises ObjectIdError for an
        id that is not tracked, PromptError if nothing was prompted for it on this frame.
        """
        row = self._row(object_id)
        if self._tracked is None or self._ids[row] not in self._found:
            raise PromptError(f"object {object_id} was not prompted on this frame, so there is nothing to take back")
        found = self._found[self._ids[row]]
        if found is None:
            self.remove(object_id)
        else:
            self._tracked.put(row, *found)
            del self._found[self._ids[row]]
        return self._result(self._tracked)

    def remove(self, object_id: int) -> None:
        """Stop tracking an object and forget it. Raises ObjectIdError for an id that is not tracked."""
        row = self._row(object_id)
        self._bank.delete(row)
        if self._tracked:
            self._tracked.delete(row)
        self._found.pop(self._ids.pop(row), None)

    def _row(self, object_id: int) -> int:
        self._graphs.check_open()
        object_id = check_object_id(object_id)
        if object_id not in self._ids:
            raise ObjectIdError(f"object {object_id} is not tracked; tracked are {self._ids or 'none'}")
        return self._ids.index(object_id)

    def reset(self) -> None:
        """Forget all objects and frames; the graphs stay loaded. The next frame is number 0 and may have any size."""
        self._bank.clear()
        self._ids.clear()
        self._found.clear()
        if self._tracked:
            for row in reversed(range(self._tracked.count)):  # for on_lost, after which a result is made of the frame
                self._tracked.delete(row)
            self._spare.append(self._tracked)
        self._index, self._tracked, self._skipped = -1, None, None

    def close(self) -> None:
        """Free the graphs; the tracker cannot be used any more."""
        self._ids.clear()
        self._found.clear()
        self._index, self._tracked, self._skipped = -1, None, None
        self._spare.clear()
        self._bank.free()
        self._graphs.close()

    def _track(self, frame: Frame | Embedding, index: int) -> TrackedFrame:
        before, now = self._tracked, self._spare[0]
        times = self._remember(before) if before else np.empty(0, np.int64)
        now.fill(frame, self._bank.read(times), times)
        if before:
            now.doubtful = np.where(self._is_sure(now.objects()), 0, before.doubtful + 1)
        self._spare = [*self._spare[1:], *([before] if before else [])]
        self._tracked, self._index, self._skipped = now, index, None
        self._found.clear()
        if self._on_lost:
            for object_id in [self._ids[row] for row in np.flatnonzero(now.doubtful == self._lost_after)]:
                result = self._result(now)
                if object_id in result.lost:  # the call for another one may have removed or prompted it
                    self._on_lost(object_id, result)
        return now

    def _remember(self, frame: TrackedFrame) -> Times:
        """Write the memories and pointers of a frame that is left behind; each object's time after it."""
        objects = frame.objects()
        conditioning = objects.first | (objects.prompted & self._corrections_condition)
        kept = objects.prompted | self._is_sure(objects) | (self._min_confidence == 0)
        frame.remember()
        for row in np.flatnonzero(kept).tolist():
            time = int(frame.times[row])
            self._bank.write(row, time, frame.memory[row], frame.pointers[row], bool(conditioning[row]))
        return frame.times + kept

    def _is_sure(self, objects: Objects) -> npt.NDArray[np.bool_]:
        sure: npt.NDArray[np.bool_] = (objects.scores > 0) & (objects.ious >= self._min_confidence)
        return sure[:, 0]

    def _result(self, now: TrackedFrame) -> FrameResult:
        objects = now.objects()
        return FrameResult(
            frame_index=self._index,
            object_ids=self.object_ids,
            logits=objects.shown[:, 0],
            ious=objects.ious[:, 0].copy(),
            object_scores=objects.scores[:, 0].copy(),
            frame_size=now.embedding.size,
            lost=tuple(self._ids[row] for row in np.flatnonzero(now.doubtful >= self._lost_after)),
        )


def _memory_frames(value: object, model: Model) -> int:
    if value is None:
        return model.memory_frames
    frames = checks.integer("memory_frames", value, 1)
    if frames > model.memory_frames:
        raise InputError(f"memory_frames must be at most {model.memory_frames}, the model's own, but got {frames}")
    return frames
