"""Draw the bundled clip: three toys that move, cross, leave and come back, with their true masks.

    python samples/make_clip.py [DIR]

Writes clip.mp4, clip_masks.npz (labels uint8 [T,H,W], 0 background, i object i) and clip.json (prompts).
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT, FRAMES, FPS = 320, 240, 120, 25
SHOWS = (
    "Object 1, a red ball, stays in view while the other two pass in front of it. Object 2, a blue block, "
    "leaves to the right for good. Object 3, a yellow star, leaves to the left, comes back and passes in "
    "front of both."
)


@dataclass(frozen=True)
class Toy:
    """A shape, its size in pixels, its colour (RGB), its turns over the clip, and its waypoints (frame, x, y)."""

    shape: str
    size: float
    colour: tuple[int, int, int]
    turns: float
    path: tuple[tuple[int, float, float], ...]


# Drawn in this order, so a later one passes in front of an earlier one. Object ids count from 1.
BALL_PATH = ((0, 138, 84), (60, 118, 112), (119, 168, 92))
BLOCK_PATH = ((0, 262, 60), (56, 171, 124), (72, 178, 130), (119, 390, 80))
STAR_PATH = ((0, 250, 178), (47, -56, 100), (56, -56, 100), (96, 236, 160), (119, 190, 184))
TOYS = (
    Toy("ball", 38, (220, 60, 60), 0.0, BALL_PATH),
    Toy("block", 36, (70, 150, 220), 0.25, BLOCK_PATH),
    Toy("star", 48, (245, 215, 90), 0.4, STAR_PATH),
)


def position(path, t):
    """Return (x, y) in pixels at frame t, on a path whose waypoints are joined by cosine easing."""
    frames, xs, ys = zip(*path, strict=True)
    k = min(int(np.searchsorted(frames, t, side="right")) - 1, len(path) - 2)
    s = (1 - np.cos(np.pi * (t - frames[k]) / (frames[k + 1] - frames[k]))) / 2
    return xs[k] + s * (xs[k + 1] - xs[k]), ys[k] + s * (ys[k + 1] - ys[k])


def inside(shape, size, x, y):
    """Return the approximate signed distance in pixels, positive inside: float64, shaped like x and y."""
    if shape == "ball":
        return size - np.hypot(x, y)
    if shape == "block":
        qx, qy = np.abs(x) - size + 10, np.abs(y) - size + 10
        return 10 - np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) - np.minimum(np.maximum(qx, qy), 0)
    return 0.9 * (size * (0.8 + 0.2 * np.cos(5 * np.arctan2(y, x))) - np.hypot(x, y))


def background():
    """Draw a soft cloth, smooth noise over a diagonal shade: float64 [H,W,3]."""
    noise = np.random.default_rng(2).standard_normal((12, 16, 1))
    cloth = cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)[..., None]
    y, x = np.mgrid[:HEIGHT, :WIDTH] / HEIGHT
    return np.array((70.0, 84.0, 108.0)) * (1.15 - 0.25 * x - 0.15 * y)[..., None] + 3 * cloth


def render(toys=TOYS):
    """Draw the clip: frames uint8 RGB [T,H,W,3] and the labels of its visible pixels uint8 [T,H,W]."""
    cloth = background()
    frames = np.empty((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    labels = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    for t in range(FRAMES):
        image = cloth.copy()
        for number, toy in enumerate(toys, start=1):
            (cx, cy), angle = position(toy.path, t), 2 * np.pi * toy.turns * t / FRAMES + 0.31
            dx, dy = columns - cx, rows - cy
            x, y = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
            depth = inside(toy.shape, toy.size, x, y)
            light = 1 - 0.22 * (dx + dy) / (2 * toy.size)  # lit from the top left
            cover = np.clip(depth + 0.5, 0, 1)[..., None]
            image += cover * (np.array(toy.colour) * light[..., None] - image)
            labels[t][depth > 0] = number
        frames[t] = np.clip(np.rint(image), 0, 255)
    return frames, labels


def box(mask):
    """Return the tight box (x0, y0, x1, y1) of a mask [H,W], in pixels."""
    ys, xs = np.nonzero(mask)
    return [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]


def main(folder):
    """Write the clip, its true masks and its prompts into folder."""
    frames, labels = render()
    video = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
    for frame in frames:
        video.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    video.release()
    np.savez_compressed(folder / "clip_masks.npz", labels=labels)
    prompts = {str(number): {"box": box(labels[0] == number)} for number in range(1, len(TOYS) + 1)}
    text = f'{{"shows": {json.dumps(SHOWS)},\n "prompts": {json.dumps(prompts)}}}\n'
    (folder / "clip.json").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent))
