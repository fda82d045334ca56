"""Segment a whole video: the methods of upstream's SAM2VideoPredictor on the exported graphs.

The rules are those of upstream's sam2_video_predictor.py; docs/explanation/upstream.md lists the departures.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sam2edge import checks
from sam2edge.bundle import GRAPHS, Bundle
from sam2edge.closeable import Closeable
from sam2edge.errors import InputError, MediaError, ObjectIdError, PromptError
from sam2edge.runtime.backends.base import AnyArray, Array, Backend
from sam2edge.runtime.media.image_files import ValueRange
from sam2edge.runtime.model.graphs import Graphs, in_turn
from sam2edge.runtime.model.logits import ABSENT_LOGIT, upsample
from sam2edge.runtime.model.prompts import EncodedPrompt, check_new, check_object_id, check_prompt
from sam2edge.runtime.video.frame import OUTPUTS, ObjectStates, find_objects, prompt_object, unprompted
from sam2edge.runtime.video.frames import open_frames
from sam2edge.runtime.video.state import InferenceState, Output, Points, VideoObject, gather
from sam2edge.types import Floats

FrameMasks = tuple[int, list[int], Floats]


class VideoPredictor(Closeable):
    """Masks of objects through a whole video; code written for SAM2VideoPredictor runs with it.

    Masks are numpy arrays of logits, float32 [N,1,H,W], -1024 where an object is absent or unknown: `masks > 0` is the
    object, and upstream's `.cpu().numpy()` has to go. Objects are independent of each other, but those that are tracked
    on a frame share one run of each graph.

    Frames are read when needed and never all held. For every object and frame the low-resolution logits and the
    object pointer stay, 129 KB at S = 1024; spatial memories, 1 MB each, only on conditioning frames and the twelve
    others used last. One that is needed again is encoded again.

    Wrong arguments raise errors of the InputError family and change nothing. Calls from several threads wait for each
    other. Raises BundleError, BackendError and InputError.

    Args:
        bundle: a Bundle or the path of one.
        backend: a name of sam2edge.runtime.BACKENDS or a Backend.
        add_all_frames_to_correct_as_cond: whether frames that are corrected after they were tracked become conditioning
            frames too, which are attended to from everywhere. Otherwise, and as in upstream's released models, only
            frames that were prompted before are.
    """

    def __init__(
        self,
        bundle: Bundle | str | os.PathLike[str],
        backend: str | Backend = "auto",
        *,
        add_all_frames_to_correct_as_cond: bool = False,
    ) -> None:
        condition = checks.flag("add_all_frames_to_correct_as_cond", add_all_frames_to_correct_as_cond)
        self._corrections_condition = condition
        self._graphs = Graphs(bundle, backend, GRAPHS, "predictor")
        self._held_memories = 2 * self._graphs.model.memory_frames

    def init_state(
        self,
        video_path: object,
        offload_video_to_cpu: bool = False,
        offload_state_to_cpu: bool = False,
        async_loading_frames: bool = False,
        *,
        value_range: ValueRange | None = None,
    ) -> InferenceState:
        """Start on a video. Raises MediaError, FrameError and InputError.

        It may be a folder of images or a pattern, which are ordered by the numbers in their names (00000.jpg or
        img_1.png, …, from any number on), a video file, an array uint8 [T,H,W,3], or a sequence of arrays uint8 [H,W,3]
        (RGB), which is asked for one at a time. Arrays are not copied and must not be changed. A video file is decoded
        once here, to count its frames. Images of more than 8 bits may need a `value_range` (`read_image`). The other
        arguments are upstream's and have no effect: frames are read when needed, all that is kept is in main memory.
        """
        self._graphs.check_open()
        return InferenceState(self, open_frames(video_path, value_range))

    @in_turn
    def add_new_points_or_box(
        self,
        inference_state: InferenceState,
        frame_idx: int,
        obj_id: int,
        points: npt.ArrayLike | None = None,
        labels: npt.ArrayLike | None = None,
        clear_old_points: bool = True,
        normalize_coords: bool = True,
        box: npt.ArrayLike | None = None,
    ) -> FrameMasks:
        """Prompt an object on a frame, or correct it on a frame that was tracked. Raises InputError.

        Args:
            inference_state: from init_state.
            frame_idx: number of the frame, from 0.
            obj_id: any integer; a new one joins.
            points: [P,2] x, y in pixels of the frame, or [1,P,2].
            labels: [P], 1 on the object or 0 on the background, or [1,P].
            clear_old_points: whether the prompt replaces those on the frame before it; otherwise its points are added
                to them, and a box cannot be given.
            normalize_coords: whether points and box are in pixels; otherwise they are in 0…1 of the frame.
            box: x0, y0, x1, y1, [4] or [1,4]; may come with points.

        Returns:
            The frame's index, all object ids, and their masks on this frame.
        """
        state, frame_idx, obj_id = self._check(inference_state, frame_idx, obj_id)
        checks.flag("clear_old_points", clear_old_points)
        checks.flag("normalize_coords", normalize_coords)
        if box is not None and not clear_old_points:
            raise PromptError("a box comes before any point; give it with clear_old_points=True")
        points, labels, box = _without_batch(points, 2), _without_batch(labels, 1), _without_batch(box, 1)
        coordinates, kinds = check_prompt(
            points, labels, box, state.frames.size, in_pixels=normalize_coords, needs_labels=True
        )
        item = state.objects.get(obj_id)
        before = item.inputs.get(frame_idx) if item and not clear_old_points else None
        if before is not None:
            coordinates, kinds = np.concatenate([before[0], coordinates], 1), np.concatenate([before[1], kinds], 1)
        prompt = EncodedPrompt.of_points(coordinates, kinds, state.frames.size, self._graphs.model)
        return self._prompt(state, frame_idx, obj_id, prompt, (coordinates, kinds))

    add_new_points = add_new_points_or_box
    """Upstream's old name."""

    @in_turn
    def add_new_mask(
        self, inference_state: InferenceState, frame_idx: int, obj_id: int, mask: npt.NDArray[Any]
    ) -> FrameMasks:
        """Give an object's mask on a frame, in place of earlier prompts there; as add_new_points_or_box otherwise.

        The mask is [H,W] or [1,H,W] of the frame's size, bool or of 0 and one other number.
        """
        state, frame_idx, obj_id = self._check(inference_state, frame_idx, obj_id)
        prompt = EncodedPrompt.of_mask(mask, state.frames.size, self._graphs.model)
        return self._prompt(state, frame_idx, obj_id, prompt, None)

    def propagate_in_video(
        self,
        inference_state: InferenceState,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
    ) -> Iterator[FrameMasks]:
        """Find every object on every frame from `start_frame_idx` on; prompted frames keep the prompt's result.

        A frame that cannot be read is left out, with a warning.
        Prompts and objects that are added meanwhile count from the next propagation on; removed objects drop out.
        Raises InputError at once, and PromptError later if nothing was prompted or no frame conditions an object.

        Args:
            inference_state: from init_state.
            start_frame_idx: the first frame; None: the earliest conditioning frame of any object.
            max_frame_num_to_track: how many frames after the first; None: all.
            reverse: whether to go backward, to frame 0; a start there yields nothing, as upstream's.

        Yields:
            A frame's index, all object ids and their masks.
        """
        state = self._check_state(inference_state)
        if start_frame_idx is not None:
            start_frame_idx = _frame_index("start_frame_idx", start_frame_idx, state)
        if max_frame_num_to_track is not None:
            max_frame_num_to_track = checks.integer("max_frame_num_to_track", max_frame_num_to_track, 0)
        checks.flag("reverse", reverse)
        return self._propagate(state, start_frame_idx, max_frame_num_to_track, reverse)

    @in_turn
    def clear_all_prompts_in_frame(
        self, inference_state: InferenceState, frame_idx: int, obj_id: int, need_output: bool = True
    ) -> FrameMasks | None:
        """Take back the prompts for an object on a frame; the next propagation tracks it there as elsewhere.

        Returns the same as add_new_points_or_box, or None without need_output. Raises InputError and ObjectIdError.
        """
        state, frame_idx, obj_id = self._check(inference_state, frame_idx, obj_id)
        checks.flag("need_output", need_output)
        _check_known(obj_id, state)
        state.objects[obj_id].clear_prompts(frame_idx)
        return (frame_idx, list(state.objects), self._masks(state, frame_idx)) if need_output else None

    @in_turn
    def remove_object(
        self, inference_state: InferenceState, obj_id: int, strict: bool = False, need_output: bool = True
    ) -> tuple[list[int], list[tuple[int, Floats]]]:
        """Forget an object; with `strict` an unknown id is an error. Raises InputError and ObjectIdError.

        Returns the ids that remain, and the index and masks of every frame on which the object was prompted; no frames
        without need_output or when no object remains.
        """
        state = self._check_state(inference_state)
        obj_id = check_object_id(obj_id)
        checks.flag("strict", strict)
        checks.flag("need_output", need_output)
        if strict:
            _check_known(obj_id, state)
        removed = state.objects.pop(obj_id, None)
        frames = sorted(removed.inputs) if removed and state.objects and need_output else []
        return list(state.objects), [(frame, self._masks(state, frame)) for frame in frames]

    @in_turn
    def reset_state(self, inference_state: InferenceState) -> None:
        """Forget all objects of a state; it stays on its video."""
        self._check_state(inference_state).objects.clear()

    @in_turn
    def close(self) -> None:
        """Free the graphs; the predictor and its states cannot be used any more."""
        self._graphs.close()

    def _check_state(self, state: object) -> InferenceState:
        self._graphs.check_open()
        if not isinstance(state, InferenceState) or state.owner is not self:
            got = "another predictor's" if isinstance(state, InferenceState) else type(state).__name__
            raise InputError(f"inference_state must be what init_state() of this predictor returned but got {got}")
        return state

    def _check(self, state: object, frame_idx: object, obj_id: object) -> tuple[InferenceState, int, int]:
        checked = self._check_state(state)
        return checked, _frame_index("frame_idx", frame_idx, checked), check_object_id(obj_id)

    def _prompt(
        self, state: InferenceState, frame: int, obj_id: int, prompt: EncodedPrompt, points: Points | None
    ) -> FrameMasks:
        """Run a prompt; an error before its end leaves the object and the state as they were."""
        item = state.objects.get(obj_id)
        if item is None:
            check_new(obj_id, prompt)
            item = VideoObject()
        embedding = state.embedding(frame, self._graphs.encode)
        is_first = frame not in item.reverse or not item.conditioning  # upstream fails without any memory
        before, known = item.output(frame), None
        if prompt.logits is None and before is not None:
            conditioned: AnyArray = embedding.features
            if not is_first:
                memories = self._memories(state, [item], frame, item.reverse[frame])
                conditioned = self._run("memory_attention", {**vars(embedding), **memories})["conditioned"]
            known = before.as_known(conditioned, is_first)
        output = Output.of(prompt_object(self._graphs, embedding, known, prompt))
        conditioning = is_first or self._corrections_condition or frame in item.conditioning
        state.objects[obj_id] = item
        item.inputs[frame] = points
        item.pending[frame] = output, conditioning
        return frame, list(state.objects), self._masks(state, frame)

    def _propagate(
        self, state: InferenceState, start: int | None, length: int | None, reverse: bool
    ) -> Iterator[FrameMasks]:
        with self._graphs.turn:
            started = dict(state.objects)
            if not started:
                raise PromptError("no object was prompted yet; call add_new_points_or_box or add_new_mask first")
            for item in started.values():
                item.commit()
            _check_conditioned(started)
        if start is None:
            start = min(frame for item in started.values() for frame in item.conditioning)
        count = state.frames.count
        length = count if length is None else length
        if reverse:  # upstream yields nothing backward from the first frame
            order = range(start, max(start - length, 0) - 1, -1) if start else range(0)
        else:
            order = range(start, min(start + length, count - 1) + 1)
        for frame in order:
            try:
                found = self._follow(state, started, frame, reverse)
            except MediaError as error:
                warnings.warn(f"frame {frame} has no masks: {error}", stacklevel=2)
                continue
            if found is None:
                return
            yield found

    @in_turn
    def _follow(
        self, state: InferenceState, started: dict[int, VideoObject], frame: int, reverse: bool
    ) -> FrameMasks | None:
        """Return a frame, the objects of `started` that are still there, and their masks; None if all are gone."""
        self._graphs.check_open()
        items = {obj_id: item for obj_id, item in started.items() if state.objects.get(obj_id) is item}
        if not items:
            return None
        _check_conditioned(items)
        if tracked := [item for item in items.values() if not item.is_kept(frame)]:
            self._track(state, tracked, frame, reverse)
        for item in items.values():
            item.reverse[frame] = reverse
        logits = np.concatenate([item.stored(frame).logits for item in items.values()])
        return frame, list(items), upsample(logits.astype(np.float32), state.frames.size)

    def _track(self, state: InferenceState, items: list[VideoObject], frame: int, reverse: bool) -> None:
        """Find objects on a frame, all in one run of each graph."""
        memories = self._memories(state, items, frame, reverse)
        embedding = state.embedding(frame, self._graphs.encode)
        inputs = {**vars(embedding), **memories, **unprompted(self._graphs.model, len(items))}
        values = find_objects(self._run, inputs)
        never, names = np.zeros(len(items), bool), ("conditioned", *OUTPUTS["mask_decoder"])
        objects = ObjectStates(first=never, prompted=never, **{name: values[name] for name in names})
        for row, item in enumerate(items):
            item.store(frame, Output.of(objects.row(row)), conditioning=False)

    def _memories(self, state: InferenceState, items: list[VideoObject], frame: int, reverse: bool) -> dict[str, Array]:
        """Return memory attention's inputs; spatial memories are encoded here, when first needed or dropped since."""
        missing: dict[int, list[VideoObject]] = {}
        for item in items:
            for t in item.attended(frame, reverse, self._graphs.model)[0]:
                if t in item.memories:
                    item.memories[t] = item.memories.pop(t)  # used last
                else:
                    missing.setdefault(t, []).append(item)
        for t, without in missing.items():
            outputs = [item.stored(t) for item in without]
            values = {
                **vars(state.embedding(t, self._graphs.encode)),
                "mask": np.concatenate([output.logits for output in outputs]).astype(np.float32),
                "object_score": np.concatenate([output.score for output in outputs]),
                "binarize": np.array([output.prompted for output in outputs]),
            }
            encoded = self._run("memory_encoder", values)["memory"]
            for item, memory in zip(without, encoded, strict=True):
                item.memories[t] = memory.copy()
        gathered = gather(items, frame, reverse, self._graphs.model)
        for item in items:
            item.forget_far(self._held_memories)
        return gathered

    def _run(self, graph: str, values: Mapping[str, Any]) -> dict[str, Array]:
        return self._graphs.run(graph, values, OUTPUTS[graph])

    def _masks(self, state: InferenceState, frame: int) -> Floats:
        """Return the masks [N,1,H,W] of all objects on a frame, absent where an object has no output yet."""
        side = self._graphs.model.mask_size
        logits = np.full((len(state.objects), 1, side, side), ABSENT_LOGIT, np.float32)
        for n, item in enumerate(state.objects.values()):
            if output := item.output(frame):
                logits[n] = output.logits[0]
        return upsample(logits, state.frames.size)


def _check_conditioned(objects: dict[int, VideoObject]) -> None:
    for obj_id, item in objects.items():
        if not item.conditioning:
            raise PromptError(
                f"object {obj_id} has no conditioning frame left; prompt it again or remove_object(state, {obj_id})"
            )


def _without_batch(value: npt.ArrayLike | None, axes: int) -> npt.ArrayLike | None:
    """Drop a leading axis of 1, which upstream accepts too; the checks refuse other shapes."""
    try:
        array = np.asarray(value)
    except Exception:  # numpy and foreign arrays raise what they like; the checks say what is wrong with the value
        return value
    return array[0] if array.ndim == axes + 1 and len(array) == 1 else value


def _frame_index(name: str, value: object, state: InferenceState) -> int:
    last = state.frames.count - 1
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value <= last:
        raise InputError(f"{name} must be an integer from 0 to {last}, the video's frames, but got {value!r}")
    return int(value)


def _check_known(obj_id: int, state: InferenceState) -> None:
    if obj_id not in state.objects:
        raise ObjectIdError(f"object {obj_id} is not known; the state has {list(state.objects) or 'none'}")
