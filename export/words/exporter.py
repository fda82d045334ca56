"""Export a word detector into a bundle, its two graphs compared with transformers' model."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer as HubTokenizer
from torch import Tensor

from sam2edge import bundle as bundles
from sam2edge.bundle import Bundle, Graph, read_manifest
from sam2edge.bundle.words import (
    DETECTOR,
    TEXT_ENCODER,
    TOKENIZER,
    WORDS_GRAPHS,
    TokenizerFile,
    WordsManifest,
    replacing_words,
    words_contract,
    write_words_manifest,
)
from sam2edge.errors import BundleError, SourceError
from sam2edge.export.onnx_file import write_onnx
from sam2edge.export.parity import check_parity, compare_graph, parity_frames
from sam2edge.export.words.detector import Detector
from sam2edge.export.words.reference import reference_detections, reference_queries
from sam2edge.export.words.source import WordsSource, load_words_source
from sam2edge.export.words.text_encoder import TextEncoder
from sam2edge.files import sha256, user_path
from sam2edge.runtime.words.tokenizer import Tokenizer
from sam2edge.types import Progress

LIMIT = 1e-4
"""Largest relative error of an output with which a graph may leave the exporter."""
_TEXTS = ("cat", "red cup", "a photo of a dog", "traffic light", "person on a bike", "ÅÄÖ 42!")
"""Texts whose queries are compared with PyTorch's; those that are too long for a small vocabulary are left out."""


def export_words(
    source: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    frames: str | os.PathLike[str] | None = None,
    progress: Progress = lambda message, fraction: None,
) -> Bundle:
    """Give a bundle a word detector, in place of the one that it may have and that stays until the new one is complete.

    Args:
        source: Hugging Face directory or model id of an OWLv2 or OWL-ViT.
        bundle: Directory of the bundle.
        image_size: Side S in pixels of the square that images are padded or stretched to; the model's own by default.
        frames: Video, image or folder of images on which the detector is compared with PyTorch; by default a drawn
            scene.
        progress: Called with a message and the fraction done.

    Returns:
        The bundle, opened.

    Raises:
        SourceError: The source cannot be read, is no word detector, or takes no images of that size.
        BundleError: `bundle` is not a bundle, or something other than a word detector is at BUNDLE/words.
        MediaError: The frames cannot be read, or are fewer than two.
        ParityError: An output differs from PyTorch's by more than 1e-4 relative.
    """
    path = user_path(bundle)
    read_manifest(path)
    with replacing_words(path) as directory:
        write_words(source, directory, image_size=image_size, frames=frames, progress=progress)
    progress("done", 1.0)
    return Bundle.open(path)


def write_words(
    source: str | os.PathLike[str],
    directory: Path,
    *,
    image_size: int | None = None,
    frames: str | os.PathLike[str] | None = None,
    progress: Progress = lambda message, fraction: None,
) -> None:
    """Write the files of a word detector into an empty directory; arguments and errors are those of `export_words`."""
    progress("loading the word detector", 0.0)
    loaded = load_words_source(source, image_size)
    numbers = loaded.numbers
    image, frames_name = parity_frames(frames, numbers.image_size)
    (directory / TOKENIZER).write_text(loaded.tokenizer, encoding="utf-8")
    specs = words_contract(numbers)
    graphs: dict[str, Graph] = {}

    def add(name: str, module: torch.nn.Module, inputs: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
        write_onnx(module, *specs[name], file := directory / f"{name}.onnx")
        parity = compare_graph(file, inputs, expected)
        graphs[name] = Graph(file.name, sha256(file), file.stat().st_size, "fp32", *specs[name], parity)

    with torch.inference_mode():
        progress(f"exporting {TEXT_ENCODER}", 0.1)
        ids = _ids(directory / TOKENIZER, loaded)
        encoded = reference_queries(loaded, ids)
        add(TEXT_ENCODER, TextEncoder(loaded), {"ids": ids}, encoded)
        del loaded.model.base_model.text_model  # is 40 % of the weights, and the detector does not need it
        progress(f"exporting {DETECTOR}", 0.4)
        inputs = {"image": torch.from_numpy(image[:1]).float(), "queries": encoded["queries"]}
        add(DETECTOR, Detector(loaded), inputs, reference_detections(loaded, **inputs))
    check_parity({f"words/{name}": graph for name, graph in graphs.items()}, LIMIT)
    origin = bundles.Source(loaded.name, loaded.sha256, "", loaded.size, loaded.family)
    file = directory / TOKENIZER
    tokenizer = TokenizerFile(file.name, sha256(file), file.stat().st_size)
    ordered = {name: graphs[name] for name in WORDS_GRAPHS}
    write_words_manifest(directory, WordsManifest(origin, numbers, ordered, tokenizer, frames_name, loaded.licence))


def _ids(file: Path, source: WordsSource) -> Tensor:
    """Return the tokens [Q,L] of _TEXTS, and of a text of the greatest length, as the runtime makes them.

    Raises SourceError for a tokenizer that the runtime cannot read, or reads otherwise than the package tokenizers.
    """
    numbers, reference = source.numbers, HubTokenizer.from_str(source.tokenizer)
    texts = [text for text in _TEXTS if len(reference.encode(text).ids) <= numbers.context]
    try:
        rows = Tokenizer(file, numbers).table(texts)
    except BundleError as error:
        raise SourceError(f"{source.name} has a tokenizer that is not CLIP's: {error}") from error
    for text, row in zip(texts, rows, strict=True):
        expected = reference.encode(text).ids
        if row.tolist() != expected + [numbers.pad_token] * (numbers.context - len(expected)):
            raise SourceError(f"{source.name} has a tokenizer that reads {text!r} otherwise than CLIP's")
    full = np.full(numbers.context, rows[0, 1])
    full[0], full[-1] = numbers.start_token, numbers.end_token
    return torch.from_numpy(np.vstack([rows, full]))
