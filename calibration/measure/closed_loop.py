"""Track a clip in closed loop with a set of graphs, and compare two such runs.

In closed loop every frame's masks go into the memory that the next frames attend to, so small errors may grow. Errors
of single graphs show where a difference comes from; only the closed loop shows whether it matters.
"""

from __future__ import annotations

import itertools
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sam2edge.bundle import GRAPHS, Bundle
from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.davis import in_view, region_similarity
from sam2edge.calibration.measure.recorder import RECORDING, Recorded, Recorder
from sam2edge.calibration.measure.targets import Prompts
from sam2edge.errors import InputError
from sam2edge.runtime.backends.base import Backend
from sam2edge.runtime.video.tracker import VideoTracker
from sam2edge.types import Bools, Floats, Progress

STAGES = (*GRAPHS, "rest")
"""Parts of a frame's time: the four graphs, and everything else from resizing to the finished masks."""
LOST_AFTER = 6
"""Consecutive frames with a wrong mask after which an object counts as lost: by then all six recent memories are wrong
and only the conditioning frame still shows it. A shorter stretch is a flicker."""
SAME_OBJECT = 0.5
"""IoU below which two masks show different objects."""


@dataclass(frozen=True, eq=False)
class Run:
    """What one set of graphs gave for a clip of T frames with N objects."""

    object_ids: tuple[int, ...]
    frame_size: tuple[int, int]  # (H,W)
    packed: tuple[bytes, ...]  # masks as compressed bits, some hundred bytes a frame where logits are megabytes
    ious: Floats  # predicted IoU [T,N]
    scores: Floats  # object score [T,N]
    seconds: Floats  # time of each of STAGES [T,5]

    def __len__(self) -> int:
        return len(self.packed)

    def masks(self, frame: int) -> Bools:
        """Return a frame's masks at its own size: bool [N,H,W]."""
        shape = (len(self.object_ids), *self.frame_size)
        bits = np.frombuffer(zlib.decompress(self.packed[frame]), np.uint8)
        return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)

    @property
    def milliseconds(self) -> dict[str, float]:
        """Median time of each of STAGES, without the first frame, which is prompted and warms up."""
        later = self.seconds[1:] if len(self) > 1 else self.seconds
        return dict(zip(STAGES, (1e3 * np.median(later, axis=0)).tolist(), strict=True))


def track_clip(
    bundle: Bundle,
    clip: Clip,
    prompts: Prompts,
    backend: str | Backend = "auto",
    *,
    record: Iterable[int] = (),
    progress: Progress = lambda message, fraction: None,
) -> tuple[Run, list[Recorded]]:
    """Track a clip with SAM 2's defaults, and return the run with the graph runs of the frames in `record`.

    Raises:
        InputError: there are no prompts. Also raises what Clip, VideoTracker and its methods do.
    """
    if not prompts:
        raise InputError("nothing to track: there are no prompts")
    record, recorder = frozenset(record), Recorder(backend, bundle)
    packed, ious, scores, seconds = [], [], [], []
    with VideoTracker(bundle, recorder, max_objects=len(prompts)) as tracker:
        for number, frame in enumerate(clip):
            recorder.recording = number in record
            recorder.take()
            start = time.perf_counter()
            result = tracker.track(frame)
            for object_id, prompt in prompts.items() if number == 0 else ():
                with prompt.naming():
                    result = tracker.prompt(object_id, **prompt.arguments)
            masks = result.masks  # computed on first access, so part of the frame's work
            whole = time.perf_counter() - start
            taken = recorder.take()
            graphs = [taken.get(name, 0.0) for name in GRAPHS]
            seconds.append([*graphs, whole - sum(graphs) - taken.get(RECORDING, 0.0)])
            packed.append(zlib.compress(np.packbits(masks).tobytes(), 1))
            ious.append(result.ious)
            scores.append(result.object_scores)
            progress(f"{number + 1} frames", clip.fraction(number + 1))
    size = result.frame_size
    run = Run(tuple(prompts), size, tuple(packed), np.stack(ious), np.stack(scores), np.array(seconds, np.float32))
    return run, recorder.recorded


@dataclass(frozen=True, eq=False)
class Agreement:
    """How far a run agrees with a reference on T frames and N objects.

    An object is lost if the reference shows it (in 16 pixels or more) and the run does not, by IoU < 0.5, on LOST_AFTER
    or more frames in a row. Frames on which the reference does not show the object are skipped.
    """

    object_ids: tuple[int, ...]
    iou: Floats  # of the two masks [T,N]; 1 if both are empty
    lost: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean IoU over all frames and objects."""
        return float(self.iou.mean())

    @property
    def worst(self) -> tuple[float, int, int]:
        """The lowest IoU, its frame and its object's id."""
        frame, column = np.unravel_index(int(self.iou.argmin()), self.iou.shape)
        return float(self.iou[frame, column]), int(frame), self.object_ids[int(column)]


def compare(reference: Run, run: Run) -> Agreement:
    """Compare the masks of two runs on the same clip; InputError if clips or objects differ."""
    if (reference.object_ids, reference.frame_size, len(reference)) != (run.object_ids, run.frame_size, len(run)):
        raise InputError(
            f"two runs must be of one clip and the same objects but are of {len(reference)} and {len(run)} frames of "
            f"{reference.frame_size} and {run.frame_size}, objects {reference.object_ids} and {run.object_ids}"
        )
    iou = np.empty((len(run), len(run.object_ids)), np.float32)
    shown = np.empty(iou.shape, bool)
    for frame in range(len(run)):
        expected = reference.masks(frame)
        iou[frame], shown[frame] = region_similarity(run.masks(frame), expected), in_view(expected)
    lost = []
    for column, object_id in enumerate(run.object_ids):
        wrong = iou[shown[:, column], column] < SAME_OBJECT
        stretches = [len(list(flags)) for is_wrong, flags in itertools.groupby(wrong) if is_wrong]
        if max(stretches, default=0) >= LOST_AFTER:
            lost.append(object_id)
    return Agreement(run.object_ids, iou, tuple(lost))
