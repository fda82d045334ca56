"""Measure what ImagePredictor.predict adds to its decoder run: checks, upsampling, masks of the image's size.

    python samples/predict_speed.py BUNDLE IMAGE [ROUNDS]
The image is resized to 1024×768 and encoded once. Both run in turn in one process; the median of the rounds counts.
"""

import sys
import time
from statistics import median

import cv2

from sam2edge import ImagePredictor, read_image

CLICK = {"point_coords": [[307, 461]], "point_labels": [1]}


def main(bundle, image, rounds):
    """Print the medians and their ratio, for three masks and for one."""
    with ImagePredictor(bundle) as predictor:
        predictor.set_image(cv2.resize(read_image(image), (1024, 768), interpolation=cv2.INTER_AREA))
        for several in (True, False):
            prompt = predictor.check_prompt(**CLICK)
            ways = {
                "decoder": lambda prompt=prompt, several=several: predictor.decode(*prompt, several),
                "predict": lambda several=several: predictor.predict(**CLICK, multimask_output=several),
            }
            seconds = {name: [] for name in ways}
            for _ in range(rounds + 1):
                for name, way in ways.items():
                    start = time.perf_counter()
                    way()
                    seconds[name].append(time.perf_counter() - start)
            bare, whole = (1e3 * median(times[1:]) for times in seconds.values())
            print(
                f"{'three masks' if several else 'one mask'}: decoder {bare:.2f} ms, predict {whole / bare:.3f} × that"
            )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 30)
