"""The mask-decoder graph: prompt encoder, two-way transformer and mask heads (SAM 2 section 4, sam/mask_decoder.py)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sam2edge.export.rewrites import attend, frozen, join_heads, reshape, scaled, split_heads


class MaskDecoder(nn.Module):
    """Prompts and conditioned features of N objects → masks, predicted IoUs, object pointer, object score.

    Points are pixels of the S×S image; labels: 1 object, 0 background, 2 and 3 the corners of a box, -1 no point.
    `add_no_memory` marks features that saw no memory: those of an image, and of an object's first frame. Masks are raw
    logits. Only the pointer depends on the object score: where that is ≤ 0, it is the no-object pointer.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        decoder = model.mask_decoder
        self.channels, self.grid = model.hidden_dim, model.config.image_size // 16
        self.no_memory = frozen(model.no_memory_embedding.reshape(1, -1, 1, 1))
        self.prompts = PointEncoder(model)
        self.mask_embed = model.prompt_encoder.mask_embed
        self.no_mask = frozen(model.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1))
        tokens = [decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight]
        self.tokens = frozen(torch.cat(tokens)[None])
        position = model.get_image_wide_positional_embeddings()
        self.position = frozen(position.flatten(2).transpose(1, 2))
        self.layers = nn.ModuleList(TwoWayLayer(layer) for layer in decoder.transformer.layers)
        self.final_attention = Attention(decoder.transformer.final_attn_token_to_image)
        self.final_norm = decoder.transformer.layer_norm_final_attn
        self.upscale1, self.upscale2 = decoder.upscale_conv1, decoder.upscale_conv2
        self.upscale_norm, self.activation = decoder.upscale_layer_norm, decoder.activation
        self.hypernetworks, self.iou_head = decoder.output_hypernetworks_mlps, decoder.iou_prediction_head
        self.score_head = decoder.pred_obj_score_head
        self.pointer_head, self.no_pointer = model.object_pointer_proj, frozen(model.no_object_pointer)
        self.stability = Stability(decoder)

    def forward(
        self, conditioned: Tensor, add_no_memory: Tensor, *others: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return mask [N,1,4h,4h], iou [N,1], masks [N,3,4h,4h], ious [N,3], pointer [N,C], object_score [N,1].

        others: the graph's inputs from high_res_0 and high_res_1, which not every model has, to multimask.
        """
        *high_res, points, labels, mask_input, has_mask_input, multimask = others
        image = conditioned + _choose(add_no_memory, self.no_memory, 0.0)
        image = image + _choose(has_mask_input, self.mask_embed(mask_input), self.no_mask)
        image = reshape(image, 0, 0, -1).transpose(1, 2)
        sparse = self.prompts(points, labels)
        # where() repeats the tokens for every object; expand() would compute a shape in the graph
        own = torch.where(reshape(multimask, -1, 1, 1), self.tokens, self.tokens)
        tokens = torch.cat([own, sparse], dim=1)

        queries, keys = tokens, image
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, self.position)
        attended = self.final_attention(queries + tokens, keys + self.position, keys)
        queries = self.final_norm(queries + attended)

        mask_tokens = queries[:, 2:6]
        masks = self._masks(mask_tokens, keys, high_res)
        ious = self.iou_head(queries[:, 1])
        object_score = self.score_head(queries[:, 0])

        best = ious[:, 1:].argmax(dim=1) + 1
        token_index = torch.where(multimask, best, 0)
        mask_index = torch.where(self.stability(masks[:, 0]), token_index, best)
        pointer = self.pointer_head(_pick(mask_tokens, token_index)[:, 0])
        pointer = torch.where(object_score > 0, pointer, self.no_pointer)
        mask, iou = _pick(masks, mask_index), _pick(ious, mask_index)
        return mask, iou, masks[:, 1:], ious[:, 1:], pointer, object_score

    def _masks(self, tokens: Tensor, image: Tensor, high_res: list[Tensor]) -> Tensor:
        """Return the logits of all four masks, [N,4,4h,4h]. high_res: two maps, the finest first, or none."""
        x = reshape(image.transpose(1, 2), -1, self.channels, self.grid, self.grid)
        x = self.activation(self.upscale_norm(sum(high_res[1:], self.upscale1(x))))
        x = self.activation(sum(high_res[:1], self.upscale2(x)))
        weights = torch.stack([mlp(tokens[:, i]) for i, mlp in enumerate(self.hypernetworks)], dim=1)
        return reshape(weights @ reshape(x, 0, 0, -1), 0, -1, 4 * self.grid, 4 * self.grid)


class Stability(nn.Module):
    """Whether the single mask keeps its area when its threshold moves; if not, the best of three replaces it.

    It is a module of its own so that engines can keep its nodes in FP32 by their names: areas exceed 65504.
    """

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.delta = float(decoder.dynamic_multimask_stability_delta)
        fallback = decoder.dynamic_multimask_via_stability
        self.threshold = float(decoder.dynamic_multimask_stability_thresh) if fallback else -1.0

    def forward(self, mask: Tensor) -> Tensor:
        """Judge logits [N,4h,4h] → bool [N]."""
        inner = (mask > self.delta).float().sum(dim=(1, 2))
        outer = (mask > -self.delta).float().sum(dim=(1, 2))
        stability = torch.where(outer > 0, inner / outer, 1.0)
        return stability >= self.threshold


class PointEncoder(nn.Module):
    """Points [N,P,2] and labels [N,P] → tokens [N,P,C]: a random Fourier code plus the label's embedding."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        encoder = model.prompt_encoder
        self.scale = 2.0 / model.config.image_size
        self.frequencies = frozen(2 * math.pi * encoder.shared_embedding.positional_embedding)
        self.label_embed = frozen(torch.cat([encoder.not_a_point_embed.weight, encoder.point_embed.weight]))

    def forward(self, points: Tensor, labels: Tensor) -> Tensor:
        """Encode points at pixel centres."""
        phase = ((points + 0.5) * self.scale - 1.0) @ self.frequencies
        code = torch.cat([phase.sin(), phase.cos()], dim=-1)
        is_point = (labels >= 0).float().unsqueeze(-1)
        return code * is_point + self.label_embed[(labels + 1).long()]


class TwoWayLayer(nn.Module):
    """Tokens attend to themselves and to the image, the image to the tokens (sam/transformer.py)."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.self_attention = Attention(layer.self_attn)
        self.to_image = Attention(layer.cross_attn_token_to_image)
        self.to_tokens = Attention(layer.cross_attn_image_to_token)
        self.norm1, self.norm2 = layer.layer_norm1, layer.layer_norm2
        self.norm3, self.norm4 = layer.layer_norm3, layer.layer_norm4
        self.mlp, self.first = layer.mlp, layer.skip_first_layer_pe

    def forward(self, queries: Tensor, keys: Tensor, tokens: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Update queries [N,L,C] and keys [N,hh,C], given tokens [N,L,C] and position [1,hh,C]."""
        if self.first:
            queries = self.norm1(self.self_attention(queries, queries, queries))
        else:
            query = queries + tokens
            queries = self.norm1(queries + self.self_attention(query, query, queries))
        placed = keys + position
        queries = self.norm2(queries + self.to_image(queries + tokens, placed, keys))
        queries = self.norm3(queries + self.mlp(queries))
        keys = self.norm4(keys + self.to_tokens(placed, queries + tokens, queries))
        return queries, keys


class Attention(nn.Module):
    """Multi-head attention over [N,L,C] with its scale in the query projection."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads: int = attention.num_attention_heads
        self.query = scaled(attention.q_proj, slice(None), attention.scaling)
        self.key, self.value, self.output = attention.k_proj, attention.v_proj, attention.o_proj

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend from query [N,Q,C] to key and value [N,K,C]."""
        projected = (self.query(query), self.key(key), self.value(value))
        return self.output(join_heads(attend(*(split_heads(x, self.heads) for x in projected))))


def _choose(flag: Tensor, yes: Tensor, no: Tensor | float) -> Tensor:
    """Choose for each object: `yes` where flag [N] is set, `no` elsewhere."""
    return torch.where(reshape(flag, -1, 1, 1, 1), yes, no)


def _pick(x: Tensor, index: Tensor) -> Tensor:
    """Pick x [N,4,...] → [N,1,...] at index [N], by selections: they fuse with their neighbours, a gather does not."""
    index = reshape(index, -1, *(1 for _ in x.shape[1:]))
    chosen = x[:, :1]
    for i in range(1, 4):
        chosen = torch.where(index == i, x[:, i : i + 1], chosen)
    return chosen
