"""Measures owlv2-words, on drawn pictures that it never saw and on the bundled clip."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPTokenizer, Owlv2ForObjectDetection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from words_data import CLEAR, SIDE, phrases, picture

SAMPLES = Path(__file__).resolve().parent.parent
HELD_OUT = 12345
"""The seed of the pictures that are measured on; training draws with others."""

THRESHOLD = 0.3
OVERLAP = 0.5
CLIP_WORDS = ("red ball", "blue block", "yellow star")
ABSENT_WORDS = ("red star", "green block", "a dog")
VISIBLE_PIXELS = 150
"""From here on a toy of the clip counts as visible: a strip of 4 pixels of 320x240."""


class Detector:
    """The model of a folder on numpy arrays, with its texts encoded apart from its pictures, as it is deployed."""

    def __init__(self, folder):
        self.model = Owlv2ForObjectDetection.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def detect(self, pictures, texts):
        """Return scores [B,P,Q] and boxes [B,P,4] (x0 y0 x1 y1 in parts of the padded square) of RGB pictures."""
        pixels = normalised(torch.from_numpy(np.stack([letterboxed(picture) for picture in pictures])))
        logits, boxes, _, _ = look(self.model, pixels, encode(self.model, self.tokenizer, texts))
        return logits.sigmoid().numpy(), corners(boxes).numpy()


def letterboxed(picture):
    """Return an RGB picture padded, smoothed and shrunk as transformers does it: float32 [SIDE,SIDE,3], 0 to 255."""
    height, width = picture.shape[:2]
    side = max(height, width)
    square = np.zeros((side, side, 3), np.float32)
    square[:height, :width] = picture
    if side > SIDE:
        sigma = (side / SIDE - 1) / 2
        reach = int(np.ceil(3 * sigma))
        square = cv2.GaussianBlur(square, (2 * reach + 1,) * 2, sigma, borderType=cv2.BORDER_REFLECT_101)
    return cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)


def normalised(pictures):
    """Return pictures [B,SIDE,SIDE,3] of 0 to 255 as the model takes them: float32 [B,3,SIDE,SIDE]."""
    mean, std = (255 * torch.tensor(each) for each in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return ((pictures.float() - mean) / std).permute(0, 3, 1, 2)


def encode(model, tokenizer, texts):
    """Return a query of unit length for each text: float [Q,D]."""
    tokens = tokenizer(list(texts), padding=True, return_tensors="pt")
    pooled = model.owlv2.text_model(**tokens).pooler_output
    return F.normalize(model.owlv2.text_projection(pooled), dim=-1)


def look(model, pixels, queries):
    """Return logits [B,P,Q], boxes [B,P,4] (middle and size), objectness [B,P] and features [B,P,width] of pixels."""
    grid, _ = model.image_embedder(pixels)
    features = grid.flatten(1, 2)
    logits, _ = model.class_predictor(features, queries[None])
    return logits, model.box_predictor(features, grid), model.objectness_head(features)[..., 0], features


def corners(boxes):
    """Return boxes given by middle and size as x0 y0 x1 y1."""
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((middle - half, middle + half), -1)


def overlaps(a, b):
    """Return the IoU of each of the boxes a [M,4] with each of b [N,4]: float [M,N]."""
    least, most = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.clip(most - least, 0, None).prod(-1)
    return both / (np.prod(a[:, 2:] - a[:, :2], -1)[:, None] + np.prod(b[:, 2:] - b[:, :2], -1) - both)


def strongest(scores, overlap, threshold):
    """Return the rows of scores [P] above the threshold that no stronger row overlaps, strongest first."""
    kept = []
    for row in np.argsort(-scores):
        if scores[row] <= threshold:
            break
        if all(overlap[row, other] < OVERLAP for other in kept):
            kept.append(row)
    return kept


def judge(things, phrase, scores, boxes, overlap, least):
    """Return (score, right) of each detection of a phrase, and how many objects there were to find.

    Objects that are mostly hidden are neither to be found nor mistakes.
    """
    meant = [thing for thing in things if phrase.matches(thing)]
    kept = strongest(scores, overlap, least)
    ious = overlaps(boxes[kept], np.array([thing.box for thing in meant]).reshape(-1, 4))
    found, rows = set(), []
    for row, iou in zip(kept, ious, strict=True):
        best = int(iou.argmax()) if len(meant) else -1
        right = best >= 0 and iou[best] >= 0.5 and best not in found
        if right:
            found.add(best)
            if meant[best].visible < CLEAR:
                continue
        rows.append((float(scores[row]), right))
    return rows, sum(thing.visible >= CLEAR for thing in meant)


def average_precision(rows, total):
    """Return the area under the curve of precision over recall, in 101 steps as COCO does, of (score, right)."""
    if not rows or not total:
        return 0.0
    right = np.array([right for _, right in sorted(rows, reverse=True)])
    precision, recall = right.cumsum() / np.arange(1, len(right) + 1), right.cumsum() / total
    reached = [precision[recall >= level] for level in np.linspace(0, 1, 101)]
    return float(np.mean([part.max() if len(part) else 0.0 for part in reached]))


def held_out(detector, count=96, threshold=THRESHOLD):
    """Return AP50, precision and recall per kind of phrase on held-out pictures, every phrase asked of every picture.

    A picture is asked for all 70 colours and shapes together, which makes most detections of a phrase mistakes: AP is
    taken over all phrases of a kind at once, as one threshold for all of them is used.
    """
    rng = np.random.default_rng(HELD_OUT)
    rows = {"colour and shape": [], "shape": [], "colour": [], "unknown": []}
    totals = dict.fromkeys(rows, 0)
    asked = 0
    for _ in range(count):
        image, things = picture(rng)
        texts = phrases(rng)
        scores, boxes = (each[0] for each in detector.detect([image], [phrase.text for phrase in texts]))
        overlap = overlaps(boxes, boxes)
        for column, phrase in enumerate(texts):
            kind = " and ".join(word for word in ("colour", "shape") if getattr(phrase, word)) or "unknown"
            if kind == "unknown" and phrase.known:  # "a toy", which is everything
                continue
            asked += not phrase.known
            found, total = judge(things, phrase, scores[:, column], boxes, overlap, 0.05)
            rows[kind] += found
            totals[kind] += total
    loud = sum(score > threshold for score, _ in rows.pop("unknown"))
    result = {"pictures": count, "threshold": threshold, "false boxes per unknown word": round(loud / asked, 4)}
    for kind, found in rows.items():
        above = [right for score, right in found if score > threshold]
        result[kind] = {
            "AP50": round(average_precision(found, totals[kind]), 3),
            "precision": round(sum(above) / max(1, len(above)), 3),
            "recall": round(sum(above) / totals[kind], 3),
        }
    return result


def clip_frames():
    """Return the frames (RGB uint8) of the bundled clip and the true labels of its pixels uint8 [T,H,W]."""
    video = cv2.VideoCapture(str(SAMPLES / "clip.mp4"))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1][..., ::-1])
    return frames, np.load(SAMPLES / "clip_masks.npz")["labels"]


def on_clip(detector, every=1, threshold=THRESHOLD):
    """Return what is found on the bundled clip: together, as the likeliest of all words at each place, and alone.

    Returns:
        For "together" and "alone": per word that is there the frames in which it is visible, in which its box is
        found, and the boxes besides; per word that is not, the frames without a box.
    """
    frames, labels = clip_frames()
    frames, labels = frames[::every], labels[::every]
    words = CLIP_WORDS + ABSENT_WORDS
    scores, boxes = detector.detect(frames, words)
    boxes = boxes * max(labels.shape[1:])
    best = np.where(scores == scores.max(-1, keepdims=True), scores, 0)
    result = {"frames": len(frames), "threshold": threshold}
    for way, each in (("together", best), ("alone", scores)):
        present = {word: {"visible": 0, "found": 0, "besides": 0} for word in CLIP_WORDS}
        quiet = dict.fromkeys(ABSENT_WORDS, 0)
        for frame in range(len(frames)):
            overlap = overlaps(boxes[frame], boxes[frame])
            for column, word in enumerate(words):
                kept = strongest(each[frame, :, column], overlap, threshold)
                if word in quiet:
                    quiet[word] += not kept
                    continue
                ys, xs = np.nonzero(labels[frame] == column + 1)
                visible = len(xs) >= VISIBLE_PIXELS
                hit = False
                if visible:
                    truth = np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]])
                    hit = bool((overlaps(boxes[frame][kept], truth) >= 0.5).any())
                present[word]["visible"] += visible
                present[word]["found"] += hit
                present[word]["besides"] += len(kept) - hit
        result[way] = {"found": present, "frames without a box": quiet}
    return result


def measure(folder, pictures=96):
    """Return the metrics of a transformers directory."""
    detector = Detector(folder)
    return {
        "held out": held_out(detector, pictures),
        "samples/clip.mp4": on_clip(detector),
        "every tenth frame": on_clip(detector, every=10),
    }
