"""The two models of the repository that `sam2edge triton` writes, for Triton's Python backend.

A request is copied when it comes and answered from a thread, so that images are decoded, and masks encoded, while the
graphs run for another stream. The graphs run for one request at a time. Requests of one stream are answered in their
order, and no more than two of them are taken from Triton's queue: what comes faster than it is tracked waits there.

Pixels of the only stream have nothing to overlap with: they are read where they lie and answered without a thread.
"""

from __future__ import annotations

import json
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from sam2edge.bundle import Bundle
from sam2edge.errors import BackendError, FrameError, InputError, ObjectIdError, PromptError, Sam2EdgeError, StreamError
from sam2edge.runtime.backends.base import Backend, open_backend
from sam2edge.runtime.image import GRID
from sam2edge.runtime.image.mask_generator import AutomaticMaskGenerator
from sam2edge.runtime.image.predictor import ImagePredictor
from sam2edge.runtime.image.segments import find_everything, segment_prompt
from sam2edge.runtime.media.prompt_files import PromptLine
from sam2edge.runtime.model.result import FrameResult
from sam2edge.runtime.video.tracker import VideoTracker
from sam2edge.serving.repository import BUNDLE, Settings
from sam2edge.serving.requests import Request
from sam2edge.serving.streams import Stream, Streams
from sam2edge.serving.tensors import Found
from sam2edge.types import Frame

_AHEAD = 2
"""Requests of a stream that are taken at a time: one that is tracked, and one that is decoded meanwhile."""
_TRIAL, _TRIAL_BOX = np.zeros((64, 64, 3), np.uint8), (8, 8, 40, 40)
"""The frame and the box with which a model is tried before it is ready."""
_WORDS = {
    "; remove(object_id) ends the tracking of an object": '; {"object": ID, "remove": true} ends the tracking',
    " (a predictor also takes normalize_coords=False)": "",
}
"""What errors say to a Python program, and what to say to a client."""


class _Server(ABC):
    """What Triton calls a model; `initialize`, `execute` and `finalize` are its methods."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the bundle and try the graphs, so that a model that is ready works."""
        try:
            _check_numpy()
            self._settings = Settings.from_config(json.loads(args["model_config"]))
            bundle = Bundle.open(Path(args["model_repository"]) / args["model_version"] / BUNDLE)
            self._model = bundle.model
            gpu = int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else None
            self._open(bundle, open_backend(self._settings.backend, threads=self._settings.threads, gpu=gpu))
        except Sam2EdgeError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        self._turn = threading.Lock()
        self._queues: dict[Hashable, deque[Future[None]]] = {}
        self._threads = ThreadPoolExecutor(_AHEAD * (self._settings.streams + 1), "sam2edge")

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """Answer a request, or take requests, whose answers are sent when they are ready."""
        self._queues = {key: queue for key, queue in self._queues.items() if not queue[-1].done()}
        alone = len(requests) == 1 and not self._queues and self._is_alone()
        for given in requests:
            request = Request.read(given)
            if alone and "FRAME" in request.inputs:
                return [self._answer(request)]
            request, sender = request.copied(), given.get_response_sender()
            queue = self._queues.setdefault(request.stream, deque())
            while len(queue) >= _AHEAD:
                wait([queue.popleft()])
            before = queue[-1] if queue else None
            queue.append(self._threads.submit(self._serve, request, sender, before))
        return None

    def finalize(self) -> None:
        """Answer what was taken, and free everything."""
        self._threads.shutdown()
        self._close()

    def _serve(self, request: Request, sender: Any, before: Future[None] | None) -> None:
        sender.send(self._answer(request, before), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _answer(self, request: Request, before: Future[None] | None = None) -> Any:
        try:
            outputs = self._find(request, before).outputs(request.wanted)
            return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in outputs.items()])
        except Sam2EdgeError as error:
            return _refusal(error)
        except Exception as error:  # whatever it is, the client waits for an answer, and other streams go on
            pb_utils.Logger.log_error(traceback.format_exc())
            return _refusal(BackendError(f"{type(error).__name__}: {error} (the server's log has more)"))

    def _find(self, request: Request, before: Future[None] | None) -> Found:
        """Decode the frame at once and look at it when the request before it in its stream was answered."""
        try:
            frame = request.pixels()
        finally:
            if before:
                wait([before])
        with self._turn:
            return self._look(request, frame)

    @abstractmethod
    def _open(self, bundle: Bundle, backend: Backend) -> None:
        """Open what looks at frames, and try it."""

    @abstractmethod
    def _is_alone(self) -> bool:
        """Tell whether no other client would be kept waiting by a request that is answered without a thread."""

    @abstractmethod
    def _look(self, request: Request, frame: Frame | None) -> Found:
        """Find what was asked for."""

    @abstractmethod
    def _close(self) -> None:
        """Free what was opened."""


class VideoModel(_Server):
    """Tracks objects in streams: a sequence of requests is a stream, and each of its requests a frame.

    The order within a request: all is checked, then the frame is tracked, then objects are removed, then prompted. An
    error leaves the stream as it was, unless the request ends it.
    """

    def _open(self, bundle: Bundle, backend: Backend) -> None:
        most = self._settings.max_objects
        self._streams = Streams(
            lambda: VideoTracker(bundle, backend, max_objects=most), self._settings.streams, self._settings.idle
        )
        tracker = self._streams.begin("trial").tracker
        self._max_objects = tracker.max_objects  # fewer than asked for, if engines take no more
        tracker.track(_TRIAL)
        tracker.prompt(1, box=_TRIAL_BOX)
        tracker.track(_TRIAL)
        self._streams.end("trial")

    def initialize(self, args: Mapping[str, str]) -> None:
        super().initialize(args)
        self._finished = threading.Event()
        self._reaper = threading.Thread(target=self._reap, name="sam2edge-reaper", daemon=True)
        self._reaper.start()

    def _is_alone(self) -> bool:
        return len(self._streams) <= 1

    def _reap(self) -> None:
        while not self._finished.wait(min(1.0, self._settings.idle / 4)):
            with self._turn:
                self._streams.reap()

    def _close(self) -> None:
        self._finished.set()
        self._reaper.join()
        self._streams.close()

    def _find(self, request: Request, before: Future[None] | None) -> Found:
        try:
            return super()._find(request, before)
        finally:
            if request.end:  # for Triton the stream has ended, even if its last frame is broken
                with self._turn:
                    self._streams.end(request.stream)

    def _look(self, request: Request, frame: Frame | None) -> Found:
        stream = None if request.start else self._streams.find(request.stream)
        last = stream.result if stream else None
        if stream:
            stream.used = time.monotonic()
        if frame is not None:
            size, number = frame.shape[:2], last.frame_index + 1 if last else 0
            if last and size != last.frame_size:
                raise FrameError(
                    f"frame size changed from {last.frame_size[1]}×{last.frame_size[0]} to {size[1]}×{size[0]}; resize "
                    "the frames, or begin another stream with sequence_start"
                )
        elif last and (request.end or "PROMPTS" in request.inputs):
            size, number = last.frame_size, last.frame_index
        else:
            raise FrameError("got neither FRAME nor ENCODED; only prompts about the last frame and the end need none")
        known = stream.tracker.object_ids if stream else ()
        lines = request.prompts(number, size, known, self._model)
        self._check_room(lines, known)
        if stream is None:
            stream = self._streams.begin(request.stream, only_request=request.end)
        try:
            result = _advance(stream, frame, lines)
        except Exception:
            if request.start:
                self._streams.end(request.stream)
            raise
        stream.used = time.monotonic()
        return Found.on_frame(result)

    def _check_room(self, lines: Sequence[PromptLine], known: Collection[int]) -> None:
        tracked = set(known)
        for line in lines:
            if line.remove:
                tracked.remove(line.object_id)
            else:
                tracked.add(line.object_id)
            if len(tracked) > self._max_objects:
                raise ObjectIdError(
                    f"{line.origin}: {self._max_objects} objects are tracked already; remove one, or serve more "
                    "(sam2edge triton --max-objects)"
                )


def _advance(stream: Stream, frame: Frame | None, lines: Sequence[PromptLine]) -> FrameResult:
    """Track a frame, if there is one, remove and prompt objects, and return the stream's new result.

    The result is kept after each step, so that it is the tracker's also after a step that fails.
    """
    tracker, result = stream.tracker, stream.result
    if frame is not None:
        result = stream.result = tracker.track(frame)
    assert result is not None
    for line in lines:
        if line.remove:
            tracker.remove(line.object_id)
            result = result.without(line.object_id)
        else:
            result = tracker.prompt(line.object_id, **line.prompt.arguments)
        stream.result = result
    return result


class ImageModel(_Server):
    """Segments images, each by itself: what prompts mark, or with the parameter `everything` whatever there is."""

    def _open(self, bundle: Bundle, backend: Backend) -> None:
        self._predictor = ImagePredictor(bundle, backend)
        self._predictor.set_image(_TRIAL)
        self._predictor.predict(box=_TRIAL_BOX)

    def _is_alone(self) -> bool:
        return False  # any number of clients may send images

    def _close(self) -> None:
        self._predictor.close()

    def _look(self, request: Request, frame: Frame | None) -> Found:
        if frame is None:
            raise FrameError("got neither FRAME nor ENCODED; give one of them")
        grid = _grid(request.parameters)
        if grid is None:
            return self._marked(request, frame)
        if "PROMPTS" in request.inputs:
            raise PromptError("got PROMPTS and the parameter everything; give one of them")
        generator = AutomaticMaskGenerator(self._predictor, **grid)
        return Found.on_image(frame.shape[:2], find_everything(generator, frame))

    def _marked(self, request: Request, frame: Frame) -> Found:
        lines = request.prompts(0, frame.shape[:2], (), self._model)
        if not lines:
            raise PromptError(
                'got no PROMPTS; give {"points": [[x, y]]}, {"box": [x0, y0, x1, y1]} or {"mask": …}, or the parameter '
                "everything"
            )
        seen: set[int] = set()
        for line in lines:
            if line.remove or line.object_id in seen:
                raise PromptError(f"{line.origin}: on an image every object takes one prompt, and none is removed")
            seen.add(line.object_id)
        self._predictor.set_image(frame)
        segments = [segment_prompt(self._predictor, line.object_id, line.prompt, frame) for line in lines]
        return Found.on_image(frame.shape[:2], segments)


def _grid(parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the mask generator's arguments; None without the parameter `everything`."""
    for name, value in parameters.items():
        if name != "everything" and name not in GRID:
            raise InputError(f"unknown parameter {name!r}; the parameters are everything, {', '.join(GRID)}")
        if name in GRID and not parameters.get("everything"):
            raise InputError(f"the parameter {name} does nothing without everything")
        if type(value) is not GRID.get(name, bool):
            raise InputError(f"the parameter {name} must be of type {GRID.get(name, bool).__name__} but is {value!r}")
    if not parameters.get("everything"):
        return None
    return {name: value for name, value in parameters.items() if name in GRID}


def _refusal(error: Sam2EdgeError) -> Any:
    """Return the response that the client raises as an InferenceServerException."""
    codes = {StreamError: pb_utils.TritonError.UNAVAILABLE, BackendError: pb_utils.TritonError.INTERNAL}
    code = next((code for kind, code in codes.items() if isinstance(error, kind)), pb_utils.TritonError.INVALID_ARG)
    message = str(error)
    for python, words in _WORDS.items():
        message = message.replace(python, words)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _check_numpy() -> None:
    """Raise BackendError where the server and numpy do not understand each other.

    The Python backend before 24.12 misreads the arrays of numpy 2, and dies at the first text that it gets.
    """
    values = np.arange(1, 4, dtype=np.int32)
    tensor = pb_utils.Tensor("values", values)
    if not (pb_utils.Tensor.from_dlpack("values", tensor.to_dlpack()).as_numpy() == values).all():
        raise BackendError(
            f"this Triton cannot read arrays of numpy {np.__version__}: install 'numpy<2' and "
            "'opencv-python-headless<5' for its Python, or take Triton 24.12 or newer"
        )
