"""Hiera with its feature pyramid (sam2/modeling/backbones, SAM 2 section 4).

Tokens stay in windows [B · windows, w, w, C] from one block to the next: norms, projections, the pyramid's 1×1
convolutions and global attention do not depend on where a token lies, and pooling halves a window. Tokens are
rearranged only where the next block has windows of another size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam2edge.export.rewrites import (
    attend,
    frozen,
    join_heads,
    linear_of,
    merged_pointwise,
    pad,
    pointwise,
    reshape,
    scaled,
)


class HieraEncoder(nn.Module):
    """image uint8 [B,S,S,3] RGB → high_res_0 [B,32,4h,4h], high_res_1 [B,64,2h,2h], features [B,256,h,h].

    `model` is a transformers Sam2VideoModel; `mean` and `std` are of colours in 0…1. The high-resolution levels are
    what the mask decoder adds, already reduced by its conv_s0 and conv_s1.
    """

    def __init__(self, model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        backbone, neck = model.vision_encoder.backbone, model.vision_encoder.neck
        self.mean = frozen(torch.tensor(mean).mul(255)[:, None, None])
        self.patches = patch_embedding(backbone.patch_embed.projection, std)
        side = model.config.image_size // 4
        self.window: int = backbone.blocks[0].window_size
        position = backbone._get_pos_embed((side, side))
        self.position = frozen(arrange(position, side, side, self.window).contiguous())
        window, blocks = self.window, []
        for block in backbone.blocks:
            blocks.append(HieraBlock(block, side, window))
            side, window = blocks[-1].side_out, blocks[-1].window_out
        self.blocks, self.stage_ends = nn.ModuleList(blocks), list(backbone.stage_ends)
        # neck.convs run from the coarsest level to the finest; levels 0 and 1 are not part of the top-down path
        lateral = list(neck.convs)[::-1]
        self.level_0 = pointwise(merged_pointwise(lateral[0], model.mask_decoder.conv_s0))
        self.level_1 = pointwise(merged_pointwise(lateral[1], model.mask_decoder.conv_s1))
        self.level_2, self.level_3 = pointwise(lateral[2]), pointwise(lateral[3])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode a batch of images."""
        # cast first: TensorRT takes bytes as a network's input, but no layer of it except a cast reads them
        x = image.float().permute(0, 3, 1, 2) - self.mean
        x = self.patches(x).permute(0, 2, 3, 1)
        x = arrange(x, self.blocks[0].side, self.blocks[0].side, self.window)
        # give the windows of an image an axis of their own, because each has its part of the position codes
        x = reshape(reshape(x, -1, *self.position.shape) + self.position, -1, *self.position.shape[1:])
        levels: list[Tensor] = []
        lateral = [self.level_0, self.level_1, self.level_2, self.level_3]
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.stage_ends:
                level = arrange(lateral[len(levels)](x), block.side_out, block.window_out, block.side_out)
                levels.append(level.permute(0, 3, 1, 2))
        return levels[0], levels[1], levels[2] + F.interpolate(levels[3], scale_factor=2.0, mode="nearest")


class HieraBlock(nn.Module):
    """One block of Hiera, every shape a constant except the batch (hieradet.py, MultiScaleBlock).

    It turns the tokens of a map [side,side] in windows of `window`, which may be the whole map, into those of a map
    [side_out,side_out] in windows of `window_out`.
    """

    def __init__(self, block: Any, side: int, window: int) -> None:
        super().__init__()
        attention = block.attn
        self.norm1, self.norm2, self.mlp = block.layer_norm1, block.layer_norm2, block.mlp
        self.shortcut = block.proj if block.dim != block.dim_out else None
        self.dim_out: int = block.dim_out
        self.heads: int = attention.num_attention_heads
        self.stride: int = block.query_stride[0] if block.query_stride else 1
        self.qkv, width = scaled(attention.qkv, slice(0, self.dim_out), attention.scale), self.dim_out
        if self.stride > 1:  # queries are fewer than keys and values
            self.query = linear_of(self.qkv.weight[:width], self.qkv.bias[:width])
            self.key_value = linear_of(self.qkv.weight[width:], self.qkv.bias[width:])
        self.output = attention.proj
        self.side, self.window_in = side, window
        # side of the square whose tokens attend to each other, and of the windows in which the block keeps its tokens
        self.attended: int = block.window_size or side
        self.padding = -side % self.attended
        self.window = side if self.padding else self.attended if block.window_size else window
        self.side_out, self.window_out = side // self.stride, self.window // self.stride

    def forward(self, x: Tensor) -> Tensor:
        """Transform x [·,window_in,window_in,C] → [·,window_out,window_out,dim_out]."""
        x = arrange(x, self.side, self.window_in, self.window)
        normed = self.norm1(x)
        shortcut = x if self.shortcut is None else _pool(self.shortcut(normed), self.window, self.stride)
        x = shortcut + (self._attend_padded(normed) if self.padding else self._attend(normed, self.window))
        return x + self.mlp(self.norm2(x))

    def _attend_padded(self, x: Tensor) -> Tensor:
        """Attend on a map that whole windows do not tile: x [B,side,side,C] → [B,side_out,side_out,dim_out]."""
        side, pooled = self.side + self.padding, (self.side + self.padding) // self.stride
        x = pad(x, self.padding)
        x = self._attend(arrange(x, side, side, self.attended), self.attended)
        return arrange(x, pooled, self.attended // self.stride, pooled)[:, : self.side_out, : self.side_out]

    def _attend(self, x: Tensor, window: int) -> Tensor:
        """Attend within squares of x [·,window,window,C] → [·,window / stride,window / stride,dim_out]."""
        tokens = self.attended**2
        if self.stride == 1:
            query, key, value = self._heads(self.qkv(x), tokens)
        else:
            (query,) = self._heads(_pool(self.query(x), window, self.stride), tokens // self.stride**2)
            key, value = self._heads(self.key_value(x), tokens)
        attended = self.output(join_heads(attend(query, key, value)))
        return reshape(attended, -1, window // self.stride, window // self.stride, self.dim_out)

    def _heads(self, x: Tensor, tokens: int) -> tuple[Tensor, ...]:
        """Split x [..., n · dim_out] into n tensors [·,heads,tokens,d] by one transposition."""
        x = reshape(x, -1, tokens, x.shape[-1] // self.dim_out, self.heads, self.dim_out // self.heads)
        return tuple(x.permute(2, 0, 3, 1, 4).unbind(0))


def patch_embedding(projection: nn.Conv2d, std: tuple[float, ...]) -> nn.Conv2d:
    """Put 1 / (255 std) into the first convolution's weights; the mean stays outside, since padding is zero there."""
    conv = nn.Conv2d(3, projection.out_channels, projection.kernel_size, projection.stride, projection.padding)
    conv.weight = frozen(projection.weight / torch.tensor(std).mul(255)[:, None, None])
    conv.bias = projection.bias
    return conv


def _pool(x: Tensor, window: int, stride: int) -> Tensor:
    """Take the maximum over stride × stride squares of x [·,window,window,C]."""
    if stride == 1:
        return x
    pooled = window // stride
    return reshape(x, -1, pooled, stride, pooled, stride, x.shape[-1]).amax(dim=4).amax(dim=2)


def arrange(x: Tensor, side: int, old: int, new: int) -> Tensor:
    """Rearrange the tokens of a map [side,side] from windows of `old`, x [·,old,old,C], to `new`, [·,new,new,C]."""
    channels = x.shape[-1]
    if old == new:
        return x
    if old != side:
        n = side // old
        x = reshape(x, -1, n, n, old, old, channels).transpose(2, 3)
        x = reshape(x, -1, side, side, channels)
    if new != side:
        n = side // new
        x = reshape(x, -1, n, new, n, new, channels).transpose(2, 3)
        x = reshape(x, -1, new, new, channels)
    return x
