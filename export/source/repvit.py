"""RepViT-M1 (Wang et al., 2024), EdgeTAM's trunk, as it was trained: with batch norms and parallel branches.

EdgeTAM uses timm's, which needs torchvision. This one has the same names and is registered with transformers, so that
EdgeTamVideoModel is built without timm. The exported trunk, with norms and branches folded, is compared with it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

CHANNELS = (48, 96, 192, 384)
DEPTHS = (2, 2, 14, 2)


class Norm(nn.Module):
    """A batch norm after training, without the counter that only training needs."""

    eps = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [B,C,h,w]."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class ConvNorm(nn.Sequential):
    """A convolution without bias that keeps the size for stride 1, and its batch norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = Norm(outputs)


class TokenMixer(nn.Module):
    """A depthwise 3×3 convolution beside one of 1×1 and the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ConvNorm(channels, channels, 3, groups=channels)
        self.conv1 = ConvNorm(channels, channels, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Mix x [B,C,h,w]."""
        return self.conv(x) + self.conv1(x) + x


class ChannelMixer(nn.Module):
    """Two layers of 1×1, the inner one twice as wide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = ConvNorm(channels, 2 * channels), ConvNorm(2 * channels, channels)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Mix x [B,C,h,w]."""
        return self.conv2(self.act(self.conv1(x)))


class SqueezeExcite(nn.Module):
    """Weighs the channels by their means over the image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = (channels // 4 + 4) // 8 * 8  # a quarter, to the nearest multiple of 8
        self.fc1, self.fc2 = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh x [B,C,h,w]."""
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class Block(nn.Module):
    """A token mixer, in every second block with weighed channels, and a channel mixer."""

    def __init__(self, channels: int, squeeze: bool) -> None:
        super().__init__()
        self.token_mixer = TokenMixer(channels)
        self.se = SqueezeExcite(channels) if squeeze else nn.Identity()
        self.channel_mixer = ChannelMixer(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Transform x [B,C,h,w]."""
        x = self.se(self.token_mixer(x))
        return x + self.channel_mixer(x)


class Downsample(nn.Module):
    """Halves the size of a map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.pre_block = Block(inputs, squeeze=False)
        self.spatial_downsample = ConvNorm(inputs, inputs, 3, 2, groups=inputs)
        self.channel_downsample = ConvNorm(inputs, outputs)
        self.ffn = ChannelMixer(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Turn x [B,inputs,h,w] into [B,outputs,h/2,w/2]."""
        x = self.channel_downsample(self.spatial_downsample(self.pre_block(x)))
        return x + self.ffn(x)


class Stage(nn.Module):
    """Blocks of one size, behind what halves it."""

    def __init__(self, inputs: int, outputs: int, depth: int) -> None:
        super().__init__()
        self.downsample = Downsample(inputs, outputs) if inputs != outputs else nn.Identity()
        self.blocks = nn.Sequential(*(Block(outputs, squeeze=i % 2 == 0) for i in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """Transform x [B,inputs,h,w] into [B,outputs,…]."""
        return self.blocks(self.downsample(x))


class Stem(nn.Module):
    """Pixels to a map of stride 4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = ConvNorm(3, channels // 2, 3, 2), ConvNorm(channels // 2, channels, 3, 2)
        self.act1 = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Turn x [B,3,S,S] into [B,C,S/4,S/4]."""
        return self.conv2(self.act1(self.conv1(x)))


class RepVit(nn.Module):
    """The maps of strides 4, 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Stem(CHANNELS[0])
        for i, (inputs, outputs) in enumerate(zip((CHANNELS[0], *CHANNELS), CHANNELS, strict=False)):
            setattr(self, f"stages_{i}", Stage(inputs, outputs, DEPTHS[i]))

    @property
    def stages(self) -> list[Stage]:
        """The four stages, whose names are those of timm's feature extractor."""
        return [getattr(self, f"stages_{i}") for i in range(len(DEPTHS))]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return a map for each stage of x [B,3,S,S]."""
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class RepVitConfig(PreTrainedConfig):
    """Nothing to set: EdgeTAM has one trunk."""

    model_type = "repvit_m1"


class RepVitModel(PreTrainedModel):
    """What EdgeTamVisionModel expects of timm's wrapper."""

    config_class = RepVitConfig
    main_input_name = "pixel_values"

    def __init__(self, config: RepVitConfig) -> None:
        super().__init__(config)
        self.timm_model = RepVit()
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutput:
        """Return the maps in place of the last hidden state, as timm's wrapper does."""
        return BaseModelOutput(last_hidden_state=self.timm_model(pixel_values))


AutoConfig.register(RepVitConfig.model_type, RepVitConfig)
AutoModel.register(RepVitConfig, RepVitModel)
