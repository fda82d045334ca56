"""Compare every graph with transformers' own SAM 2 modules, on frames, through ONNX Runtime.

The reference runs the unmodified modules, not the rewritten ones that were exported. Each graph gets the
reference's outputs of the graph before it, so that errors do not add up.

Where memories are pooled, the reference of the attention gets every pooled token as often as there are tokens in its
window; it knows nothing of the weight by which the graph lets one token stand for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.sam2_video.modeling_sam2_video import apply_rotary_pos_emb_2d

from sam2edge.bundle import Parity
from sam2edge.export.memory_encoder import NO_OBJECT_LOGIT

LIMIT = 1e-3
"""Largest relative error of an output with which a graph may leave the exporter."""

Arrays = dict[str, Tensor]


class Reference:
    """The four graphs' functions computed by transformers' modules (Sam2VideoModel), names as in the contract."""

    def __init__(self, model: Any, mean: tuple[float, ...], std: tuple[float, ...], pool: int = 1) -> None:
        self.model, self.pool = model, pool
        self.mean, self.std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
        self.grid: int = model.config.image_size // 16

    def image_encoder(self, image: Tensor) -> Arrays:
        """As image_encoder.onnx."""
        pixels = (image.permute(0, 3, 1, 2) / 255 - self.mean) / self.std
        levels = self.model.get_image_features(pixels, return_dict=True).fpn_hidden_states
        sides = (4 * self.grid, 2 * self.grid, self.grid)
        maps = [level.permute(1, 2, 0).unflatten(2, (side, side)) for level, side in zip(levels, sides, strict=True)]
        return dict(zip(("high_res_0", "high_res_1", "features"), maps, strict=True))

    def memory_attention(
        self, features: Tensor, memory: Tensor, memory_age: Tensor, pointers: Tensor, pointer_age: Tensor
    ) -> Arrays:
        """As memory_attention.onnx, one object after the other, with the filled slots only."""
        model, side = self.model, self.grid
        position = model.vision_encoder.neck.position_encoding(features.shape, "cpu", torch.float32)
        code = model.memory_encoder.position_encoding(torch.Size((1, model.mem_dim, side, side)), "cpu", torch.float32)
        code = self._spread(F.avg_pool2d(code, self.pool))
        conditioned = []
        for n in range(len(memory)):
            keys, codes = [], []
            for slot in range(memory.shape[1]):
                if (age := int(memory_age[n, slot])) >= 0:
                    windows = memory[n, slot].T.reshape(1, model.mem_dim, side // self.pool, side // self.pool)
                    keys.append(self._spread(windows).flatten(2).permute(2, 0, 1))
                    temporal = model.memory_temporal_positional_encoding[age - 1]
                    codes.append(code.flatten(2).permute(2, 0, 1) + temporal)
            filled = [k for k in range(pointers.shape[1]) if pointer_age[n, k] >= 0]
            tokens, token_codes = model._process_object_pointers(
                [int(pointer_age[n, k]) for k in filled],
                [pointers[n, k][None] for k in filled],
                model.config.max_object_pointers_in_encoder,
                1,
                model.hidden_dim,
                "cpu",
            )
            with self._keys_at_centres(len(tokens)):
                attended = model.memory_attention(
                    current_vision_features=features.flatten(2).permute(2, 0, 1),
                    current_vision_position_embeddings=position.flatten(2).permute(2, 0, 1),
                    memory=torch.cat([*keys, tokens]),
                    memory_posision_embeddings=torch.cat([*codes, token_codes]),
                    num_object_pointer_tokens=len(tokens),
                )
            conditioned.append(attended.reshape(side, side, -1).permute(2, 0, 1))
        return {"conditioned": torch.stack(conditioned)}

    def _spread(self, windows: Tensor) -> Tensor:
        """Every value pool×pool times: [1,D,h/pool,h/pool] → [1,D,h,h]."""
        return F.interpolate(windows, scale_factor=self.pool)

    def _keys_at_centres(self, pointer_tokens: int) -> ExitStack:
        """Context in which a memory's keys have the rotary position code of their window's centre.

        transformers turns each key by its own position; a hook turns it before that by what is left to the centre.
        """
        stack = ExitStack()
        if self.pool == 1:
            return stack
        attention = self.model.memory_attention
        places = attention.position_ids.T.reshape(1, 2, self.grid, self.grid).float()
        left = (self._spread(F.avg_pool2d(places, self.pool)) - places)[0].flatten(1).T
        rope = attention.rotary_emb(left, left)

        def turn(module: Any, inputs: Any, key: Tensor) -> Tensor:
            turned = apply_rotary_pos_emb_2d(key[..., : len(left), :], key, *rope, pointer_tokens, repeat_freqs_k=True)
            return turned[1]

        for layer in attention.layers:
            stack.enter_context(layer.cross_attn_image.k_proj.register_forward_hook(turn))
        return stack

    def mask_decoder(
        self,
        conditioned: Tensor,
        add_no_memory: Tensor,
        high_res_0: Tensor,
        high_res_1: Tensor,
        points: Tensor,
        labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        multimask: Tensor,
    ) -> Arrays:
        """As mask_decoder.onnx, one object after the other."""
        rows = []
        for n in range(len(conditioned)):
            image = conditioned[n : n + 1]
            if add_no_memory[n]:
                image = image + self.model.no_memory_embedding.reshape(1, -1, 1, 1)
            sparse, dense = self.model.prompt_encoder(
                input_points=points[n][None, None, :-1],  # the last point is the padding that it adds itself
                input_labels=labels[n][None, None, :-1],
                input_boxes=None,
                input_masks=mask_input[n : n + 1] if has_mask_input[n] else None,
            )
            rows.append(self._decode(image, [high_res_0, high_res_1], sparse, dense, bool(multimask[n])))
        names = ("mask", "iou", "masks", "ious", "pointer", "object_score")
        return {name: torch.cat(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}

    def _decode(
        self, image: Tensor, high_res: list[Tensor], sparse: Tensor, dense: Tensor, multimask: bool
    ) -> tuple[Tensor, ...]:
        """The decoder's six outputs for one object."""
        model = self.model
        inputs = {
            "image_embeddings": image,
            "image_positional_embeddings": model.get_image_wide_positional_embeddings(),
            "sparse_prompt_embeddings": sparse,
            "dense_prompt_embeddings": dense,
            "high_resolution_features": high_res,
        }
        masks, ious, tokens, score = (x[:, 0] for x in model.mask_decoder(**inputs, multimask_output=True))
        if multimask:
            best = int(ious[0].argmax())
            mask, iou, token = masks[:, best : best + 1], ious[:, best : best + 1], tokens[:, best]
        else:
            mask, iou, token, _ = (x[:, 0] for x in model.mask_decoder(**inputs, multimask_output=False))
            token = token[:, 0]
        pointer = model.object_pointer_proj(token) if score > 0 else model.no_object_pointer
        return mask, iou, masks, ious, pointer, score

    def memory_encoder(self, features: Tensor, mask: Tensor, object_score: Tensor, binarize: Tensor) -> Arrays:
        """As memory_encoder.onnx."""
        model, n, size = self.model, len(mask), self.model.config.image_size
        present = (object_score > 0)[:, :, None, None]
        mask = torch.where(present, mask, NO_OBJECT_LOGIT)
        mask = F.interpolate(mask, size=(size, size), mode="bilinear", align_corners=False)
        soft = torch.where(binarize[:, None, None, None], (mask > 0).float(), torch.sigmoid(mask))
        soft = soft * model.config.sigmoid_scale_for_mem_enc + model.config.sigmoid_bias_for_mem_enc
        memory, _ = model.memory_encoder(features.expand(n, -1, -1, -1), soft)
        if model.occlusion_spatial_embedding_parameter is not None:
            memory = memory + (~present) * model.occlusion_spatial_embedding_parameter[..., None, None]
        memory = F.avg_pool2d(memory, self.pool)
        return {"memory": memory.flatten(2).transpose(1, 2)}


def scenario(reference: Reference, frames: npt.NDArray[np.uint8]) -> Iterator[tuple[str, Arrays, Arrays]]:
    """Graph name, inputs and the reference's outputs of each of the four graphs.

    frames: uint8 [2,S,S,3]. Three objects with every kind of prompt are decoded on the first frame, one of them
    is said to be absent, two are conditioned on the second frame with differently filled memories.
    """
    size = float(reference.model.config.image_size)
    image = {"image": torch.from_numpy(frames)}
    encoded = reference.image_encoder(**image)
    yield "image_encoder", image, encoded

    first = {name: level[:1] for name, level in encoded.items()}
    points = torch.tensor(
        [[[0.5, 0.5], [0, 0], [0, 0]], [[0.2, 0.3], [0.7, 0.8], [0, 0]], [[0.4, 0.6], [0.1, 0.1], [0, 0]]]
    )
    prompts = {
        "conditioned": first["features"].repeat(3, 1, 1, 1),
        "add_no_memory": torch.tensor([True, True, False]),
        "high_res_0": first["high_res_0"],
        "high_res_1": first["high_res_1"],
        "points": points * size,
        "labels": torch.tensor([[1, -1, -1], [2, 3, -1], [1, 0, -1]], dtype=torch.int32),
        "mask_input": 10 * torch.cos(torch.arange(size / 4) / 9).expand(3, 1, int(size / 4), -1).contiguous(),
        "has_mask_input": torch.tensor([False, False, True]),
        "multimask": torch.tensor([True, False, False]),
    }
    decoded = reference.mask_decoder(**prompts)
    yield "mask_decoder", prompts, decoded

    remembered = {
        "features": first["features"],
        "mask": decoded["mask"],
        "object_score": torch.tensor([[3.0], [3.0], [-3.0]]),
        "binarize": torch.tensor([True, False, False]),
    }
    memory = reference.memory_encoder(**remembered)
    yield "memory_encoder", remembered, memory

    past = {
        "features": encoded["features"][1:],
        "memory": memory["memory"][torch.tensor([[0, 1], [1, 2]])],
        "memory_age": torch.tensor([[0, -1], [1, 0]], dtype=torch.int32),
        "pointers": decoded["pointer"][torch.tensor([[0, 1, 2], [1, 2, 0]])],
        "pointer_age": torch.tensor([[1, -1, 2], [40, 1, 15]], dtype=torch.int32),
    }
    yield "memory_attention", past, reference.memory_attention(**past)


@torch.inference_mode()
def compare(
    reference: Reference,
    frames: npt.NDArray[np.uint8],
    file_of: Callable[[str], Path],
    done: Callable[[str], None] = lambda graph: None,
) -> dict[str, dict[str, Parity]]:
    """Errors of every output of every graph; `done` is called after each graph."""
    errors = {}
    for graph, inputs, expected in scenario(reference, frames):
        outputs = _run(file_of(graph), inputs)
        errors[graph] = {name: _difference(outputs[name], expected[name].numpy()) for name in expected}
        done(graph)
    return errors


def _run(file: Path, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False  # one run: an arena would only keep the largest scores
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {k: v.numpy() for k, v in inputs.items()}), strict=True))


def _difference(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> Parity:
    worst = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
    if not np.isfinite(found).all():
        worst = float("inf")
    return Parity(worst, worst / max(float(np.abs(expected).max()), 1e-6))
