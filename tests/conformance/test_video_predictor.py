"""The video predictor against transformers' model with upstream's rules: every step's logits and masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sam2edge import Bundle, VideoPredictor
from sam2edge.runtime.video.state import InferenceState
from tests.conformance.reference import Expected, ReferencePredictor, UpstreamModel, load_reference
from tests.conformance.scenarios import CENTRE, FRAMES, HIDDEN, LEFT, RIGHT, hide, in_pixels
from tests.conformance.test_tracker import RELATIVE
from tests.conftest import ALL, NANO
from tests.helpers import assert_close, iou

Step = tuple[str, dict[str, Any]]


def prompt(frame: int, object_id: int, **arguments: Any) -> Step:
    return "prompt", {"frame": frame, "object_id": object_id, **arguments}


def propagate(start: int | None = None, length: int | None = None, reverse: bool = False) -> Step:
    return "propagate", {"start": start, "length": length, "reverse": reverse}


def clear(frame: int, object_id: int) -> Step:
    return "clear", {"frame": frame, "object_id": object_id}


def remove(object_id: int) -> Step:
    return "remove", {"object_id": object_id}


RESET: Step = ("reset", {})
CLICK: dict[str, Any] = {"points": [CENTRE], "labels": [1]}
CLICKS: dict[str, Any] = {"points": [CENTRE, (0.7, 0.6)], "labels": [1, 0]}
ELLIPSE = (0.35, 0.55, 0.17, 0.29)

SESSIONS: dict[str, list[Step]] = {
    "middle, forward and backward": [prompt(9, 1, box=LEFT), propagate(), propagate(reverse=True)],
    "objects prompted on different frames": [
        prompt(8, 7, box=LEFT),
        prompt(3, 3, **CLICK),
        propagate(),
        propagate(13, reverse=True),
    ],
    "corrected and propagated again": [
        prompt(0, 1, box=LEFT),
        propagate(),
        prompt(8, 1, **CLICK),
        prompt(10, 1, **CLICKS),  # does not see the correction of 8 yet
        propagate(8),
        propagate(),
    ],
    "corrected backward": [
        prompt(19, 1, box=LEFT),
        propagate(reverse=True),
        prompt(10, 1, **CLICK),
        prompt(10, 1, **CLICKS),
        propagate(10, reverse=True),
        propagate(10),
    ],
    "several conditioning frames": [
        prompt(14, 1, box=LEFT),
        prompt(2, 1, **CLICK),
        prompt(7, 1, **CLICKS),
        prompt(7, 2, box=RIGHT),
        propagate(),
        propagate(19, reverse=True),
    ],
    "conditioning frame corrected": [
        prompt(4, 1, box=LEFT),
        propagate(4, 6),
        prompt(4, 1, **CLICKS),
        prompt(4, 1, **CLICK),
        propagate(),
    ],
    "prompts cleared": [
        prompt(2, 1, box=LEFT),
        prompt(7, 1, box=RIGHT),
        prompt(8, 2, box=RIGHT),
        prompt(4, 2, **CLICK),
        clear(4, 2),
        propagate(),
        prompt(12, 1, **CLICK),
        clear(7, 1),
        propagate(length=12),
        clear(12, 1),
        prompt(7, 1, **CLICK),
        propagate(5, 9),
    ],
    "object removed": [
        prompt(0, 1, box=LEFT),
        prompt(0, 2, box=RIGHT),
        prompt(4, 3, **CLICK),
        propagate(0, 6),
        remove(1),
        propagate(6, 6),
        prompt(12, 1, **CLICK),
        propagate(),
    ],
    "reset and used again": [
        prompt(5, 1, box=LEFT),
        propagate(length=5),
        RESET,
        prompt(8, 2, box=RIGHT),
        prompt(8, 1, **CLICK),
        propagate(reverse=True),
    ],
    "parts": [
        prompt(6, 1, box=LEFT),
        prompt(17, 1, box=RIGHT),
        propagate(3, 2),
        clear(17, 1),  # not tracked yet
        propagate(5, 6),
        propagate(18, 10),
        propagate(8, 30, True),
        propagate(0, reverse=True),  # nothing
    ],
    "masks": [
        prompt(5, 1, mask=ELLIPSE),
        propagate(),
        prompt(11, 1, mask=(0.4, 0.6, 0.1, 0.2)),
        prompt(11, 1, **CLICK),
        prompt(14, 1, mask=ELLIPSE),
        propagate(11),
        propagate(17, reverse=True),
    ],
}


def play(
    session: list[Step], frames: npt.NDArray[np.uint8], bundle: Bundle, model: UpstreamModel, corrections: bool = False
) -> list[float]:
    """Play a session on both sides, compare every step, and return the share of the frame that its masks cover."""
    height, width = frames.shape[1:3]
    covered = []
    with VideoPredictor(bundle, add_all_frames_to_correct_as_cond=corrections) as predictor, torch.inference_mode():
        reference = ReferencePredictor(model, frames, corrections)
        state = predictor.init_state(frames)

        def compare(what: str, frame: int, output: Any, expected: dict[int, Expected]) -> None:
            check(f"{what}, frame {frame}", state, frame, output, expected)
            covered.append(float((output[2] > 0).mean()))

        for number, (verb, arguments) in enumerate(session):
            what = f"step {number}, {verb}"
            if verb == "prompt":
                frame, object_id, *_ = arguments.values()
                values = in_pixels(arguments, height, width)
                expected = reference.prompt(**values)
                del values["frame"], values["object_id"]
                add = predictor.add_new_mask if "mask" in values else predictor.add_new_points_or_box
                compare(what, frame, add(state, frame, object_id, **values), expected)
            elif verb == "propagate":
                yielded = predictor.propagate_in_video(state, *arguments.values())
                for output, (frame, expected) in zip(yielded, reference.propagate(**arguments), strict=True):
                    compare(what, frame, output, expected)
            elif verb == "clear":
                output = predictor.clear_all_prompts_in_frame(state, arguments["frame"], arguments["object_id"])
                compare(what, arguments["frame"], output, reference.clear(**arguments))
            elif verb == "remove":
                reference.remove(**arguments)
                ids, updated = predictor.remove_object(state, arguments["object_id"])
                assert updated
                for frame, masks in updated:
                    compare(what, frame, (frame, ids, masks), reference.results(frame))
            else:
                predictor.reset_state(state)
                reference.reset()
    return covered


def check(what: str, state: InferenceState, frame: int, output: Any, expected: dict[int, Expected]) -> None:
    index, object_ids, masks = output
    assert (index, object_ids) == (frame, list(expected)), what
    assert (masks.dtype, masks.shape) == (np.float32, (len(expected), 1, *state.frames.size)), what
    for mask, (object_id, one) in zip(masks, expected.items(), strict=True):
        stored = state.objects[object_id].output(frame)
        if stored is None:
            assert (mask == -1024).all(), what
            assert (one.logits == -1024).all(), what
            continue
        where = f"{what}, object {object_id}"
        assert_close(stored.logits[0, 0].astype(np.float32), one.logits, RELATIVE, f"{where}: logits")
        assert_close(stored.pointer[0], one.pointer, RELATIVE, f"{where}: pointer")
        assert iou(mask[0] > 0, one.mask) >= 0.999, where


@pytest.fixture(scope="module")
def nano_model() -> UpstreamModel:
    return UpstreamModel.from_pretrained(NANO, dtype=torch.float32).eval()


CORRECTED = [("corrected and propagated again", True), ("corrected backward", True)]


@pytest.mark.parametrize(("name", "corrections"), [*((name, False) for name in SESSIONS), *CORRECTED])
def test_nano(
    name: str, corrections: bool, bedroom: npt.NDArray[np.uint8], nano: Bundle, nano_model: UpstreamModel
) -> None:
    """With `corrections`, corrected frames become conditioning frames."""
    assert any(play(SESSIONS[name], bedroom[:FRAMES], nano, nano_model, corrections))


@pytest.mark.parametrize("name", SESSIONS if ALL else ["conditioning frame corrected"])
def test_edgetam(name: str, bedroom: npt.NDArray[np.uint8], edgetam: Bundle, edgetam_reference: Any) -> None:
    assert any(play(SESSIONS[name], bedroom[:FRAMES], edgetam, edgetam_reference))


def test_absent_objects(bedroom: npt.NDArray[np.uint8], wary: Bundle) -> None:
    """An object that hides in the middle, from both ends."""
    model = load_reference(wary.path.parent / "model")
    frames = hide(bedroom[:FRAMES], HIDDEN)
    session = [prompt(0, 1, box=LEFT), prompt(19, 1, box=LEFT), propagate(), propagate(19, reverse=True)]
    covered = np.array(play(session, frames, wary, model)[2:])
    forward, backward = covered[:FRAMES], covered[FRAMES:][::-1]
    for seen in (forward, backward):
        assert seen[: HIDDEN.start - 1].any()
        assert not seen[HIDDEN.start + 1 : HIDDEN.stop - 1].all()
        assert seen[HIDDEN.stop + 1 :].any()
