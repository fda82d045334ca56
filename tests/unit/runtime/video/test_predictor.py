"""What the video predictor accepts, refuses, reads and holds; tests/conformance checks that it tracks as SAM 2 does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sam2edge import Bundle, VideoPredictor, VideoTracker
from sam2edge.errors import BackendError, FrameError, InputError, MediaError, ObjectIdError, PromptError
from sam2edge.runtime.media.image_files import write_image
from sam2edge.runtime.video.state import InferenceState
from tests.helpers import (
    BALL,
    BLOCK,
    CLIP,
    HEIGHT,
    WIDTH,
    Counting,
    Frames,
    assert_close,
    assert_same,
    clip_frames,
    play,
)

MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[50:120, 105:175] = True
CLICK: dict[str, Any] = {"points": [(138, 84)], "labels": [1]}
BOXED: dict[str, Any] = {"points": None, "labels": None, "box": BALL}

Masks = dict[int, npt.NDArray[np.float32]]


@pytest.fixture(scope="module")
def clip() -> Frames:
    return clip_frames(30)


@pytest.fixture(scope="module")
def backend() -> Counting:
    return Counting()


@pytest.fixture(scope="module")
def predictor(nano: Bundle, backend: Counting) -> Iterator[VideoPredictor]:
    with VideoPredictor(nano, backend) as predictor:
        yield predictor


def prompted(predictor: VideoPredictor, video: object, *prompts: tuple[int, int, dict[str, Any]]) -> InferenceState:
    """Start on a video and prompt objects: frame, id, arguments."""
    state = predictor.init_state(video)
    for frame, obj_id, arguments in prompts:
        predictor.add_new_points_or_box(state, frame, obj_id, **arguments)
    return state


@pytest.fixture
def state(predictor: VideoPredictor, clip: Frames) -> InferenceState:
    """The clip with the ball prompted on frame 3."""
    return prompted(predictor, clip, (3, 7, {"box": BALL}))


@pytest.fixture
def runs(backend: Counting) -> Counter[str]:
    """How often each graph was run."""
    backend.runs.clear()
    return backend.runs


class Watched(Sequence[Frames]):
    """Frames that record which of them were read."""

    def __init__(self, frames: Frames) -> None:
        self.frames, self.read = frames, list[int]()

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: Any) -> Any:
        self.read.append(index)
        return self.frames[index]


def propagate(predictor: VideoPredictor, state: InferenceState, *arguments: Any) -> Masks:
    """Masks of every frame that a propagation yields."""
    return {frame: masks for frame, _, masks in predictor.propagate_in_video(state, *arguments)}


def test_upstreams_example(predictor: VideoPredictor, clip: Frames) -> None:
    """As in upstream's notebook, without .cpu().numpy()."""
    inference_state = predictor.init_state(
        video_path=clip, offload_video_to_cpu=True, offload_state_to_cpu=True, async_loading_frames=True
    )
    predictor.reset_state(inference_state)
    points, labels = np.array([[138, 84]], dtype=np.float32), np.array([1], np.int32)
    frame_idx, object_ids, masks = predictor.add_new_points_or_box(
        inference_state=inference_state, frame_idx=0, obj_id=2, points=points, labels=labels
    )
    assert (frame_idx, object_ids, masks.shape, masks.dtype) == (0, [2], (1, 1, HEIGHT, WIDTH), np.float32)
    assert VideoPredictor.add_new_points is VideoPredictor.add_new_points_or_box
    _, object_ids, masks = predictor.add_new_points_or_box(inference_state, 0, 5, box=np.array(BLOCK, np.float32))
    assert (object_ids, masks.shape) == ([2, 5], (2, 1, HEIGHT, WIDTH))
    segments = {
        frame: {obj_id: (masks[n] > 0.0) for n, obj_id in enumerate(ids)}
        for frame, ids, masks in predictor.propagate_in_video(inference_state)
    }
    assert list(segments) == list(range(30))
    for obj_id, (x0, y0, x1, y1) in ((2, BALL), (5, BLOCK)):
        assert segments[0][obj_id].shape == (1, HEIGHT, WIDTH)
        assert segments[0][obj_id][0, y0:y1, x0:x1].sum() > 0.9 * segments[0][obj_id].sum() > 1000
        assert segments[29][obj_id].any()


def test_forward_is_as_the_tracker(nano: Bundle, pooled: Bundle, clip: Frames) -> None:
    for bundle in (nano, pooled):
        with VideoTracker(bundle) as tracker, VideoPredictor(bundle) as predictor:
            _, *results = play(tracker, clip[:18], {0: [(1, {"box": BALL})]})
            masks = propagate(predictor, prompted(predictor, clip[:18], (0, 1, {"box": BALL})))
            assert list(masks) == [result.frame_index for result in results]
            for result in results[1:]:
                np.testing.assert_array_equal(masks[result.frame_index][:, 0] > 0, result.masks)


def test_keys_of_the_state(predictor: VideoPredictor, state: InferenceState) -> None:
    keys = ("num_frames", "video_height", "video_width", "obj_ids")
    assert [state[key] for key in keys] == [30, HEIGHT, WIDTH, [7]]
    with pytest.raises(KeyError, match="'images': a state has num_frames, video_height, video_width, obj_ids"):
        state["images"]


def test_a_video_in_memory_in_a_folder_and_in_a_file(predictor: VideoPredictor, clip: Frames, tmp_path: Path) -> None:
    for number, frame in enumerate(clip):
        write_image(tmp_path / f"{number:05d}.png", frame)

    def results(video: object) -> tuple[Masks, Masks]:
        state = prompted(predictor, video, (20, 1, {"box": BALL}))
        predictor.add_new_mask(state, 24, 2, MASK)
        return propagate(predictor, state, 20, 9), propagate(predictor, state, None, None, True)

    expected = results(clip)
    assert [list(masks) for masks in expected] == [list(range(20, 30)), list(range(20, -1, -1))]
    for video in (list(clip), tmp_path, CLIP):
        assert_same(results(video), expected)


def test_frames_are_read_when_needed(predictor: VideoPredictor, clip: Frames, runs: Counter[str]) -> None:
    watched = Watched(clip)
    state = predictor.init_state(watched)
    assert watched.read == [0]
    assert not runs
    predictor.add_new_points_or_box(state, 10, 1, box=BALL)
    predictor.add_new_points_or_box(state, 10, 2, box=BLOCK)
    assert (watched.read, runs) == ([0, 10], {"image_encoder": 1, "mask_decoder": 2})
    watched.read.clear()
    runs.clear()
    propagate(predictor, state)
    assert watched.read == list(range(11, 30))
    expected = {"image_encoder": 19, "memory_attention": 19, "mask_decoder": 19, "memory_encoder": 19}
    assert runs == expected, "one run of each graph for both objects, and the encoder once a frame"
    watched.read.clear()
    propagate(predictor, state, None, None, True)
    assert watched.read == [*range(11, 16), *range(9, -1, -1)], "five memories of the first pass are encoded again"


def test_little_is_held_of_a_long_video(predictor: VideoPredictor, clip: Frames) -> None:
    state = prompted(predictor, [*clip[::-1], *clip], (0, 1, CLICK), (40, 1, CLICK))
    item = state.objects[1]
    held = 0
    for frame, _, masks in predictor.propagate_in_video(state):
        held = max(held, len(item.memories))
        assert len(state._embeddings) <= 3
        assert masks.any(), frame
    assert held == 2 + 12
    assert sum(output.logits.nbytes for output in item.others.values()) < 58 * 32 * 32 * 2 + 14 * 32 * 32 * 4
    for frame in (25, 50, 10):
        predictor.add_new_points_or_box(state, frame, 1, **CLICK)
        assert len(item.memories) <= held


def test_dropped_memories_are_encoded_again(nano: Bundle, clip: Frames) -> None:
    def results(held: int | None) -> list[Masks]:
        with VideoPredictor(nano) as predictor:
            predictor._held_memories = held or predictor._held_memories
            state = prompted(predictor, clip, (0, 1, {"box": BALL}), (2, 2, {"box": BLOCK}))
            all_masks = [propagate(predictor, state)]
            for frame in (6, 14, 25):
                points = {"points": [(138, 84), (10, 10)], "labels": [1, 0]}
                all_masks.append({frame: predictor.add_new_points_or_box(state, frame, 1, **points)[2]})
            all_masks.append(propagate(predictor, state, 14))
            all_masks.append(propagate(predictor, state, 12, None, True))
            dropped = held is None and len(state.objects[1].memories) < 28
            assert dropped == (held is None)
            return all_masks

    assert_close(results(None), results(1000), 1e-3)


def test_objects_with_different_histories_share_runs(predictor: VideoPredictor, clip: Frames) -> None:
    joins: dict[int, list[tuple[int, dict[str, Any]]]] = {
        1: [(0, {"box": BALL})],
        2: [(9, {"box": BLOCK}), (14, {"points": [(250, 60)], "labels": [1]})],
        3: [(5, {"points": [(250, 180)], "labels": [1]})],
    }

    def results(ids: Sequence[int]) -> list[Masks]:
        prompts = [(frame, obj_id, prompt) for obj_id in ids for frame, prompt in joins[obj_id]]
        state = prompted(predictor, clip, *prompts)
        return [propagate(predictor, state, 0), propagate(predictor, state, 20, None, True)]

    together = results([1, 2, 3])
    for n, obj_id in enumerate(joins):
        own = [{frame: masks[n : n + 1] for frame, masks in direction.items()} for direction in together]
        assert_close(own, results([obj_id]))


def test_two_states(predictor: VideoPredictor, clip: Frames) -> None:
    def states() -> list[InferenceState]:
        videos = (clip, BALL), (clip[:, :, ::-1], (15, 18, 100, 103))
        return [prompted(predictor, video, (0, 1, {"box": box})) for video, box in videos]

    alone = tuple(propagate(predictor, state) for state in states())
    by_turns: tuple[Masks, Masks] = ({}, {})
    for both in zip(*(predictor.propagate_in_video(state) for state in states()), strict=True):
        for masks, (frame, _, mask) in zip(by_turns, both, strict=True):
            masks[frame] = mask
    assert_same(by_turns, alone)


def test_old_points_and_new_ones(predictor: VideoPredictor, clip: Frames) -> None:
    def last(*prompts: dict[str, Any]) -> Any:
        state = predictor.init_state(clip)
        for prompt in prompts:
            add = predictor.add_new_mask if "mask" in prompt else predictor.add_new_points_or_box
            _, _, masks = add(state, 0, 1, **prompt)
        return masks

    one, other = CLICK, {"points": [(110, 100)], "labels": [0]}
    both = {"points": [(138, 84), (110, 100)], "labels": [1, 0]}
    added = last(one, {**other, "clear_old_points": False})
    np.testing.assert_array_equal(added, last(one, both))
    assert (added != last(one, other)).any()
    boxed = {"box": BALL}
    np.testing.assert_array_equal(last(boxed, {**one, "clear_old_points": False}), last(boxed, {**boxed, **one}))
    masked = {"mask": MASK}  # which has no old points
    np.testing.assert_array_equal(last(masked, {**one, "clear_old_points": False}), last(masked, one))


def test_ways_to_give_the_same_prompt(predictor: VideoPredictor, clip: Frames) -> None:
    points, box, size = np.array([(138, 84), (10, 10)]), np.array(BALL), (WIDTH, HEIGHT)
    plain, with_leading_axes, in_shares = (
        predictor.add_new_points_or_box(predictor.init_state(clip), 0, 1, **prompt)[2]
        for prompt in (
            {"points": points, "labels": [1, 0], "box": box},
            {"points": points[None], "labels": [[1, 0]], "box": box[None]},
            {"points": points / size, "labels": [1, 0], "box": box / (*size, *size), "normalize_coords": False},
        )
    )
    assert_close([with_leading_axes, in_shares], [plain, plain])


def call(verb: str, *arguments: Any) -> Callable[[VideoPredictor, InferenceState], object]:
    return lambda predictor, state: getattr(predictor, verb)(state, *arguments)


def points(**more: Any) -> Callable[[VideoPredictor, InferenceState], object]:
    prompt = {**CLICK, **more}
    return lambda predictor, state: predictor.add_new_points_or_box(state, **{"frame_idx": 3, "obj_id": 7, **prompt})


REFUSED: dict[str, tuple[Any, type[InputError], str]] = {
    "frame after the last": (points(frame_idx=30), InputError, "frame_idx must be an integer from 0 to 29"),
    "frame before the first": (points(frame_idx=-1), InputError, "the video's frames, but got -1"),
    "frame is a bool": (points(frame_idx=True), InputError, "frame_idx must be .* but got True"),
    "frame is a float": (points(frame_idx=1.0), InputError, "frame_idx must be .* but got 1.0"),
    "id is text": (points(obj_id="7"), ObjectIdError, "integer but got '7'"),
    "new id with a bad prompt": (points(obj_id=8, points=[(500, 5)]), PromptError, "outside the 320×240 frame"),
    "points without labels": (points(labels=None), PromptError, "points were given without labels; give both"),
    "labels without points": (points(points=None), PromptError, "labels were given without points; give both"),
    "labels and a box": (points(points=None, box=BALL), PromptError, "labels were given without points"),
    "nothing": (points(points=None, labels=None), PromptError, "needs points, a box or a mask"),
    "new id with background only": (
        points(obj_id=8, labels=[0]),
        PromptError,
        "object 8 is new, and points with",
    ),
    "box after points": (points(box=BALL, clear_old_points=False), PromptError, "a box comes before any point"),
    "two objects": (points(points=[[(1, 1)], [(2, 2)]]), PromptError, r"\[P,2\] .* but got shape \[2, 1, 2\]"),
    "ragged points": (points(points=[(1, 1), (2,)]), PromptError, "points must be numbers"),
    "pixels as shares": (points(normalize_coords=False), PromptError, r"points must be in 0…1 .*\[\[138.0, 84.0\]\]"),
    "box in pixels as shares": (points(**BOXED, normalize_coords=False), PromptError, "box must be in 0…1"),
    "clear_old_points": (points(clear_old_points=1), InputError, "clear_old_points must be True or False but got 1"),
    "normalize_coords": (points(normalize_coords="no"), InputError, "normalize_coords must be True or False"),
    "mask on no frame": (call("add_new_mask", 30, 7, MASK), InputError, "frame_idx must be"),
    "mask for no id": (call("add_new_mask", 3, None, MASK), ObjectIdError, "integer but got None"),
    "empty mask": (call("add_new_mask", 3, 7, ~MASK & MASK), PromptError, "the mask is empty"),
    "mask of another size": (call("add_new_mask", 3, 7, MASK.T), PromptError, r"\[240, 320\] but got shape"),
    "start after the last": (call("propagate_in_video", 30), InputError, "start_frame_idx must be .* but got 30"),
    "start is None's name": (call("propagate_in_video", "None"), InputError, "start_frame_idx must be"),
    "fewer frames than none": (
        call("propagate_in_video", 0, -1),
        InputError,
        "max_frame_num_to_track must be .* -1",
    ),
    "reverse": (call("propagate_in_video", 0, 1, "yes"), InputError, "reverse must be True or False but got 'yes'"),
    "clear on no frame": (call("clear_all_prompts_in_frame", 30, 7), InputError, "frame_idx must be"),
    "clear of no object": (call("clear_all_prompts_in_frame", 3, 8), ObjectIdError, r"8 is not known; .* has \[7\]"),
    "clear with need_output": (call("clear_all_prompts_in_frame", 3, 7, 0), InputError, "need_output must be True"),
    "remove of no id": (call("remove_object", 7.0), ObjectIdError, "integer but got 7.0"),
    "remove of no object": (call("remove_object", 8, True), ObjectIdError, "object 8 is not known"),
    "remove with strict": (call("remove_object", 7, "yes"), InputError, "strict must be True or False"),
    "remove with need_output": (call("remove_object", 7, True, None), InputError, "need_output must be True"),
}


@pytest.fixture(scope="module")
def undisturbed(predictor: VideoPredictor, clip: Frames) -> Masks:
    state = prompted(predictor, clip, (3, 7, {"box": BALL}))
    return propagate(predictor, state, None, 4)


@pytest.mark.parametrize(("disturb", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_a_refused_call_changes_nothing(
    predictor: VideoPredictor,
    state: InferenceState,
    undisturbed: Masks,
    disturb: Callable[[VideoPredictor, InferenceState], object],
    error: type[InputError],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        disturb(predictor, state)
    assert state["obj_ids"] == [7]
    assert_same(propagate(predictor, state, None, 4), undisturbed)


def test_an_object_does_not_join_on_a_frame_that_cannot_be_read(predictor: VideoPredictor, clip: Frames) -> None:
    frames = Watched(clip)
    state = predictor.init_state(frames)
    frames.frames = clip[:, ::2]
    with pytest.raises(FrameError, match="frame 4 is 320×120 but the first frame is 320×240"):
        predictor.add_new_points_or_box(state, 4, 1, box=BALL)
    assert state["obj_ids"] == []


@pytest.mark.parametrize("verb", ["propagate_in_video", "reset_state"])
def test_a_state_of_something_else(predictor: VideoPredictor, nano: Bundle, clip: Frames, verb: str) -> None:
    with VideoPredictor(nano) as other:
        state = other.init_state(clip)
    for wrong, words in ((state, "another predictor's"), ({}, "dict"), (None, "NoneType")):
        with pytest.raises(InputError, match=rf"what init_state\(\) of this predictor returned but got {words}"):
            getattr(predictor, verb)(wrong)


def test_a_wrong_flag_for_the_constructor(nano: Bundle) -> None:
    with pytest.raises(InputError, match="add_all_frames_to_correct_as_cond must be True or False but got 1"):
        VideoPredictor(nano, add_all_frames_to_correct_as_cond=1)  # type: ignore[arg-type]


def test_close(nano: Bundle, clip: Frames) -> None:
    predictor = VideoPredictor(nano)
    state = prompted(predictor, clip, (0, 1, {"box": BALL}))
    running = predictor.propagate_in_video(state)
    next(running)
    predictor.close()
    predictor.close()
    uses: list[Callable[[], object]] = [
        lambda: predictor.init_state(clip),
        lambda: predictor.add_new_mask(state, 0, 1, MASK),
        lambda: predictor.propagate_in_video(state),
        lambda: next(running),
    ]
    for use in uses:
        with pytest.raises(BackendError, match="the predictor is closed; make a new one"):
            use()


def test_nothing_to_propagate(predictor: VideoPredictor, clip: Frames, state: InferenceState) -> None:
    with pytest.raises(PromptError, match="no object was prompted yet; call add_new_points_or_box"):
        next(predictor.propagate_in_video(predictor.init_state(clip)))
    predictor.add_new_points_or_box(state, 5, 8, box=BALL)
    running = predictor.propagate_in_video(state)
    assert next(running)[0] == 3
    predictor.clear_all_prompts_in_frame(state, 5, 8)
    for propagation in (running, predictor.propagate_in_video(state)):
        with pytest.raises(PromptError, match="object 8 has no conditioning frame left; prompt it again or remove_obj"):
            next(propagation)


def test_start_and_length(predictor: VideoPredictor, state: InferenceState) -> None:
    """As many frames after the first as upstream; backward from the first none, as upstream."""
    expected = {
        (): list(range(3, 30)),
        (None, 2): [3, 4, 5],
        (27, 10): [27, 28, 29],
        (8, 0): [8],
        (8, 3, True): [8, 7, 6, 5],
        (2, None, True): [2, 1, 0],
        (0, None, True): [],
        (np.int64(29), np.int32(1)): [29],
    }
    assert {arguments: list(propagate(predictor, state, *arguments)) for arguments in expected} == expected


def test_clear_all_prompts_in_frame(predictor: VideoPredictor, clip: Frames, state: InferenceState) -> None:
    predictor.add_new_points_or_box(state, 3, 8, box=BLOCK)
    before = predictor.add_new_points_or_box(state, 9, 8, box=BLOCK)
    assert (before[2][0] == -1024).all(), "object 7 is not known on frame 9"
    assert predictor.clear_all_prompts_in_frame(state, 9, 8, need_output=False) is None
    cleared = predictor.clear_all_prompts_in_frame(state, 9, 7)
    assert cleared is not None
    frame, ids, masks = cleared
    assert (frame, ids) == (9, [7, 8])
    assert (masks == -1024).all()
    expected = prompted(predictor, clip, (3, 7, {"box": BALL}), (3, 8, {"box": BLOCK}))
    assert_same(propagate(predictor, state), propagate(predictor, expected))


def test_an_object_starts_anew_without_conditioning_frames(predictor: VideoPredictor, state: InferenceState) -> None:
    propagate(predictor, state)
    predictor.clear_all_prompts_in_frame(state, 3, 7)
    predictor.add_new_points_or_box(state, 8, 7, box=BALL)
    assert list(propagate(predictor, state)) == list(range(8, 30))
    assert list(state.objects[7].conditioning) == [8]


def test_remove_object(predictor: VideoPredictor, state: InferenceState) -> None:
    predictor.add_new_points_or_box(state, 3, 8, box=BLOCK)
    predictor.add_new_points_or_box(state, 6, 8, box=BLOCK)
    assert predictor.remove_object(state, 99) == ([7, 8], [])
    _, _, masks = predictor.add_new_points_or_box(state, 3, 7, box=BALL)
    ids, updated = predictor.remove_object(state, 8, strict=True)
    assert (ids, [frame for frame, _ in updated], state["obj_ids"]) == ([7], [3, 6], [7])
    np.testing.assert_array_equal(updated[0][1], masks[:1])
    assert (updated[1][1] == -1024).all()
    predictor.add_new_points_or_box(state, 6, 9, box=BLOCK)
    assert predictor.remove_object(state, 9, need_output=False) == ([7], [])
    assert predictor.remove_object(state, 7) == ([], [])
    assert state["obj_ids"] == []


def test_changes_during_propagation(predictor: VideoPredictor, state: InferenceState) -> None:
    predictor.add_new_points_or_box(state, 3, 8, box=BLOCK)
    yielded = []
    for frame, ids, masks in predictor.propagate_in_video(state):
        assert len(masks) == len(ids)
        yielded.append(ids)
        if frame == 6:
            predictor.remove_object(state, 8)
            predictor.add_new_points_or_box(state, 6, 9, box=BALL)
        if frame == 9:
            predictor.reset_state(state)
    assert yielded == [[7, 8]] * 4 + [[7]] * 3


def test_prompts_during_propagation_wait_for_the_next(predictor: VideoPredictor, clip: Frames) -> None:
    def propagated(interrupt: bool) -> Masks:
        state = prompted(predictor, clip, (12, 1, {"box": BALL}))
        propagate(predictor, state, None, None, True)
        predictor.add_new_points_or_box(state, 2, 1, box=BALL)
        forward = {}
        for frame, _, masks in predictor.propagate_in_video(state, 0):
            forward[frame] = masks
            if interrupt and frame == 4:
                predictor.add_new_points_or_box(state, 7, 1, points=[(10, 10)], labels=[0])
        return forward

    assert_same(propagated(True), propagated(False))


def test_the_caller_may_reset_the_state_and_change_results(
    predictor: VideoPredictor, state: InferenceState, undisturbed: Masks
) -> None:
    predictor.add_new_points_or_box(state, 3, 7, box=BALL)[2][:] = 99
    propagate(predictor, state)
    predictor.reset_state(state)
    assert state["obj_ids"] == []
    predictor.add_new_points_or_box(state, 3, 7, box=BALL)[2][:] = 99
    copies = {}
    for frame, ids, masks in predictor.propagate_in_video(state, None, 4):
        copies[frame] = masks.copy()
        masks[:] = 99
        ids.clear()
    assert_same(copies, undisturbed)


def test_frames_that_cannot_be_read_are_left_out_with_a_warning(
    predictor: VideoPredictor, clip: Frames, tmp_path: Path
) -> None:
    """The others get their masks; a prompt on such a frame is refused."""
    for number, frame in enumerate(clip[:4]):
        write_image(tmp_path / f"{number}.png", frame)
    (tmp_path / "2.png").write_bytes(b"broken")
    state = prompted(predictor, tmp_path, (0, 1, BOXED))
    with pytest.warns(UserWarning, match=r"frame 2 has no masks: .*2\.png: no image that OpenCV can read"):
        masks = {frame: logits for frame, _, logits in predictor.propagate_in_video(state)}
    assert list(masks) == [0, 1, 3]
    assert all((logits > 0).any() for logits in masks.values())
    with pytest.raises(MediaError, match=r"2\.png: no image"):
        predictor.add_new_points_or_box(state, 2, 1, **BOXED)
