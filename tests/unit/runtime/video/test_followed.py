"""What detections mean for the objects that are followed, with a tracker whose masks are boxes that the test draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from sam2edge import FrameResult, VideoTracker
from sam2edge.errors import BackendError
from sam2edge.runtime.video.followed import FollowedObjects, SeenFrame
from sam2edge.runtime.video.tracker import Earlier
from sam2edge.runtime.words.detections import Detections
from tests.helpers import box_mask, result_of

Box = tuple[int, int, int, int]

PIXELS = np.zeros((48, 64, 3), np.uint8)
LEFT, MIDDLE, RIGHT = (2, 5, 14, 25), (22, 5, 36, 25), (46, 5, 60, 25)


class Drawn:
    """A tracker of boxes: a prompted one is where its prompt was, unless the test moves it; None is out of view."""

    def __init__(self, max_objects: int = 8) -> None:
        self.max_objects, self.frame_index = max_objects, 0
        self.boxes: dict[int, Box | None] = {}
        self.lost: tuple[int, ...] = ()
        self.earlier: list[Earlier | None] = []
        self.encoded = 0

    @property
    def object_ids(self) -> tuple[int, ...]:
        return tuple(self.boxes)

    def result(self) -> FrameResult:
        masks = {object_id: box_mask(*(box or (0, 0, 0, 0))) for object_id, box in self.boxes.items()}
        return replace(result_of(masks, self.frame_index), lost=self.lost)

    def prompt(self, object_id: int, box: npt.NDArray[Any], earlier: Earlier | None) -> FrameResult:
        self.boxes[object_id] = tuple(np.rint(box).astype(int).tolist())
        self.earlier.append(earlier)
        return self.result()

    def remove(self, object_id: int) -> None:
        del self.boxes[object_id]

    def rename(self, object_id: int, new_id: int) -> None:
        self.boxes = {new_id if other == object_id else other: box for other, box in self.boxes.items()}

    def encode(self, pixels: npt.NDArray[np.uint8]) -> Any:
        self.encoded += 1
        return object()


class Scene:
    """Followed objects on a drawn tracker; `step` goes to the next frame, on which detections are used."""

    def __init__(self, max_objects: int = 8, confirm: int = 2, forget_after: int = 100) -> None:
        self.tracker, self.said = Drawn(max_objects), list[tuple[Any, ...]]()
        self.objects = FollowedObjects(
            cast(VideoTracker, self.tracker), 0.3, confirm, forget_after, lambda *event: self.said.append(event[:3])
        )

    def pass_by(self, frames: int = 1) -> FrameResult:
        for _ in range(frames):
            self.tracker.frame_index += 1
            result = self.objects.note(self.tracker.result())
        return result

    def step(self, *found: tuple[str, Box], score: float = 0.5, seen: SeenFrame | None = None) -> Mapping[int, str]:
        """Return the words of the objects that are shown, by their ids."""
        result = self.pass_by()
        detections = Detections([box for _, box in found], [score] * len(found), tuple(word for word, _ in found))  # type: ignore[arg-type]
        result = self.objects.shown(self.objects.use(seen or self.seen(), detections, result))
        assert result.object_ids == self.objects.ids
        return dict(zip(result.object_ids, result.words, strict=True))

    def seen(self) -> SeenFrame:
        return SeenFrame(self.tracker.result(), PIXELS, None)


def kinds(scene: Scene) -> Sequence[str]:
    return [kind for kind, _, _ in scene.said]


def test_first_detections_are_shown_and_later_ones_confirmed() -> None:
    scene = Scene()
    assert scene.step(("cup", LEFT)) == {1: "cup"}
    assert not scene.objects.are_settled
    assert scene.step(("cup", LEFT), ("man", RIGHT)) == {1: "cup"}
    assert scene.tracker.object_ids == (1, -1)
    scene.tracker.boxes[-1] = (30, 5, 44, 25)  # it moves on before it is found for the second time
    assert scene.step(("cup", LEFT), ("man", (30, 5, 44, 25))) == {1: "cup", 2: "man"}
    assert scene.objects.are_settled
    assert scene.said == [("new", 1, "cup"), ("new", 2, "man")]


def test_a_weak_detection_confirms_but_starts_nothing() -> None:
    scene = Scene()
    assert scene.step(("cup", LEFT), score=0.2) == {}
    scene.step(("cup", LEFT))
    assert scene.step(("cup", LEFT), score=0.2) == {1: "cup"}


def test_what_is_never_confirmed_goes() -> None:
    """Shown from the first detection on, or waiting since; what is confirmed stays however silent the detector is."""
    scene = Scene()
    scene.step(("cup", LEFT), ("man", MIDDLE))
    scene.step(("cup", LEFT), ("dog", RIGHT))
    assert scene.tracker.object_ids == (1, 2, -1)
    assert scene.step() == {1: "cup", 2: "man"}
    assert scene.step() == {1: "cup"}
    assert scene.step() == scene.step() == {1: "cup"}
    assert scene.tracker.object_ids == (1,)
    assert scene.said[2:] == [("dropped", 2, "man")]  # the dog was never shown


def test_a_lost_object_is_found_under_its_id() -> None:
    """The nearest of the word's own, once a second detection confirms it; the tracker's copy makes way."""
    scene = Scene()
    for _ in range(2):
        scene.step(("cup", LEFT), ("cup", RIGHT), ("man", MIDDLE))
    scene.tracker.boxes.update({1: None, 2: None, 3: None})
    scene.step(("cup", (50, 20, 62, 40)))
    assert scene.tracker.object_ids == (1, 2, 3, -1)
    assert scene.step(("cup", (50, 20, 62, 40))) == {1: "cup", 3: "man", 2: "cup"}
    assert scene.said[3:] == [("found", 2, "cup")]


def test_an_object_that_sam_finds_itself_is_not_found_twice() -> None:
    scene = Scene()
    for _ in range(2):
        scene.step(("cup", LEFT))
    scene.tracker.boxes[1] = None
    scene.step(("cup", RIGHT))
    scene.tracker.boxes[1] = RIGHT
    for _ in range(3):
        assert scene.step(("cup", RIGHT)) == {1: "cup"}
    assert scene.tracker.object_ids == (1,)
    assert kinds(scene) == ["new"]


def test_an_object_that_sam_finds_itself_while_the_detector_looks() -> None:
    """At first only a part of it, perhaps: what the detector found takes its place."""
    scene = Scene()
    for _ in range(2):
        scene.step(("cup", LEFT))
    scene.tracker.boxes[1] = None
    scene.step(("cup", RIGHT))
    before = scene.seen()
    scene.tracker.boxes.update({1: (24, 5, 30, 15), -1: MIDDLE})
    assert scene.step(("cup", RIGHT), seen=before) == {1: "cup"}
    assert scene.tracker.boxes == {1: MIDDLE}
    assert kinds(scene) == ["new", "found"]


def test_a_new_object_that_another_one_takes_over() -> None:
    """By the time at which it is confirmed it has a part of that one's mask."""
    scene = Scene()
    for _ in range(2):
        scene.step(("cup", LEFT))
    scene.step(("cup", LEFT), ("cup", RIGHT))
    before = scene.seen()
    scene.tracker.boxes[-1] = (4, 6, 10, 12)
    assert scene.step(("cup", LEFT), ("cup", RIGHT), seen=before) == {1: "cup"}
    assert scene.tracker.boxes == {1: LEFT}


def test_a_mask_that_is_known_is_no_new_object() -> None:
    """The box did not fit the known mask, but gives the same one, or a part of it."""
    scene = Scene()
    scene.step(("cup", LEFT))
    for box in ((2, 5, 14, 16), (4, 6, 12, 12)):
        assert scene.step(("cup", box)) == {1: "cup"}
    assert scene.tracker.object_ids == (1,)
    scene.step(("handle", (4, 6, 12, 12)))  # a part with a word of its own
    assert scene.tracker.object_ids == (1, -1)


def test_an_object_that_is_partly_hidden_is_known() -> None:
    scene = Scene()
    scene.step(("cup", LEFT))
    scene.tracker.boxes[1] = (2, 5, 14, 12)
    scene.step(("cup", LEFT))
    assert scene.objects.are_settled
    assert scene.tracker.object_ids == (1,)


def test_two_objects_with_one_mask() -> None:
    """The one that the detector does not mean goes after two detections, and is found again under its id."""
    scene = Scene()
    for _ in range(2):
        scene.step(("cup", LEFT), ("cup", RIGHT))
    scene.tracker.boxes[1] = (45, 5, 58, 25)
    assert scene.step(("cup", RIGHT)) == {1: "cup", 2: "cup"}
    assert scene.step(("cup", RIGHT)) == {2: "cup"}
    scene.step(("cup", RIGHT), ("cup", LEFT))
    assert scene.step(("cup", RIGHT), ("cup", LEFT)) == {2: "cup", 1: "cup"}
    assert scene.said[2:] == [("dropped", 1, "cup"), ("found", 1, "cup")]


def test_another_word_for_a_known_object() -> None:
    """Three detections with another word, and none with its own: the object has that word."""
    scene = Scene()
    scene.step(("cup", LEFT))
    scene.step(("mug", LEFT))
    scene.step(("mug", LEFT))
    scene.step(("cup", LEFT))
    for _ in range(2):
        assert scene.step(("mug", LEFT)) == {1: "cup"}
    assert scene.step(("mug", LEFT)) == {1: "mug"}
    assert scene.said == [("new", 1, "cup"), ("renamed", 1, "mug")]


def test_another_word_for_what_is_not_shown() -> None:
    """The same, and nothing is said of it before it is shown."""
    scene = Scene(confirm=3)
    scene.step()
    scene.step(("cup", LEFT))
    for _ in range(3):
        assert scene.step(("mug", LEFT)) == {}
    scene.step(("mug", LEFT))
    assert scene.step(("mug", LEFT)) == {1: "mug"}
    assert scene.said == [("new", 1, "mug")]


def test_full() -> None:
    """What finds no room is said once; a lost object of the word makes room, and is found again."""
    scene = Scene(max_objects=1)
    for _ in range(3):
        assert scene.step(("cup", LEFT), ("man", RIGHT)) == {1: "cup"}
    assert scene.said[1:] == [("full", None, "man")]
    scene.tracker.boxes[1], scene.tracker.lost = None, (1,)
    scene.step(("man", RIGHT))
    scene.step(("cup", MIDDLE))
    assert scene.tracker.object_ids == (-1,)
    assert scene.step(("cup", MIDDLE)) == {1: "cup"}
    assert scene.said[2:] == [("found", 1, "cup")]


def test_forgotten_for_good() -> None:
    scene = Scene(forget_after=5)
    for _ in range(2):
        scene.step(("cup", LEFT))
    scene.tracker.boxes[1] = None
    assert scene.pass_by(5).object_ids == (1,)
    assert scene.pass_by(1).object_ids == scene.tracker.object_ids == ()
    scene.step(("cup", LEFT))
    assert scene.step(("cup", LEFT)) == {2: "cup"}
    assert scene.said == [("new", 1, "cup"), ("lost", 1, "cup"), ("new", 2, "cup")]


def test_an_object_that_the_tracker_doubts() -> None:
    """As long as detections find it where its mask is, it is neither given up nor is another one given its id."""
    scene = Scene(forget_after=5)
    for _ in range(2):
        scene.step(("cup", LEFT))
    scene.tracker.lost = (1,)
    for _ in range(2):
        scene.pass_by(3)
        scene.step(("cup", LEFT), ("cup", RIGHT))
    assert scene.objects.ids == (1, 2)
    assert kinds(scene) == ["new", "new"]


def test_an_object_that_leaves_while_the_detector_looks() -> None:
    """It was in view on the frame that the detector saw: what was found elsewhere is another one."""
    scene = Scene(confirm=1)
    scene.step(("cup", LEFT))
    scene.pass_by()
    before = scene.seen()
    scene.tracker.boxes[1] = None
    scene.pass_by(3)
    assert scene.step(("cup", LEFT), ("cup", RIGHT), seen=before) == {1: "cup", 2: "cup"}


def test_what_a_detection_of_an_earlier_frame_means() -> None:
    """It is compared with that frame's masks, and prompted there; the frame is encoded once, and only if need be."""
    scene = Scene(confirm=1)
    scene.step(("cup", LEFT))
    before = scene.seen()
    scene.tracker.boxes[1] = RIGHT
    scene.pass_by(3)
    assert scene.step(("cup", LEFT), seen=before) == {1: "cup"}
    assert scene.tracker.encoded == 0
    assert scene.step(("cup", LEFT), ("man", MIDDLE), ("dog", (5, 30, 20, 45)), seen=before) == {
        1: "cup",
        2: "man",
        3: "dog",
    }
    assert scene.tracker.encoded == 1
    assert [earlier and earlier.frame_index for earlier in scene.tracker.earlier] == [None, 1, 1]


def test_a_prompt_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done until then counts, and the next detection goes on from there."""
    scene = Scene()
    prompt = scene.tracker.prompt

    def fail(object_id: int, box: npt.NDArray[Any], earlier: Earlier | None) -> FrameResult:
        if box[0] == RIGHT[0]:
            raise BackendError("out of memory")
        return prompt(object_id, box, earlier)

    with monkeypatch.context() as patch:
        patch.setattr(scene.tracker, "prompt", fail)
        with pytest.raises(BackendError, match="out of memory"):
            scene.step(("cup", LEFT), ("cup", RIGHT))
    assert scene.objects.ids == scene.tracker.object_ids == (1,)
    assert scene.step(("cup", LEFT), ("cup", RIGHT)) == {1: "cup", 2: "cup"}


def test_objects_that_the_user_removes_or_prompts() -> None:
    scene = Scene()
    scene.step(("cup", LEFT))
    scene.tracker.remove(1)
    scene.objects.forget(1)
    scene.tracker.prompt(4, np.array(MIDDLE), None)
    scene.objects.reserve(4)
    scene.step(("cup", LEFT), ("cup", MIDDLE))
    assert scene.step(("cup", LEFT), ("cup", MIDDLE)) == {4: "", 5: "cup"}
