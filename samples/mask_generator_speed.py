"""Measure what AutomaticMaskGenerator adds to the model's time: 32 points per side, against bare runs of the graphs.

    python samples/mask_generator_speed.py BUNDLE IMAGE [ROUNDS]
The image is resized to 1024×768. All variants run in turn in this process; the median of the rounds counts.
"""

import functools
import sys
import time
from statistics import median

import cv2
import numpy as np

from sam2edge import AutomaticMaskGenerator, Bundle, read_image
from sam2edge.runtime.image.candidates import point_grid
from sam2edge.runtime.model.graphs import Graphs
from sam2edge.runtime.model.prompts import EncodedPrompt

SIDE, BATCH = 32, 64


def bare_runs(graphs, pixels):
    """Encode an image and decode as many points as the generator, nothing else; return the median predicted IoU."""
    embedding = graphs.encode(pixels)
    features, no_memory = np.repeat(embedding.features, BATCH, axis=0), np.ones(BATCH, bool)
    clicks = point_grid(8)[:, None] * embedding.size[::-1]  # their position does not affect the time
    prompt = EncodedPrompt.of_points(clicks, np.ones((BATCH, 1)), embedding.size, graphs.model)
    for _ in range(SIDE**2 // BATCH):
        decoded = graphs.decode(embedding, features, prompt, no_memory, True, ["masks", "ious"])
    return float(np.median(decoded["ious"]))


def main(bundle, image, rounds):
    """Print the medians and their ratios: with the defaults, and with half of all candidates passing every filter."""
    opened = Bundle.open(bundle)
    graphs = Graphs(opened, "auto", ("image_encoder", "mask_decoder"), "benchmark")
    pixels = cv2.resize(read_image(image), (1024, 768), interpolation=cv2.INTER_AREA)
    bare = functools.partial(bare_runs, graphs, pixels)
    half = {"pred_iou_thresh": min(bare(), 1.0), "stability_score_thresh": 0}
    variants = {"bare runs": bare}
    for name, thresholds in (("defaults", {}), ("half of the candidates pass", half)):
        variants[name] = functools.partial(AutomaticMaskGenerator(opened, SIDE, BATCH, **thresholds).generate, pixels)
        print(f"{name}: {len(variants[name]())} masks")  # which also warms up
    seconds = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        print(f"{name}: {median(times):.2f} s, {median(times) / median(seconds['bare runs']):.2f} × the bare runs")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 5)
