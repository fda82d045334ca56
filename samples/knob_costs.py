"""What each of the tracker's knobs costs in accuracy and saves in time, on drawn clips with true masks.

    python samples/knob_costs.py BUNDLE [CLIPS]
Three toys per clip, prompted by their boxes on the first frame, cross, leave and come back. Prints a row per setting:
mean IoU where an object is in view (J of DAVIS 2017), the same in the frames after an object was away, the share of
frames away in which something is masked, and the mean time per frame. Settings run in turn, clip by clip.
"""

import sys
import time
from dataclasses import replace
from statistics import mean

import make_clip
import numpy as np

from sam2edge import VideoTracker
from sam2edge.calibration.measure.davis import in_view, region_similarity

SETTINGS = [
    {},
    {"memory_frames": 3},
    {"memory_frames": 1},
    {"memory_stride": 2},
    {"memory_stride": 4},
    {"track_every": 2},
    {"track_every": 4},
    {"min_confidence": 0.5},
    {"min_confidence": 0.7},
    {"min_confidence": 0.85},
]
CORRECTED = [{"max_conditioning_frames": count} for count in (1, 2, 4)]
CORRECTIONS = (30, 60, 90)


def toys(seed):
    """Return three random toys, one of which leaves and comes back."""
    random = np.random.default_rng(seed)
    frames = (0, 40, 80, make_clip.FRAMES - 1)
    drawn = []
    for toy in make_clip.TOYS:
        stops = random.uniform((50, 50), (make_clip.WIDTH - 50, make_clip.HEIGHT - 50), (len(frames), 2))
        if len(drawn) == seed % 3:
            stops[1 + seed % 2, 0] = random.choice((-70, make_clip.WIDTH + 70))
        path = tuple((frame, *stop) for frame, stop in zip(frames, stops.tolist(), strict=True))
        colour = tuple(random.integers(60, 250, 3).tolist())
        drawn.append(replace(toy, size=toy.size * random.uniform(0.7, 1.1), colour=colour, path=path))
    return drawn


def track(bundle, frames, true, corrections, knobs):
    """Return masks bool [T,N,H,W] and the seconds that each frame took."""
    masks, seconds = [], []
    with VideoTracker(bundle, **knobs) as tracker:
        for t, frame in enumerate(frames):
            start = time.perf_counter()
            result = tracker.track(frame)
            seconds.append(time.perf_counter() - start)
            for n in range(true.shape[1]) if t == 0 or t in corrections else ():
                if true[t, n].sum() >= 64:
                    result = tracker.prompt(n, box=make_clip.box(true[t, n]))
            masks.append(result.masks)
    return np.stack(masks), seconds


def main(bundle, clips):
    """Print the table."""
    settings = [(knobs, ()) for knobs in SETTINGS] + [(knobs, CORRECTIONS) for knobs in CORRECTED]
    scores = [([], [], [], []) for _ in settings]
    for seed in range(clips):
        frames, labels = make_clip.render(toys(seed))
        true = np.stack([labels == number for number in range(1, 4)], axis=1)
        if not in_view(true[0], 64).all():
            raise SystemExit(f"clip {seed}: an object is hidden on the first frame")
        shown, gone = in_view(true), ~true.any((-2, -1))
        returned = shown & (np.cumsum(gone, axis=0) > 0)
        for (knobs, corrections), (similarity, after, stray, seconds) in zip(settings, scores, strict=True):
            masks, times = track(bundle, frames, true, corrections, knobs)
            j = region_similarity(masks, true)
            similarity.extend(j[1:][shown[1:]])
            after.extend(j[returned])
            stray.extend(masks.any((-2, -1))[gone])
            seconds.extend(times[10:])
    print("| setting | mean IoU | after a return | masked while away | ms a frame |\n|---|---|---|---|---|")
    for (knobs, corrections), (similarity, after, stray, seconds) in zip(settings, scores, strict=True):
        name = ", ".join(f"{knob}={value}" for knob, value in knobs.items()) or "SAM 2's defaults"
        name += f", corrected on frames {', '.join(map(str, corrections))}" * bool(corrections)
        figures = f"{np.mean(similarity):.3f} | {np.mean(after):.3f} | {np.mean(stray):.0%} | {1e3 * mean(seconds):.1f}"
        print(f"| {name} | {figures} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 8)
