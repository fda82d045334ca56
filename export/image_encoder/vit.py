"""The plain ViT of EfficientTAM with its neck (efficient_track_anything/modeling/backbones).

Its blocks are those of Hiera without stages, one size of token from the pixels to the end. The windows of 14 do not
tile a grid of whole 2×2 windows of 16 pixels, so that between blocks the tokens lie as in the image.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sam2edge.export.image_encoder.hiera import HieraBlock, patch_embedding
from sam2edge.export.rewrites import frozen, pointwise, tokenwise


class VitEncoder(nn.Module):
    """image uint8 [B,S,S,3] RGB → features [B,256,h,h].

    `model` is an EfficientTamVideoModel; `mean` and `std` are of colours in 0…1.
    """

    def __init__(self, model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        backbone, (neck,) = model.vision_encoder.backbone, model.vision_encoder.neck.convs
        side = model.config.image_size // 16
        self.mean = frozen(torch.tensor(mean).mul(255)[:, None, None])
        self.patches = patch_embedding(backbone.patch_embed.projection, std)
        self.position = frozen(backbone.position(side).contiguous())
        self.blocks = nn.ModuleList(HieraBlock(block, side, side) for block in backbone.blocks)
        self.level_1x1, self.level_norm_0 = pointwise(neck.conv_1x1), tokenwise(neck.norm_0)
        self.level_3x3, self.level_norm_1 = neck.conv_3x3, neck.norm_1

    def forward(self, image: Tensor) -> Tensor:
        """Encode a batch of images."""
        # cast first: TensorRT takes bytes as a network's input, but no layer of it except a cast reads them
        x = image.float().permute(0, 3, 1, 2) - self.mean
        x = self.patches(x).permute(0, 2, 3, 1) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.level_norm_0(self.level_1x1(x))
        return self.level_norm_1(self.level_3x3(x.permute(0, 3, 1, 2)))
