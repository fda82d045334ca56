"""Measure latency and throughput mode on the bundled clip: as a file at full speed, and as a camera at its own pace.

    python samples/stream_speed.py BUNDLE [FPS] [ROUNDS]
Prints for each: frames per second, delay from a frame's arrival to its masks (p50 and p99), and how many were dropped.
All run in turn in one process. A file is read ahead, so its delay includes the time that a frame waited.
"""

import sys
import time

import numpy as np
from demo import CLIP, read_truth

from sam2edge import ArraySource, Grabber, VideoSource, VideoTracker, stream


def paced(frames, fps):
    """Yield the frames at a camera's pace, whether or not the caller is ready for them."""
    begin = time.monotonic()
    for index, frame in enumerate(frames):
        time.sleep(max(0.0, begin + index / fps - time.monotonic()))
        yield frame


def follow(bundle, grabber, prompts, mode):
    """Track all frames; return the delays and the total seconds of those after the prompted one."""
    delays, begin = [], 0.0
    with VideoTracker(bundle) as tracker, grabber:
        for tracked in stream(grabber, tracker, mode):
            if tracked.result.frame_index == 0:
                for object_id, prompt in prompts.items():
                    tracker.prompt(object_id, **prompt)
                begin = time.monotonic()
                continue
            assert tracked.result.masks.shape[0] == len(prompts)  # computed on access, so part of the work
            delays.append(time.monotonic() - tracked.grabbed.arrived)
    return delays, time.monotonic() - begin


def main(bundle, fps, rounds):
    """Print a row for each source and mode."""
    prompts, _ = read_truth()
    with VideoSource(CLIP) as source:
        frames = list(source)
    sources = {
        "file": lambda: Grabber(lambda: VideoSource(CLIP)),
        f"camera of {fps} fps": lambda: Grabber(lambda: ArraySource(paced(frames, fps)), "latest"),
    }
    runs = [(name, mode) for name in sources for mode in ("latency", "throughput")]
    delays, seconds, dropped = ({run: [] for run in runs} for _ in range(3))
    for _ in range(rounds):
        for name, mode in runs:
            grabber = sources[name]()
            new, took = follow(bundle, grabber, prompts, mode)
            delays[name, mode] += new
            seconds[name, mode].append(took)
            dropped[name, mode].append(grabber.statistics.dropped)
    for run in runs:
        p50, p99 = 1e3 * np.percentile(delays[run], (50, 99))
        rate = len(delays[run]) / sum(seconds[run])
        print(f"{run[0]}, {run[1]}: {rate:.1f} frames/s, delay p50 {p50:.0f} ms, p99 {p99:.0f} ms, ", end="")
        print(f"dropped {np.mean(dropped[run]):.0f} of {len(frames)}")


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[2:]]
    main(sys.argv[1], *(numbers + [25, 3][len(numbers) :]))
