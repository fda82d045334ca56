"""Word detectors: both graphs against transformers' whole models, from words and pictures to boxes and logits."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from tokenizers import Tokenizer
from transformers import Owlv2ForObjectDetection, OwlViTForObjectDetection

from sam2edge import Bundle
from sam2edge.bundle.words import DETECTOR, TEXT_ENCODER, WORDS_GRAPHS, WordsBundle, words_contract
from sam2edge.errors import SourceError
from sam2edge.export.words import export_words, write_words
from sam2edge.export.words.source import CLIP
from sam2edge.runtime.backends.base import Array, open_backend
from tests.helpers import assert_close
from tests.unit.export.test_graphs import SHAPES

MODELS = {"owlv2": Owlv2ForObjectDetection, "owlvit": OwlViTForObjectDetection}
TEXTS = ["red cup", "a cat", "plate", "a", "the red one", "cup!", "dog"]


def run(words: WordsBundle, graph: str, **inputs: Array) -> dict[str, Array]:
    return open_backend("onnx").open(words.graph_path(graph)).run(inputs)


def words_of(bundle: Bundle) -> WordsBundle:
    assert bundle.words is not None
    return bundle.words


def encode(words: WordsBundle, texts: list[str]) -> npt.NDArray[np.int32]:
    tokenizer = Tokenizer.from_file(str(words.tokenizer_path))
    tokenizer.enable_padding(pad_id=0, pad_token="!", length=words.model.context)
    return np.array([encoding.ids for encoding in tokenizer.encode_batch(texts)], np.int32)


def images(count: int, size: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).uniform(0, 255, (count, size, size, 3)).astype(np.float32)


@torch.inference_mode()
def expected(model: Any, ids: npt.NDArray[np.int32], pictures: npt.NDArray[np.float32]) -> dict[str, Array]:
    """Return what a model of transformers computes for texts and pictures, in the contract's terms."""
    mean, std = torch.tensor(CLIP)[..., None, None]
    pixels = (torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255 - mean) / std
    tokens = torch.from_numpy(ids).long().repeat(len(pictures), 1)
    mask = (tokens > 0) | (torch.arange(tokens.shape[1]) == 0)
    out = model(tokens, pixels, mask.long(), interpolate_pos_encoding=True)
    centre, half = out.pred_boxes[..., :2], out.pred_boxes[..., 2:] / 2
    found = {
        "queries": out.text_embeds[0],
        "boxes": torch.cat([centre - half, centre + half], dim=-1),
        "logits": out.logits,
        "embeddings": out.class_embeds,
    }
    if "objectness_logits" in out:
        found["objectness"] = out.objectness_logits
    return {name: values.numpy() for name, values in found.items()}


def check_all(model: Any, words: WordsBundle, texts: list[str], count: int) -> None:
    ids, pictures = encode(words, texts), images(count, words.model.image_size)
    wanted = expected(model, ids, pictures)
    queries = run(words, TEXT_ENCODER, ids=ids)["queries"]
    found = {"queries": queries, **run(words, DETECTOR, image=pictures, queries=queries)}
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert_close(found[name], values, 1e-4, name)


@pytest.mark.parametrize("kind", MODELS)
def test_detector_as_in_transformers(
    kind: str, with_words: Callable[[str], Bundle], owl_model: Callable[[str], Path]
) -> None:
    words, model = words_of(with_words(kind)), MODELS[kind].from_pretrained(owl_model(kind))
    for texts, count in ((TEXTS, 1), (TEXTS[:1], 2), (TEXTS[2:5], 3)):
        check_all(model, words, texts, count)


@pytest.mark.parametrize(("kind", "size"), [("owlv2", 64), ("owlvit", 128)])
def test_another_size_interpolates_as_transformers(
    kind: str, size: int, owl_model: Callable[[str], Path], tmp_path: Path
) -> None:
    write_words(owl_model(kind), tmp_path, image_size=size)
    words = WordsBundle.open(tmp_path)
    assert (words.model.image_size, words.model.boxes) == (size, (size // 16) ** 2)
    check_all(MODELS[kind].from_pretrained(owl_model(kind)), words, TEXTS[:2], 1)


@pytest.mark.parametrize("kind", MODELS)
def test_what_the_manifest_says(kind: str, with_words: Callable[[str], Bundle]) -> None:
    manifest = words_of(with_words(kind)).manifest
    assert manifest.source.title == {"owlv2": "OWLv2 custom", "owlvit": "OWL-ViT custom"}[kind]
    assert (manifest.model.letterbox, manifest.model.objectness) == (kind == "owlv2", kind == "owlv2")
    assert (manifest.model.dim, manifest.model.context, manifest.model.boxes) == (32, 16, 36)
    assert manifest.parity_frames == "drawn"
    for name, (_, outputs) in words_contract(manifest.model).items():
        parity = manifest.graphs[name].parity
        assert set(parity) == {spec.name for spec in outputs}
        assert all(0 < error.relative_error < 1e-5 for error in parity.values())


@pytest.mark.parametrize("graph", WORDS_GRAPHS)
@pytest.mark.parametrize("kind", MODELS)
def test_only_operators_that_every_tensorrt_reads(kind: str, graph: str, with_words: Callable[[str], Bundle]) -> None:
    model = onnx.load(words_of(with_words(kind)).graph_path(graph))
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", 17)}
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"Attention", "RotaryEmbedding", "If", "Loop", "Scan", "NonZero", "Identity", "ArgMax"}
    assert not operators & SHAPES


def test_what_follows_the_end_of_a_text_does_not_matter(nano_words: Bundle) -> None:
    words = words_of(nano_words)
    ids = encode(words, ["red cup"])
    end = int(ids[0].argmax())
    other = ids.copy()
    other[0, end + 1 :] = 7
    same = [run(words, TEXT_ENCODER, ids=tokens)["queries"] for tokens in (ids, other)]
    assert_close(same[0], same[1], 1e-6)
    np.testing.assert_allclose(np.linalg.norm(same[0], axis=1), 1, atol=1e-6)


def test_a_row_of_embeddings_is_a_query(nano_words: Bundle) -> None:
    """Which resembles itself more than all other boxes do, as far as shift and scale of the boxes are alike."""
    words = words_of(nano_words)
    picture = images(1, words.model.image_size)
    embeddings = run(words, DETECTOR, image=picture, queries=np.eye(1, 32, dtype=np.float32))["embeddings"][0]
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    again = run(words, DETECTOR, image=picture, queries=embeddings)
    assert_close(again["embeddings"][0], embeddings)


def test_export_replaces_the_words_of_a_bundle(
    nano_words: Bundle, owl_model: Callable[[str], Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(nano_words.path, tmp_path / "b", copy_function=os.link)
    (copy / "words" / "detector.onnx").unlink()  # damaged words are replaced, too
    bundle = export_words(owl_model("owlvit"), copy, image_size=64)
    assert words_of(bundle).manifest.source.family == "OWL-ViT"
    assert bundle.manifest == nano_words.manifest
    assert {path.name for path in copy.iterdir()} == {path.name for path in nano_words.path.iterdir()}
    assert bundle.graph("detector").inputs[0].shape == ("B", 64, 64, 3)
    assert bundle.graph_path("detector") == copy / "words" / "detector.onnx"


def test_a_tokenizer_that_is_not_clips(owl_model: Callable[[str], Path], tmp_path: Path) -> None:
    owl, out = shutil.copytree(owl_model("owlv2"), tmp_path / "owl"), tmp_path / "words"
    out.mkdir()
    tokenizer = json.loads((owl / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["qq"] = vocabulary.pop("q")
    (owl / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(SourceError, match=r"owl has a tokenizer that is not CLIP's: .*its vocabulary lacks q\b"):
        write_words(owl, out)
