"""Models made for tests: variants of the bundled one, and random ones.

python -m tests.models tiny|small|base-plus|large|edgetam|efficienttam-ti|… IMAGE_SIZE DIRECTORY
writes one into the directory and prints the path to export.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn
from transformers import (
    CLIPTokenizer,
    EdgeTamVideoModel,
    Owlv2Config,
    Owlv2ForObjectDetection,
    OwlViTConfig,
    OwlViTForObjectDetection,
    Sam2HieraDetConfig,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam2VisionConfig,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from sam2edge.bundle import GRAPHS, Bundle, contract, write_manifest
from sam2edge.export.memory_attention import MemoryAttention
from sam2edge.export.onnx_file import write_onnx
from sam2edge.export.source import Source
from sam2edge.export.source.edgetam import EdgeTam
from sam2edge.export.source.sam2 import TRUNKS
from sam2edge.files import sha256
from tests.conftest import NANO
from tests.unit.export.efficienttam_layout import write_checkpoint

Floats = npt.NDArray[np.float32]
Change = Callable[[str, Floats], Floats]


def write_wary_nano(directory: Path) -> Path:
    """Write the bundled model with a lower object score, so that doubtful objects are absent."""
    model = Sam2VideoModel.from_pretrained(NANO, dtype=torch.float32)
    with torch.no_grad():
        model.mask_decoder.pred_obj_score_head.proj_out.bias -= 1.0
    model.save_pretrained(directory)
    return directory


def write_nano_2_0(directory: Path) -> Path:
    """Write the bundled model without the additions of SAM 2.1: the pointers' and the memory's extra codes."""
    model = Sam2VideoModel.from_pretrained(NANO, dtype=torch.float32)
    config = model.config
    config.enable_temporal_pos_encoding_for_object_pointers = False
    config.enable_occlusion_spatial_embedding = False
    older = Sam2VideoModel(config)
    weights = model.state_dict()
    older.load_state_dict({name: weights[name] for name in older.state_dict()})
    with torch.no_grad():
        older.mask_decoder.pred_obj_score_head.proj_out.bias -= 1.0
    older.save_pretrained(directory)
    return directory


def write_random(directory: Path, image_size: int, size: str = "tiny") -> Path:
    """Write a SAM 2.1 of one of the TRUNKS with random weights that let signals through every branch.

    transformers starts embeddings and layer scales at zero and projections at 0.02, which would hide most errors.
    """
    grid, trunk = image_size // 16, TRUNKS[size]
    vision = Sam2VisionConfig(
        backbone_config=Sam2HieraDetConfig(**trunk), backbone_channel_list=trunk["embed_dim_per_stage"][::-1]
    )
    config = Sam2VideoConfig(vision_config=vision, image_size=image_size)
    config.vision_config.backbone_config.image_size = [image_size, image_size]
    config.vision_config.backbone_feature_sizes = [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2]
    config.prompt_encoder_config.image_size = image_size
    config.memory_attention_rope_feat_sizes = [grid, grid]
    return _write_drawn(Sam2VideoModel, config, directory)


def write_edgetam(directory: Path, image_size: int) -> Path:
    """Write an EdgeTAM with random weights as transformers does, its trunk named as timm's."""
    family = EdgeTam()
    config = family.upstream_config(directory, {}, None)
    family.set_image_size(config, image_size)
    # this seed's masks cover between a fifth and four fifths of an image
    _write_drawn(EdgeTamVideoModel, config, directory, seed=8)
    settings = json.loads((directory / "config.json").read_text())
    settings["vision_config"]["backbone_config"] = {
        "model_type": "timm_wrapper",
        "architecture": "repvit_m1.dist_in1k",
        "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
    }
    (directory / "config.json").write_text(json.dumps(settings))
    return directory


def _write_drawn(kind: Any, config: Any, directory: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = kind(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and not re.search("embed|token|encoding|latents", name):
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            elif "norm" not in name or name.endswith("bias"):
                parameter.normal_(std=0.2)
        for name, statistic in model.named_buffers():  # of batch norms
            if name.endswith("running_mean"):
                statistic.normal_(std=0.2)
            elif name.endswith("running_var"):
                statistic.uniform_(0.5, 2.0)
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(1.0)
    model.save_pretrained(directory)
    return directory


def write_owl(directory: Path, kind: str, image_size: int) -> Path:
    """Write an "owlv2" or "owlvit" of two layers with random weights, and a tokenizer of bytes and a few merges."""
    config_kind, model_kind = {
        "owlv2": (Owlv2Config, Owlv2ForObjectDetection),
        "owlvit": (OwlViTConfig, OwlViTForObjectDetection),
    }[kind]
    vocabulary = write_tokenizer(directory)
    common = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    tokens = {"vocab_size": vocabulary, "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1}
    config = config_kind(
        text_config={**common, **tokens, "hidden_size": 32},
        vision_config={**common, "hidden_size": 48, "image_size": image_size, "patch_size": 16},
        projection_dim=32,
    )
    torch.manual_seed(0)
    model = model_kind(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and "embedding.weight" not in name:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            elif "norm" not in name or name.endswith("bias"):
                parameter.normal_(std=0.2)
        model.class_head.logit_scale.bias.fill_(3.0)
    model.save_pretrained(directory)
    return directory


def write_tokenizer(directory: Path) -> int:
    """Write a tokenizer.json as CLIP's, with bytes and merges for a few words; return the number of its tokens."""
    directory.mkdir(parents=True, exist_ok=True)
    letters = bytes_to_unicode().values()
    merges = [("r", "e"), ("re", "d</w>"), ("c", "u"), ("cu", "p</w>"), ("c", "a"), ("ca", "t</w>"), ("a", "l")]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    vocabulary = {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges)
    tokenizer.backend_tokenizer.save(str(directory / "tokenizer.json"))
    return len(vocabulary)


def write_variant(base: Bundle, source: Source, directory: Path) -> Bundle:
    """Write the bundle of an EfficientTAM from that of another variant with the same size of image and trunk.

    The made-up weights of a name are alike in all of them, so that only the memory attention is not that of `base`.
    """
    name, origin = "memory_attention", base.manifest.source
    directory.mkdir()
    for graph in set(GRAPHS) - {name}:
        os.link(base.graph_path(graph), directory / f"{graph}.onnx")
    file = directory / f"{name}.onnx"
    write_onnx(MemoryAttention(source.model), *contract(base.model)[name], file)
    written = dataclasses.replace(base.manifest.graphs[name], sha256=sha256(file), bytes=file.stat().st_size)
    origin = dataclasses.replace(origin, sha256=source.sha256, size=source.size, variant=source.variant)
    graphs = {**base.manifest.graphs, name: written}
    write_manifest(directory, dataclasses.replace(base.manifest, source=origin, graphs=graphs))
    return Bundle.open(directory)


def write_changed(bundle: Bundle, directory: Path, change: Change) -> Bundle:
    """Copy a bundle with its weights changed by `change`, which takes the graph's name and the weights."""
    return _rewritten(bundle, directory, lambda graph, tensor, weights: change(graph, weights))


def write_widened(bundle: Bundle, directory: Path, graph: str, activation: str) -> Bundle:
    """Copy an INT8 bundle with eight times the range of an activation."""
    wide = graph, f"{activation}/scale"
    return _rewritten(bundle, directory, lambda graph, tensor, values: (8 if (graph, tensor) == wide else 1) * values)


def _rewritten(bundle: Bundle, directory: Path, change: Callable[[str, str, Floats], Floats]) -> Bundle:
    shutil.copytree(bundle.path, directory)
    graphs = dict(bundle.manifest.graphs)
    for name, graph in graphs.items():
        file = directory / graph.file
        model = onnx.load(file)
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                weights = change(name, tensor.name, onnx.numpy_helper.to_array(tensor))
                tensor.CopyFrom(onnx.numpy_helper.from_array(weights.astype(np.float32), tensor.name))
        onnx.save(model, file)
        graphs[name] = dataclasses.replace(graph, sha256=sha256(file), bytes=file.stat().st_size)
    write_manifest(directory, dataclasses.replace(bundle.manifest, graphs=graphs))
    return Bundle.open(directory)


def halved(graph: str, weights: Floats) -> Floats:
    """Round weights to float16."""
    return weights.astype(np.float16).astype(np.float32)


def overdriven(graph: str, weights: Floats) -> Floats:
    """Multiply the feed-forward matrices of the nano's memory attention by 8."""
    return 8 * weights if graph == "memory_attention" and weights.shape == (512, 256) else weights


def write_model(name: str, image_size: int, directory: Path) -> Path:
    """Write the random model of a name and return the path to export; EfficientTAM's files hold no image size."""
    if name == "edgetam":
        return write_edgetam(directory, image_size)
    size = name.partition("efficienttam-")[2]
    if not size:
        return write_random(directory, image_size, name)
    directory.mkdir(parents=True, exist_ok=True)
    return write_checkpoint(directory, size)


if __name__ == "__main__":
    print(write_model(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
