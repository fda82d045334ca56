"""What many tests share: the bundled clip and its objects, sessions, counted runs, and comparisons of results."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from sam2edge import Bundle, FrameResult, VideoTracker
from sam2edge.bundle import contract
from sam2edge.runtime.backends.base import Array, Backend, GraphRunner, open_backend
from sam2edge.runtime.media.sources import VideoSource
from tests.conftest import REPO

CLIP = REPO / "samples" / "clip.mp4"
HEIGHT, WIDTH = 240, 320
BALL, BLOCK, STAR = (101, 47, 176, 122), (220, 18, 305, 103), (205, 138, 297, 226)
"""Boxes of the clip's objects 1 to 3 on its first frame."""

Frames = npt.NDArray[np.uint8]
Masks = npt.NDArray[np.bool_]


def clip_frames(count: int) -> Frames:
    """Return the first frames of the bundled clip: uint8 [T,240,320,3]."""
    with VideoSource(CLIP) as source:
        return np.stack(list(islice(source, count)))


def write_frames(folder: Path, frames: Iterable[Frames]) -> None:
    """Write RGB frames as PNGs into a new folder."""
    folder.mkdir()
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{number:03d}.png"), frame[..., ::-1])


def write_samples(folder: Path, frames: int) -> None:
    """Make a folder like samples/ whose clip and true masks end after this number of frames."""
    shutil.copytree(REPO / "samples", folder, ignore=shutil.ignore_patterns("__pycache__"))
    video = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (WIDTH, HEIGHT))
    for frame in clip_frames(frames):
        video.write(frame[..., ::-1])
    video.release()
    labels = np.load(REPO / "samples" / "clip_masks.npz")["labels"]
    np.savez_compressed(folder / "clip_masks.npz", labels=labels[:frames])


def write_palette(path: Path, labels: Frames, bits: int = 8) -> None:
    """Write a PNG as DAVIS has them: pixels are indices into a palette in which 2 is not above 1."""
    image = Image.frombytes("P", labels.shape[::-1], labels.tobytes())
    colours = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
    image.putpalette(colours + [9] * (3 * 2**bits - len(colours)))  # its length is what Pillow takes the depth from
    image.save(path)


def true_masks(object_id: int) -> Masks:
    """Return the true masks of one of the clip's objects: bool [120,240,320]."""
    labels = np.load(REPO / "samples" / "clip_masks.npz")["labels"]
    mask: Masks = labels == object_id
    return mask


def play(tracker: VideoTracker, frames: Iterable[Any], events: Mapping[int, Iterable[Any]]) -> Iterator[FrameResult]:
    """Track frames, prompt and remove objects on the way, and yield every result.

    `events` has, by frame and in order, `(object id, arguments of prompt)` or the bare id of an object to remove.
    """
    for t, frame in enumerate(frames):
        yield tracker.track(frame)
        for event in events.get(t, ()):
            if isinstance(event, int):
                tracker.remove(event)
            else:
                yield tracker.prompt(event[0], **event[1])


class Counting(Backend):
    """ONNX Runtime on the CPU, which counts the `runs` of each graph by its name."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()

    def open(self, graph: Path) -> GraphRunner:
        runner = open_backend("onnx").open(graph)
        run = runner.run

        def counted(inputs: Mapping[str, Any]) -> dict[str, Array]:
            self.ran(graph.stem, inputs)
            return run(inputs)

        runner.run = counted  # type: ignore[method-assign]
        return runner

    def ran(self, graph: str, inputs: Mapping[str, Any]) -> None:
        """Count a run, just before it."""
        self.runs[graph] += 1


def iou(first: Masks, second: Masks) -> float:
    """Return the intersection over union of two masks; two empty ones agree."""
    union = (first | second).sum()
    return float((first & second).sum() / union) if union else 1.0


def assert_close(actual: Any, expected: Any, relative: float = 1e-4, what: str = "values") -> None:
    """Check that arrays, results, or mappings or sequences of them differ by at most `relative` of the largest value.

    The default is the effect of another batch size, which sums in another order. Types and shapes must be equal; `what`
    names the values in messages.
    """
    if isinstance(expected, FrameResult):
        for name in ("frame_index", "object_ids", "lost", "states"):
            assert getattr(actual, name) == getattr(expected, name), f"{what}: {name}"
        for name in ("logits", "ious", "object_scores", *(() if relative else ("visible", "masks"))):
            assert_close(getattr(actual, name), getattr(expected, name), relative, f"{what}: {name}")
    elif isinstance(expected, Mapping):
        assert list(actual) == list(expected), what
        for key, value in expected.items():
            assert_close(actual[key], value, relative, f"{what}: {key}")
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected), what
        for number, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert_close(one, other, relative, f"{what}: {number}")
    else:
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), what
        atol = relative * np.abs(expected).max(initial=0)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=atol, err_msg=what)


def assert_same(actual: Any, expected: Any) -> None:
    """Check that arrays, results, or mappings or sequences of them are equal in every value."""
    assert_close(actual, expected, relative=0)


def box_mask(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = (48, 64)) -> Masks:
    """Return a mask of `size` (H,W) that covers a box."""
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def result_of(masks: Mapping[int, Masks], index: int = 0, size: tuple[int, int] = (48, 64)) -> FrameResult:
    """Return a result with exactly these masks (bool [H,W] by object id); an empty one is an absent object."""
    stack = np.array([*masks.values()]).reshape(-1, *size)
    logits = np.where(stack, 5, -5).astype(np.float32)
    scores = np.where(stack.any(axis=(1, 2)), 3.25, -1.5).astype(np.float32)
    ious = np.linspace(0.5, 0.75, len(masks), dtype=np.float32)
    return FrameResult(index, tuple(masks), logits, ious, scores, size)


def graph_inputs(bundle: Bundle, graph: str, sides: Mapping[str, int], seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Return random inputs of a graph by its contract, with these sizes of the dynamic axes."""
    random = np.random.default_rng(seed)
    inputs = {}
    for spec in contract(bundle.model)[graph][0]:
        shape = tuple(sides[side] if isinstance(side, str) else side for side in spec.shape)
        high = {"uint8": 256, "int32": 2, "bool": 2}.get(spec.dtype)
        values = random.standard_normal(shape) if high is None else random.integers(0, high, shape)
        inputs[spec.name] = values.astype(spec.dtype)
    return inputs
