"""The image-encoder graph: Hiera backbone and feature pyramid (sam2/modeling/backbones, SAM 2 section 4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam2edge.export.rewrites import attend, frozen, join_heads, merged_pointwise, reshape, scaled, split_heads


class ImageEncoder(nn.Module):
    """image uint8 [B,S,S,3] RGB → high_res_0 [B,32,4h,4h], high_res_1 [B,64,2h,2h], features [B,256,h,h].

    `model` is a transformers Sam2VideoModel; `mean` and `std` are of pixels in 0…1. Both high-resolution levels
    are what the mask decoder adds, already reduced by its conv_s0 and conv_s1.
    """

    def __init__(self, model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        backbone, neck = model.vision_encoder.backbone, model.vision_encoder.neck
        grid = model.config.image_size // 4
        self.mean = frozen(torch.tensor(mean).mul(255)[:, None, None])
        self.patches = _patch_embedding(backbone.patch_embed.projection, std)
        self.position = frozen(backbone._get_pos_embed((grid, grid)))
        self.blocks = nn.ModuleList(HieraBlock(block) for block in backbone.blocks)
        self.stage_ends = list(backbone.stage_ends)
        # neck.convs run from the coarsest level to the finest; levels 0 and 1 are not part of the top-down path
        lateral = list(neck.convs)[::-1]
        self.high_res_0 = merged_pointwise(lateral[0], model.mask_decoder.conv_s0)
        self.high_res_1 = merged_pointwise(lateral[1], model.mask_decoder.conv_s1)
        self.level_2, self.level_3 = lateral[2], lateral[3]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode a batch of images."""
        # to float before anything else: TensorRT takes bytes as a network's input but in no layer except a cast
        x = image.float().permute(0, 3, 1, 2) - self.mean
        x = self.patches(x).permute(0, 2, 3, 1) + self.position
        levels = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.stage_ends:
                levels.append(x.permute(0, 3, 1, 2))
        coarse = F.interpolate(self.level_3(levels[3]), scale_factor=2.0, mode="nearest")
        return self.high_res_0(levels[0]), self.high_res_1(levels[1]), self.level_2(levels[2]) + coarse


class HieraBlock(nn.Module):
    """One block of Hiera with every shape but the batch a constant (hieradet.py, MultiScaleBlock)."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        attention = block.attn
        self.norm1, self.norm2, self.mlp = block.layer_norm1, block.layer_norm2, block.mlp
        self.shortcut = block.proj if block.dim != block.dim_out else None
        self.dim_out: int = block.dim_out
        self.heads: int = attention.num_attention_heads
        self.qkv = scaled(attention.qkv, slice(0, self.dim_out), attention.scale)
        self.output = attention.proj
        self.window: int = block.window_size
        self.stride: int = block.query_stride[0] if block.query_stride else 1

    def forward(self, x: Tensor) -> Tensor:
        """X [B,H,W,C] → [B,H/stride,W/stride,dim_out]."""
        side = x.shape[1]
        normed = self.norm1(x)
        shortcut = x if self.shortcut is None else _pool(self.shortcut(normed), self.stride)
        if self.window:
            attended = self._attend(_partition(normed, side, self.window), self.window)
            attended = _join(attended, side // self.stride, self.window // self.stride)
        else:
            attended = self._attend(normed, side)
        x = shortcut + attended
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor, side: int) -> Tensor:
        """Attention within each [side,side] square of x [·,side,side,C]."""
        query, key, value = self.qkv(x).split(self.dim_out, dim=-1)
        query = _pool(query, self.stride)
        tokens = [split_heads(reshape(t, 0, -1, self.dim_out), self.heads) for t in (query, key, value)]
        attended = self.output(join_heads(attend(*tokens)))
        return reshape(attended, -1, side // self.stride, side // self.stride, self.dim_out)


def _patch_embedding(projection: nn.Conv2d, std: tuple[float, ...]) -> nn.Conv2d:
    """The first convolution with 1 / (255 std) in its weights; the mean stays outside, where padding is zero."""
    conv = nn.Conv2d(3, projection.out_channels, projection.kernel_size, projection.stride, projection.padding)
    conv.weight = frozen(projection.weight / torch.tensor(std).mul(255)[:, None, None])
    conv.bias = projection.bias
    return conv


def _pool(x: Tensor, stride: int) -> Tensor:
    """Maximum over stride × stride squares of x [B,H,W,C]."""
    if stride == 1:
        return x
    return F.max_pool2d(x.permute(0, 3, 1, 2), stride).permute(0, 2, 3, 1)


def _partition(x: Tensor, side: int, window: int) -> Tensor:
    """[B,side,side,C] → [B · windows, window, window, C], zero-padded to whole windows."""
    channels = x.shape[-1]
    pad = -side % window
    if pad:
        x = F.pad(x, (0, 0, 0, pad, 0, pad))
    n = (side + pad) // window
    x = reshape(x, -1, n, window, n, window, channels).transpose(2, 3)
    return reshape(x, -1, window, window, channels)


def _join(x: Tensor, side: int, window: int) -> Tensor:
    """Undo `_partition`: [B · windows, window, window, C] → [B,side,side,C]."""
    channels = x.shape[-1]
    n = -(-side // window)
    x = reshape(x, -1, n, n, window, window, channels).transpose(2, 3)
    x = reshape(x, -1, n * window, n * window, channels)
    return x[:, :side, :side] if n * window > side else x
