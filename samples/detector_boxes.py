"""Track everything that a detector of your own finds: it runs now and then, and SAM 2 keeps masks and ids in between.

    python samples/detector_boxes.py BUNDLE VIDEO OUT.jsonl [BOXES.json]
BOXES.json holds boxes by frame, {"0": [[x0, y0, x1, y1], …], "50": …}. Without it a colour threshold stands in for the
detector; replace it with your own, anything that turns a frame into boxes.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np

from sam2edge import Detections, Follower, JsonSink, VideoSource, VideoTracker


class Vivid:
    """Finds strongly coloured blobs: a tiny detector."""

    def detect(self, frame, words, *, threshold):
        """Return the boxes x0, y0, x1, y1 in a frame RGB uint8 [H,W,3], with scores and words."""
        saturation = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)[..., 1]
        blobs = cv2.connectedComponentsWithStats((saturation > 130).astype(np.uint8))[2][1:]
        boxes = [(x, y, x + width, y + height) for x, y, width, height, area in blobs.tolist() if area >= 400]
        return Detections(boxes, [1.0] * len(boxes), ["vivid"] * len(boxes))


class Boxes:
    """Finds what a file says; it is asked on every frame."""

    def __init__(self, path):
        self.boxes, self.frame = json.loads(Path(path).read_text()), -1

    def detect(self, frame, words, *, threshold):
        """Return the boxes of the next frame."""
        self.frame += 1
        boxes = self.boxes.get(str(self.frame), [])
        return Detections(boxes, [1.0] * len(boxes), ["box"] * len(boxes))


def main(bundle, video, out, detector, **options):
    """Track what the detector finds, and print what becomes of it."""
    with VideoTracker(bundle, max_objects=8, min_confidence=0.5) as tracker:
        follower = Follower(tracker, detector, words=None, on_event=print, **options)
        with follower, VideoSource(video) as source, JsonSink(out) as sink:
            for frame in source:
                sink.write(frame, follower.track(frame))


if __name__ == "__main__":
    if len(sys.argv) > 4:
        main(*sys.argv[1:4], Boxes(sys.argv[4]), every=1, confirm=1)
    else:
        main(*sys.argv[1:4], Vivid())
