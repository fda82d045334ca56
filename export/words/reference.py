"""transformers' unmodified modules as the reference for both graphs of a word detector."""

from __future__ import annotations

import torch
from torch import Tensor

from sam2edge.export.reference import Arrays
from sam2edge.export.words.source import WordsSource


def reference_queries(source: WordsSource, ids: Tensor) -> Arrays:
    """Compute the output of text_encoder.onnx."""
    base, numbers = source.model.base_model, source.numbers
    mask = (ids == numbers.end_token).int().cumsum(1).roll(1, 1) == 0  # all up to and with the end
    mask[:, 0] = True
    features = base.text_projection(base.text_model(ids.long(), attention_mask=mask.long()).pooler_output)
    return {"queries": features / torch.linalg.norm(features, ord=2, dim=-1, keepdim=True)}


def reference_detections(source: WordsSource, image: Tensor, queries: Tensor) -> Arrays:
    """Compute the outputs of detector.onnx; the text encoder is not needed."""
    model = source.model
    mean, std = (torch.tensor(colour)[:, None, None] for colour in (source.mean, source.std))
    pixels = (image.permute(0, 3, 1, 2) / 255 - mean) / std
    grid = model.image_embedder(pixels, interpolate_pos_encoding=True)[0]
    features = grid.flatten(1, 2)
    logits, embeddings = model.class_predictor(features, queries.expand(len(image), -1, -1))
    centre, size = model.box_predictor(features, grid, interpolate_pos_encoding=True).split(2, dim=-1)
    outputs = {"boxes": torch.cat([centre - size / 2, centre + size / 2], dim=-1), "logits": logits}
    if source.numbers.objectness:
        outputs["objectness"] = model.objectness_predictor(features)
    return {**outputs, "embeddings": embeddings}
