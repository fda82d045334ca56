"""EdgeTAM: its checkpoints, its parts, and sessions against what the authors' own code computed.

edgetam_golden.npz has those numbers; make_edgetam_golden.py says how they were made.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from sam2edge import Bundle, VideoTracker, cli
from sam2edge.bundle import GRAPHS
from sam2edge.errors import InputError, SourceError
from sam2edge.export import export
from sam2edge.export.image_encoder import image_encoder
from sam2edge.export.memory_attention import MemoryAttention
from sam2edge.export.memory_encoder import MemoryEncoder
from sam2edge.export.reference import TorchVideo, reference_of
from sam2edge.export.source import IMAGENET, Source, load_source
from sam2edge.runtime.backends.base import open_backend
from tests.conftest import NANO, MadeOnce
from tests.helpers import assert_close, iou
from tests.timm_models import create_model
from tests.unit.export import upstream_layout
from tests.unit.export.edgetam_layout import (
    FRAMES,
    SESSIONS,
    SIZE,
    EdgeTamLayout,
    formula_state,
    write_checkpoint,
)
from tests.unit.export.efficienttam_layout import SESSIONS as PROMPTS, attention_inputs, clip, prompt, sampled
from tests.unit.export.upstream_layout import digest, formula_frame, listing

GOLDEN = dict(np.load(Path(__file__).with_name("edgetam_golden.npz")))
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def checkpoint(made_once: MadeOnce) -> Path:
    """The authors' file, with made-up weights."""

    def make(folder: Path) -> None:
        folder.mkdir()
        write_checkpoint(folder / "edgetam.pt")

    return made_once("edgetam-pt", make) / "edgetam.pt"


@pytest.fixture(scope="module")
def source(checkpoint: Path) -> Source:
    return load_source(checkpoint, image_size=SIZE)


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, made_once: MadeOnce) -> Bundle:
    return Bundle.open(made_once("edgetam-made-up", lambda folder: export(checkpoint, folder, image_size=SIZE)))


def assert_digest(tensor: torch.Tensor, golden: str) -> None:
    expected = GOLDEN[golden]
    assert digest(tensor) == pytest.approx(expected, rel=0, abs=1e-4 * expected[0]), golden


# ------------------------------------------------------------------------------------------------- the authors' numbers


def test_the_authors_checkpoint(source: Source, checkpoint: Path) -> None:
    assert hashlib.sha256(listing(EdgeTamLayout()).encode()).hexdigest() == str(GOLDEN["layout"])
    assert (source.family, source.version, source.size, source.name) == ("EdgeTAM", "", "", "edgetam.pt")
    assert (source.mean, source.std) == IMAGENET
    assert load_source(checkpoint).model.config.image_size == 1024


@torch.inference_mode()
def test_parts(source: Source) -> None:
    """The modules that graphs are compared with, and those that are exported."""
    reference, image = reference_of(source), torch.from_numpy(clip(SIZE, 1))
    net = source.model
    levels = net.vision_encoder((image.permute(0, 3, 1, 2) / 255 - reference.mean) / reference.std).fpn_hidden_states
    decoder = net.mask_decoder
    expected = reference.image_encoder(image)
    for name, level, conv in zip(expected, levels, (decoder.conv_s0, decoder.conv_s1, None), strict=True):
        found = level if conv is None else conv(level)
        assert_digest(found, name)
        assert_close(expected[name].numpy(), found.numpy(), 1e-5)
    for (name, level), found in zip(expected.items(), image_encoder(source)(image), strict=True):
        assert_close(found.numpy(), level.numpy(), 1e-4, name)
    memory, code = net.memory_encoder(expected["features"], formula_frame(SIZE, 3)[:, :1])
    assert_digest(memory, "map")
    assert_digest(net.spatial_perceiver(memory, code)[0], "memory")


@torch.inference_mode()
def test_memory_attention(source: Source) -> None:
    inputs, attention = attention_inputs(SIZE // 16, tokens=512), MemoryAttention(source.model).eval()
    pointer_age = torch.arange(1, 10, dtype=torch.int32)[None]
    for count in (1, 3, 7):
        age = torch.arange(count, dtype=torch.int32)[None]
        given = {**inputs, "memory": inputs["memory"][:, :count], "memory_age": age, "pointer_age": pointer_age}
        ordered = (given[name] for name in ("features", "memory", "memory_age", "pointers", "pointer_age"))
        for conditioned in (reference_of(source).memory_attention(**given)["conditioned"], attention(*ordered)):
            assert_digest(conditioned.flatten(2).permute(2, 0, 1), f"attention {count}")


def test_tracks_as_the_authors_code(bundle: Bundle) -> None:
    """Three objects at once, each as in a session of its own."""
    with VideoTracker(bundle) as tracker:
        for t, frame in enumerate(clip(SIZE, FRAMES)):
            result = tracker.track(frame)
            for object_id, session in enumerate(SESSIONS):
                if PROMPTS[session][0] == t:
                    result = tracker.prompt(object_id, **prompt(session, SIZE))
            for row, object_id in enumerate(result.object_ids):
                check_frame(SESSIONS[object_id], t, result.logits[row], result.object_scores[row])


def check_frame(session: str, t: int, logits: np.ndarray, score: float) -> None:
    names = ("logits", "largest", "masks", "scores")
    golden = {name: GOLDEN[f"{session}/{name}"][t - PROMPTS[session][0]] for name in names}
    what = f"{session}, frame {t}"
    assert np.abs(sampled(logits) - golden["logits"]).max() <= 1e-3 * golden["largest"], what
    assert np.abs(logits).max() == pytest.approx(golden["largest"], rel=1e-3), what
    assert iou(logits > 0, np.unpackbits(golden["masks"], axis=-1).astype(bool)) >= 0.999, what
    assert score == pytest.approx(golden["scores"], abs=1e-3), what


def test_transformers_session_tracks_alike(checkpoint: Path) -> None:
    """The class that `bench` measures as PyTorch; it follows the objects without a runtime of ours."""
    model = TorchVideo(str(checkpoint), "eager", image_size=SIZE)
    for t, frame in enumerate(clip(SIZE, 4)):
        mask = model.track(frame, [PROMPTS["box"][1]["box"]] if t == 0 else [])[0]
        logits = GOLDEN["box/full"][t]
        clear = np.abs(logits) > 1e-3 * GOLDEN["box/largest"][t]
        assert (sampled(mask) == (logits > 0))[clear].all(), t


# ------------------------------------------------------------------------------------------------- the graphs


@torch.inference_mode()
def test_the_trunk_is_timms(source: Source) -> None:
    trunk = source.model.vision_encoder.backbone.timm_model
    other = create_model("repvit_m1", num_classes=0, features_only=True, out_indices=(0, 1, 2, 3)).eval()
    missing, unexpected = other.load_state_dict(trunk.state_dict(), strict=False)
    assert not unexpected
    assert {name.rpartition(".")[2] for name in missing} <= {"num_batches_tracked"}
    pixels = formula_frame(64, 0)
    for found, expected in zip(trunk(pixels), other(pixels), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("image_size", [256, 512])
@torch.inference_mode()
def test_memories_of_windows_of_both_sizes(checkpoint: Path, image_size: int) -> None:
    """Of one token and of four, for several objects, one of them absent."""
    source = load_source(checkpoint, image_size=image_size)
    random, side = torch.Generator().manual_seed(0), image_size // 16
    inputs = {
        "features": torch.randn(1, 256, side, side, generator=random),
        "mask": 5 * torch.randn(2, 1, 4 * side, 4 * side, generator=random),
        "object_score": torch.tensor([[1.0], [-1.0]]),
        "binarize": torch.tensor([True, False]),
    }
    expected = reference_of(source).memory_encoder(**inputs)["memory"]
    assert expected.shape == (2, 512, 64)
    torch.testing.assert_close(MemoryEncoder(source.model)(**inputs), expected, rtol=1e-4, atol=1e-4)


def test_slots_in_any_order_and_empty_ones(bundle: Bundle) -> None:
    random = np.random.default_rng(0)
    inputs: dict[str, Any] = {
        "features": random.normal(size=(1, 256, 16, 16)).astype(np.float32),
        "memory": random.normal(size=(2, 4, 512, 64)).astype(np.float32),
        "memory_age": np.array([[0, 1, 3, -1], [-1, 2, -1, 0]], np.int32),
        "pointers": random.normal(size=(2, 3, 256)).astype(np.float32),
        "pointer_age": np.array([[1, 2, -1], [5, -1, 1]], np.int32),
    }
    graph = open_backend("onnx").open(bundle.graph_path("memory_attention"))
    expected = graph.run(inputs)["conditioned"]
    inputs["memory"][inputs["memory_age"] < 0] = 50.0
    for names, order in ((("memory", "memory_age"), [2, 0, 3, 1]), (("pointers", "pointer_age"), [2, 1, 0])):
        inputs |= {name: np.ascontiguousarray(inputs[name][:, order]) for name in names}
    assert_close(graph.run(inputs)["conditioned"], expected, 1e-4)


@pytest.mark.parametrize("graph", GRAPHS)
def test_only_operators_that_every_tensorrt_reads(bundle: Bundle, graph: str) -> None:
    operators = {node.op_type for node in onnx.load(bundle.graph_path(graph)).graph.node}
    refused = {"Attention", "If", "Loop", "Scan", "NonZero", "Identity", "BatchNormalization"}
    assert not operators & (refused | {"Shape", "ConstantOfShape", "Expand", "Range"})


def test_the_bundle(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert (bundle.manifest.source.title, bundle.model.memory_tokens, bundle.model.high_res) == ("EdgeTAM", 512, True)
    assert cli.main(["inspect", str(bundle.path)]) == 0
    shown = capsys.readouterr().out
    assert "edgetam.pt, EdgeTAM\n" in shown
    assert ", 512 latents each\n" in shown
    assert max(error.relative_error for graph in bundle.manifest.graphs.values() for error in graph.parity.values()) < (
        1e-5
    )


# ------------------------------------------------------------------------------------------------- checkpoints


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises((InputError, SourceError)) as refused:
        load_source(path, **options)
    return str(refused.value)


def saved(path: Path, state: Tensors) -> Path:
    torch.save({"model": state}, path)
    return path


def test_image_sizes_whose_windows_do_not_tile(checkpoint: Path, tmp_path: Path) -> None:
    assert "image size 384 is not possible: give a multiple of 256" in refusal(checkpoint, image_size=384)
    with pytest.raises(InputError, match="memory_pool must be 1 but got 2: EdgeTAM's memories are 512 tokens already"):
        export(checkpoint, tmp_path / "bundle", image_size=SIZE, memory_pool=2)


def test_a_wrappers_names(tmp_path: Path, source: Source) -> None:
    state = {f"module.{name}": tensor for name, tensor in formula_state().items()}
    loaded = load_source(saved(tmp_path / "tuned.pt", state), image_size=SIZE).model.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in source.model.state_dict().items())


def test_mixed_checkpoints_are_named(tmp_path: Path) -> None:
    file, state = tmp_path / "edgetam.pt", formula_state()
    without = {name: tensor for name, tensor in state.items() if not name.startswith("spatial_perceiver.")}
    assert "the weights do not fit EdgeTAM:\n  missing spatial_perceiver.latents (256, 64)" in refusal(
        saved(file, without)
    )
    sam2 = upstream_layout.formula_state("tiny", "2.1")
    with_hiera = {name: tensor for name, tensor in sam2.items() if name.startswith("image_encoder.trunk.")}
    mixed = {name: tensor for name, tensor in state.items() if not name.startswith("image_encoder.trunk.")}
    assert "unexpected spatial_perceiver.latents (256, 64)" in refusal(saved(file, mixed | with_hiera), image_size=256)
    wider = {**state, "image_encoder.trunk.body.stem.conv1.c.weight": torch.zeros(28, 3, 3, 3)}  # of repvit_m1_1
    assert "misshapen image_encoder.trunk.body.stem.conv1.c.weight: expected (24, 3, 3, 3), found (28, 3, 3, 3)" in (
        refusal(saved(file, wider))
    )


def test_directories(edgetam_model: Path, tmp_path: Path) -> None:
    source = load_source(edgetam_model)
    assert (source.family, source.name) == ("EdgeTAM", "edgetam-model")
    directory = Path(shutil.copytree(edgetam_model, tmp_path / "model"))
    settings = json.loads((directory / "config.json").read_text())

    def described(**changes: Any) -> str:
        (directory / "config.json").write_text(json.dumps(settings | changes))
        return refusal(directory)

    trunk = {"model_type": "timm_wrapper", "architecture": "repvit_m1_1"}
    vision = settings["vision_config"] | {"backbone_config": trunk}
    assert "the image encoder's trunk is 'repvit_m1_1'; expected repvit_m1 or" in described(vision_config=vision)
    assert "the image encoder's trunk is None" in described(vision_config=None)
    for sides in ([8, 8], [16]):
        assert f"perceiver_resampler_num_latents_2d = 256 tokens but is {sides}" in described(
            memory_attention_rope_k_sizes=sides
        )
    perceiver = "EdgeTAM's perceiver has latents and one attention head"
    assert perceiver in described(perceiver_resampler_num_attention_heads=2)
    assert perceiver in described(perceiver_resampler_attention_head_dim=32)
    assert "perceiver_resampler_num_layers is 9999999, but the weights are only" in described(
        perceiver_resampler_num_layers=9999999
    )
    assert "3 attention heads cannot share 128 channels" in described(
        mask_decoder_config=settings["mask_decoder_config"] | {"num_attention_heads": 3}
    )
    assert "describes an image-only EdgeTamModel" in described(model_type="edgetam")
    message = described(**json.loads((NANO / "config.json").read_text()))
    assert "the weights do not fit config.json, SAM 2.1 custom:" in message
    assert "unexpected memory_attention.layers.0.mlp.down_proj.bias (256,)" in message
    weights = load_file(directory / "model.safetensors")
    save_file({name: tensor for name, tensor in weights.items() if "perceiver" not in name}, directory / "w")
    (directory / "w").replace(directory / "model.safetensors")
    assert "missing spatial_perceiver.latents_1d (256, 64)" in described()
