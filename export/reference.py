"""PyTorch as the reference: unmodified modules of transformers, graph by graph and as a whole video predictor.

What transformers lacks is in source/efficienttam.py.

Where memories are pooled, the reference of the attention gets every pooled token as often as there are tokens in its
window. It does not know the weight by which the graph lets one token stand for them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import EdgeTamVideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession, apply_rotary_pos_emb_2d

from sam2edge.bundle import Bundle
from sam2edge.errors import BackendError, InputError
from sam2edge.export.memory_encoder import NO_OBJECT_LOGIT
from sam2edge.export.source import IMAGENET, Source, load_source
from sam2edge.runtime.backends.base import Array, Backend, GraphRunner
from sam2edge.types import Bools, Frame

Arrays = dict[str, Tensor]
Colour = Sequence[float]

_PARTS = ("vision_encoder", "memory_attention", "mask_decoder", "memory_encoder")


class Reference:
    """The functions of the four graphs, named as in the contract, by the modules of a Sam2VideoModel."""

    def __init__(self, model: Any, mean: tuple[float, ...], std: tuple[float, ...], pool: int = 1) -> None:
        self.model, self.pool = model, pool
        self.mean, self.std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
        self.grid: int = model.config.image_size // 16

    def image_encoder(self, image: Tensor) -> Arrays:
        """Compute the outputs of image_encoder.onnx."""
        pixels = (image.permute(0, 3, 1, 2) / 255 - self.mean) / self.std
        levels = self.model.get_image_features(pixels, return_dict=True).fpn_hidden_states
        sides = {"high_res_0": 4 * self.grid, "high_res_1": 2 * self.grid, "features": self.grid}
        maps = zip(sides.items(), levels, strict=True)
        return {
            name: level.permute(1, 2, 0).unflatten(2, (side, side))
            for (name, side), level in maps
            if len(level) == side**2  # not the zeros in place of maps that a model does not have
        }

    def memory_attention(
        self, features: Tensor, memory: Tensor, memory_age: Tensor, pointers: Tensor, pointer_age: Tensor
    ) -> Arrays:
        """Compute the output of memory_attention.onnx, object by object, from the filled slots only."""
        model, side = self.model, self.grid
        position = model.vision_encoder.neck.position_encoding(features.shape, "cpu", torch.float32)
        code = self._memory_code()
        conditioned = []
        for n in range(len(memory)):
            keys, codes = [], []
            for slot in range(memory.shape[1]):
                if (age := int(memory_age[n, slot])) >= 0:
                    keys.append(self._memory_tokens(memory[n, slot]))
                    codes.append(code + model.memory_temporal_positional_encoding[age - 1])
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
                    **self._memory_count(len(keys)),
                )
            conditioned.append(attended.reshape(side, side, -1).permute(2, 0, 1))
        return {"conditioned": torch.stack(conditioned)}

    def _memory_code(self) -> Tensor:
        """Return the position codes of a memory's tokens, [tokens,1,M]."""
        shape = torch.Size((1, self.model.mem_dim, self.grid, self.grid))
        code = self.model.memory_encoder.position_encoding(shape, "cpu", torch.float32)
        return self._spread(F.avg_pool2d(code, self.pool)).flatten(2).permute(2, 0, 1)

    def _memory_tokens(self, memory: Tensor) -> Tensor:
        """Return what the model attends to in place of a memory [L,M]: [tokens,1,M]."""
        side = self.grid // self.pool
        return self._spread(memory.T.reshape(1, -1, side, side)).flatten(2).permute(2, 0, 1)

    def _memory_count(self, memories: int) -> dict[str, int]:
        """Return the argument by which the model learns the number of memories, if it has one."""
        return {}

    def _spread(self, windows: Tensor) -> Tensor:
        """Repeat every value pool×pool times: [1,D,h/pool,h/pool] → [1,D,h,h]."""
        return F.interpolate(windows, scale_factor=self.pool)

    def _keys_at_centres(self, pointer_tokens: int) -> ExitStack:
        """Return a context in which a memory's keys have the rotary position code of their window's centre.

        transformers rotates each key by its own position; before that, a hook rotates it by its distance to the
        centre.
        """
        stack = ExitStack()
        if self.pool == 1:
            return stack
        attention = self.model.memory_attention
        places = attention.position_ids.T.reshape(1, 2, self.grid, self.grid).float()
        offsets = (self._spread(F.avg_pool2d(places, self.pool)) - places)[0].flatten(1).T
        rope = attention.rotary_emb(offsets, offsets)

        def rotate(module: Any, inputs: Any, key: Tensor) -> Tensor:
            query = key[..., : len(offsets), :]  # transformers rotates queries and keys together
            return apply_rotary_pos_emb_2d(query, key, *rope, pointer_tokens, repeat_freqs_k=True)[1]

        for layer in attention.layers:
            stack.enter_context(layer.cross_attn_image.k_proj.register_forward_hook(rotate))
        return stack

    def mask_decoder(self, **inputs: Tensor) -> Arrays:
        """Compute the outputs of mask_decoder.onnx, object by object."""
        high_res = [inputs.pop(name, torch.zeros(1, 1, 1, 1)) for name in ("high_res_0", "high_res_1")]
        rows = []
        for n in range(len(inputs["conditioned"])):
            own = {name: values[n : n + 1] for name, values in inputs.items()}
            image = own["conditioned"]
            if own["add_no_memory"]:
                image = image + self.model.no_memory_embedding.reshape(1, -1, 1, 1)
            sparse, dense = self.model.prompt_encoder(
                input_points=own["points"][:, None, :-1],  # the last point is padding, which the encoder adds itself
                input_labels=own["labels"][:, None, :-1],
                input_boxes=None,
                input_masks=own["mask_input"] if own["has_mask_input"] else None,
            )
            rows.append(self._decode(image, high_res, sparse, dense, bool(own["multimask"])))
        names = ("mask", "iou", "masks", "ious", "pointer", "object_score")
        return {name: torch.cat(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}

    def _decode(
        self, image: Tensor, high_res: list[Tensor], sparse: Tensor, dense: Tensor, multimask: bool
    ) -> tuple[Tensor, ...]:
        """Return the decoder's six outputs for one object."""
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
        """Compute the output of memory_encoder.onnx."""
        model, n, size = self.model, len(mask), self.model.config.image_size
        present = (object_score > 0)[:, :, None, None]
        mask = torch.where(present, mask, NO_OBJECT_LOGIT)
        mask = F.interpolate(mask, size=(size, size), mode="bilinear", align_corners=False)
        soft = torch.where(binarize[:, None, None, None], (mask > 0).float(), torch.sigmoid(mask))
        soft = soft * model.config.sigmoid_scale_for_mem_enc + model.config.sigmoid_bias_for_mem_enc
        memory, _ = model.memory_encoder(features.expand(n, -1, -1, -1), soft)
        if model.occlusion_spatial_embedding_parameter is not None:
            memory = memory + (~present) * model.occlusion_spatial_embedding_parameter[..., None, None]
        return {"memory": self._memory(memory)}

    def _memory(self, memory: Tensor) -> Tensor:
        """Return the tokens [N,L,M] that are kept of memories [N,M,h,h]."""
        return F.avg_pool2d(memory, self.pool).flatten(2).transpose(1, 2)


class EdgeTamReference(Reference):
    """The same by the modules of an EdgeTamVideoModel, whose memories are a perceiver's latents."""

    def _memory_code(self) -> Tensor:
        perceiver = self.model.spatial_perceiver
        nothing = torch.zeros(1, self.model.mem_dim, self.grid, self.grid)
        return perceiver(nothing, nothing)[1].transpose(0, 1)

    def _memory_tokens(self, memory: Tensor) -> Tensor:
        return memory[:, None]

    def _memory_count(self, memories: int) -> dict[str, int]:
        return {"num_spatial_memory_tokens": memories}

    def _memory(self, memory: Tensor) -> Tensor:
        code = self.model.memory_encoder.position_encoding(memory[:1].shape, "cpu", torch.float32)
        # the perceiver takes one memory at a time, as the authors' does
        return torch.cat([self.model.spatial_perceiver(one[None], code)[0] for one in memory])


def reference_of(source: Source, pool: int = 1) -> Reference:
    """Return the reference for a model."""
    kind = EdgeTamReference if isinstance(source.model, EdgeTamVideoModel) else Reference
    return kind(source.model, source.mean, source.std, pool)


class TorchBackend(Backend):
    """PyTorch on the CPU in place of the graphs of a bundle that was exported from `source`, under the same tracker.

    Graph files are not read; their names select the function. Raises SourceError, and InputError for other weights.
    """

    def __init__(self, bundle: Bundle, source: str | os.PathLike[str]) -> None:
        loaded = load_source(source, image_size=bundle.model.image_size, variant=bundle.manifest.source.variant or None)
        origin = bundle.manifest.source
        if loaded.sha256 != origin.sha256:
            raise InputError(
                f"{source}: is not what {bundle.path} was exported from ({origin.name}, sha256 {origin.sha256[:12]}…): "
                f"its weights have sha256 {loaded.sha256[:12]}…; give that checkpoint or export this one"
            )
        self._reference = reference_of(loaded, bundle.model.memory_pool)
        self._names = {bundle.graph_path(name): name for name in bundle.manifest.graphs}

    def open(self, graph: Path) -> GraphRunner:
        """Return a runner of the function that a graph file of the bundle holds."""
        if graph not in self._names:
            raise BackendError(f"{graph}: is not a graph of the bundle that PyTorch stands in for")
        return _TorchRunner(self._reference, self._names[graph])


class _TorchRunner(GraphRunner):
    def __init__(self, reference: Reference, graph: str) -> None:
        self._run = getattr(reference, graph)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()}
        with torch.inference_mode():
            outputs = self._run(**tensors)
        return {name: output.contiguous().numpy() for name, output in outputs.items()}


def preprocess(frames: Frame, side: int, device: str = "cpu", normal: tuple[Colour, Colour] = IMAGENET) -> Tensor:
    """Resize and normalise frames uint8 [T,H,W,3] as SAM 2's image processor does: float32 [T,3,side,side].

    `normal` is the mean and standard deviation of the colours, in 0…1.
    """
    mean, std = torch.tensor(normal, device=device)[..., None, None]
    pixels = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).contiguous()
    if device != "cpu":
        pixels = pixels.float()  # CUDA has no antialiasing for uint8
    pixels = F.interpolate(pixels, (side, side), mode="bilinear", antialias=True).round()
    return (pixels / 255 - mean) / std


class TorchVideo:
    """transformers' video predictor on a stream of frames: on CUDA in bfloat16, as upstream runs, or on the CPU.

    mode "compile" puts the model's four parts through torch.compile; "eager" does not.
    """

    def __init__(self, source: str, mode: str, image_size: int | None = None) -> None:
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded = load_source(source, image_size=image_size)
        self._model, self._normal = loaded.model.float().eval().to(self._device), (loaded.mean, loaded.std)
        for part in _PARTS if mode == "compile" else ():
            compiled = torch.compile(getattr(self._model, part), mode="max-autotune-no-cudagraphs")
            setattr(self._model, part, compiled)
        self._side = self._model.config.image_size
        places = dict.fromkeys(("inference_device", "inference_state_device", "video_storage_device"), self._device)
        size = {"video_height": self._side, "video_width": self._side}
        self._session = Sam2VideoInferenceSession(**size, dtype=torch.float32, **places)

    def track(self, frame: Frame, boxes: npt.ArrayLike = ()) -> Bools:
        """Return the masks, bool [N,H,W], of the next frame, RGB uint8 [H,W,3].

        `boxes`, [N,4] in pixels, introduce the objects on the first frame.
        """
        height, width = frame.shape[:2]
        session, device = self._session, self._device
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            (pixels,) = preprocess(frame[None], self._side, device, self._normal)
            for object_id, box in enumerate(np.asarray(boxes, np.float64).reshape(-1, 2, 2)):
                corners = torch.tensor(box * self._side / (width, height)).float()[None, None]
                labels = torch.tensor([[[2, 3]]], dtype=torch.int32)
                points = {"point_coords": corners.to(device), "point_labels": labels.to(device)}
                session.add_point_inputs(session.obj_id_to_idx(object_id), 0, points)
                session.obj_with_new_inputs.append(object_id)
            logits: Any = self._model(session, frame=pixels).pred_masks.float()
            masks: Bools = (F.interpolate(logits, (height, width), mode="bilinear") > 0)[:, 0].cpu().numpy()
            return masks
