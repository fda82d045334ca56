"""Track everything that a detector finds: it runs now and then, and SAM 2 keeps masks and ids in between.

    python samples/detector_boxes.py BUNDLE VIDEO OUT.jsonl [BOXES.json]
BOXES.json holds boxes by frame, {"0": [[x0, y0, x1, y1], …], "50": …}. Without it a colour threshold stands in for the
detector; replace it with your own, anything that turns a frame into boxes.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np

from sam2edge import JsonSink, VideoSource, VideoTracker

EVERY = 25
"""Frames from one detection to the next."""


def vivid(frame, index):
    """Return the boxes x0, y0, x1, y1 of strongly coloured blobs in a frame RGB uint8 [H,W,3]: a tiny detector."""
    if index % EVERY:
        return []
    saturation = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)[..., 1]
    blobs = cv2.connectedComponentsWithStats((saturation > 130).astype(np.uint8))[2][1:]
    return [(x, y, x + width, y + height) for x, y, width, height, area in blobs.tolist() if area >= 400]


def is_known(box, masks):
    """Return whether the box holds most of a tracked mask, so that its object is tracked already."""
    x0, y0, x1, y1 = np.rint(box).astype(int)
    return any(mask[y0:y1, x0:x1].sum() > 0.5 * mask.sum() for mask in masks)


def main(bundle, video, out, detect):
    """Track, add an object for every box that no tracked object is in, and remove objects that are lost."""
    count, knobs = 0, {"max_objects": 8, "min_confidence": 0.5, "lost_after": 50}
    with VideoTracker(bundle, **knobs) as tracker, VideoSource(video) as source, JsonSink(out) as sink:
        for frame in source:
            result = tracker.track(frame)
            for object_id in result.lost:
                tracker.remove(object_id)
                print(f"frame {result.frame_index}: object {object_id} is lost")
            for box in detect(frame, result.frame_index):
                if not is_known(box, result.masks) and len(tracker.object_ids) < 8:
                    count += 1
                    result = tracker.prompt(count, box=box)
                    print(f"frame {result.frame_index}: object {count} at {list(box)}")
            sink.write(frame, result)


if __name__ == "__main__":
    boxes = json.loads(Path(sys.argv[4]).read_text()) if len(sys.argv) > 4 else None
    detector = vivid if boxes is None else lambda frame, index: boxes.get(str(index), [])
    main(*sys.argv[1:4], detector)
