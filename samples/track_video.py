"""Track objects through a video from boxes on its first frame, and write where they were.

    python samples/track_video.py BUNDLE VIDEO OUT_DIR X0,Y0,X1,Y1 [X0,Y0,X1,Y1 …]
Writes OUT_DIR/tracked.mp4 (masks drawn on the frames) and OUT_DIR/tracks.csv (a line per object and frame).
"""

import csv
import sys
from pathlib import Path

import numpy as np

from sam2edge import VideoSink, VideoSource, VideoTracker


def centre(mask):
    """Return the mean position (x, y) of a mask's pixels; the mask must not be empty."""
    rows, columns = np.nonzero(mask)
    return columns.mean(), rows.mean()


def main(bundle, video, out, boxes):
    """Track, write both files, print a summary."""
    out.mkdir(parents=True, exist_ok=True)
    seen = dict.fromkeys(range(1, len(boxes) + 1), 0)
    with (
        VideoTracker(bundle, max_objects=len(boxes)) as tracker,
        VideoSource(video) as source,
        VideoSink(out / "tracked.mp4", source.fps or 25, (source.width, source.height)) as sink,
        open(out / "tracks.csv", "w", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(["frame", "object", "x", "y", "pixels", "predicted_iou"])
        for frame in source:  # RGB uint8 [H,W,3]
            result = tracker.track(frame)
            if result.frame_index == 0:
                for object_id, box in enumerate(boxes, start=1):
                    result = tracker.prompt(object_id, box=box)
            sink.write(frame, result)
            for object_id, mask, iou in zip(result.object_ids, result.masks, result.ious, strict=True):
                if mask.any():
                    x, y = centre(mask)
                    table.writerow([result.frame_index, object_id, f"{x:.1f}", f"{y:.1f}", mask.sum(), f"{iou:.3f}"])
                    seen[object_id] += 1
    for object_id, frames in seen.items():
        print(f"object {object_id}: seen on {frames} of {result.frame_index + 1} frames")


if __name__ == "__main__":
    corners = [[float(number) for number in box.split(",")] for box in sys.argv[4:]]
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), corners)
