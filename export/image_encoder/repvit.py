"""RepViT with EdgeTAM's feature pyramid: convolutions only, since norms and parallel branches are folded into them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam2edge.export.image_encoder.hiera import patch_embedding
from sam2edge.export.rewrites import folded, frozen, merged_pointwise


class RepVitEncoder(nn.Module):
    """image uint8 [B,S,S,3] RGB → high_res_0 [B,32,4h,4h], high_res_1 [B,64,2h,2h], features [B,256,h,h].

    `model` is a transformers EdgeTamVideoModel; `mean` and `std` are of colours in 0…1.
    """

    def __init__(self, model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        trunk, neck = model.vision_encoder.backbone.timm_model, model.vision_encoder.neck
        self.mean = frozen(torch.tensor(mean).mul(255)[:, None, None])
        self.patches = patch_embedding(folded(*trunk.stem.conv1), std)
        self.stem, self.activation = folded(*trunk.stem.conv2), nn.GELU()
        blocks: list[nn.Module] = []
        self.stage_ends = []
        for stage in trunk.stages:
            if not isinstance(stage.downsample, nn.Identity):
                blocks += [Block(stage.downsample.pre_block), Downsample(stage.downsample)]
            blocks += map(Block, stage.blocks)
            self.stage_ends.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)
        # neck.convs run from the coarsest level to the finest; levels 0 and 1 are not part of the top-down path
        lateral = list(neck.convs)[::-1]
        self.level_0 = merged_pointwise(lateral[0], model.mask_decoder.conv_s0)
        self.level_1 = merged_pointwise(lateral[1], model.mask_decoder.conv_s1)
        self.level_2, self.level_3 = lateral[2], lateral[3]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode a batch of images."""
        # cast first: TensorRT takes bytes as a network's input, but no layer of it except a cast reads them
        x = self.stem(self.activation(self.patches(image.float().permute(0, 3, 1, 2) - self.mean)))
        levels: list[Tensor] = []
        lateral = [self.level_0, self.level_1, self.level_2, self.level_3]
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.stage_ends:
                levels.append(lateral[len(levels)](x))
        return levels[0], levels[1], levels[2] + F.interpolate(levels[3], scale_factor=2.0, mode="nearest")


class Block(nn.Module):
    """A depthwise convolution, the weights of channels if the block has them, and a layer of two 1×1 convolutions."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.mix = _mixer(block.token_mixer)
        self.squeeze = None if isinstance(block.se, nn.Identity) else Squeeze(block.se)
        self.channels = Channels(block.channel_mixer)

    def forward(self, x: Tensor) -> Tensor:
        """Transform x [B,C,h,w]."""
        x = self.mix(x)
        return self.channels(x if self.squeeze is None else x * self.squeeze(x))


class Downsample(nn.Module):
    """Half the size and twice the channels, with a layer of its own."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.spatial, self.widen = folded(*block.spatial_downsample), folded(*block.channel_downsample)
        self.channels = Channels(block.ffn)

    def forward(self, x: Tensor) -> Tensor:
        """Turn x [B,C,h,w] into [B,2C,h/2,w/2]."""
        return self.channels(self.widen(self.spatial(x)))


class Channels(nn.Module):
    """A residual layer of two 1×1 convolutions."""

    def __init__(self, mixer: Any) -> None:
        super().__init__()
        self.conv1, self.activation, self.conv2 = folded(*mixer.conv1), mixer.act, folded(*mixer.conv2)

    def forward(self, x: Tensor) -> Tensor:
        """Transform x [B,C,h,w]."""
        return x + self.conv2(self.activation(self.conv1(x)))


class Squeeze(nn.Module):
    """Weights of channels, [B,C,1,1], from their means over the image."""

    def __init__(self, squeeze: Any) -> None:
        super().__init__()
        self.fc1, self.fc2 = squeeze.fc1, squeeze.fc2

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the channels of x [B,C,h,w]."""
        means = x.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)  # a sum over the whole map could exceed FP16
        return torch.sigmoid(self.fc2(torch.relu(self.fc1(means))))


def _mixer(mixer: Any) -> nn.Conv2d:
    """Return the sum of a depthwise 3×3 convolution, one of 1×1 and the identity as one convolution."""
    conv, centre = folded(*mixer.conv), folded(*mixer.conv1)
    weight, bias = conv.weight.double(), conv.bias.double() + centre.bias.double()
    weight[:, :, 1:2, 1:2] += centre.weight.double() + 1.0
    conv.weight, conv.bias = frozen(weight.float()), frozen(bias.float())
    return conv
