"""The masks of one image with what is known of each: of everything, of what prompts mark, of what words name."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from sam2edge.runtime.image.mask_generator import AutomaticMaskGenerator
from sam2edge.runtime.image.predictor import ImagePredictor
from sam2edge.runtime.media import rle
from sam2edge.runtime.media.packed import PackedMask
from sam2edge.runtime.model.logits import stability_score
from sam2edge.runtime.model.prompts import EncodedPrompt, Prompt
from sam2edge.runtime.words.detector import WordDetector
from sam2edge.runtime.words.words import Words
from sam2edge.types import Floats, Frame


@dataclass(frozen=True, eq=False)
class Segment:
    """A mask of one image.

    Attributes:
        object_id: From 1.
        mask: The mask.
        predicted_iou: The model's estimate of its IoU.
        stability_score: See `stability_score`.
        logits: Float32 [h,w], those of the mask's bounding box; None where everything was looked for.
        word: The word that found it, "" if none did.
        score: The detection's; None if no word found it.
    """

    object_id: int
    mask: PackedMask
    predicted_iou: float
    stability_score: float
    logits: Floats | None = None
    word: str = ""
    score: float | None = None

    def record(self) -> dict[str, Any]:
        """Return what the JSON says of it; the box is COCO's: x, y, width, height."""
        return {
            "id": self.object_id,
            "segmentation": rle.encode(self.mask),
            "area": self.mask.area,
            "bbox": list(self.mask.bounds),
            "predicted_iou": round(self.predicted_iou, 6),
            "stability_score": round(self.stability_score, 6),
            **({} if self.score is None else {"word": self.word, "score": round(self.score, 6)}),
        }


def find_everything(generator: AutomaticMaskGenerator, image: Frame) -> list[Segment]:
    """Find everything in an image, RGB uint8 [H,W,3]; the best mask is object 1."""
    return [
        Segment(number, candidate.mask, candidate.iou, candidate.stability)
        for number, candidate in enumerate(generator.find(image), 1)
    ]


def segment_words(
    predictor: ImagePredictor, detector: WordDetector, words: Words, score: float, image: Frame, first_id: int = 1
) -> list[Segment]:
    """Segment what words find in the predictor's image, RGB uint8 [H,W,3], the best detection first.

    Args:
        predictor: Has the image.
        detector: Of the same bundle.
        words: What to look for.
        score: What a box must score.
        image: The image.
        first_id: The id of the first object.
    """
    found = detector.detect(image, words, threshold=score)
    segments = []
    for object_id, box, box_score, word in zip(itertools.count(first_id), found.boxes, found.scores, found.words):
        segment = segment_prompt(predictor, object_id, Prompt(box=box), image)
        segments.append(dataclasses.replace(segment, word=word, score=float(box_score)))
    return segments


def segment_prompt(predictor: ImagePredictor, object_id: int, prompt: Prompt, image: Frame) -> Segment:
    """Segment a prompt on the predictor's image, RGB uint8 [H,W,3]; a single click takes the best of three masks.

    Raises PromptError for a prompt that is invalid there.
    """
    with prompt.naming():
        mask = None
        if prompt.mask is not None:
            mask = EncodedPrompt.of_mask(prompt.mask, image.shape[:2], predictor.model).logits
        is_click = prompt.points is not None and np.size(prompt.points) == 2 and prompt.box is None and mask is None
        logits, ious, _ = predictor.predict(
            point_coords=prompt.points,
            point_labels=prompt.labels,
            box=prompt.box,
            mask_input=mask,
            multimask_output=is_click,
            return_logits=True,
        )
    best = int(ious.argmax())
    packed = PackedMask.pack(logits[best] > 0)
    inside = logits[best][packed.place].copy()  # not a view, which would keep the whole image's
    return Segment(object_id, packed, float(ious[best]), float(stability_score(logits[best])), inside)
