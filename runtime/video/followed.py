"""The objects that a follower knows, and what detections mean for them; docs/explanation/following.md has the rules."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from sam2edge.runtime.model.graphs import Embedding
from sam2edge.runtime.model.result import FrameResult
from sam2edge.runtime.video.shapes import Shape, box_iou, visible_shapes
from sam2edge.runtime.video.tracker import Earlier, VideoTracker
from sam2edge.runtime.words.detections import Detections
from sam2edge.types import Floats, Frame

_SAME, _SAME_OF_OTHER_WORD = 0.5, 0.7
"""IoU above which two masks are one object's. A shirt may cover much of the person who wears it."""
_MISSES = 3
"""Detections in a row that must miss an object that is not confirmed before it goes."""
_DOUBLES = 2
"""Detections in a row that must see one of two objects in the other one's mask before it goes."""
_RENAMED = 3
"""Detections that must see another word in an object's place, and never its own, before it takes that word."""

_DOUBLE = "has another one's mask"

Kind = Literal["new", "found", "renamed", "dropped", "lost", "full", "late"]
Say = Callable[[Kind, int | None, str, str], None]
"""Called with what happened, to which object of which word, and a sentence."""


@dataclass
class SeenFrame:
    """A frame that a detector looks at: what the tracker found in it, and how it may be prompted later."""

    result: FrameResult
    pixels: Frame
    embedding: Embedding | None


@dataclass
class _Object:
    """An object that a word found. While it is lost, the tracker need not have it."""

    word: str
    box: Floats  # where a detection last saw it
    seen: int  # the last frame on which it was in view
    hits: int = 1  # detections that found it
    misses: int = 0  # the last detections that did not
    doubles: int = 0  # the last detections that saw it in another one's mask
    others: Counter[str] = field(default_factory=Counter)  # what was found in its place since its word was


@dataclass
class FollowedObjects:
    """Prompts a tracker where words were detected, and knows which of its objects are followed, and by which words.

    An object that waits to be confirmed has an id below 0 and is not shown. Every method that takes the current result
    returns what has become of it. All of it may be called again after an error: what was done until then counts.
    """

    tracker: VideoTracker
    score: float
    confirm: int
    forget_after: int
    say: Say
    _objects: dict[int, _Object] = field(default_factory=dict)
    _last_id: int = 0
    _is_first: bool = True  # no detections were used yet
    _refused: set[str] = field(default_factory=set)

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids of the objects that the tracker has and that are shown."""
        return tuple(object_id for object_id in self.tracker.object_ids if not self._is_trial(object_id))

    @property
    def are_settled(self) -> bool:
        """Whether there are objects, and all are confirmed and in view on the frame last given."""
        now, objects = self.tracker.frame_index, self._objects.values()
        return bool(objects) and all(one.hits >= self.confirm and one.seen == now for one in objects)

    def shown(self, result: FrameResult) -> FrameResult:
        """Return the result without what waits to be confirmed, and with words."""
        for object_id in filter(self._is_trial, result.object_ids):
            result = result.without(object_id)
        return replace(result, words=tuple(self._word(object_id) for object_id in result.object_ids))

    def reserve(self, object_id: int) -> None:
        """Give no object this id, which the caller has given."""
        self._last_id = max(self._last_id, object_id)

    def forget(self, object_id: int) -> None:
        """Forget an object, which its tracker must forget, too."""
        self._objects.pop(object_id, None)

    def note(self, result: FrameResult) -> FrameResult:
        """Note which objects are in view on a new frame, and give up those that have not been for long."""
        for object_id, state in zip(result.object_ids, result.states, strict=True):
            one = self._objects.get(object_id)
            if one and state == "visible" and not one.doubles:
                one.seen = result.frame_index
        for object_id, one in list(self._objects.items()):
            if result.frame_index - one.seen > self.forget_after:
                result = self._drop(object_id, result)
                self._end("lost", object_id, "is given up: it was out of view for too long")
        return result

    def use(self, seen: SeenFrame, found: Detections, result: FrameResult) -> FrameResult:
        """Compare detections with the masks of the frame that they were made on, confirm objects, and try new ones."""
        shapes = {
            object_id: shape
            for object_id, shape in visible_shapes(seen.result).items()
            if object_id in self.tracker.object_ids
        }
        free, number = set(range(len(found.words))), seen.result.frame_index
        hits = self._match(found, free, shapes, number)
        result = self._drop_doubles(shapes, hits, result)
        result = self._judge_unconfirmed(hits, number, result)
        for n in sorted(free, key=lambda n: -found.scores[n]):
            word, box = found.words[n], found.boxes[n]
            if (other := self._covering(word, box, shapes)) is not None:
                self._vote(other, word)
            elif found.scores[n] >= self.score:
                result = self._try(word, box, seen, result)
        self._is_first = False
        return result

    def _match(self, found: Detections, free: set[int], shapes: Mapping[int, Shape], number: int) -> set[int]:
        """Give objects the detections that fit best, take these out of `free`, and return the objects that got one.

        Those that are shown come first: what waits to be confirmed may be one of them that was lost.
        """
        pairs = [
            (not self._is_trial(object_id), shapes[object_id].agrees(found.boxes[n]), n, object_id)
            for object_id, one in self._objects.items()
            for n in free
            if object_id in shapes and one.word == found.words[n]
        ]
        hits: set[int] = set()
        for _, agreement, n, object_id in sorted(pairs, reverse=True):
            if agreement and n in free and object_id not in hits:
                hits.add(object_id)
                free.remove(n)
        for object_id in hits:
            one = self._objects[object_id]
            one.hits, one.misses, one.box = one.hits + 1, 0, shapes[object_id].box
            one.seen = max(one.seen, number)  # also where the tracker is in doubt
            one.others.clear()
        return hits

    def _drop_doubles(self, shapes: Mapping[int, Shape], hits: set[int], result: FrameResult) -> FrameResult:
        """Stop tracking those that follow another one's mask; they may be found again under their ids."""
        visible = [object_id for object_id in sorted(self._objects) if object_id in shapes and object_id > 0]
        doubles = {
            older if younger in hits and older not in hits else younger
            for older, younger in itertools.combinations(visible, 2)
            if shapes[older].iou(shapes[younger]) > _SAME
        }
        for object_id in visible:
            one = self._objects[object_id]
            one.doubles = one.doubles + 1 if object_id in doubles else 0
            if one.doubles < _DOUBLES:
                continue
            result = self._drop(object_id, result)
            if one.hits < self.confirm:
                self._end("dropped", object_id, _DOUBLE)
            elif one.doubles == _DOUBLES:
                self._say("dropped", object_id, _DOUBLE)
        return result

    def _judge_unconfirmed(self, hits: set[int], number: int, result: FrameResult) -> FrameResult:
        """Show what was found on frame `number` often enough, and end what was not found for too long."""
        for object_id, one in list(self._objects.items()):
            if object_id in hits:
                if self._is_trial(object_id) and one.hits >= self.confirm:
                    result = self._join(object_id, number, result)
            elif one.hits < self.confirm:
                one.misses += 1
                if one.misses == _MISSES:
                    result = self._drop(object_id, result)
                    self._end("dropped", object_id, "was not confirmed")
        return result

    def _covering(self, word: str, box: Floats, shapes: Mapping[int, Shape]) -> int | None:
        """Return the object of another word that is where a box is."""
        others = {n: box_iou(shape.box, box) for n, shape in shapes.items() if self._word(n) != word}
        best = max(others, key=lambda n: others[n], default=0)
        return best if others.get(best, 0) > _SAME_OF_OTHER_WORD else None

    def _vote(self, object_id: int, word: str) -> None:
        """Count that another word was found where an object is."""
        if one := self._objects.get(object_id):
            one.others[word] += 1
            one.misses = 0  # something is there
            if one.others[word] == _RENAMED:
                one.word, one.others = word, Counter()
                if not self._is_trial(object_id):
                    self._say("renamed", object_id, "has a new word")

    def _try(self, word: str, box: Floats, seen: SeenFrame, result: FrameResult) -> FrameResult:
        """Prompt a box that no mask agrees with; only the mask that it gives says whether it is another object."""
        result = self._with_room(word, result)
        if len(self.tracker.object_ids) >= self.tracker.max_objects:
            if word not in self._refused:
                most = f"at most {self.tracker.max_objects} objects are followed (max_objects)"
                self.say("full", None, word, f"no room for another {word}: {most}")
            self._refused.add(word)
            return result
        earlier = None
        if seen.result.frame_index < self.tracker.frame_index:
            seen.embedding = seen.embedding or self.tracker.encode(seen.pixels)
            earlier = Earlier(seen.result.frame_index, seen.embedding)
        trial_id = min((0, *self.tracker.object_ids)) - 1
        result = self.tracker.prompt(trial_id, box=box, earlier=earlier)
        shapes = visible_shapes(result)
        new = shapes.get(trial_id)
        if new is None or self._is_known(trial_id, word, shapes):
            return self._drop(trial_id, result)
        self._objects[trial_id] = _Object(word, new.box, result.frame_index)
        if self._is_first or self.confirm == 1:
            result = self._join(trial_id, seen.result.frame_index, result)
        return result

    def _is_known(self, trial_id: int, word: str, shapes: Mapping[int, Shape]) -> bool:
        """Tell whether the mask of a trial is that of another object, or, of the same word, a part of it."""
        new = shapes[trial_id]
        for object_id, shape in shapes.items():
            of_word = self._word(object_id) == word
            is_same = new.iou(shape) > (_SAME if of_word else _SAME_OF_OTHER_WORD)
            if object_id != trial_id and (is_same or (of_word and new.is_part(shape))):
                return True
        return False

    def _with_room(self, word: str, result: FrameResult) -> FrameResult:
        """Let the tracker drop an object that is lost, if it is full: the new one is perhaps the same."""
        if len(self.tracker.object_ids) < self.tracker.max_objects:
            return result
        lost = [object_id for object_id in result.lost if object_id in self._objects and self._word(object_id) == word]
        return self._drop(min(lost, key=lambda object_id: self._objects[object_id].seen), result) if lost else result

    def _join(self, trial_id: int, number: int, result: FrameResult) -> FrameResult:
        """Show a trial that was found on frame `number`, under the id of a lost one of its word, or under a new one."""
        new, shapes = self._objects[trial_id], visible_shapes(result)
        of_word = [n for n, one in self._objects.items() if one.word == new.word and n > 0]
        # SAM 2 may have begun to find the lost one itself, perhaps after that frame
        lost = [n for n in of_word if n in shapes and trial_id in shapes and shapes[n].is_part(shapes[trial_id])]
        if not lost and trial_id in shapes and self._is_known(trial_id, new.word, shapes):
            del self._objects[trial_id]
            return self._drop(trial_id, result)
        lost = lost or [n for n in of_word if self._objects[n].seen < number or self._objects[n].doubles]
        if lost:
            object_id = min(lost, key=lambda n: float(np.abs(self._objects[n].box - new.box).sum()))
            result = self._drop(object_id, result)
        else:
            self._last_id = object_id = max(self._last_id, *self.tracker.object_ids) + 1
        self.tracker.rename(trial_id, object_id)
        self._objects[object_id] = self._objects.pop(trial_id)
        self._say("found" if lost else "new", object_id, "is found again" if lost else "is new")
        renamed = tuple(object_id if other == trial_id else other for other in result.object_ids)
        return replace(result, object_ids=renamed)

    def _drop(self, object_id: int, result: FrameResult) -> FrameResult:
        """Let the tracker forget an object, if it has it."""
        if object_id in self.tracker.object_ids:
            self.tracker.remove(object_id)
        return result.without(object_id)

    def _end(self, kind: Kind, object_id: int, what: str) -> None:
        """Forget an object, and say so if it was ever shown."""
        if not self._is_trial(object_id):
            self._say(kind, object_id, what)
        del self._objects[object_id]

    def _say(self, kind: Kind, object_id: int, what: str) -> None:
        word = self._word(object_id)
        self.say(kind, object_id, word, f"object {object_id} ({word}) {what}")

    def _word(self, object_id: int) -> str:
        return self._objects[object_id].word if object_id in self._objects else ""

    def _is_trial(self, object_id: int) -> bool:
        return object_id < 0 and object_id in self._objects
