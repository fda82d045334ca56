"""What SAM 2 does with the objects of one frame: find them, prompt them, remember them.

The rules are those of the upstream video predictor (sam2_video_predictor.py, sam2_base.py); docs/architecture.md lists
them. Which memories an object has is not known here: the tracker and the video predictor keep them in their own ways.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sam2edge.bundle import Model
from sam2edge.runtime.backends.base import AnyArray, Array
from sam2edge.runtime.model.embedding import Embedding
from sam2edge.runtime.model.graphs import Graphs
from sam2edge.runtime.model.logits import ABSENT_LOGIT, LOGIT_LIMIT
from sam2edge.runtime.model.prompts import MASK_LOGIT, EncodedPrompt

_KEPT = ("mask", "iou", "object_score", "pointer")
"""Outputs of the mask decoder that are kept of an object."""


@dataclass
class Objects:
    """What is known of N objects on one frame; one row an object."""

    conditioned: AnyArray  # [N,C,h,h] on the host or the device
    first: Array  # bool [N]: the object joined on this frame, so `conditioned` saw no memory
    prompted: Array  # bool [N]
    logits: Array  # [N,1,4h,4h] raw
    ious: Array  # [N,1]
    scores: Array  # [N,1]
    pointers: Any  # [N,C] on the host or the device

    def row(self, row: int) -> Objects:
        """One row, which is a view."""
        return Objects(**{name: values[row : row + 1] for name, values in vars(self).items()})

    @property
    def shown(self) -> Array:
        """Logits [N,1,4h,4h] with -1024 where the object's score says that it is absent; a new array."""
        shown: Array = self.logits.copy()  # np.where takes several times as long
        shown[~(self.scores[:, 0] > 0)] = ABSENT_LOGIT
        return shown


class MemoryLoop:
    """The steps on one frame, each a run of one graph or two for all objects that it is given."""

    def __init__(self, graphs: Graphs) -> None:
        self._graphs, self._model = graphs, graphs.model

    def find(self, embedding: Embedding, memories: Mapping[str, Array]) -> Objects:
        """Find N ≥ 1 objects by what they remember: the memory-attention graph's inputs but `features`."""
        conditioned = self.condition(embedding, memories)
        untouched = without_prompts(self._model, conditioned.shape[0])
        decoded = self._graphs.run(
            "mask_decoder",
            conditioned=conditioned,
            high_res_0=embedding.high_res_0,
            high_res_1=embedding.high_res_1,
            **untouched,
        )
        return self._rows(decoded, conditioned, untouched["add_no_memory"], prompted=False)

    def condition(self, embedding: Embedding, memories: Mapping[str, AnyArray]) -> Array:
        """Features that attended to what N ≥ 1 objects remember, float32 [N,C,h,h]; memories as for `find`."""
        return self._graphs.run("memory_attention", features=embedding.features, **memories)["conditioned"]

    def prompt(self, embedding: Embedding, known: Objects | None, prompt: EncodedPrompt) -> Objects:
        """Prompt one object. known: its row on this frame, None if the object is new."""
        first = np.ones(1, bool) if known is None else known.first
        features = conditioned = embedding.features if known is None else known.conditioned
        if prompt.logits is None:
            previous = None if known is None else np.clip(known.shown, -LOGIT_LIMIT, LOGIT_LIMIT)
            prompt = dataclasses.replace(prompt, mask_input=previous)
            add_no_memory, several = first, _multimask(self._model, prompt.points.shape[1] - 1, bool(first[0]))
        else:  # a mask is itself the output; only its pointer comes from the decoder, on features without memory
            features, add_no_memory, several = embedding.features, np.zeros(1, bool), False
        decoded = self._graphs.decode(embedding, features, prompt, add_no_memory, several, _KEPT)
        if prompt.logits is not None:
            certain = {"iou": np.ones((1, 1), np.float32), "object_score": np.full((1, 1), MASK_LOGIT, np.float32)}
            decoded = {**decoded, "mask": prompt.logits, **certain}
        return self._rows(decoded, conditioned, first, prompted=True)

    def remember(self, embedding: Embedding, logits: Array, scores: Array, prompted: Array) -> Array:
        """The memories of N objects on the frame, float32 [N,L,M], from these rows of `Objects`."""
        return self._graphs.run(
            "memory_encoder", features=embedding.features, mask=logits, object_score=scores, binarize=prompted
        )["memory"]

    @staticmethod
    def _rows(decoded: Mapping[str, Array], conditioned: AnyArray, first: Array, *, prompted: bool) -> Objects:
        return Objects(
            conditioned=conditioned,
            first=first,
            prompted=np.full(conditioned.shape[0], prompted),
            logits=decoded["mask"],
            ious=decoded["iou"],
            scores=decoded["object_score"],
            pointers=decoded["pointer"],
        )


def without_prompts(model: Model, n: int) -> dict[str, Array]:
    """Inputs of the mask decoder that are the same for all frames on which N objects are only tracked."""
    return EncodedPrompt.none(n).inputs(model, np.zeros(n, bool), _multimask(model, 0))


def _multimask(model: Model, points: int, first: bool = False) -> bool:
    """Whether the best of three masks is taken, for so many points (sam2_base.py, _use_multimask)."""
    in_range = model.multimask_min_points <= points <= model.multimask_max_points
    return in_range and (first or model.multimask_for_tracking)
