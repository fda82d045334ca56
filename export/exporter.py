"""Export a checkpoint as a bundle of four ONNX graphs, each compared with PyTorch."""

from __future__ import annotations

import os
from typing import Any

from sam2edge import bundle as bundles
from sam2edge.bundle import Bundle, Graph, Manifest, Model, contract, memory_pools
from sam2edge.bundle.words import WORDS, carry_words
from sam2edge.errors import InputError
from sam2edge.export.image_encoder import image_encoder
from sam2edge.export.mask_decoder import MaskDecoder
from sam2edge.export.memory_attention import MemoryAttention
from sam2edge.export.memory_encoder import MemoryEncoder
from sam2edge.export.onnx_file import write_onnx
from sam2edge.export.parity import LIMIT, check_parity, compare, parity_frames
from sam2edge.export.reference import reference_of
from sam2edge.export.source import Source, load_source
from sam2edge.export.source.efficienttam import pooled_keys
from sam2edge.export.words.exporter import write_words
from sam2edge.files import sha256, user_path
from sam2edge.types import Progress

_SHARE = 0.4
"""What part of the work a word detector is, roughly."""


def export(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    memory_pool: int = 1,
    variant: str | None = None,
    words: str | os.PathLike[str] | None = None,
    words_size: int | None = None,
    frames: str | os.PathLike[str] | None = None,
    progress: Progress = lambda message, fraction: None,
) -> Bundle:
    """Write a bundle from a checkpoint.

    `out` is checked before the checkpoint is read or downloaded. A bundle that is there already stays until the new
    one is complete; if it has a word detector, the new one has it, too.

    Args:
        source: Hugging Face directory or model id, or a .pt file of the model's authors.
        out: Directory of the bundle.
        image_size: Side S in pixels of the square that frames are resized to; the checkpoint's own by default.
        memory_pool: With 2, or 4 where it divides the grid, a memory keeps one token for each 2×2 or 4×4: a smaller
            bank and quicker attention, less accurate.
        variant: Of an EfficientTAM, whose weights do not say it: "plain", "512x512", "1" or "2"; by default what the
            authors' name of the file says.
        words: Word detector that the bundle gets, a directory or model id as for `export_words`.
        words_size: Side in pixels of the images that the word detector takes; its own by default.
        frames: Video, image or folder of images on which the graphs are compared with PyTorch; by default a drawn
            scene.
        progress: Called with a message and the fraction done.

    Returns:
        The bundle, opened.

    Raises:
        SourceError: The checkpoint or the word detector cannot be read or is of no known family.
        InputError: `memory_pool` does not divide the grid, or `variant` is not one of the model's.
        BundleError: `out` holds something other than a bundle, or cannot be written.
        MediaError: The frames cannot be read, or are fewer than two.
        ParityError: An output differs from PyTorch's by more than 1e-3 relative, or 1e-4 for a word detector.
    """
    if words is None and words_size is not None:
        raise InputError("words_size does nothing without words")
    out = user_path(out)
    with bundles.replacing(out) as directory:
        if words is None:
            carry_words(directory, out)
        else:
            (directory / WORDS).mkdir()
            write_words(
                words, directory / WORDS, image_size=words_size, frames=frames, progress=_part(progress, 0.0, _SHARE)
            )
            progress = _part(progress, _SHARE, 1.0)
        progress("loading the checkpoint", 0.0)
        loaded = load_source(source, image_size=image_size, variant=variant)
        model = _runtime_numbers(loaded, memory_pool)
        images, frames_name = parity_frames(frames, model.image_size)
        specs = contract(model)
        modules = {
            "image_encoder": lambda: image_encoder(loaded),
            "memory_attention": lambda: MemoryAttention(loaded.model, memory_pool),
            "mask_decoder": lambda: MaskDecoder(loaded.model),
            "memory_encoder": lambda: MemoryEncoder(loaded.model, memory_pool),
        }
        for i, (name, module) in enumerate(modules.items()):
            progress(f"exporting {name}", 0.1 + 0.1 * i)
            write_onnx(module(), *specs[name], directory / f"{name}.onnx")

        progress("comparing with PyTorch", 0.5)
        reference = reference_of(loaded, memory_pool)
        graphs: dict[str, Graph] = {}
        for name, parity in compare(reference, images, directory):
            file = directory / f"{name}.onnx"
            graphs[name] = Graph(file.name, sha256(file), file.stat().st_size, "fp32", *specs[name], parity)
            progress(f"compared {name} with PyTorch", 0.5 + 0.12 * len(graphs))
        check_parity(graphs, LIMIT)
        origin = bundles.Source(loaded.name, loaded.sha256, loaded.version, loaded.size, loaded.family, loaded.variant)
        manifest = Manifest(origin, model, {name: graphs[name] for name in bundles.GRAPHS}, frames_name)
        bundles.write_manifest(directory, manifest)
    progress("done", 1.0)
    return Bundle.open(out)


def _part(progress: Progress, begin: float, end: float) -> Progress:
    """Turn the progress of a part of the work into that of all of it."""
    return lambda message, fraction: progress(message, begin + (end - begin) * fraction)


def _runtime_numbers(source: Source, memory_pool: int) -> Model:
    """Return the numbers that the runtime needs, and raise InputError for a pool that does not divide the grid."""
    model, config = source.model, source.model.config
    pools, latents = memory_pools(config.image_size), _latents(model)
    shortened = f"memories are {latents} tokens already" if latents else "keys are pooled already"
    if memory_pool != 1 and (latents or pooled_keys(model)):
        title = f"{source.family} {source.size}".strip()
        raise InputError(f"memory_pool must be 1 but got {memory_pool!r}: {title}'s {shortened}")
    if type(memory_pool) is not int or memory_pool not in pools:
        allowed = ", ".join(map(str, pools))
        raise InputError(
            f"memory_pool must be one of {allowed} at image size {config.image_size} but got {memory_pool!r}"
        )
    kernel = model.mask_downsample.weight[0, 0].tolist()
    return Model(
        image_size=config.image_size,
        hidden_dim=model.hidden_dim,
        memory_dim=model.mem_dim,
        memory_frames=model.num_maskmem - 1,
        max_pointers=config.max_object_pointers_in_encoder,
        multimask_min_points=config.multimask_min_pt_num,
        multimask_max_points=config.multimask_max_pt_num if config.multimask_output_in_sam else -1,
        multimask_for_tracking=config.multimask_output_for_tracking,
        mask_prompt_kernel=tuple(tuple(row) for row in kernel),
        mask_prompt_bias=float(model.mask_downsample.bias[0]),
        no_memory_embedding=tuple(model.no_memory_embedding.flatten().tolist()),
        memory_pool=memory_pool,
        memory_latents=latents,
        high_res=hasattr(model.mask_decoder, "conv_s0"),
    )


def _latents(model: Any) -> int:
    """Return the tokens of one memory where they are not windows of the grid, or 0."""
    perceiver = getattr(model, "spatial_perceiver", None)
    return 0 if perceiver is None else int(perceiver.num_latents_1d + perceiver.num_latents_2d)
