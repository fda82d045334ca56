"""What the tracker remembers and when it doubts; the settings are SAM 2's by default."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam2edge import Bundle, FrameResult, VideoTracker
from sam2edge.calibration.measure.davis import in_view, region_similarity
from sam2edge.calibration.measure.targets import Prompts
from sam2edge.errors import BackendError, FrameError, InputError, PromptError
from sam2edge.runtime.backends.base import Array, GraphRunner
from sam2edge.runtime.model.graphs import Graphs
from sam2edge.runtime.model.staging import FrameLoader
from tests.helpers import BALL, BLOCK, Counting, Frames, assert_close, assert_same, clip_frames, play, true_masks

JOIN = {0: [(1, {"box": BALL})]}
SURE_OF_NOTHING = 0.999
"""The model never predicts such an IoU."""


@pytest.fixture(scope="module")
def clip() -> Frames:
    return clip_frames(14)


def track(bundle: Bundle, frames: Sequence[Any], **knobs: Any) -> list[FrameResult]:
    """Two objects from the first of the frames on; one result a frame."""
    with VideoTracker(bundle, **knobs) as tracker:
        return list(play(tracker, frames, {0: [(1, {"box": BALL}), (2, {"box": BLOCK})]}))[2:]


def assert_logits(result: FrameResult, expected: FrameResult) -> None:
    np.testing.assert_array_equal(result.logits, expected.logits)


def test_the_defaults_are_the_models_own_numbers(nano: Bundle, clip: Frames) -> None:
    explicit = {"memory_frames": 6, "memory_stride": 1, "track_every": 1, "min_confidence": 0}
    assert_same(track(nano, clip, **explicit), track(nano, clip))


@pytest.mark.parametrize("knobs", [{"memory_frames": 1}, {"memory_stride": 2}], ids=str)
def test_memory_settings_change_the_result(nano: Bundle, clip: Frames, knobs: dict[str, int]) -> None:
    plain, other = track(nano, clip), track(nano, clip, **knobs)
    assert_logits(other[1], plain[1])  # nothing is left out yet
    assert (other[-1].logits != plain[-1].logits).any()
    assert (other[-1].masks & plain[-1].masks).sum() > 0.9 * plain[-1].masks.sum()


def test_frames_that_are_left_out_repeat_the_result(nano: Bundle, clip: Frames) -> None:
    looked_at = track(nano, clip[::3])
    for index, result in enumerate(track(nano, clip, track_every=3)):
        assert result.frame_index == index
        assert_logits(result, looked_at[index // 3])


def test_a_prompt_on_a_frame_that_was_left_out(nano: Bundle, clip: Frames) -> None:
    def shown(order: Sequence[int]) -> Iterator[Frames]:
        for t in order:
            frame = clip[t].copy()
            yield frame
            frame[:] = 0  # the caller's buffer, after the prompt

    with VideoTracker(nano, track_every=3) as skipping, VideoTracker(nano) as plain:
        *_, result = play(skipping, shown(range(7)), {0: [(0, {"box": BALL})], 4: [(4, {"box": BALL})]})
        *_, expected = play(plain, shown([0, 3, 4, 6]), {0: [(0, {"box": BALL})], 2: [(4, {"box": BALL})]})
    assert (result.frame_index, result.object_ids) == (6, (0, 4))
    assert_logits(result, expected)


def test_frames_left_out_are_not_encoded(nano: Bundle, clip: Frames) -> None:
    with VideoTracker(nano, backend := Counting(), track_every=4) as tracker:
        assert len(list(play(tracker, clip[:9], {0: [(1, {"box": BALL})]}))) == 10
        assert backend.runs["image_encoder"] == sum(map(tracker.looks_at, range(9))) == 3


def test_frames_without_objects_are_encoded_when_prompted(nano: Bundle, clip: Frames) -> None:
    with VideoTracker(nano, backend := Counting()) as tracker, VideoTracker(nano) as plain:
        frames = clip[:4].copy()
        for index, frame in enumerate(frames):
            result = tracker.track(frame)
            assert (result.frame_index, result.logits.shape, result.frame_size) == (index, (0, 32, 32), (240, 320))
            frame[:] = 0  # the caller's buffer
        with pytest.raises(FrameError, match="changed from 320×240 to 160×120"):
            tracker.track(clip[0, ::2, ::2])
        with pytest.raises(PromptError, match="outside"):
            tracker.prompt(1, points=[(322, 5)])
        assert not backend.runs
        plain.track(clip[3])
        joined, expected = tracker.prompt(1, box=BALL), plain.prompt(1, box=BALL)
        assert_logits(joined, expected)
        assert_logits(tracker.track(clip[4]), plain.track(clip[4]))
        assert backend.runs["image_encoder"] == 2
        tracker.remove(1)
        assert tracker.track(clip[5]).frame_index == 5
        assert backend.runs["image_encoder"] == 2
        tracker.reset()
        assert tracker.track(clip[0, ::2, ::2]).frame_size == (120, 160)
        assert backend.runs["image_encoder"] == 2


@pytest.mark.parametrize("track_every", [1, 2])
def test_an_encoded_frame_gives_the_same_result(nano: Bundle, clip: Frames, track_every: int) -> None:
    with VideoTracker(nano) as encoder:
        embeddings = [encoder.encode(frame) for frame in clip]
    assert_same(track(nano, embeddings, track_every=track_every), track(nano, clip, track_every=track_every))


def test_embeddings_that_are_refused(nano: Bundle, clip: Frames) -> None:
    with VideoTracker(nano) as tracker:
        embedding = tracker.encode(clip[0])
        tracker.track(clip[0])
        with pytest.raises(FrameError, match=r"of a frame of \[120, 160\] but all must be \[240, 320\]"):
            tracker.track(tracker.encode(clip[0, ::2, ::2]))
        with pytest.raises(FrameError, match="another model's"):
            tracker.track(dataclasses.replace(embedding, features=embedding.features[..., 1:]))
        with pytest.raises(FrameError, match="must be uint8"):
            tracker.encode(clip[0].astype(np.float32))
        assert tracker.track(embedding).frame_index == 1


def test_doubtful_frames_stay_out_of_memory(nano: Bundle, clip: Frames) -> None:
    """As if they had never been: only the prompted frame is remembered."""
    doubting = track(nano, clip, min_confidence=SURE_OF_NOTHING)
    for t in (1, 5, 13):
        assert_logits(doubting[t], track(nano, clip[[0, t]])[-1])


def test_frames_without_the_object_stay_out_of_memory(nano: Bundle, clip: Frames) -> None:
    """The objects' time stands still while they are away: afterwards they remember what they did before."""
    blank = np.full_like(clip[0], 90)
    results = track(nano, [*clip[:4], *[blank] * 9, clip[4]], min_confidence=0.01)
    assert not any(result.visible.any() for result in results[4:13])
    assert_logits(results[-1], track(nano, clip[:5])[-1])
    plain = track(nano, [*clip[:4], *[blank] * 9, clip[4]])
    assert (plain[-1].logits != results[-1].logits).any()


class _Emptying(Counting):
    """Leaves nothing of the masks on frames without a prompt, but says that the objects are in view."""

    def open(self, graph: Path) -> GraphRunner:
        runner = super().open(graph)
        run = runner.run

        def emptied(inputs: Mapping[str, Any]) -> dict[str, Array]:
            outputs = dict(run(inputs))
            if graph.stem == "mask_decoder" and (inputs["labels"] < 0).all():
                outputs["mask"] = np.full_like(outputs["mask"], -0.5)
                outputs["object_score"] = np.full_like(outputs["object_score"], 5)
            return outputs

        runner.run = emptied  # type: ignore[method-assign]
        return runner


def test_an_object_with_an_empty_mask_is_not_in_view(nano: Bundle, clip: Frames) -> None:
    """SAM 2 may give it a high score all the same, by which its memories still go."""
    with VideoTracker(nano, _Emptying(), lost_after=2) as tracker:
        results = list(play(tracker, clip[:3], JOIN))
    assert [result.states for result in results] == [(), ("visible",), ("occluded",), ("lost",)]
    assert [result.object_scores.tolist() for result in results[2:]] == [[5], [5]]
    assert not any(result.masks.any() or result.visible.any() for result in results[2:])


def test_a_prompted_frame_is_never_doubtful(nano: Bundle, clip: Frames) -> None:
    correction = (1, {"points": [(138, 84)]})
    with VideoTracker(nano, min_confidence=SURE_OF_NOTHING, lost_after=2) as tracker:
        *results, corrected, after = play(tracker, clip[:5], {**JOIN, 3: [correction]})
    assert [result.lost for result in results[2:]] == [(), (1,), (1,)]
    assert corrected.lost == ()
    with VideoTracker(nano) as tracker:  # it remembers the two prompted frames and no other
        *_, same, last = play(tracker, clip[[0, 3, 4]], {**JOIN, 1: [correction]})
    np.testing.assert_allclose(same.logits, corrected.logits)
    assert_logits(last, after)


def test_states(nano: Bundle, clip: Frames) -> None:
    blank = np.full_like(clip[0], 90)
    called: list[tuple[int, int]] = []
    results = track(
        nano,
        [*clip[:3], *[blank] * 4, *clip[3:6], *[blank] * 3],
        lost_after=3,
        min_confidence=0.01,
        on_lost=lambda key, result: called.append((key, result.frame_index)),
    )
    states = [result.states[0] for result in results]
    assert states == [*["visible"] * 3, *["occluded"] * 2, *["lost"] * 2, *["visible"] * 3, *["occluded"] * 2, "lost"]
    assert [result.lost for result in results[4:7]] == [(), (1, 2), (1, 2)]
    assert called == [(1, 5), (2, 5), (1, 12), (2, 12)]
    assert (results[2].stability > 0.5).all()
    assert (results[4].stability == 0).all()


@pytest.mark.parametrize(
    ("act", "called", "left"),
    [
        (VideoTracker.remove, [1, 2], ()),
        (lambda tracker, key: (tracker.remove(1), tracker.prompt(2, box=BLOCK)), [1], (2,)),
        (lambda tracker, key: tracker.reset(), [1], ()),
    ],
    ids=["remove", "remove and prompt", "reset"],
)
def test_on_lost_may_act(
    nano: Bundle, clip: Frames, act: Callable[[VideoTracker, int], object], called: list[int], left: tuple[int, ...]
) -> None:
    lost: list[int] = []

    def on_lost(key: int, result: FrameResult) -> None:
        lost.append(key)
        act(tracker, key)

    with VideoTracker(nano, lost_after=1, min_confidence=SURE_OF_NOTHING, on_lost=on_lost) as tracker:
        *_, result = play(tracker, clip[:2], {0: [(1, {"box": BALL}), (2, {"box": BLOCK})]})
    assert lost == called
    assert result.object_ids == left
    assert len(result.logits) == len(left)
    assert result.lost == ()


def test_on_lost_may_reset_while_a_frame_is_prompted(nano: Bundle, clip: Frames) -> None:
    def on_lost(key: int, result: FrameResult) -> None:
        tracker.reset()

    with VideoTracker(nano, lost_after=1, min_confidence=SURE_OF_NOTHING, on_lost=on_lost, track_every=2) as tracker:
        with pytest.raises(PromptError, match=r"on_lost called reset"):
            list(play(tracker, clip[:2], {**JOIN, 1: [(1, {"box": BALL})]}))
        assert tracker.track(clip[2]).object_ids == ()


def fail_once(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, call: Callable[[], object]) -> None:
    def fail(*arguments: object) -> None:
        raise BackendError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(BackendError, match="out of memory"):
            call()


def test_a_prompt_taken_back_after_a_frame_that_failed_is_not_remembered(
    nano: Bundle, clip: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for fails in (False, True):
        with VideoTracker(nano, min_confidence=SURE_OF_NOTHING) as tracker:
            list(play(tracker, clip[:2], {**JOIN, 1: [(1, {"points": [[262, 60]]})]}))
            if fails:
                fail_once(monkeypatch, FrameLoader, "stage", lambda tracker=tracker: tracker.track(clip[2]))
            tracker.clear_prompts(1)
            results.append(tracker.track(clip[2]))
    assert_close(*results, relative=1e-5)


def test_a_prompt_that_fails_on_the_device_may_be_repeated(
    nano: Bundle, clip: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for fails in (False, True):
        with VideoTracker(nano) as tracker:
            list(play(tracker, clip[:2], JOIN))
            point = functools.partial(tracker.prompt, 1, points=[[138, 84]])
            if fails:
                fail_once(monkeypatch, Graphs, "upload", point)
            results.append(point())
    assert_same(*results)


@pytest.mark.parametrize(
    ("knob", "words"),
    [
        ({"max_objects": 0}, "max_objects must be an integer of at least 1 but got 0"),
        ({"max_conditioning_frames": 0}, "max_conditioning_frames must be an integer of at least 1 but got 0"),
        ({"memory_frames": 0}, "memory_frames must be an integer of at least 1 but got 0"),
        ({"memory_frames": 7}, "memory_frames must be at most 6, the model's own, but got 7"),
        ({"memory_stride": 0}, "memory_stride must be an integer of at least 1"),
        ({"track_every": 1.5}, "track_every must be an integer of at least 1 but got 1.5"),
        ({"min_confidence": 1.5}, "min_confidence must be a finite number from 0 to 1 but got 1.5"),
        ({"lost_after": 0}, "lost_after must be an integer of at least 1"),
        ({"on_lost": "call me"}, "on_lost must be a function of an object's id and a result but got 'call me'"),
    ],
    ids=str,
)
def test_settings_that_are_refused(nano: Bundle, knob: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        VideoTracker(nano, **knob)


def test_an_object_is_found_again_sooner_if_doubtful_frames_are_not_remembered(nano: Bundle, prompts: Prompts) -> None:
    """The bundled clip's star leaves on frame 35 and is back on 62 (docs/how-to/knobs.md)."""
    true = np.stack([true_masks(object_id)[:80] for object_id in prompts], axis=1)
    returned = in_view(true) & (np.cumsum(~true.any((-2, -1)), axis=0) > 0)
    assert np.flatnonzero(returned.any(axis=1))[0] == 62
    joins = {0: [(object_id, prompt.arguments) for object_id, prompt in prompts.items()]}
    similarity = []
    for confidence in (0.0, 0.7):
        with VideoTracker(nano, min_confidence=confidence) as tracker:
            masks = [result.masks for result in play(tracker, clip_frames(80), joins)][len(prompts) :]
        similarity.append(region_similarity(np.stack(masks), true))
    plain, filtered = similarity
    assert filtered[returned].mean() > plain[returned].mean() + 0.2
    assert filtered[in_view(true)].mean() > plain[in_view(true)].mean()
    assert filtered[62:66, 2].mean() > 0.5 > plain[62:66, 2].mean()
