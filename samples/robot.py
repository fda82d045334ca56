"""Where an object is in front of a robot: from a mask and a depth image to a point in metres.

    python samples/robot.py BUNDLE RECORDING.npz
RECORDING.npz holds rgb uint8 [T,H,W,3], depth uint16 [T,H,W] (millimetres, 0 is no reading), camera (fx, fy, cx, cy),
box (on frame 0) and true positions [T,3]. If it does not exist, one is drawn: a disc that moves at 0.6 m in front of a
wall, with noise, holes, and mixed depths at the edges.
"""

import sys
from pathlib import Path

import cv2
import make_clip
import numpy as np

from sam2edge import VideoTracker


def record(file, fx=300.0, cx=160.0, cy=120.0):
    """Draw the recording."""
    disc = make_clip.Toy("ball", 36, (220, 60, 60), 0, ((0, 90, 80), (60, 200, 140), (119, 240, 100)))
    rgb, labels = make_clip.render([disc])
    random = np.random.default_rng(0)
    depth = np.stack([cv2.blur(np.where(label > 0, 600.0, 1500.0), (5, 5)) for label in labels])
    depth = (depth + random.normal(0, 5, depth.shape)) * (random.random(depth.shape) > 0.1)
    x, y = np.array([make_clip.position(disc.path, t) for t in range(len(rgb))]).T
    true = np.stack([(x - cx) * 0.6 / fx, (y - cy) * 0.6 / fx, np.full(len(rgb), 0.6)], axis=1)
    about = {"camera": (fx, fx, cx, cy), "box": make_clip.box(labels[0] > 0), "true": true}
    np.savez(file, rgb=rgb, depth=depth.astype(np.uint16), **about)


def centroid(mask, depth, camera):
    """Return the mean point (x, y, z) in metres, z forward, of a mask bool [H,W]; None without depth there."""
    fx, fy, cx, cy = camera
    inner = cv2.erode(mask.astype(np.uint8), np.ones((7, 7), np.uint8))  # edges mix object and background
    rows, columns = np.nonzero((inner > 0) & (depth > 0))
    z = depth[rows, columns] / 1000
    if len(z) < 20:
        return None
    points = np.stack([(columns - cx) * z / fx, (rows - cy) * z / fy, z], axis=1)
    return points[np.abs(z - np.median(z)) < 0.1].mean(axis=0)


def main(bundle, file):
    if not file.exists():
        record(file)
    data, errors = dict(np.load(file)), []  # errors in millimetres
    with VideoTracker(bundle, max_objects=1) as tracker:
        for t, (frame, depth) in enumerate(zip(data["rgb"], data["depth"], strict=True)):
            result = tracker.track(frame)
            result = tracker.prompt(1, box=data["box"]) if t == 0 else result
            if (point := centroid(result.masks[0], depth, data["camera"])) is not None:
                errors.append(1000 * np.linalg.norm(point - data["true"][t]))
                print(f"frame {t}: {point.round(3)} m")
    print(f"{len(errors)} of {len(data['rgb'])} frames, error {np.mean(errors):.1f} mm, at most {max(errors):.1f} mm")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
