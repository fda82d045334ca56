"""Track the three toys of the bundled clip and compare the masks with the true ones.

    python samples/demo.py BUNDLE OUT_DIR
Writes OUT_DIR/overlay.mp4 and OUT_DIR/strip.png (predicted masks in colour, true outlines in white). If the bundle has
a word detector, the toys are then found by words and followed: OUT_DIR/words.png.
"""

import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from sam2edge import Bundle, Follower, VideoSink, VideoSource, VideoTracker, WordDetector
from sam2edge.calibration.measure.davis import in_view, region_similarity
from sam2edge.runtime.media.overlay import draw

SAMPLES = Path(__file__).parent
CLIP = SAMPLES / "clip.mp4"
WORDS = ["red ball", "blue block", "yellow star"]
"""The words for objects 1, 2 and 3."""


def read_truth():
    """Return the prompts {object id: arguments of prompt()} for frame 0 and the true masks bool [T,N,H,W]."""
    clip = json.loads((SAMPLES / "clip.json").read_text())
    prompts = {int(object_id): prompt for object_id, prompt in clip["prompts"].items()}
    labels = np.load(SAMPLES / "clip_masks.npz")["labels"]
    return prompts, np.stack([labels == object_id for object_id in prompts], axis=1)


def print_scores(ids, predicted, true):
    """Print how well masks bool [T,N,H,W] agree where at least 16 pixels of the object show (in_view)."""
    similarity, shown, gone = region_similarity(predicted, true), in_view(true), ~true.any((-2, -1))
    missed = gone & predicted.any((-2, -1))
    for n, object_id in enumerate(ids):
        iou, frames = similarity[shown[:, n], n].mean(), shown[:, n].sum()
        print(f"object {object_id}: mean IoU {iou:.4f} in {frames} frames in view", end="")
        print(f", still masked in {missed[:, n].sum()} of {gone[:, n].sum()} frames away")
    print(f"mean IoU over all {shown.sum()} objects in view: {similarity[shown].mean():.4f}")


def strip(frames, results, true, columns=4, rows=2):
    """Draw predicted masks and true outlines on evenly spaced frames: uint8 RGB [rows·H, columns·W, 3]."""
    pictures = []
    for index in np.linspace(0, len(frames) - 1, columns * rows).round().astype(int):
        picture = draw(frames[index], results[index])
        for mask in true[index]:
            outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(picture, outlines, -1, (255, 255, 255), 1)
        pictures.append(picture)
    return np.vstack([np.hstack(pictures[row * columns : (row + 1) * columns]) for row in range(rows)])


def follow_words(bundle, frames, true):
    """Find the toys by words and follow them, print how well, and return the results."""
    begin = time.perf_counter()
    with (
        WordDetector(bundle) as detector,
        VideoTracker(bundle) as tracker,
        Follower(tracker, detector, detector.words(WORDS)) as follower,
    ):
        results = [follower.track(frame) for frame in frames]
    speed = len(frames) / (time.perf_counter() - begin)
    masks = np.zeros_like(true)
    ids = {word: set() for word in WORDS}
    for result, found in zip(results, masks, strict=True):
        for object_id, word, mask in zip(result.object_ids, result.words, result.masks, strict=True):
            found[WORDS.index(word)] |= mask
            ids[word].add(object_id)
    similarity, shown = region_similarity(masks, true), in_view(true)
    for n, word in enumerate(WORDS):
        print(f'"{word}": mean IoU {similarity[shown[:, n], n].mean():.4f}, ids {sorted(ids[word])}')
    print(f"{speed:.1f} frames a second with words")
    return results


def main(bundle, out):
    """Track the clip, write the overlay and the strip, print scores and speed."""
    prompts, true = read_truth()
    frames, results, masks, tracking, begin = [], [], [], 0.0, time.perf_counter()
    with VideoTracker(bundle) as tracker, VideoSource(CLIP) as source:
        with VideoSink(out / "overlay.mp4", source.fps, (source.width, source.height)) as sink:
            for frame in source:
                start = time.perf_counter()
                result = tracker.track(frame)
                for object_id, prompt in prompts.items() if not frames else ():
                    result = tracker.prompt(object_id, **prompt)
                masks.append(result.masks)  # computed on access, so part of the work
                tracking += time.perf_counter() - start
                sink.write(frame, result)
                frames.append(frame)
                results.append(result)
        whole = time.perf_counter() - begin
    cv2.imwrite(str(out / "strip.png"), cv2.cvtColor(strip(frames, results, true), cv2.COLOR_RGB2BGR))
    print_scores(prompts, np.stack(masks), true)
    print(f"{len(frames) / tracking:.1f} frames a second tracking, {len(frames) / whole:.1f} overall")
    if Bundle.open(bundle).words:
        pictures = strip(frames, follow_words(bundle, frames, true), true)
        cv2.imwrite(str(out / "words.png"), cv2.cvtColor(pictures, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
