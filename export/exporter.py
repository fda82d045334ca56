"""Export a SAM 2 checkpoint as a bundle of four ONNX graphs that were compared with PyTorch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sam2edge import bundle as bundles
from sam2edge.bundle import Bundle, Graph, Manifest, Model, Parity, contract, memory_pools
from sam2edge.errors import InputError, ParityError
from sam2edge.export.frames import parity_frames
from sam2edge.export.image_encoder import ImageEncoder
from sam2edge.export.mask_decoder import MaskDecoder
from sam2edge.export.memory_attention import MemoryAttention
from sam2edge.export.memory_encoder import MemoryEncoder
from sam2edge.export.onnx_file import write_onnx
from sam2edge.export.parity import LIMIT, Reference, compare
from sam2edge.export.source import Source, load_source

Progress = Callable[[str, float], None]


def export(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    memory_pool: int = 1,
    frames: str | os.PathLike[str] | None = None,
    progress: Progress = lambda message, fraction: None,
) -> Bundle:
    """Write the bundle `out` from a checkpoint.

    source: Hugging Face directory or model id, or an upstream .pt file. image_size: side S of the square that
    frames are resized to, the checkpoint's own by default. memory_pool: with 2, or 4 where it divides the grid, a
    memory keeps one token for so many squared: a smaller bank and quicker attention, less accurate. frames: a video,
    image or folder of images on which the graphs are compared with PyTorch (a drawn scene by default). progress:
    called with a message and the fraction done.

    Raises SourceError for the checkpoint, InputError for memory_pool, BundleError when `out` holds something else,
    MediaError for the frames, ParityError when an output differs by more than 1e-3 relative. An older bundle at
    `out` stays until then.
    """
    progress("loading the checkpoint", 0.0)
    loaded = load_source(source, image_size=image_size)
    model = _numbers(loaded, memory_pool)
    images, frames_name = parity_frames(frames, model.image_size)
    with bundles.replacing(Path(out)) as directory:
        specs = contract(model)
        modules = {
            "image_encoder": lambda: ImageEncoder(loaded.model, loaded.mean, loaded.std),
            "memory_attention": lambda: MemoryAttention(loaded.model, memory_pool),
            "mask_decoder": lambda: MaskDecoder(loaded.model),
            "memory_encoder": lambda: MemoryEncoder(loaded.model, memory_pool),
        }
        for i, (name, module) in enumerate(modules.items()):
            progress(f"exporting {name}", 0.1 + 0.1 * i)
            write_onnx(module(), *specs[name], directory / f"{name}.onnx")

        compared: list[str] = []

        def count(name: str) -> None:
            compared.append(name)
            progress(f"compared {name} with PyTorch", 0.5 + 0.12 * len(compared))

        progress("comparing with PyTorch", 0.5)
        reference = Reference(loaded.model, loaded.mean, loaded.std, memory_pool)
        parity = compare(reference, images, lambda name: directory / f"{name}.onnx", count)
        _check(parity)
        graphs = {name: _describe(directory / f"{name}.onnx", specs[name], parity[name]) for name in bundles.GRAPHS}
        origin = bundles.Source(loaded.name, loaded.sha256, loaded.version, loaded.size)
        bundles.write_manifest(directory, Manifest(origin, model, graphs, frames_name))
    progress("done", 1.0)
    return Bundle.open(out)


def _numbers(source: Source, memory_pool: int) -> Model:
    """The numbers that the runtime needs; InputError if the grid has no such windows."""
    model, config = source.model, source.model.config
    pools = memory_pools(config.image_size)
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
    )


def _check(parity: dict[str, dict[str, Parity]]) -> None:
    bad = [
        f"{graph}.{output} by {error.relative_error:.1e}"
        for graph, outputs in parity.items()
        for output, error in outputs.items()
        if not error.relative_error <= LIMIT
    ]
    if bad:
        raise ParityError(
            f"differs from PyTorch by more than {LIMIT:g} relative: {', '.join(bad)}. No bundle was written. "
            "Try another version of torch or onnxruntime, or report it with the checkpoint's name"
        )


def _describe(file: Path, specs: tuple[tuple[bundles.TensorSpec, ...], ...], parity: dict[str, Parity]) -> Graph:
    inputs, outputs = specs
    return Graph(file.name, bundles.sha256(file), file.stat().st_size, "fp32", inputs, outputs, parity)
