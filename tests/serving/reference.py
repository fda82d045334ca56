"""What a VideoTracker finds with the server's own numpy, OpenCV and ONNX Runtime: it runs with the server's Python.

python reference.py BUNDLE FRAMES.npy THREADS PROMPTS [PROMPTS ...]
"""

from __future__ import annotations

import json
import sys

import numpy as np

from sam2edge import VideoTracker
from sam2edge.runtime.backends.base import open_backend
from sam2edge.runtime.media import rle
from sam2edge.runtime.media.prompt_files import parse_prompts, schedule


def main(bundle: str, frames: str, threads: str, *of_each_stream: str) -> None:
    """Print a line for each stream: what is found on its frames."""
    backend = open_backend("onnx", threads=int(threads))
    for prompts in of_each_stream:
        found = []
        with VideoTracker(bundle, backend) as tracker:
            for number, frame in enumerate(np.load(frames)):
                result = tracker.track(frame)
                for line in schedule(parse_prompts(prompts, "prompts") if not number else ()):
                    result = tracker.prompt(line.object_id, **line.prompt.arguments)
                masks = [rle.encode(mask)["counts"] for mask in result.masks]
                found.append([masks, result.ious.tolist(), result.object_scores.tolist(), list(result.states)])
        print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
