"""What a VideoTracker finds with the server's own numpy, OpenCV and ONNX Runtime: it runs with the server's Python.

python reference.py BUNDLE FRAMES.npy PROMPTS THREADS
"""

from __future__ import annotations

import json
import sys

import numpy as np

from sam2edge import VideoTracker
from sam2edge.runtime.backends.base import open_backend
from sam2edge.runtime.media import rle
from sam2edge.runtime.media.prompt_files import parse_prompts, schedule


def main(bundle: str, frames: str, prompts: str, threads: str) -> None:
    with VideoTracker(bundle, open_backend("onnx", threads=int(threads))) as tracker:
        for number, frame in enumerate(np.load(frames)):
            result = tracker.track(frame)
            for line in schedule(parse_prompts(prompts, "prompts") if not number else ()):
                result = tracker.prompt(line.object_id, **line.prompt.arguments)
            masks = [rle.encode(mask)["counts"] for mask in result.masks]
            print(json.dumps([masks, result.ious.tolist(), result.object_scores.tolist(), list(result.states)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
