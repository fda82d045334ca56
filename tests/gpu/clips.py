"""Draw the clips that the steps track beside the bundled one: `python -m tests.gpu.clips FOLDER`.

unseen-0 and unseen-1 have other toys than the bundled clip, by which the INT8 bundle is calibrated, and true masks;
720p is the bundled clip at 1280×720, and short its first frames, by which a large model is calibrated.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from tests.conftest import REPO
from tests.helpers import Frames, clip_frames

sys.path.insert(0, str(REPO / "samples"))
import knob_costs
import make_clip

UNSEEN = 2
FRAMES, FEW = 60, 8


def write_clip(file: Path, frames: Iterable[Frames]) -> None:
    """Write RGB frames of one size as a video."""
    first, *others = frames
    height, width, _ = first.shape
    video = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), make_clip.FPS, (width, height))
    for frame in (first, *others):
        video.write(frame[..., ::-1])
    video.release()


def main(folder: Path) -> None:
    """Write all clips."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(UNSEEN):
        frames, labels = make_clip.render(knob_costs.toys(seed))
        write_clip(folder / f"unseen-{seed}.mp4", frames[:FRAMES])
        np.savez_compressed(folder / f"unseen-{seed}.npz", labels=labels[:FRAMES])
    write_clip(folder / "short.mp4", clip_frames(FEW))
    write_clip(folder / "720p.mp4", [cv2.resize(frame, (1280, 720)) for frame in clip_frames(FRAMES)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
