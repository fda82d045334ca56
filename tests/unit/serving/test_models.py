"""What the models answer, with a stand-in for Triton; tests/serving has the same models in a real server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest

from sam2edge import Bundle, ImagePredictor, VideoTracker
from sam2edge.errors import BackendError
from sam2edge.runtime.media import rle
from tests.helpers import BALL, BLOCK, HEIGHT, WIDTH, Frames, clip_frames
from tests.unit.serving import fake_triton
from tests.unit.serving.conftest import Open, ask, send
from tests.unit.serving.fake_triton import Refused, Request

BOXES = json.dumps([{"object": 1, "box": BALL}, {"object": 2, "box": BLOCK}]).encode()
VIDEO = ("SIZE", "IDS", "IOUS", "BOXES", "RLE", "BITS", "FRAME_INDEX", "OBJECT_SCORES", "STATES")
IMAGE = VIDEO[:6]


@pytest.fixture(scope="module")
def frames() -> Frames:
    return clip_frames(4)


@pytest.fixture(scope="module")
def video(open_model: Open) -> Any:
    return open_model()


@pytest.fixture(scope="module")
def image(open_model: Open) -> Any:
    return open_model("sam2_image")


@pytest.fixture
def stream(video: Any, frames: Frames) -> Iterator[str]:
    """A live stream of one frame with two objects."""
    ask(video, "live", start=True, FRAME=frames[0], PROMPTS=BOXES)
    yield "live"
    ask(video, "live", end=True)


def encoded(frame: Frames, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, frame[..., ::-1])[1].tobytes()


def test_outputs_are_the_trackers(video: Any, nano: Bundle, frames: Frames) -> None:
    with VideoTracker(nano) as tracker:
        tracker.track(frames[0])
        tracker.prompt(1, box=BALL)
        expected = [tracker.prompt(2, box=BLOCK), tracker.track(frames[1])]
    given = [{"start": True, "FRAME": frames[0], "PROMPTS": BOXES}, {"end": True, "ENCODED": encoded(frames[1])}]
    for request, result in zip(given, expected, strict=True):
        answer = ask(video, "equal", wanted=VIDEO, **request)
        assert answer["SIZE"].tolist() == [HEIGHT, WIDTH]
        assert answer["IDS"].tolist() == [1, 2]
        assert (answer["IOUS"] == result.ious).all()
        assert (answer["OBJECT_SCORES"] == result.object_scores).all()
        assert answer["STATES"] == list(result.states)
        assert answer["FRAME_INDEX"].tolist() == [result.frame_index]
        masks = list(result.masks)
        assert answer["RLE"] == [rle.encode(mask)["counts"] for mask in masks]
        assert answer["BOXES"].tolist() == [list(cv2.boundingRect(mask.view(np.uint8))) for mask in masks]
        bits = np.unpackbits(answer["BITS"], axis=1)[:, : HEIGHT * WIDTH].reshape(-1, HEIGHT, WIDTH)
        assert (bits == result.masks).all()


def test_nothing_but_what_is_asked_for_is_computed(
    video: Any, stream: str, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rle, "encode", lambda mask: pytest.fail("nobody asked for RLE"))
    assert set(ask(video, stream, wanted=("IDS", "BOXES"), FRAME=frames[1])) == {"IDS", "BOXES"}


def test_prompts_refine_and_remove_on_the_last_frame(video: Any, stream: str, nano: Bundle, frames: Frames) -> None:
    with VideoTracker(nano) as tracker:
        tracker.track(frames[0])
        tracker.prompt(1, box=BALL)
        refined = tracker.prompt(1, points=[[140, 80]])
    prompts = b'{"object": 1, "points": [[140, 80]]}\n{"object": 2, "remove": true}\n{"points": [[250, 180]]}'
    answer = ask(video, stream, wanted=VIDEO, PROMPTS=prompts)
    assert answer["FRAME_INDEX"] == 0
    assert answer["IDS"].tolist() == [1, 3]  # 2 was said in this request, so that it is not free
    assert answer["RLE"][0] == rle.encode(refined.masks[0])["counts"]
    assert ask(video, stream, wanted=VIDEO, FRAME=frames[1])["IDS"].tolist() == [1, 3]


def test_a_mask_is_a_prompt(video: Any, frames: Frames) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[50:120, 105:170] = True
    line = json.dumps({"mask": rle.encode(mask)}).encode()
    answer = ask(video, "mask", start=True, end=True, wanted=("IOUS", "BOXES"), FRAME=frames[0], PROMPTS=line)
    assert answer["IOUS"] == 1
    assert np.abs(answer["BOXES"] - [105, 50, 65, 70]).max() <= 2  # it was resized to the model's grid


def test_the_end_alone_repeats_the_last_result(video: Any, frames: Frames) -> None:
    first = ask(video, "short", start=True, wanted=("RLE",), FRAME=frames[0], PROMPTS=BOXES)
    assert ask(video, "short", end=True, wanted=("RLE",)) == first
    with pytest.raises(Refused, match=r"^stream short is not live: .* begin it again with sequence_start$"):
        ask(video, "short", FRAME=frames[1])


BAD = {
    "both": ({"FRAME": True, "ENCODED": b"x"}, "got both FRAME and ENCODED; give one of them"),
    "neither": ({}, "got neither FRAME nor ENCODED; only prompts about the last frame and the end need none"),
    "broken image": ({"ENCODED": b"\xff\xd8\xff\xe0 cut"}, "ENCODED: no image that OpenCV can read: .*"),
    "no image": ({"ENCODED": b""}, "ENCODED: no image that OpenCV can read: the file is empty"),
    "no pixels": ({"FRAME": np.zeros((0, 0, 3), np.uint8)}, r"FRAME must be \[H,W,3\] \(RGB\) but got .*"),
    "another size": (
        {"FRAME": np.zeros((100, 90, 3), np.uint8)},
        "frame size changed from 320×240 to 90×100; resize the frames, or begin another stream with sequence_start",
    ),
    "no JSON": ({"FRAME": True, "PROMPTS": b"{"}, "PROMPTS, line 1: is not JSON: .*"),
    "a box outside": (
        {"FRAME": True, "PROMPTS": b'{"object": 1, "box": [0, 0, 900, 900]}'},
        "PROMPTS, line 1: box .* reaches outside the 320×240 frame; clip it to the frame",
    ),
    "an unknown object": (
        {"FRAME": True, "PROMPTS": b'{"object": 9, "remove": true}'},
        "PROMPTS, line 1: object 9 is not tracked on frame 1",
    ),
    "not where": (
        {"PROMPTS": b'{"object": 9, "points": [[3, 4]], "labels": [0]}'},
        "PROMPTS, line 1: only says where the new object 9 is not; .*",
    ),
    "another frame": (
        {"FRAME": True, "PROMPTS": b'{"object": 1, "frame": 0, "box": [10, 10, 90, 90]}'},
        "PROMPTS, line 1: is for frame 0 but came with frame 1; send it with its frame, and leave the number out",
    ),
    "too many": (
        {"FRAME": True, "PROMPTS": b'[{"box": [10, 10, 90, 90]}, {"box": [10, 10, 80, 80]}]'},
        r"PROMPTS, prompt 2: 3 objects are tracked already; .* \(sam2edge triton --max-objects\)",
    ),
    "a file": ({"PROMPTS": b'{"mask": "/etc/passwd"}'}, "PROMPTS, line 1: mask is the name of a file, .*"),
    "another mask": (
        {"PROMPTS": json.dumps({"mask": rle.encode(np.ones((9, 9), bool))}).encode()},
        r"PROMPTS, line 1: a mask must be of the frame's size \[240, 320\] but is \[9, 9\]",
    ),
    "an empty mask": (
        {"PROMPTS": json.dumps({"mask": rle.encode(np.zeros((HEIGHT, WIDTH), bool))}).encode()},
        r'PROMPTS, line 1: the mask is empty; \{"object": ID, "remove": true\} ends the tracking',
    ),
    "a small mask": (
        {
            "PROMPTS": json.dumps(
                {"mask": rle.encode(np.eye(1, HEIGHT * WIDTH, 9, bool).reshape(HEIGHT, WIDTH))}
            ).encode()
        },
        "PROMPTS, line 1: the mask is too small: .*",
    ),
}


def test_bad_requests_change_nothing(video: Any, nano: Bundle, frames: Frames) -> None:
    with VideoTracker(nano) as tracker:
        tracker.track(frames[0])
        tracker.prompt(1, box=BALL)
        tracker.prompt(2, box=BLOCK)
        expected = tracker.track(frames[1])
    ask(video, "bad", start=True, FRAME=frames[0], PROMPTS=BOXES)
    for name, (inputs, message) in BAD.items():
        given = {key: frames[1] if value is True else value for key, value in inputs.items()}
        with pytest.raises(Refused, match=f"^{message}$") as caught:
            ask(video, "bad", **given)
        assert caught.value.code == "INVALID_ARG", name
    with pytest.raises(Refused, match=r"^PROMPTS: is not JSON"):  # nor does it begin anew
        ask(video, "bad", start=True, FRAME=frames[1], PROMPTS=b"[")
    answer = ask(video, "bad", end=True, wanted=VIDEO, FRAME=frames[1])
    assert answer["FRAME_INDEX"] == 1
    assert answer["RLE"] == [rle.encode(mask)["counts"] for mask in expected.masks]


def test_a_start_in_a_live_stream_begins_anew(video: Any, stream: str, frames: Frames) -> None:
    small = np.ascontiguousarray(frames[0][:100, :90])
    answer = ask(video, stream, start=True, wanted=VIDEO, FRAME=small)
    assert (answer["FRAME_INDEX"].tolist(), answer["SIZE"].tolist(), answer["IDS"].tolist()) == ([0], [100, 90], [])
    assert answer["BITS"].shape == (0, -(-100 * 90 // 8))
    assert answer["BOXES"].shape == (0, 4)
    assert (answer["RLE"], answer["STATES"]) == ([], [])


def test_too_many_streams_are_refused_at_once(video: Any, frames: Frames) -> None:
    for name in ("one", "two"):
        ask(video, name, start=True, FRAME=frames[0])
    with pytest.raises(Refused, match=r"^2 streams are live, as many as this instance takes: .*--streams\)$") as caught:
        ask(video, "three", start=True, FRAME=frames[0])
    assert caught.value.code == "UNAVAILABLE"
    with pytest.raises(Refused, match=r"^stream three is not live"):
        ask(video, "three", FRAME=frames[1])
    assert ask(video, "probe", start=True, end=True, wanted=("SIZE",), FRAME=frames[0])  # a probe must not fail for it
    ask(video, "two", start=True, FRAME=frames[0])  # anew
    for name in ("one", "two"):
        ask(video, name, end=True)
    ask(video, "three", start=True, end=True, FRAME=frames[0])


def test_a_broken_last_frame_ends_the_stream(video: Any, frames: Frames) -> None:
    for name in ("one", "two"):
        ask(video, name, start=True, FRAME=frames[0])
        with pytest.raises(Refused, match=r"^ENCODED"):
            ask(video, name, end=True, ENCODED=b"x")
    assert len(video._streams) == 0


def test_the_first_request_of_a_stream_needs_a_frame(video: Any) -> None:
    for given in ({}, {"PROMPTS": BOXES}, {"end": True}):
        with pytest.raises(Refused, match=r"^got neither FRAME nor ENCODED"):
            ask(video, "new", start=True, **given)
    assert len(video._streams) == 0


def test_an_error_of_the_backend_leaves_no_half_stream(
    video: Any, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BackendError("the GPU is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(VideoTracker, "prompt", fail)
        with pytest.raises(Refused, match=r"^the GPU is on fire$") as caught:
            ask(video, "new", start=True, FRAME=frames[0], PROMPTS=BOXES)
    assert caught.value.code == "INTERNAL"
    assert len(video._streams) == 0


def test_what_was_done_before_an_error_of_the_backend_is_kept(
    video: Any, stream: str, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BackendError("the GPU is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(VideoTracker, "prompt", fail)
        with pytest.raises(Refused, match=r"^the GPU is on fire$"):
            ask(video, stream, FRAME=frames[1], PROMPTS=b'{"object": 2, "points": [[250, 60]]}')
    answer = ask(video, stream, wanted=("FRAME_INDEX", "IDS"), PROMPTS=b'{"object": 2, "remove": true}')
    assert (answer["FRAME_INDEX"].tolist(), answer["IDS"].tolist()) == ([1], [1])


def test_whatever_goes_wrong_is_answered_and_logged(
    video: Any, stream: str, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_triton.Logger.errors.clear()
    with monkeypatch.context() as patch:
        patch.setattr(VideoTracker, "track", lambda *_: {}[0])
        with pytest.raises(Refused, match=r"^KeyError: 0 \(the server's log has more\)$"):
            ask(video, stream, FRAME=frames[1])
    assert "Traceback" in fake_triton.Logger.errors[0]
    assert ask(video, stream, wanted=("FRAME_INDEX",), FRAME=frames[1])["FRAME_INDEX"] == 1


class Held:
    """A decoder that waits for one image until it is let go, and counts how many are decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, held: bytes) -> None:
        from sam2edge.serving import requests

        self.go, self.count, self._held = threading.Event(), 0, np.frombuffer(held, np.uint8)
        self._decode = requests.decode_image
        monkeypatch.setattr(requests, "decode_image", self)

    def __call__(self, data: np.ndarray, name: str) -> np.ndarray:
        self.count += 1
        if data.tobytes() == self._held.tobytes():
            assert self.go.wait(30)
        return self._decode(data, name)


def test_a_stream_does_not_wait_for_the_decoding_of_another(
    video: Any, stream: str, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch, encoded(frames[1]))
    slow = [Request(stream, wanted=("FRAME_INDEX",), ENCODED=encoded(frames[number])) for number in (1, 2)]
    send(video, *slow)
    other = ask(video, "other", start=True, end=True, wanted=("FRAME_INDEX",), ENCODED=encoded(frames[0]))
    assert other["FRAME_INDEX"] == 0
    assert not slow[1].is_answered  # its image is decoded, and its turn comes after the one before
    held.go.set()
    assert [request.answer()["FRAME_INDEX"].tolist() for request in slow] == [[1], [2]]


def test_a_stream_that_sends_too_fast_waits_in_tritons_queue(
    video: Any, stream: str, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch, encoded(frames[1]))
    requests = [Request(stream, wanted=("FRAME_INDEX",), ENCODED=encoded(frames[1])) for _ in range(5)]
    sender = threading.Thread(target=send, args=(video, *requests))
    sender.start()
    sender.join(0.1)
    assert sender.is_alive()
    assert held.count <= 2
    held.go.set()
    sender.join(30)
    assert [request.answer()["FRAME_INDEX"].tolist() for request in requests] == [[n] for n in range(1, 6)]


def test_pixels_of_the_only_stream_are_answered_at_once(video: Any, stream: str, frames: Frames) -> None:
    """Those of two streams overlap, as encoded frames do, and are answered from threads."""
    assert len(video.execute([Request(stream, FRAME=frames[1])])) == 1
    ask(video, "other", start=True, FRAME=frames[0])
    request = Request(stream, wanted=("FRAME_INDEX",), FRAME=frames[2])
    assert video.execute([request]) is None
    request.release()
    assert request.answer()["FRAME_INDEX"] == 2
    ask(video, "other", end=True)


def test_idle_streams_are_given_up_and_their_memory_is_freed(
    open_model: Open, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, closed = open_model(idle=0.2), []
    close = VideoTracker.close
    monkeypatch.setattr(VideoTracker, "close", lambda tracker: (closed.append(tracker), close(tracker)))
    for name in ("one", "two"):
        ask(model, name, start=True, FRAME=frames[0], PROMPTS=BOXES)
    until = time.monotonic() + 20
    while not closed and time.monotonic() < until:
        time.sleep(0.02)
    assert len(model._streams) == 0
    assert len(closed) == 1  # the other one keeps the graphs open
    with pytest.raises(Refused, match=r"^stream one is not live: .* it was idle for 0.2 s"):
        ask(model, "one", FRAME=frames[1])
    ask(model, "one", start=True, end=True, FRAME=frames[0])


def test_the_end_of_a_model_answers_what_it_took(open_model: Open, frames: Frames) -> None:
    model = open_model()
    requests = [Request("last", start=not n, wanted=("FRAME_INDEX",), ENCODED=encoded(frames[n])) for n in range(3)]
    send(model, *requests)
    model.finalize()
    assert [request.answer()["FRAME_INDEX"].tolist() for request in requests] == [[0], [1], [2]]


def test_an_image_is_segmented_as_the_predictor_does(image: Any, nano: Bundle, frames: Frames) -> None:
    with ImagePredictor(nano) as predictor:
        predictor.set_image(frames[0])
        masks, ious, _ = predictor.predict(box=BALL, multimask_output=False)
        clicked, scores, _ = predictor.predict([[140, 85]], [1])
    prompts = json.dumps([{"object": 7, "box": BALL}, {"points": [[140, 85]]}]).encode()
    answer = ask(image, wanted=IMAGE, ENCODED=encoded(frames[0]), PROMPTS=prompts)
    assert answer["IDS"].tolist() == [7, 1]
    assert answer["IOUS"].tolist() == [ious[0], scores.max()]
    expected = [masks[0] > 0, clicked[scores.argmax()] > 0]
    assert answer["RLE"] == [rle.encode(mask)["counts"] for mask in expected]


def test_everything_in_an_image(image: Any, frames: Frames) -> None:
    parameters = {"everything": True, "points_per_side": 6, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.5}
    answer = ask(image, wanted=IMAGE, parameters=parameters, FRAME=frames[0])
    assert len(answer["IDS"]) == len(answer["RLE"]) == len(answer["BOXES"]) > 0
    assert (answer["IOUS"] > 0.5).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "got neither FRAME nor ENCODED; give one of them"),
        ({"FRAME": True}, "got no PROMPTS; give .*, or the parameter everything"),
        ({"FRAME": True, "PROMPTS": BOXES, "parameters": {"everything": True}}, "got PROMPTS and the parameter .*"),
        (
            {"FRAME": True, "parameters": {"every": True}},
            "unknown parameter 'every'; the parameters are .*",
        ),
        (
            {"FRAME": True, "parameters": {"points_per_side": 4}},
            "the parameter points_per_side does nothing .*",
        ),
        ({"FRAME": True, "parameters": {"everything": 1}}, "the parameter everything must be of type bool but is 1"),
        ({"FRAME": True, "parameters": {"everything": True, "points_per_side": 0}}, "points_per_side must be .*"),
        (
            {"FRAME": True, "PROMPTS": b'{"object":1,"box":[9,9,50,50]}\n{"object":1,"box":[9,9,60,60]}'},
            "PROMPTS, line 2: on an image every object takes one prompt, and none is removed",
        ),
        (
            {"FRAME": True, "PROMPTS": b'{"object":1,"box":[9,9,50,50]}\n{"object":1,"remove":true}'},
            "PROMPTS, line 2: .*",
        ),
    ],
)
def test_bad_requests_about_an_image(image: Any, frames: Frames, given: dict[str, Any], message: str) -> None:
    given = {key: frames[0] if value is True else value for key, value in given.items()}
    with pytest.raises(Refused, match=f"^{message}$"):
        ask(image, **given)


def test_numpy_2_in_an_old_server_is_named(open_model: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def garbled(name: str, values: np.ndarray) -> fake_triton.Tensor:
        return fake_triton.Tensor(name, np.full_like(values, values.flat[0]))

    monkeypatch.setattr(fake_triton.Tensor, "from_dlpack", staticmethod(garbled))
    with pytest.raises(fake_triton.TritonModelException, match=r"install 'numpy<2' .* or take Triton 24\.12 or newer"):
        open_model()


def test_an_instance_runs_on_its_gpu(open_model: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton sets no CUDA_VISIBLE_DEVICES, but says which GPU an instance is for."""
    asked = []

    def open_backend(name: str, **given: object) -> None:
        asked.append((name, given))
        raise BackendError("there is no GPU")

    monkeypatch.setattr("sam2edge.serving.triton.open_backend", open_backend)
    for gpu in ("0", "3"):
        with pytest.raises(fake_triton.TritonModelException, match=r"^there is no GPU$"):
            open_model(gpu=gpu, backend="onnx-cuda", threads=None)
    assert asked == [("onnx-cuda", {"threads": None, "gpu": gpu}) for gpu in (0, 3)]


def test_a_model_without_its_bundle_does_not_start(open_model: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sam2edge.serving.triton.BUNDLE", "missing")
    with pytest.raises(fake_triton.TritonModelException, match="missing: no such bundle directory"):
        open_model()
