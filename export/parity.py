"""Compare every graph with transformers' own SAM 2 modules, on frames, through ONNX Runtime.

The reference runs the unmodified modules, not the rewritten ones that were exported. Each graph gets the reference's
outputs of the graph before it, so that errors do not add up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch

from sam2edge.bundle import Graph, Parity
from sam2edge.errors import MediaError, ParityError
from sam2edge.export.reference import Arrays, Reference
from sam2edge.files import IMAGE_SUFFIXES, user_path
from sam2edge.runtime.media.image_files import read_image
from sam2edge.runtime.media.sources import open_source
from sam2edge.runtime.model.resize import resize
from sam2edge.types import Floats, Frame

LIMIT = 1e-3
"""Largest relative error of an output with which one of the four graphs may leave the exporter."""


def parity_frames(path: str | os.PathLike[str] | None, size: int) -> tuple[Frame, str]:
    """Return two frames, uint8 [2,size,size,3], and their name for the manifest.

    They are an image and its mirror image, the first two frames of what `open_source` opens, or a drawn scene. Raises
    InputError for a path that names no source, MediaError for frames that cannot be read.
    """
    if path is None:
        return np.stack(_draw_scene(size)), "drawn"
    file = user_path(path)
    if file.suffix.lower() in IMAGE_SUFFIXES:
        image = read_image(file)
        frames = [image, np.ascontiguousarray(image[:, ::-1])]
    else:
        with open_source(os.fspath(path)) as source:
            frames = []
            for frame in islice(source, 2):
                if isinstance(frame, MediaError):
                    raise frame
                frames.append(frame)
    if len(frames) < 2:
        raise MediaError(f"{path}: has {len(frames)} frame, but two are compared; give a longer video or a photograph")
    return np.stack([resize(frame, size) for frame in frames]), file.name


def _draw_scene(size: int) -> list[Frame]:
    """Draw two frames of a textured scene in which a disc and a box move, always the same for one size."""
    random = np.random.default_rng(0)
    scene = np.full((size, size, 3), 128.0)
    for cells in (4, 16, 64):  # noise of several scales has edges and smooth parts like a photograph
        noise = random.normal(0, 30, (cells, cells, 3))
        scene += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    frames = []
    for shift in (0, size // 40):
        frame = np.clip(scene, 0, 255).astype(np.uint8)
        cv2.circle(frame, (size // 2 + shift, size // 2), size // 6, (200, 60, 40), -1, cv2.LINE_AA)
        corner = (size // 5, size // 4 + shift)
        cv2.rectangle(frame, corner, (corner[0] + size // 5, corner[1] + size // 3), (30, 80, 190), -1)
        frames.append(frame)
    return frames


def scenario(reference: Reference, frames: Frame) -> Iterator[tuple[str, Arrays, Arrays]]:
    """Yield the name, the inputs and the reference's outputs of each of the four graphs.

    On the first frame of `frames`, uint8 [2,S,S,3], three objects are decoded with every kind of prompt, and one of
    them is encoded as absent. On the second frame two are conditioned, with memories filled differently.
    """
    size = float(reference.model.config.image_size)
    image = {"image": torch.from_numpy(frames)}
    encoded = reference.image_encoder(**image)
    yield "image_encoder", image, encoded

    first = {name: level[:1] for name, level in encoded.items()}
    points = torch.tensor(
        [[[0.5, 0.5], [0, 0], [0, 0]], [[0.2, 0.3], [0.7, 0.8], [0, 0]], [[0.4, 0.6], [0.1, 0.1], [0, 0]]]
    )
    prompts = {
        "conditioned": first["features"].repeat(3, 1, 1, 1),
        "add_no_memory": torch.tensor([True, True, False]),
        **{name: level for name, level in first.items() if name != "features"},
        "points": points * size,
        "labels": torch.tensor([[1, -1, -1], [2, 3, -1], [1, 0, -1]], dtype=torch.int32),
        "mask_input": 10 * torch.cos(torch.arange(size / 4) / 9).expand(3, 1, int(size / 4), -1).contiguous(),
        "has_mask_input": torch.tensor([False, False, True]),
        "multimask": torch.tensor([True, False, False]),
    }
    decoded = reference.mask_decoder(**prompts)
    yield "mask_decoder", prompts, decoded

    masked = {
        "features": first["features"],
        "mask": decoded["mask"],
        "object_score": torch.tensor([[3.0], [3.0], [-3.0]]),
        "binarize": torch.tensor([True, False, False]),
    }
    memory = reference.memory_encoder(**masked)
    yield "memory_encoder", masked, memory

    memories = {
        "features": encoded["features"][1:],
        "memory": memory["memory"][torch.tensor([[0, 1], [1, 2]])],
        "memory_age": torch.tensor([[0, -1], [1, 0]], dtype=torch.int32),
        "pointers": decoded["pointer"][torch.tensor([[0, 1, 2], [1, 2, 0]])],
        "pointer_age": torch.tensor([[1, -1, 2], [40, 1, 15]], dtype=torch.int32),
    }
    yield "memory_attention", memories, reference.memory_attention(**memories)


@torch.inference_mode()
def compare(reference: Reference, frames: Frame, directory: Path) -> Iterator[tuple[str, dict[str, Parity]]]:
    """Yield the name of every graph and, for the file in `directory`, the error of each of its outputs."""
    for graph, inputs, expected in scenario(reference, frames):
        yield graph, compare_graph(directory / f"{graph}.onnx", inputs, expected)


def compare_graph(file: Path, inputs: Arrays, expected: Arrays) -> dict[str, Parity]:
    """Run a graph and return the error of each of its outputs."""
    outputs = _run(file, inputs)
    return {name: _difference(outputs[name], expected[name].numpy()) for name in expected}


def check_parity(graphs: Mapping[str, Graph], limit: float) -> None:
    """Raise ParityError if a graph's relative error is above a limit."""
    differences = [
        f"{name}.{output} by {error.relative_error:.1e}"
        for name, graph in graphs.items()
        for output, error in graph.parity.items()
        if not error.relative_error <= limit
    ]
    if differences:
        raise ParityError(
            f"differs from PyTorch by more than {limit:g} relative: {', '.join(differences)}. No bundle was written. "
            "Try another version of torch or onnxruntime, or report it with the checkpoint's name"
        )


def _run(file: Path, inputs: Arrays) -> dict[str, Floats]:
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False  # an arena would keep memory that a single run never needs again
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {k: v.numpy() for k, v in inputs.items()}), strict=True))


def _difference(output: Floats, expected: Floats) -> Parity:
    comparable = output.shape == expected.shape and np.isfinite(output).all()
    worst = float(np.abs(output - expected).max()) if comparable else float("inf")
    return Parity(worst, worst / max(float(np.abs(expected).max()), 1e-6))
