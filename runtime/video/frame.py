"""One frame of SAM 2's memory loop, from top to bottom in the order in which it happens.

`TrackedFrame.track` is what the tracker does with a frame: remember the frame before, encode the image, attend to
memories, decode, encode new memories. The video predictor, which stores memories differently, shares `find_objects`,
the middle of that, and `prompt_object`. The rules are those of the upstream video predictor (sam2_video_predictor.py,
sam2_base.py); docs/explanation/memory.md lists them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sam2edge.bundle import Model
from sam2edge.runtime.backends.base import AnyArray, Array, DeviceArray
from sam2edge.runtime.model.graphs import Embedding, Graphs
from sam2edge.runtime.model.logits import ABSENT_LOGIT, LOGIT_LIMIT
from sam2edge.runtime.model.prompts import MASK_LOGIT, EncodedPrompt
from sam2edge.runtime.model.staging import FrameLoader, Staged, Staging
from sam2edge.runtime.video.memory_bank import MemoryBank, Times
from sam2edge.types import Bools, Frame

OUTPUTS = {
    "memory_attention": ("conditioned",),
    "mask_decoder": ("mask", "iou", "object_score", "pointer"),
    "memory_encoder": ("memory",),
}
"""The outputs used from each graph that runs for N objects."""
_ON_HOST = ("mask", "iou", "object_score")

Run = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
"""Runs a graph on its inputs, which it picks from the values, and returns its OUTPUTS."""


@dataclass(frozen=True)
class MemoryRules:
    """Which frames objects remember; VideoTracker documents the numbers."""

    min_confidence: float
    corrections_condition: bool

    def is_sure(self, objects: ObjectStates) -> Bools:
        """Tell which objects were certainly seen: bool [N]."""
        sure: Bools = (objects.object_score > 0) & (objects.iou >= self.min_confidence)
        sure &= (objects.mask > 0).any(axis=(2, 3))  # an object in view may have an empty mask all the same
        return sure[:, 0]

    def keeps(self, objects: ObjectStates) -> Bools:
        """Tell which objects remember the frame: bool [N]."""
        return objects.prompted | self.is_sure(objects) | (self.min_confidence == 0)

    def conditions(self, objects: ObjectStates) -> Bools:
        """Tell for which objects this is a conditioning frame: bool [N]."""
        return objects.first | (objects.prompted & self.corrections_condition)


class TrackedFrame:
    """A frame with room for `capacity` objects, of which `count` rows are in use.

    Its arrays are allocated once and reused. What passes from graph to graph stays on the device; only logits,
    predicted IoUs and object scores are downloaded, and nobody waits for the memory encoder: what reads the memories is
    queued after it, and its error is raised by the next call that waits. `loader` and `staging` may serve several
    frames, since `track` waits until it has read what they hold.

    Attributes:
        times: [count] frames that each object remembered before this one.
        doubtful: [count] consecutive frames, up to this one, on which each object was not certainly seen.
    """

    def __init__(self, graphs: Graphs, capacity: int, loader: FrameLoader, staging: Staging) -> None:
        self._graphs, self._backend, self._loader, self._staging = graphs, graphs.backend, loader, staging
        self._key, self._maps = object(), graphs.empty_maps()
        self._size = (0, 0)
        self._arrays = {name: graphs.zeros(graph, name, capacity) for graph, names in OUTPUTS.items() for name in names}
        self._host = {name: self._backend.staging(self._arrays[name].shape) for name in _ON_HOST}
        self._first, self._prompted = np.zeros(capacity, bool), np.zeros(capacity, bool)
        # Whether to encode the memories again before they are written to the bank: the objects have changed since, or
        # a call that waits may have failed because the memory encoder did
        self._outdated = False
        self.count = 0
        self.times: Times = np.zeros(0, np.int64)
        self.doubtful: Times = np.zeros(0, np.int64)

    @property
    def embedding(self) -> Embedding:
        """The frame's embedding; a view that is overwritten when another frame is tracked in these arrays."""
        return Embedding(**self._maps, size=self._size)

    def objects(self) -> ObjectStates:
        """Return the state of all objects: views, of which `conditioned` and `pointer` are on the device."""
        device = {name: self._arrays[name] for name in ("conditioned", "pointer")}
        arrays = {**device, **self._host, "first": self._first, "prompted": self._prompted}
        return ObjectStates(**{name: array[: self.count] for name, array in arrays.items()})

    def track(
        self, frame: Frame | Embedding, before: TrackedFrame | None, bank: MemoryBank, rules: MemoryRules
    ) -> None:
        """Find the objects of the frame before in a frame of pixels or its embedding.

        An error, which may be the frame before's memory encoder's, leaves that frame as it was.
        """
        times = np.zeros(0, np.int64) if before is None else before._remember(bank, rules)
        memories = bank.read(times)
        self.count = n = len(times)
        self.times, self.doubtful = times, np.zeros(n, np.int64)
        self._first[:n] = self._prompted[:n] = self._outdated = False
        pixels = not isinstance(frame, Embedding)
        if isinstance(frame, Embedding):
            self._size = frame.size
            for name, to in self._maps.items():
                self._backend.copy(getattr(frame, name), to)
        else:
            self._size = frame.shape[:2]
            self._loader.stage(frame)
        ages, values = {}, {}
        if n:
            ages = {name: self._staging.stage(name, memories[name]) for name in ("memory_age", "pointer_age")}
            values = {**self._unprompted(n), "memory": memories["memory"], "pointers": memories["pointers"]}
        find = "find", self._key, pixels and self._loader.generation, n
        self._backend.replay(find, lambda: self._queue_search(n, pixels, ages, values))
        wait_for_masks = self._backend.fence()
        if n:
            self._backend.replay(("remember", self._key, n), lambda: self._queue_memories(values["binarize"]))
        wait_for_masks()
        if before is not None:
            self.doubtful = np.where(rules.is_sure(self.objects()), 0, before.doubtful + 1)

    def _remember(self, bank: MemoryBank, rules: MemoryRules) -> Times:
        """Write what the objects remember of this frame, and return each object's time after it."""
        objects = self.objects()
        keeps, conditions = rules.keeps(objects), rules.conditions(objects)
        if self._outdated and self.count:
            binarize = self._staging.stage("binarize of a correction", objects.prompted)
            self._backend.copy(binarize.host, binarize.device)
            self._queue_memories(binarize.device)
        self._outdated = True  # if this is called again, the next frame failed, and work that was queued may be lost
        for row in np.flatnonzero(keeps).tolist():
            memory, pointer = self._arrays["memory"][row], self._arrays["pointer"][row]
            bank.write(row, int(self.times[row]), memory, pointer, bool(conditions[row]))
        return self.times + keeps

    def _unprompted(self, n: int) -> Mapping[str, DeviceArray]:
        """Return the inputs of N objects that are not prompted; they are uploaded once for each N."""
        values = {**unprompted(self._graphs.model, n), "binarize": np.zeros(n, bool)}
        return {name: self._staging.constant(name, value) for name, value in values.items()}

    def _queue_search(
        self, n: int, pixels: bool, ages: Mapping[str, Staged], values: Mapping[str, DeviceArray]
    ) -> None:
        """Queue all that finds the objects; see Backend.replay."""
        if pixels:
            self._graphs.run_into("image_encoder", {"image": self._loader.load()}, self._maps)
        if n:
            for age in ages.values():
                self._backend.copy(age.host, age.device)
            values = {**self._maps, **values, **{name: age.device for name, age in ages.items()}}
            values = find_objects(self._run, values)
            for name, array in self._host.items():
                self._backend.copy(values[name], array[:n])

    def _queue_memories(self, binarize: DeviceArray) -> None:
        """Queue the run that encodes what the objects remember of this frame; see Backend.replay."""
        found = {name: self._arrays[name][: self.count] for name in ("mask", "object_score")}
        self._run("memory_encoder", {**self._maps, **found, "binarize": binarize})

    def _run(self, graph: str, values: Mapping[str, DeviceArray]) -> Mapping[str, DeviceArray]:
        outputs = {name: self._arrays[name][: self.count] for name in OUTPUTS[graph]}
        self._graphs.run_into(graph, values, outputs)
        return outputs

    def prompt(self, row: int, prompt: EncodedPrompt) -> None:
        """Prompt the object of a row, or, after the last one, a new object."""
        self._outdated = True
        known = self.objects().row(row) if row < self.count else None
        self.write(row, prompt_object(self._graphs, self.embedding, known, prompt))

    def prompt_earlier(self, embedding: Embedding, age: int, prompt: EncodedPrompt, bank: MemoryBank) -> None:
        """Prompt a new object, after the last one, on a frame that is `age` frames old, and find it in this one.

        The object remembers the prompted frame, and then this one: the frames between them are not looked at.
        """
        run, no = self._graphs.run, np.zeros(1, bool)
        seen = prompt_object(self._graphs, embedding, None, prompt)
        masked = {"mask": seen.mask, "object_score": seen.object_score, "binarize": seen.prompted}
        encoded = run("memory_encoder", {**vars(embedding), **masked}, OUTPUTS["memory_encoder"])["memory"]
        remembered = {
            **{"memory": encoded[:, None], "memory_age": np.zeros((1, 1), np.int32)},  # as of a conditioning frame
            **{"pointers": np.asarray(seen.pointer)[:, None], "pointer_age": np.full((1, 1), age, np.int32)},
        }
        values = {**vars(self.embedding), **unprompted(self._graphs.model, 1), **remembered}
        values = find_objects(lambda graph, inputs: run(graph, inputs, OUTPUTS[graph]), values)
        outputs = {name: values[name] for name in (*OUTPUTS["memory_attention"], *OUTPUTS["mask_decoder"])}
        memory = self._graphs.zeros("memory_encoder", "memory", 1)
        pointer = self._graphs.zeros("mask_decoder", "pointer", 1)
        self._graphs.upload((encoded, memory), (seen.pointer, pointer))
        # The bank first: what it keeps of a row that is then not written is overwritten by the row's next object
        bank.write(self.count, 0, memory[0], pointer[0], conditioning=True)
        self.write(self.count, ObjectStates(first=no, prompted=no, **outputs))
        self.times[-1] = age

    def snapshot(self, row: int) -> tuple[ObjectStates, int]:
        """Return copies of what `write` overwrites in a row: `write(row, *snapshot(row))` restores it."""
        self._outdated = True
        values = self.objects().row(row)
        copies = {name: getattr(values, name).copy() for name in ("first", "prompted", *_ON_HOST)}
        pointer = self._backend.download(values.pointer)
        return dataclasses.replace(values, **copies, pointer=pointer), int(self.doubtful[row])

    def write(self, row: int, values: ObjectStates, doubtful: int = 0) -> None:
        """Overwrite a row with the only row of `values`, or append it. doubtful: see the class."""
        self._outdated = True
        names = ["pointer", *_ON_HOST, *(["conditioned"] if row == self.count else [])]  # prompts do not change this
        self._graphs.upload(*((getattr(values, name), self._arrays[name][row : row + 1]) for name in names))
        # Only now, since the upload may fail
        if row == self.count:
            self.count += 1
            self.times, self.doubtful = np.append(self.times, 0), np.append(self.doubtful, 0)
        self.doubtful[row] = doubtful
        self._first[row], self._prompted[row] = values.first[0], values.prompted[0]
        for name, array in self._host.items():
            array[row] = getattr(values, name)[0]

    def delete(self, row: int) -> None:
        """Remove a row; those after it move up."""
        self.count -= 1
        for array in self._arrays.values():
            for to in range(row, self.count):
                self._backend.copy(array[to + 1], array[to])
        for values in (self._first, self._prompted, *self._host.values()):
            values[row : self.count] = values[row + 1 : self.count + 1]
        self.times, self.doubtful = np.delete(self.times, row), np.delete(self.doubtful, row)


@dataclass(frozen=True, eq=False)
class ObjectStates:
    """The state of N objects on one frame, one row per object, by the names of the graphs' outputs."""

    conditioned: AnyArray  # [N,C,h,h] on the host or the device
    first: Array  # bool [N]: the object joined on this frame, so `conditioned` saw no memory
    prompted: Array  # bool [N]
    mask: Array  # [N,1,4h,4h] raw logits
    iou: Array  # [N,1]
    object_score: Array  # [N,1]
    pointer: AnyArray  # [N,C] on the host or the device

    def row(self, row: int) -> ObjectStates:
        """Return one row, which is a view."""
        return ObjectStates(**{name: values[row : row + 1] for name, values in vars(self).items()})

    @property
    def shown(self) -> npt.NDArray[np.float32]:
        """Logits [N,1,4h,4h] with -1024 where the object's score says that it is absent; a new array."""
        shown: npt.NDArray[np.float32] = self.mask.copy()  # np.where takes several times as long
        shown[~(self.object_score[:, 0] > 0)] = ABSENT_LOGIT
        return shown


def find_objects(run: Run, values: Mapping[str, Any]) -> dict[str, Any]:
    """Find N objects in a frame by its embedding, their memories and `unprompted`; return these and the outputs."""
    values = {**values, **run("memory_attention", values)}
    return {**values, **run("mask_decoder", values)}


def unprompted(model: Model, n: int) -> dict[str, Array]:
    """Return the mask decoder's inputs that are the same on all frames on which N objects are only tracked."""
    return EncodedPrompt.none(n).inputs(model, np.zeros(n, bool), _multimask(model, 0))


def prompt_object(
    graphs: Graphs, embedding: Embedding, known: ObjectStates | None, prompt: EncodedPrompt
) -> ObjectStates:
    """Prompt one object on a frame. known: its state there, None if the object is new."""
    first = np.ones(1, bool) if known is None else known.first
    features = conditioned = embedding.features if known is None else known.conditioned
    if prompt.logits is None:
        previous = None if known is None else np.clip(known.shown, -LOGIT_LIMIT, LOGIT_LIMIT)
        prompt = dataclasses.replace(prompt, mask_input=previous)
        add_no_memory, multimask = first, _multimask(graphs.model, prompt.points.shape[1] - 1, bool(first[0]))
    else:  # a mask is itself the output; only its pointer comes from the decoder, on features without memory
        features, add_no_memory, multimask = embedding.features, np.zeros(1, bool), False
    decoded = graphs.decode(embedding, features, prompt, add_no_memory, multimask, OUTPUTS["mask_decoder"])
    if prompt.logits is not None:
        decoded["mask"], decoded["iou"] = prompt.logits, np.ones((1, 1), np.float32)
        decoded["object_score"] = np.full((1, 1), MASK_LOGIT, np.float32)
    return ObjectStates(conditioned=conditioned, first=first, prompted=np.ones(1, bool), **decoded)


def _multimask(model: Model, points: int, first: bool = False) -> bool:
    """Tell whether the best of three masks is taken for this number of points (sam2_base.py, _use_multimask)."""
    in_range = model.multimask_min_points <= points <= model.multimask_max_points
    return in_range and (first or model.multimask_for_tracking)
