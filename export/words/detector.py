"""The graph that looks for queries in images: a plain ViT, and heads that turn each of its patches into a box."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sam2edge.export.rewrites import frozen, reshape
from sam2edge.export.words.source import WordsSource
from sam2edge.export.words.transformer import Block, Unit


class Detector(nn.Module):
    """image float32 [B,S,S,3] in 0…255, queries [Q,D] → boxes [B,P,4], logits [B,P,Q], (objectness [B,P],) embeddings.

    At another size than the model's own, position codes and the places of boxes are upstream's for that size
    (`interpolate_pos_encoding`), as constants.
    """

    def __init__(self, source: WordsSource) -> None:
        super().__init__()
        model, numbers = source.model, source.numbers
        vision = model.base_model.vision_model
        embeddings, size, side = vision.embeddings, numbers.image_size, numbers.image_size // numbers.patch
        self.mean = frozen(torch.tensor(source.mean).mul(255)[:, None, None])
        self.patches = _patches(embeddings.patch_embedding, source.std)
        like = torch.empty(1, side**2 + 1, embeddings.embed_dim, device="meta")  # upstream reads its shape only
        position = embeddings.interpolate_pos_encoding(like, size, size)[0].clone()
        position[0] += embeddings.class_embedding
        self.position = frozen(position)
        self.norm_before = vision.pre_layernorm
        self.blocks = nn.ModuleList(Block(layer, side**2 + 1) for layer in vision.encoder.layers)
        self.norm_after, self.norm_merged = vision.post_layernorm, model.layer_norm
        self.head_box, self.corners = model.box_head, Corners(model.compute_box_bias(side, side))
        self.head_objectness = model.objectness_head if numbers.objectness else None
        words = model.class_head
        self.head_embedding, self.head_shift, self.head_scale = words.dense0, words.logit_shift, words.logit_scale
        self.elu, self.unit = words.elu, Unit(1e-6)

    def forward(self, image: Tensor, queries: Tensor) -> tuple[Tensor, ...]:
        """Detect in a batch of images."""
        x = self._encode(image)
        boxes = self.corners(self.head_box(x))
        embeddings = self.unit(self.head_embedding(x))
        similarity = embeddings @ self.unit(queries).transpose(0, 1)
        logits = (similarity + self.head_shift(x)) * (self.elu(self.head_scale(x)) + 1)
        objectness = () if self.head_objectness is None else (self.head_objectness(x).squeeze(-1),)
        return boxes, logits, *objectness, embeddings

    def _encode(self, image: Tensor) -> Tensor:
        """Return the features [B,P,C] of the patches."""
        x = self.patches(image.permute(0, 3, 1, 2) - self.mean)
        x = reshape(x, 0, x.shape[1], -1).transpose(1, 2)
        # the class token is in the position codes; an Expand of it would compute the size of the batch
        x = self.norm_before(torch.cat([x[:, :1] * 0, x], dim=1) + self.position)
        for block in self.blocks:
            x = block(x)
        x = self.norm_after(x)
        return self.norm_merged(x[:, 1:] * x[:, :1])


class Corners(nn.Module):
    """What the box head says of each patch [B,P,4] → x0 y0 x1 y1 in fractions of the square; it stays FP32."""

    def __init__(self, place: Tensor) -> None:
        super().__init__()
        self.place = frozen(place)

    def forward(self, x: Tensor) -> Tensor:
        """Turn centres and sizes beside the patches' own into corners."""
        centre, half = (x + self.place).sigmoid().split(2, dim=-1)
        half = half * 0.5
        return torch.cat([centre - half, centre + half], dim=-1)


def _patches(projection: nn.Conv2d, std: tuple[float, ...]) -> nn.Conv2d:
    """Return the convolution that makes patches into tokens, with 1 / (255 std) in its weights."""
    conv = nn.Conv2d(3, projection.out_channels, projection.kernel_size, projection.stride, bias=False)
    conv.weight = frozen(projection.weight / torch.tensor(std).mul(255)[:, None, None])
    return conv
