"""A detector that knows the bundled clip's objects, and how often and how far to be wrong about them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sam2edge import FrameResult
from sam2edge.runtime.words.detections import Detections
from tests.helpers import HEIGHT, WIDTH, Frames, Masks, iou, true_masks

WORDS = ("red ball", "blue block", "yellow star")
_LEAST = 40
"""Pixels of an object that is in view."""


class Scripted:
    """Detects the clip's objects by their true masks, each under its word.

    Args:
        frames: the clip's first frames.
        words: the word of each of its objects, "" for one that is never found.
        misses: how often an object is not found.
        jitter: how far each side of a box may be off, by the box's size.
        false: boxes a frame where nothing is, on average.
        wrong: how often an object is found under another one's word.
        seed: of all that is random.

    Attributes:
        looked_at: the frames that the detector was given.
        wait: let each detection wait for `answer`, as one in a thread of its own.
    """

    def __init__(
        self,
        frames: Frames,
        words: Sequence[str] = WORDS,
        *,
        misses: float = 0,
        jitter: float = 0,
        false: float = 0,
        wrong: float = 0,
        seed: int = 0,
    ) -> None:
        self._numbers = {frame.tobytes(): number for number, frame in enumerate(frames)}
        self._masks = [true_masks(n) for n in range(1, len(words) + 1)]
        self._words, self._misses, self._jitter, self._false, self._wrong = words, misses, jitter, false, wrong
        self._random = np.random.default_rng(seed)
        self.looked_at: list[int] = []
        self.wait = False
        self.error: Exception | None = None
        self._answers = threading.Semaphore(0)

    def answer(self) -> None:
        """Let one detection that waits go on."""
        self._answers.release()

    def detect(self, frame: Frames, words: Any, *, threshold: float) -> Detections:
        """Return what is found in a frame of the clip."""
        self.looked_at.append(self._numbers[frame.tobytes()])
        if self.wait:
            self._answers.acquire()
        if self.error:
            raise self.error
        random, found = self._random, []
        for mask, word in zip(self._masks, self._words, strict=True):
            box = _box(mask[self.looked_at[-1]])
            if word and box is not None and random.random() >= self._misses:
                size = np.tile(box[2:] - box[:2], 2)
                box = box + self._jitter * size * random.uniform(-1, 1, 4)
                word = random.choice(self._words) if random.random() < self._wrong else word
                found.append((random.uniform(0.32, 0.8), str(word), box))
        for _ in range(random.poisson(self._false)):
            x, y, width, height = random.uniform((0, 0, 20, 20), (WIDTH - 60, HEIGHT - 60, 80, 80))
            found.append((random.uniform(0.3, 0.6), str(random.choice(self._words)), [x, y, x + width, y + height]))
        found = [one for one in sorted(found, key=lambda one: -one[0]) if one[0] >= threshold]
        scores, names, boxes = zip(*found, strict=True) if found else ((), (), ())
        return Detections(boxes, scores, names)  # type: ignore[arg-type]


def _box(mask: Masks) -> npt.NDArray[np.float64] | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if mask.sum() < _LEAST:
        return None
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


def judge(results: Sequence[FrameResult], by_id: bool = False, first: int = 0) -> tuple[float, int, int]:
    """Return how well results agree with the clip: the mean IoU of the objects in view, ids, and masks in wrong places.

    Masks belong to the object of their word, or of their id. first: the clip's frame that the first result is of.
    """
    ious, ids, ghosts = [], set(), 0
    for n, word in enumerate(WORDS, 1):
        for result, truth in zip(results, true_masks(n)[first:], strict=False):
            names = result.object_ids if by_id else result.words
            rows = [row for row, name in enumerate(names) if name in (n, word) and result.visible[row]]
            agreements = [iou(result.masks[row], truth) for row in rows]
            ids.update(result.object_ids[row] for row in rows)
            ghosts += sum(agreement < 0.1 for agreement in agreements)
            if truth.sum() >= _LEAST:
                ious.append(max(agreements, default=0))
    return float(np.mean(ious)), len(ids), ghosts
