"""Draws what owlv2-words learns from: coloured shapes on plain backgrounds, and phrases about them."""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_lowercase

import cv2
import numpy as np

SIDE = 128
"""Side of a picture in pixels, as the model sees it."""

COLOURS = {
    "red": ((-8, 8), (0.62, 1), (0.6, 1)),
    "orange": ((20, 34), (0.75, 1), (0.8, 1)),
    "yellow": ((46, 60), (0.55, 1), (0.8, 1)),
    "green": ((95, 145), (0.45, 1), (0.4, 0.95)),
    "cyan": ((172, 188), (0.5, 1), (0.75, 1)),
    "blue": ((203, 238), (0.55, 1), (0.5, 1)),
    "purple": ((265, 285), (0.45, 1), (0.45, 0.9)),
    "pink": ((315, 345), (0.3, 0.6), (0.85, 1)),
    "white": ((0, 360), (0, 0.06), (0.9, 1)),
    "black": ((0, 360), (0, 0.25), (0.03, 0.14)),
}
"""Ranges of hue in degrees, of saturation and of value; the ranges of two words are some way apart."""

SHAPES = {
    "ball": ("ball", "circle", "disc"),
    "block": ("block", "square", "box"),
    "star": ("star",),
    "triangle": ("triangle",),
    "ring": ("ring", "donut"),
    "cross": ("cross", "plus"),
    "bar": ("bar", "stick"),
}
"""The words for each shape."""

THINGS = ("thing", "toy", "object", "shape")
UNKNOWN = (
    *("dog", "cat", "cup", "car", "tree", "person", "house", "bottle", "phone", "bird"),
    *("table", "fish", "hand", "book", "shoe", "flower", "chair", "train", "road", "sky"),
)
"""Words that the model learns to find nowhere. Letters at random stand for all others."""

ARTICLES = ("", "", "a ", "the ", "a photo of a ", "every ")
LEAST_PIXELS = 25
CLEAR = 0.35
"""An object of which less than this share is visible counts neither as something to find nor as a mistake."""


@dataclass(frozen=True)
class Object:
    """What a picture shows: a colour, a shape, the box of its visible part (x0 y0 x1 y1, 0 to 1), and their share."""

    colour: str
    shape: str
    box: tuple[float, float, float, float]
    visible: float


@dataclass(frozen=True)
class Phrase:
    """A text and what it means; None stands for any colour or any shape, and an unknown phrase matches nothing."""

    text: str
    colour: str | None = None
    shape: str | None = None
    known: bool = True

    def matches(self, thing):
        """Return whether the phrase is true of an object."""
        return self.known and self.colour in (None, thing.colour) and self.shape in (None, thing.shape)


def choose(rng, items):
    """Return one of a sequence."""
    return items[rng.integers(len(items))]


def depth(rng, shape, size, x, y):
    """Return how far inside a shape of random proportions the points x, y are: pixels, negative outside."""
    k = rng.random()
    if shape == "ball":
        return size - np.hypot(x, y)
    if shape == "block":
        corner, half = size * k * 0.4, size * 0.82
        qx, qy = np.abs(x) - half + corner, np.abs(y) - half * (0.85 + 0.15 * k) + corner
        return corner - np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) - np.minimum(np.maximum(qx, qy), 0)
    if shape == "star":
        ray = 0.17 + 0.14 * k
        return 0.9 * (size * (1 - ray + ray * np.cos(5 * np.arctan2(y, x))) - np.hypot(x, y))
    if shape == "triangle":
        y = y + size * 0.2
        return size * 0.5 - np.maximum(np.abs(x) * 0.866 + y * 0.5, -y)
    if shape == "ring":
        return size * (0.17 + 0.08 * k) - np.abs(np.hypot(x, y) - size * 0.78)
    if shape == "cross":
        width = size * (0.24 + 0.12 * k)
        across = np.maximum(np.abs(x) - size, np.abs(y) - width)
        along = np.maximum(np.abs(y) - size, np.abs(x) - width)
        return -np.minimum(across, along)
    return -np.maximum(np.abs(x) - size, np.abs(y) - size * (0.16 + 0.14 * k))  # a bar


def paint(rng, name):
    """Return a colour that a word stands for: RGB float32 [3]."""
    hue, saturation, value = (rng.uniform(*each) for each in COLOURS[name])
    pixel = np.uint8([[[hue % 360 / 2, 255 * saturation, 255 * value]]])
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)


def background(rng):
    """Draw a shaded, softly structured background, now and then of two parts: float32 [SIDE,SIDE,3]."""
    if rng.random() < 0.3:  # a dull blue cloth, as in the bundled clip
        colour = np.array((70.0, 84.0, 108.0)) * rng.uniform(0.6, 1.4) + rng.uniform(-25, 25, 3)
    elif rng.random() < 0.5:
        colour = rng.uniform(20, 235, 3)
    else:
        colour = rng.uniform(20, 235) + rng.uniform(-18, 18, 3)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) / SIDE - 0.5
    image = colour * (1 + rng.uniform(-0.35, 0.35) * x + rng.uniform(-0.35, 0.35) * y)[..., None]
    cells = int(rng.integers(3, 20))
    noise = rng.standard_normal((cells, cells, 3 if rng.random() < 0.4 else 1)).astype(np.float32)
    noise = cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).reshape(SIDE, SIDE, -1)
    image += noise * rng.uniform(0, 14)
    if rng.random() < 0.15:
        angle = rng.uniform(0, np.pi)
        there = (x * np.cos(angle) + y * np.sin(angle) > rng.uniform(-0.3, 0.3))[..., None]
        image = np.where(there, image, image * 0.4 + rng.uniform(20, 200, 3) * 0.6)
    return image.astype(np.float32)


def extent(rng):
    """Return the width and height of the picture proper; below or right of it, a detector's padding is black."""
    short = round(SIDE * rng.uniform(0.55, 1)) if rng.random() < 0.75 else SIDE
    return (SIDE, short) if rng.random() < 0.8 else (short, SIDE)


def kinds(rng, count):
    """Return a colour and a shape for each object; often from few of each, so that neither alone tells them apart."""
    few = 2 if rng.random() < 0.4 else None
    colours, shapes = rng.permutation(list(COLOURS))[:few], rng.permutation(list(SHAPES))[:few]
    return [(str(choose(rng, colours)), str(choose(rng, shapes))) for _ in range(count)]


def place(rng, size, width, height):
    """Return a middle for an object; four in five keep wholly inside the picture, if they fit."""
    middle = np.array((rng.uniform(0, width), rng.uniform(0, height)))
    if rng.random() < 0.8:
        half = np.array((width, height)) / 2
        middle = np.clip(middle, np.minimum(size, half), np.maximum(2 * half - size, half))
    return middle


def picture(rng, small=8.0, most=5):
    """Draw one picture with one to `most` objects, which may hide each other.

    Args:
        rng: Where the chance comes from.
        small: Smallest radius of an object in pixels; the largest is 36.
        most: The largest number of objects.

    Returns:
        RGB uint8 [SIDE,SIDE,3], and its objects; those with hardly a visible pixel are left out.
    """
    image = background(rng)
    width, height = extent(rng)
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    owner = np.full((SIDE, SIDE), -1, np.int16)
    drawn = kinds(rng, int(rng.integers(1, most + 1)))
    areas = []
    for number, (colour, shape) in enumerate(drawn):
        size = float(np.exp(rng.uniform(np.log(small), np.log(36))))
        cx, cy = place(rng, size, width, height)
        x0, x1, y0, y1 = (
            int(np.clip(v, 0, SIDE)) for v in (cx - 1.5 * size, cx + 1.5 * size, cy - 1.5 * size, cy + 1.5 * size)
        )
        window = np.s_[y0:y1, x0:x1]
        dx, dy = columns[window] - cx, rows[window] - cy
        angle = rng.uniform(-np.pi, np.pi) if rng.random() < 0.6 else rng.uniform(-0.3, 0.3)
        inside = depth(
            rng, shape, size, np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
        )
        light = 1 - rng.uniform(0, 0.25) * (dx * np.cos(rng.uniform(0, 2 * np.pi)) + dy) / (2 * size)
        image[window] += np.clip(inside + 0.5, 0, 1)[..., None] * (
            paint(rng, colour) * light[..., None] - image[window]
        )
        owner[window][inside > 0] = number
        areas.append(int((inside > 0).sum()))
    proper = image[:height, :width]
    if rng.random() < 0.4:
        proper[:] = cv2.GaussianBlur(proper, (0, 0), rng.uniform(0.3, 0.9))
    proper += rng.standard_normal((height, width, 1)).astype(np.float32) * rng.uniform(0, 6)
    image[height:], image[:, width:] = 0, 0
    owner[height:], owner[:, width:] = -1, -1
    things = []
    for number, (colour, shape) in enumerate(drawn):
        ys, xs = np.nonzero(owner == number)
        if len(xs) >= LEAST_PIXELS:
            box = (xs.min() / SIDE, ys.min() / SIDE, (xs.max() + 1) / SIDE, (ys.max() + 1) / SIDE)
            things.append(Object(colour, shape, tuple(map(float, box)), len(xs) / areas[number]))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), things


def phrase(rng, colour=None, shape=None):
    """Return a phrase for a colour, a shape, both, or anything at all."""
    words = [colour] if colour else []
    if shape:
        words.append(choose(rng, SHAPES[shape]))
    elif not colour or rng.random() < 0.6:
        words.append(choose(rng, THINGS))
    return Phrase(choose(rng, ARTICLES) + " ".join(words), colour, shape)


def unknown(rng):
    """Return a phrase that matches nothing: an unknown noun, or letters at random, half of them with a known colour."""
    colour = choose(rng, list(COLOURS)) + " " if rng.random() < 0.5 else ""
    if rng.random() < 0.6:
        return Phrase(choose(rng, ("", "a ", "the ")) + colour + choose(rng, UNKNOWN), known=False)
    return Phrase(colour + "".join(rng.choice(list(ascii_lowercase), rng.integers(2, 7))), known=False)


def phrases(rng, unknowns=12):
    """Return a phrase for each colour and shape together, each shape, each colour, for anything, and unknown ones."""
    both = [phrase(rng, colour, shape) for colour in COLOURS for shape in SHAPES]
    either = [phrase(rng, None, shape) for shape in SHAPES] + [phrase(rng, colour) for colour in COLOURS]
    return [*both, *either, phrase(rng), *(unknown(rng) for _ in range(unknowns))]
