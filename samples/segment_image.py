"""Cut out an object of an image by clicking on it.

    python samples/segment_image.py BUNDLE IMAGE OUT.png --point X,Y [--point X,Y] [--background X,Y]
Points lie on the object, background points where the mask should not be. OUT is transparent around the object.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

from sam2edge import ImagePredictor, read_image


def pixel(text):
    """Read "x,y"."""
    x, y = map(float, text.split(","))
    return x, y


def segment(predictor, image, points, labels):
    """Return the mask bool [H,W] of the object that was clicked, and the model's estimate of its IoU."""
    predictor.set_image(image)
    clicks = {"point_coords": points, "point_labels": labels}
    # One click may mean a part or the whole: take the best of three masks, then let the model refine it.
    _, ious, logits = predictor.predict(**clicks, multimask_output=True)
    best = int(ious.argmax())
    masks, ious, _ = predictor.predict(**clicks, mask_input=logits[best : best + 1], multimask_output=False)
    return masks[0].astype(bool), float(ious[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("image", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--point", type=pixel, action="append", required=True, metavar="X,Y")
    parser.add_argument("--background", type=pixel, action="append", default=[], metavar="X,Y")
    args = parser.parse_args()

    image = read_image(args.image)  # RGB uint8 [H,W,3]
    points, labels = args.point + args.background, [1] * len(args.point) + [0] * len(args.background)
    with ImagePredictor(args.bundle) as predictor:
        mask, iou = segment(predictor, image, points, labels)
    alpha = np.where(mask, 255, 0).astype(np.uint8)
    if not cv2.imwrite(str(args.out), np.dstack([cv2.cvtColor(image, cv2.COLOR_RGB2BGR), alpha])):
        sys.exit(f"{args.out}: cannot be written")
    print(f"{args.out}: {mask.sum()} pixels, predicted IoU {iou:.2f}")


if __name__ == "__main__":
    main()
