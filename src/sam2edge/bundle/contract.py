"""The graph contract as data: the inputs and outputs of each graph, for the numbers of a model.

The exporter names its tensors from it, and opening a bundle compares the manifest with it. docs/reference/graphs.md
has the same table with the meaning of every tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

GRAPHS = ("image_encoder", "memory_attention", "mask_decoder", "memory_encoder")


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype name and shape of a graph's input or output; a str in the shape is a dynamic axis."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Model:
    """The numbers of a model that the memory loop needs.

    Attributes:
        image_size: Side of the square that frames are resized to.
        hidden_dim: Channels C of the features.
        memory_dim: Channels of a memory.
        memory_frames: Recent frames that are attended to beside the conditioning frames.
        max_pointers: Object pointers that are attended to, plus one.
        multimask_min_points: Fewest points, a box counting as two, for which a prompt takes the best of three masks.
        multimask_max_points: Most points for which it does.
        multimask_for_tracking: Whether a frame without a prompt does too, if `multimask_min_points` is 0.
        mask_prompt_kernel: [4,4], downsamples a mask prompt for the decoder (`mask_downsample` in sam2_base.py).
        mask_prompt_bias: The bias of that downsampling.
        no_memory_embedding: [C], in place of memory; the decoder's graph adds it, here it is for get_image_embedding.
        memory_pool: A memory keeps one token for every window of this side of the grid; 1 in SAM 2 and older bundles.
        memory_latents: Tokens of one memory where they are not windows of the grid (EdgeTAM's perceiver), or 0.
        high_res: Whether the image encoder has two maps of higher resolution for the mask decoder.
    """

    image_size: int
    hidden_dim: int
    memory_dim: int
    memory_frames: int
    max_pointers: int
    multimask_min_points: int
    multimask_max_points: int
    multimask_for_tracking: bool
    mask_prompt_kernel: tuple[tuple[float, ...], ...]
    mask_prompt_bias: float
    no_memory_embedding: tuple[float, ...]
    memory_pool: int = 1
    memory_latents: int = 0
    high_res: bool = True

    @property
    def grid(self) -> int:
        """Side h of the feature map that memory attention works on: image_size / 16."""
        return self.image_size // 16

    @property
    def mask_size(self) -> int:
        """Side of the low-resolution mask logits: image_size / 4."""
        return self.image_size // 4

    @property
    def memory_tokens(self) -> int:
        """Tokens of one memory: (h / memory_pool)², or `memory_latents`."""
        return self.memory_latents or (self.grid // self.memory_pool) ** 2


def memory_pools(image_size: int) -> tuple[int, ...]:
    """Return the values of `memory_pool` whose windows tile the grid of a model of this size."""
    return tuple(pool for pool in (1, 2, 4) if image_size // 16 % pool == 0)


def contract(model: Model) -> dict[str, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]]:
    """Return the inputs and outputs of each graph; the axes B, N, T, K and P are dynamic, all others static."""
    c, m, h = model.hidden_dim, model.memory_dim, model.grid

    def f32(name: str, *shape: int | str) -> TensorSpec:
        return TensorSpec(name, "float32", shape)

    def pyramid(batch: int | str) -> tuple[TensorSpec, ...]:
        if not model.high_res:
            return ()
        return f32("high_res_0", batch, c // 8, 4 * h, 4 * h), f32("high_res_1", batch, c // 4, 2 * h, 2 * h)

    def mask(name: str) -> TensorSpec:
        return f32(name, "N", 1, 4 * h, 4 * h)

    def flag(name: str) -> TensorSpec:
        return TensorSpec(name, "bool", ("N",))

    score = f32("object_score", "N", 1)
    conditioned = f32("conditioned", "N", c, h, h)
    return {
        "image_encoder": (
            (TensorSpec("image", "uint8", ("B", model.image_size, model.image_size, 3)),),
            (*pyramid("B"), f32("features", "B", c, h, h)),
        ),
        "memory_attention": (
            (
                f32("features", 1, c, h, h),
                f32("memory", "N", "T", model.memory_tokens, m),
                TensorSpec("memory_age", "int32", ("N", "T")),
                f32("pointers", "N", "K", c),
                TensorSpec("pointer_age", "int32", ("N", "K")),
            ),
            (conditioned,),
        ),
        "mask_decoder": (
            (
                conditioned,
                flag("add_no_memory"),
                *pyramid(1),
                f32("points", "N", "P", 2),
                TensorSpec("labels", "int32", ("N", "P")),
                mask("mask_input"),
                flag("has_mask_input"),
                flag("multimask"),
            ),
            (
                mask("mask"),
                f32("iou", "N", 1),
                f32("masks", "N", 3, 4 * h, 4 * h),
                f32("ious", "N", 3),
                f32("pointer", "N", c),
                score,
            ),
        ),
        "memory_encoder": (
            (f32("features", 1, c, h, h), mask("mask"), score, flag("binarize")),
            (f32("memory", "N", model.memory_tokens, m),),
        ),
    }
