"""Checkpoints in the layout of facebookresearch/sam2, made up: its names and shapes, but weights from a formula.

Every tensor is a strided view of a short pseudo-random sequence that its name seeds. No two are alike, any
misplaced or transposed tensor changes every output, activations stay near 1, and a file of the largest model is
a few megabytes.
"""

import re
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

VERSIONS = ("2.0", "2.1")
SIZES = ("tiny", "small", "base-plus", "large")

# embedding width, blocks per stage, side of the background position code (sam2/configs, hieradet.py)
_TRUNKS = {
    "tiny": (96, (1, 2, 7, 2), 7),
    "small": (96, (1, 2, 11, 2), 7),
    "base-plus": (112, (2, 3, 16, 3), 14),
    "large": (144, (2, 6, 36, 4), 7),
}
_STRIDES = (1, 3, 11, 53)
_EMBEDDING = re.compile(r"_(token|tokens|embed|embeddings\.\d)\.weight$")


class Layout(dict[str, tuple[int, ...]]):
    """Name → shape, filled in the order of upstream's modules."""

    def __init__(self, size: str, version: str) -> None:
        super().__init__()
        self._trunk(*_TRUNKS[size])
        self._memory()
        self._prompt_encoder()
        self._mask_decoder()
        self._mlp("obj_ptr_proj", 256, 256, 256, 256)
        self._affine("mask_downsample", 1, 1, 4, 4)
        self |= {"maskmem_tpos_enc": (7, 1, 1, 64), "no_obj_ptr": (1, 256)}
        self |= {"no_mem_embed": (1, 1, 256), "no_mem_pos_enc": (1, 1, 256)}
        if version == "2.1":
            self._affine("obj_ptr_tpos_proj", 64, 256)
            self["no_obj_embed_spatial"] = (1, 64)

    def _affine(self, name: str, *shape: int) -> None:
        self |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}

    def _mlp(self, name: str, *widths: int) -> None:
        for layer, (before, after) in enumerate(pairwise(widths)):
            self._affine(f"{name}.layers.{layer}", after, before)

    def _attention(self, name: str, inner: int, keys: int = 256) -> None:
        self._affine(f"{name}.q_proj", inner, 256)
        self._affine(f"{name}.k_proj", inner, keys)
        self._affine(f"{name}.v_proj", inner, keys)
        self._affine(f"{name}.out_proj", 256, inner)

    def _trunk(self, width: int, blocks: tuple[int, ...], background: int) -> None:
        trunk = "image_encoder.trunk"
        self |= {f"{trunk}.pos_embed": (1, width, background, background)}
        self |= {f"{trunk}.pos_embed_window": (1, width, 8, 8)}
        self._affine(f"{trunk}.patch_embed.proj", width, 3, 7, 7)
        stages = [width << stage for stage, count in enumerate(blocks) for _ in range(count)]
        for number, (before, after) in enumerate(pairwise([width, *stages])):
            self._transformer(f"{trunk}.blocks.{number}", before, after)
        for level in range(4):
            self._affine(f"image_encoder.neck.convs.{level}.conv", 256, width << (3 - level), 1, 1)

    def _transformer(self, block: str, before: int, after: int) -> None:
        self._affine(f"{block}.norm1", before)
        self._affine(f"{block}.attn.qkv", 3 * after, before)
        self._affine(f"{block}.attn.proj", after, after)
        self._affine(f"{block}.norm2", after)
        self._mlp(f"{block}.mlp", after, 4 * after, after)
        if before != after:
            self._affine(f"{block}.proj", after, before)

    def _memory(self) -> None:
        for number in range(4):
            layer = f"memory_attention.layers.{number}"
            self._attention(f"{layer}.self_attn", 256)
            self._attention(f"{layer}.cross_attn_image", 256, keys=64)
            self._affine(f"{layer}.linear1", 2048, 256)
            self._affine(f"{layer}.linear2", 256, 2048)
            for norm in ("norm1", "norm2", "norm3"):
                self._affine(f"{layer}.{norm}", 256)
        self._affine("memory_attention.norm", 256)
        for step in range(4):
            convolution = f"memory_encoder.mask_downsampler.encoder.{3 * step}"
            self._affine(convolution, 4 ** (step + 1), 4**step, 3, 3)
            self._affine(f"memory_encoder.mask_downsampler.encoder.{3 * step + 1}", 4 ** (step + 1))
        self._affine("memory_encoder.mask_downsampler.encoder.12", 256, 256, 1, 1)
        self._affine("memory_encoder.pix_feat_proj", 256, 256, 1, 1)
        for number in range(2):
            layer = f"memory_encoder.fuser.layers.{number}"
            self[f"{layer}.gamma"] = (256,)
            self._affine(f"{layer}.dwconv", 256, 1, 7, 7)
            self._affine(f"{layer}.norm", 256)
            self._affine(f"{layer}.pwconv1", 1024, 256)
            self._affine(f"{layer}.pwconv2", 256, 1024)
        self._affine("memory_encoder.out_proj", 64, 256, 1, 1)

    def _prompt_encoder(self) -> None:
        encoder = "sam_prompt_encoder"
        self[f"{encoder}.pe_layer.positional_encoding_gaussian_matrix"] = (2, 128)
        for kind in range(4):
            self[f"{encoder}.point_embeddings.{kind}.weight"] = (1, 256)
        self |= {f"{encoder}.not_a_point_embed.weight": (1, 256), f"{encoder}.no_mask_embed.weight": (1, 256)}
        self._affine(f"{encoder}.mask_downscaling.0", 4, 1, 2, 2)
        self._affine(f"{encoder}.mask_downscaling.1", 4)
        self._affine(f"{encoder}.mask_downscaling.3", 16, 4, 2, 2)
        self._affine(f"{encoder}.mask_downscaling.4", 16)
        self._affine(f"{encoder}.mask_downscaling.6", 256, 16, 1, 1)

    def _mask_decoder(self) -> None:
        decoder = "sam_mask_decoder"
        for number in range(2):
            layer = f"{decoder}.transformer.layers.{number}"
            self._attention(f"{layer}.self_attn", 256)
            self._attention(f"{layer}.cross_attn_token_to_image", 128)
            self._attention(f"{layer}.cross_attn_image_to_token", 128)
            self._mlp(f"{layer}.mlp", 256, 2048, 256)
            for norm in ("norm1", "norm2", "norm3", "norm4"):
                self._affine(f"{layer}.{norm}", 256)
        self._attention(f"{decoder}.transformer.final_attn_token_to_image", 128)
        self._affine(f"{decoder}.transformer.norm_final_attn", 256)
        for token, count in (("iou_token", 1), ("mask_tokens", 4), ("obj_score_token", 1)):
            self[f"{decoder}.{token}.weight"] = (count, 256)
        # transposed convolutions: input channels first, the bias as long as the output's
        self |= {f"{decoder}.output_upscaling.0.weight": (256, 64, 2, 2)}
        self |= {f"{decoder}.output_upscaling.0.bias": (64,)}
        self._affine(f"{decoder}.output_upscaling.1", 64)
        self |= {f"{decoder}.output_upscaling.3.weight": (64, 32, 2, 2)}
        self |= {f"{decoder}.output_upscaling.3.bias": (32,)}
        self._affine(f"{decoder}.conv_s0", 32, 256, 1, 1)
        self._affine(f"{decoder}.conv_s1", 64, 256, 1, 1)
        for mask in range(4):
            self._mlp(f"{decoder}.output_hypernetworks_mlps.{mask}", 256, 256, 256, 32)
        self._mlp(f"{decoder}.iou_prediction_head", 256, 256, 256, 4)
        self._mlp(f"{decoder}.pred_obj_score_head", 256, 256, 256, 1)


def listing(shapes: dict[str, tuple[int, ...]]) -> str:
    """Sorted lines "name 1x2x3", whose sha256 stands in upstream_golden.json for each of upstream's models."""
    return "\n".join(sorted(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items()))


def noise(name: str, count: int) -> np.ndarray:
    """`count` float32 numbers in [-1, 1) that follow from the name alone (RandomState's streams are frozen)."""
    numbers = np.random.RandomState(zlib.crc32(name.encode())).random_sample(count)
    return (2 * numbers - 1).astype(np.float32)


def formula_tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The made-up weights of one tensor, float32."""
    strides = _STRIDES[: len(shape)][::-1]
    sequence = noise(name, 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)))
    if name.endswith((".weight", ".bias")) and not _EMBEDDING.search(name):
        if len(shape) > 1:
            sequence *= np.float32((3 / np.prod(shape[1:])) ** 0.5)  # keeps the variance of what it multiplies
        else:
            sequence = 0.2 * sequence + (1 if name.endswith(".weight") else 0)
    return torch.from_numpy(sequence).as_strided(shape, strides)


def formula_state(size: str, version: str) -> dict[str, torch.Tensor]:
    """A made-up state dict of upstream's SAM2Base."""
    return {name: formula_tensor(name, shape) for name, shape in Layout(size, version).items()}


def write_checkpoint(path: Path, size: str, version: str) -> Path:
    """Write the made-up checkpoint as upstream distributes its own, and return the path."""
    torch.save({"model": formula_state(size, version)}, path)
    return path


def formula_frame(image_size: int, time: int) -> torch.Tensor:
    """Normalised pixels [1, 3, S, S], float32: waves that wander with time."""
    y, x = np.meshgrid(np.arange(image_size), np.arange(image_size), indexing="ij")
    channels = [
        np.sin(0.13 * x + 0.07 * (c + 1) * y + c + 0.5 * time) + np.cos(0.003 * (c + 1) * x * y) for c in range(3)
    ]
    return torch.from_numpy(np.stack(channels)[None].astype(np.float32))


def digest(tensor: torch.Tensor) -> list[float]:
    """Four numbers of the tensor's own magnitude that no two tensors share: root mean square, projections."""
    flat = tensor.detach().double().numpy().ravel()
    projections = [noise(f"digest {i}", flat.size).astype(np.float64) @ flat for i in range(3)]
    return [float(np.sqrt(np.mean(flat**2))), *(float(p) / flat.size**0.5 for p in projections)]
