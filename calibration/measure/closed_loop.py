"""Track a clip in closed loop with a set of graphs, and compare two such runs.

In closed loop every frame's masks go into the memory that the next frames see, so that small errors may grow. Errors of
single graphs say where a difference comes from; whether it matters is said here.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from sam2edge.bundle import GRAPHS, Bundle
from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.davis import in_view, region_similarity
from sam2edge.calibration.measure.recorder import Recorded, Recorder
from sam2edge.calibration.measure.targets import Prompts
from sam2edge.errors import InputError
from sam2edge.runtime.backends.base import Backend
from sam2edge.runtime.video.tracker import VideoTracker
from sam2edge.types import Bools, Floats

STAGES = (*GRAPHS, "rest")
"""What a frame's time is split into: the four graphs, and everything else from resizing to the finished masks."""
LOST_AFTER = 6
"""Frames in a row with another mask after which an object counts as lost: the six recent memories are wrong then, and
only the conditioning frame still knows it. What ends sooner is a flicker."""
SAME_OBJECT = 0.5
"""Below this IoU two masks do not show the same object."""

Progress = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Run:
    """What one set of graphs made of a clip of T frames with N objects.

    object_ids: in the order of the rows. frame_size: (H,W). packed: masks of each frame, as bits and compressed: some
    hundred bytes where a frame's logits are megabytes. ious, scores: float32 [T,N], predicted IoU and object score.
    seconds: float32 [T,5], time of each of STAGES.
    """

    object_ids: tuple[int, ...]
    frame_size: tuple[int, int]
    packed: tuple[bytes, ...]
    ious: Floats
    scores: Floats
    seconds: Floats

    def __len__(self) -> int:
        return len(self.packed)

    def masks(self, frame: int) -> Bools:
        """Masks of a frame at its size: bool [N,H,W]."""
        shape = (len(self.object_ids), *self.frame_size)
        bits = np.frombuffer(zlib.decompress(self.packed[frame]), np.uint8)
        return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)

    @property
    def milliseconds(self) -> dict[str, float]:
        """Median time of a frame in each of STAGES, without the first frame, which is prompted and warms up."""
        later = self.seconds[1:] if len(self) > 1 else self.seconds
        return dict(zip(STAGES, (1e3 * np.median(later, axis=0)).tolist(), strict=True))


def track_clip(
    bundle: Bundle,
    clip: Clip,
    prompts: Prompts,
    backend: str | Backend = "auto",
    *,
    record: Iterable[int] = (),
    progress: Progress = lambda frame: None,
) -> tuple[Run, list[Recorded]]:
    """Track a clip with SAM 2's defaults; the run, and the graphs' runs of the frames in `record`.

    prompts: of each object id, given on the first frame. progress: called with the
    number of frames done.

    Raises what Clip, VideoTracker and its methods do, and InputError without prompts.
    """
    if not prompts:
        raise InputError("nothing to track: there are no prompts")
    record, watch = frozenset(record), Recorder(bundle, backend)
    packed, ious, scores, seconds = [], [], [], []
    with VideoTracker(bundle, watch, max_objects=len(prompts)) as tracker:
        for number, frame in enumerate(clip):
            watch.recording = number in record
            watch.seconds.clear()
            start = time.perf_counter()
            result = tracker.track(frame)
            for object_id, prompt in prompts.items() if number == 0 else ():
                result = tracker.prompt(object_id, **prompt.arguments)
            masks = result.masks  # made when asked for: part of the work
            whole = time.perf_counter() - start
            graphs = [watch.seconds[name] for name in GRAPHS]
            seconds.append([*graphs, whole - sum(watch.seconds.values())])
            packed.append(zlib.compress(np.packbits(masks).tobytes(), 1))
            ious.append(result.ious)
            scores.append(result.object_scores)
            progress(number + 1)
    size = result.frame_size
    run = Run(tuple(prompts), size, tuple(packed), np.stack(ious), np.stack(scores), np.array(seconds, np.float32))
    return run, watch.recorded


@dataclass(frozen=True, eq=False)
class Agreement:
    """How far a run agrees with a reference.

    object_ids: in the order of the columns. iou: float32 [T,N], of the two masks; two absent ones agree and give 1.
    lost: ids of the objects that the reference shows (16 pixels or more) and the run does not, by IoU < 0.5, in
    LOST_AFTER or more frames in a row; frames on which the reference does not show the object are passed over.
    """

    object_ids: tuple[int, ...]
    iou: Floats
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
    """Compare the masks of two runs over the same clip. Raises InputError if they are of different clips or objects."""
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
    lost = [
        object_id
        for column, object_id in enumerate(run.object_ids)
        if _longest(iou[shown[:, column], column] < SAME_OBJECT) >= LOST_AFTER
    ]
    return Agreement(run.object_ids, iou, tuple(lost))


def _longest(flags: Bools) -> int:
    """The longest stretch of True in [T]."""
    longest = length = 0
    for flag in flags.tolist():
        length = length + 1 if flag else 0
        longest = max(longest, length)
    return longest
