"""Compare one tracker of N objects with N trackers of one object each, on the bundled clip.

    python samples/objects_speed.py BUNDLE [N] [ROUNDS]
Both ways run in turn in one process, on the same frames with the same prompts; the median of the rounds counts.
"""

import sys
import time
from statistics import median

import numpy as np
from demo import CLIP

from sam2edge import VideoSource, VideoTracker

FRAMES = 40


def boxes(count, height, width):
    """Return boxes spread over the frame; their content does not affect the time."""
    centres = np.random.default_rng(0).uniform((40, 40), (width - 40, height - 40), (count, 2))
    return np.concatenate([centres - 35, centres + 35], axis=1)


def together(trackers, frames, prompts):
    """Track all objects in the first tracker: masks bool [T,N,H,W]."""
    return play(trackers[0], frames, dict(enumerate(prompts)))


def apart(trackers, frames, prompts):
    """Track each object in its own tracker: masks bool [T,N,H,W]."""
    every = [play(tracker, frames, {0: box}) for tracker, box in zip(trackers, prompts, strict=True)]
    return np.concatenate(every, axis=1)


def play(tracker, frames, prompts):
    """Prompt on the first frame and track the rest: masks bool [T,N,H,W]."""
    tracker.reset()
    tracker.track(frames[0])
    for object_id, box in prompts.items():
        tracker.prompt(object_id, box=box)
    return np.stack([tracker.track(frame).masks for frame in frames[1:]])


def main(bundle, count, rounds):
    """Print both medians, their ratio and whether the masks agree."""
    with VideoSource(CLIP) as source:
        frames = [frame for frame, _ in zip(source, range(FRAMES), strict=False)]
        prompts = boxes(count, source.height, source.width)
    trackers = [VideoTracker(bundle, max_objects=count if n == 0 else 1) for n in range(count)]
    seconds = {together: [], apart: []}
    for _ in range(rounds + 1):
        masks = {}
        for way, times in seconds.items():
            start = time.perf_counter()
            masks[way] = way(trackers, frames, prompts)
            times.append(time.perf_counter() - start)
    one, each = masks.values()
    union = (one | each).sum((-2, -1))
    agreement = np.where(union, (one & each).sum((-2, -1)) / np.maximum(union, 1), 1)
    fast, slow = (1e3 * median(times[1:]) / len(frames) for times in seconds.values())
    print(f"{count} objects: one tracker {fast:.1f} ms a frame, {count} trackers {slow:.1f} ms, {slow / fast:.2f} ×")
    print(f"IoU of the two ways' masks: at least {agreement.min():.4f}")


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[2:]]
    main(sys.argv[1], *(numbers + [8, 5][len(numbers) :]))
