"""Trackers and predictors compute the same on a device with its own memory as on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest

from sam2edge import AutomaticMaskGenerator, Bundle, FrameResult, ImagePredictor, VideoPredictor, VideoTracker
from sam2edge.engines.resize import resize_graph
from sam2edge.errors import BackendError, FrameError
from sam2edge.runtime.backends.base import Backend, open_backend
from sam2edge.runtime.image.consistency import consistency
from tests.fake_gpu import SimulatedDevice
from tests.helpers import BALL, BLOCK, Frames, assert_close, clip_frames, iou, play, true_masks

EVENTS = {
    0: [(5, {"box": BALL})],
    4: [(2, {"points": [[262, 60]]}), (2, {"points": [[262, 60], [262, 80]]})],
    24: [(5, {"points": [[140, 85]]})],
    30: [5, (9, {"mask": true_masks(2)[30]})],
}
"""Objects join, are corrected and leave; in 40 frames the bank has every length more than three times."""


pytestmark = pytest.mark.usefixtures("gpu")


@pytest.fixture(scope="module")
def clip() -> Frames:
    return clip_frames(40)


@pytest.mark.parametrize(
    ("knobs", "ahead"),
    [({}, False), ({"min_confidence": 0.8}, True), ({"max_conditioning_frames": 3, "memory_stride": 2}, False)],
)
def test_tracker(nano: Bundle, clip: Frames, knobs: dict[str, float], ahead: bool) -> None:
    """Frames are encoded `ahead` or as they are tracked."""
    with VideoTracker(nano, max_objects=3, **knobs) as tracker:
        expected = list(play(tracker, clip, EVENTS))
    with VideoTracker(nano, device := SimulatedDevice(), max_objects=3, **knobs) as tracker:
        actual = list(play(tracker, map(tracker.encode, clip) if ahead else clip, EVENTS))
    assert device.replayed > len(clip) // 2
    assert_close(actual, expected)


def test_tracker_with_half_precision_between_the_graphs(nano: Bundle, clip: Frames) -> None:
    with VideoTracker(nano, SimulatedDevice(half=True), max_objects=3) as tracker:
        actual = list(play(tracker, clip[:20], EVENTS))
    with VideoTracker(nano, max_objects=3) as tracker:
        for one, other in zip(actual, play(tracker, clip[:20], EVENTS), strict=True):
            assert iou(one.masks, other.masks) >= 0.98


def test_frames_are_resized_on_the_device(nano: Bundle, clip: Frames, tmp_path: Path) -> None:
    onnx.save(resize_graph(nano.model.image_size), str(tmp_path / "resize.onnx"))
    device = SimulatedDevice(resize=tmp_path / "resize.onnx")
    with VideoTracker(nano, device, max_objects=3) as tracker, VideoTracker(nano, max_objects=3) as other:
        for size in ((320, 240), (200, 150), (480, 360), (320, 240)):
            frames = np.stack([cv2.resize(frame, size) for frame in clip[:6]])
            tracker.reset()
            other.reset()
            for frame in frames:
                found, expected = tracker.track(frame), other.track(frame)
                if found.frame_index == 0:
                    box = np.array(BALL) * size[0] / 320
                    found, expected = tracker.prompt(1, box=box), other.prompt(1, box=box)
                assert_close(found, expected, 1e-2)
        ahead, plain = tracker.encode(frames[0]), other.encode(frames[0])
    assert_close(device.download(ahead.features), plain.features, 1e-2)


def test_a_steady_frame_waits_once_and_allocates_nothing(nano: Bundle, clip: Frames) -> None:
    with VideoTracker(nano, device := SimulatedDevice(), max_objects=2) as tracker:
        tracker.track(clip[0])
        tracker.prompt(1, box=BALL)
        for frame in clip[1:10]:
            tracker.track(frame)
        allocated, waits, replayed = device.allocated, device.waits, device.replayed
        for frame in clip[10:20]:
            tracker.track(frame)
        assert (device.allocated, device.waits, device.replayed) == (allocated, waits + 10, replayed + 20)


def test_masks_do_not_wait_for_the_memory_encoder(nano: Bundle, clip: Frames) -> None:
    """Which has run before the next frame is looked at."""
    before, *masks = (
        f"{graph}.onnx" for graph in ("memory_encoder", "image_encoder", "memory_attention", "mask_decoder")
    )
    with VideoTracker(nano, device := SimulatedDevice(), max_objects=2) as tracker:
        tracker.track(clip[0])
        tracker.prompt(1, box=BALL)
        for frame in clip[1:10]:  # called, and recorded
            device.done.clear()
            tracker.track(frame)
            assert device.done == [before, *masks]
    assert device.done == [before, *masks, before]


@pytest.mark.parametrize(
    "call",
    [
        lambda tracker, frame: tracker.track(frame),
        lambda tracker, frame: tracker.prompt(1, points=[[138, 84]]),
        lambda tracker, frame: tracker.prompt(2, box=BLOCK),
    ],
    ids=["track", "correct", "join"],
)
@pytest.mark.parametrize("count", [3, 9], ids=["called", "recorded"])
def test_the_next_call_raises_an_error_of_the_memory_encoder(
    nano: Bundle, clip: Frames, call: Callable[[VideoTracker, Frames], FrameResult], count: int
) -> None:
    """Repeated, it has the result that it would have had, and so have all frames after it."""

    def results(failing: bool) -> list[FrameResult]:
        with VideoTracker(nano, device := SimulatedDevice(), max_objects=2) as tracker:
            tracker.track(clip[0])
            tracker.prompt(1, box=BALL)
            for frame in clip[1:count]:
                tracker.track(frame)
            device.synchronize()  # what is queued runs without the fault
            if not failing:
                found = tracker.track(clip[count])
            else:
                with pytest.MonkeyPatch.context() as patch:

                    def fail(inputs: object) -> None:
                        device.machine.lose_work(device.stream.pycuda)
                        raise device.machine.driver.LaunchError("an illegal memory access")

                    runner: Any = tracker._graphs._graphs["memory_encoder"]
                    patch.setattr(runner._inner, "run", fail)
                    found = tracker.track(clip[count])
                    with pytest.raises(BackendError, match="an illegal memory access"):
                        call(tracker, clip[count + 1])
            return [found, call(tracker, clip[count + 1]), *map(tracker.track, clip[count + 2 : count + 5])]

    assert_close(results(True), results(False))


def test_close_raises_an_error_of_the_memory_encoder(nano: Bundle, clip: Frames) -> None:
    tracker = VideoTracker(nano, device := SimulatedDevice(), max_objects=1)
    tracker.track(clip[0])
    tracker.prompt(1, box=BALL)
    tracker.track(clip[1])
    device.machine.faults.kernel = True
    with pytest.raises(BackendError, match="an illegal memory access"):
        tracker.close()
    device.machine.faults.kernel = False


@pytest.mark.parametrize("graph", ["image_encoder", "memory_attention", "mask_decoder", "memory_encoder"])
@pytest.mark.parametrize("device", [False, True])
def test_a_frame_that_failed_can_be_repeated(
    nano: Bundle, clip: Frames, monkeypatch: pytest.MonkeyPatch, graph: str, device: bool
) -> None:
    def results(failing: bool) -> list[FrameResult]:
        with VideoTracker(nano, SimulatedDevice() if device else "onnx", max_objects=2) as tracker:
            tracker.track(clip[0])
            tracker.prompt(1, box=BALL)
            results = [tracker.track(frame) for frame in clip[1:3]]
            tracker.prompt(2, box=BLOCK)
            if failing:
                run = tracker._graphs.run_into

                def fail(name: str, *arguments: object) -> None:
                    run(name, *arguments)  # type: ignore[arg-type]
                    if name == graph:
                        raise BackendError("out of order")

                monkeypatch.setattr(tracker._graphs, "run_into", fail)
                for _ in range(2):
                    with pytest.raises(BackendError, match="out of order"):
                        tracker.track(clip[9])
                monkeypatch.undo()
            return results + [tracker.track(frame) for frame in clip[3:9]]

    assert_close(results(True), results(False))


def test_a_correction_survives_the_loss_of_queued_work(
    nano: Bundle, clip: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    def results(failing: bool) -> list[FrameResult]:
        def lose() -> None:
            device.machine.lose_work(device.stream.pycuda)
            raise BackendError("what was queued is lost")

        with VideoTracker(nano, device := SimulatedDevice(), max_objects=1) as tracker:
            tracker.track(clip[0])
            tracker.prompt(1, box=BALL)
            tracker.track(clip[1])
            tracker.prompt(1, points=[[262, 60]])
            if failing:
                monkeypatch.setattr(SimulatedDevice, "fence", lambda device: lose)
                with pytest.raises(BackendError, match="is lost"):
                    tracker.track(clip[2])
                monkeypatch.undo()
            return [tracker.track(frame) for frame in clip[2:5]]

    assert_close(results(True), results(False))


@pytest.mark.parametrize("call", ["zeros", "staging", "copy", "resizer"])
def test_memory_may_run_out_at_any_moment(
    nano: Bundle, clip: Frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The call that failed is repeated, with the results of one that did not fail."""
    onnx.save(resize_graph(nano.model.image_size), str(tmp_path / "resize.onnx"))
    inner = open_backend("onnx")
    monkeypatch.setattr(inner, "open", functools.cache(inner.open))  # opened once for all rounds

    def results(left: int) -> tuple[list[FrameResult], bool]:
        """Return the results if the call fails once, after `left` others, and whether it was called that often."""
        device = SimulatedDevice(resize=tmp_path / "resize.onnx")
        device._inner = inner
        real, found = getattr(SimulatedDevice, call), []

        def failing(*arguments: object) -> object:
            nonlocal left
            left -= 1
            if left == -1:
                raise BackendError("out of memory")
            return real(*arguments)

        with VideoTracker(nano, device, max_objects=2) as tracker, monkeypatch.context() as patch:
            tracker.track(clip[0])
            tracker.reset()
            patch.setattr(SimulatedDevice, call, failing)
            for step in (
                lambda: tracker.track(clip[0, :200]),
                lambda: tracker.prompt(1, box=BALL),
                lambda: tracker.track(clip[1, :200]),
            ):
                try:
                    found.append(step())
                except BackendError:
                    found.append(step())
        return found, left < 0

    expected, _ = results(1000)
    times = 0
    while (found := results(times))[1]:
        assert_close(found[0], expected, 1e-6)
        times += 1
    assert times


def test_a_corrected_object_moves_up_when_another_is_removed(nano: Bundle, clip: Frames) -> None:
    def results(backend: str | Backend) -> list[FrameResult]:
        with VideoTracker(nano, backend, max_objects=3) as tracker:
            tracker.track(clip[0])
            for object_id, box in enumerate((BALL, BLOCK, [30, 40, 110, 120])):
                tracker.prompt(object_id, box=box)
            tracker.prompt(1, points=[[262, 60]])
            tracker.remove(0)
            found = [tracker.track(clip[1])]
            tracker.prompt(2, points=[[5, 5]], labels=[0])
            return [*found, tracker.clear_prompts(2), *map(tracker.track, clip[2:4])]

    assert_close(results(SimulatedDevice()), results("onnx"))


def test_predictors(nano: Bundle, clip: Frames) -> None:
    def image(backend: str | Backend) -> list[npt.NDArray[np.floating]]:
        with ImagePredictor(nano, backend) as predictor:
            predictor.set_image_batch(list(clip[:3]))
            *_, several = predictor.predict_batch(box_batch=[[BALL, BLOCK]] * 3)
            predictor.set_image(clip[5])
            *_, low = predictor.predict(box=np.array([BALL, BLOCK]))
            *_, refined = predictor.predict(box=np.array(BALL), mask_input=low[0, :1])
            agreement = consistency(predictor, box=BALL)
            return [*several, low, refined, predictor.get_image_embedding(), np.array(agreement)]

    assert_close(image(SimulatedDevice()), image("onnx"))


def test_mask_generator(nano: Bundle, clip: Frames) -> None:
    def areas(backend: str | Backend) -> list[int]:
        filters = {"points_per_side": 6, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.5}
        with AutomaticMaskGenerator(nano, backend=backend, **filters) as generator:
            return [record["area"] for record in generator.generate(clip[0])]

    assert areas(SimulatedDevice()) == areas("onnx") != []


def test_video_predictor(nano: Bundle, clip: Frames) -> None:
    def masks(backend: str | Backend) -> list[npt.NDArray[np.floating]]:
        with VideoPredictor(nano, backend) as predictor:
            state = predictor.init_state(clip[:12])
            predictor.add_new_points_or_box(state, 3, 1, box=BALL)
            for reverse in (False, True):
                for _ in predictor.propagate_in_video(state, reverse=reverse):
                    pass
            predictor.add_new_points_or_box(state, 8, 1, points=[[140, 85]], labels=[1])
            return [logits for _, _, logits in predictor.propagate_in_video(state)]

    assert_close(masks(SimulatedDevice()), masks("onnx"))


def test_an_embedding_of_another_precision_is_refused(nano: Bundle, clip: Frames) -> None:
    message = "the embedding is another backend's: float16, but here it is float32"
    with VideoTracker(nano, SimulatedDevice(half=True)) as tracker:
        embedding = tracker.encode(clip[0])
    with VideoTracker(nano) as other, pytest.raises(FrameError, match=message):
        other.track(embedding)


def test_the_default_operations_work_on_numpy_arrays() -> None:
    backend = open_backend("onnx")
    assert backend.new_stream() is backend
    array, other = backend.zeros((2, 3)), backend.staging((2, 3))
    other[...] = 7
    backend.copy(other[1], array[1])
    assert np.asarray(array).tolist() == [[0, 0, 0], [7, 7, 7]]
