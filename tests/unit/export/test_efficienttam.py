"""EfficientTAM: its checkpoints, and every part and session against what the authors' own code computed.

efficienttam_golden.npz has those numbers; make_efficienttam_golden.py says how they were made.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from sam2edge import AutomaticMaskGenerator, Bundle, ImagePredictor, VideoPredictor, VideoTracker
from sam2edge.errors import InputError, SourceError
from sam2edge.export import export
from sam2edge.export.image_encoder import image_encoder
from sam2edge.export.memory_attention import MemoryAttention
from sam2edge.export.reference import Reference, TorchBackend, TorchVideo
from sam2edge.export.source import IMAGENET, Source, load_source
from sam2edge.runtime.backends.base import Backend, open_backend
from sam2edge.runtime.model.graphs import Embedding
from tests.conftest import NANO
from tests.helpers import assert_close, iou
from tests.models import write_variant
from tests.unit.export.efficienttam_layout import (
    PLAYED,
    SESSIONS,
    EfficientTamLayout,
    attention_inputs,
    clip,
    formula_state,
    prompt,
    sampled,
    write_checkpoint,
)
from tests.unit.export.upstream_layout import digest, formula_frame, listing

GOLDEN = dict(np.load(Path(__file__).with_name("efficienttam_golden.npz")))
POOLED = ("ti_1", "ti_2")
KEPT = ("logits", "largest", "masks", "scores")


class Models:
    """Checkpoints, sources and bundles by the authors' names, each made once."""

    def __init__(self, folder: Path, *bundles: Bundle) -> None:
        self._folder, self._bundles = folder, {bundle.manifest.source.size: bundle for bundle in bundles}
        self.checkpoint = functools.cache(functools.partial(write_checkpoint, folder))
        self.source, self.bundle = functools.cache(self._source), functools.cache(self._bundle)
        self._encoded: dict[object, Embedding] = {}  # the frames, by the trunk that the variants of a size share

    def _source(self, model: str) -> Source:
        return load_source(self.checkpoint(model), image_size=PLAYED[model][0])

    def _bundle(self, model: str) -> Bundle:
        base = self._bundles["ti_1"]
        return self._bundles.get(model) or write_variant(base, self.source(model), self._folder / model)

    def described(self, model: str) -> Bundle:
        """Return a model's bundle without graphs."""
        base, source = self._bundles["ti_1"], self.source(model)
        numbers = dataclasses.replace(base.model, image_size=PLAYED[model][0])
        origin = dataclasses.replace(base.manifest.source, sha256=source.sha256, variant=source.variant)
        return Bundle(self._folder / model, dataclasses.replace(base.manifest, source=origin, model=numbers))

    def track(self, model: str, bundle: Bundle, backend: str | Backend = "onnx", frames: int = 18) -> None:
        """Play the model's sessions in one tracker: objects with one memory and with several are in the same batch."""
        size, count, sessions = PLAYED[model]
        with VideoTracker(bundle, backend) as tracker:
            for t, frame in enumerate(clip(size, min(count, frames))):
                key = model.partition("_")[0], size, str(backend), t
                if key not in self._encoded:
                    self._encoded[key] = tracker.encode(frame)
                result = tracker.track(self._encoded[key])
                for object_id, session in enumerate(sessions):
                    if SESSIONS[session][0] == t:
                        result = tracker.prompt(object_id, **prompt(session, size))
                for row, object_id in enumerate(result.object_ids):
                    check_frame(model, sessions[object_id], t, result.logits[row], result.object_scores[row])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, efficienttam: Bundle, efficienttam_1: Bundle) -> Models:
    return Models(tmp_path_factory.mktemp("efficienttam"), efficienttam, efficienttam_1)


def assert_digest(tensor: torch.Tensor, golden: str, tolerance: float = 1e-4) -> None:
    """Compare digests to within `tolerance` of the tensor's root mean square."""
    expected = GOLDEN[golden]
    assert digest(tensor) == pytest.approx(expected, rel=0, abs=tolerance * expected[0]), golden


@pytest.mark.parametrize("model", PLAYED)
def test_the_model_is_told_by_weights_and_name(models: Models, model: str) -> None:
    size, _, variant = model.partition("_")
    assert hashlib.sha256(listing(EfficientTamLayout(size)).encode()).hexdigest() == GOLDEN[f"{model}/layout"]
    source = models.source(model)
    assert (source.family, source.version, source.size) == ("EfficientTAM", "", model)
    assert source.variant == (variant or "plain")
    assert (source.mean, source.std) == IMAGENET


@pytest.mark.parametrize("model", ["ti", "s", "ti_512x512"])
@torch.inference_mode()
def test_parts(models: Models, model: str) -> None:
    """What an image goes through; for the encoder, the graph's module too."""
    source, image_size = models.source(model), PLAYED[model][0]
    net = source.model
    reference, image = Reference(net, source.mean, source.std), torch.from_numpy(clip(image_size, 1))
    features = reference.image_encoder(image)["features"]
    for encoded in (features, image_encoder(source)(image)):
        assert_digest(encoded, f"{model}/features")
    nothing = [torch.zeros(1, 1, 1, 1)] * 2
    sparse, dense = net.get_prompt_embeddings(
        torch.tensor([[[[60.0, 70.0], [20, 20], [200, 210]]]]), torch.tensor([[[1, 2, 3]]])
    )
    position = net.get_image_wide_positional_embeddings()
    for multimask in (True, False):
        masks, ious, _, score = net.mask_decoder(features, position, sparse, dense, multimask, nothing)
        for name, values in {"masks": masks, "ious": ious, "score": score}.items():
            assert_digest(values, f"{model}/{name} {multimask}")
    memory, _ = net.memory_encoder(features, formula_frame(image_size, 3)[:, :1])
    assert_digest(memory, f"{model}/memory")


@pytest.mark.parametrize("model", ["ti", "ti_1", "ti_2"])
@torch.inference_mode()
def test_memory_attention(models: Models, model: str) -> None:
    """With 1 to 7 memories: keys may be pooled from 2 on."""
    source, inputs = models.source(model), attention_inputs(16)
    reference, attention = Reference(source.model, source.mean, source.std), MemoryAttention(source.model).eval()
    pointer_age = torch.arange(1, 10, dtype=torch.int32)[None]
    for count in (1, 2, 3, 4, 7):
        age = torch.arange(count, dtype=torch.int32)[None]
        given = {**inputs, "memory": inputs["memory"][:, :count], "memory_age": age, "pointer_age": pointer_age}
        ordered = (given[name] for name in ("features", "memory", "memory_age", "pointers", "pointer_age"))
        for conditioned in (reference.memory_attention(**given)["conditioned"], attention(*ordered)):
            assert_digest(conditioned.flatten(2).permute(2, 0, 1), f"{model}/attention {count}")


def check_frame(model: str, session: str, t: int, logits: np.ndarray, score: float) -> None:
    """Compare an object on a frame with what the authors' code stored."""
    golden = {name: GOLDEN[f"{model}/{session}/{name}"][t - SESSIONS[session][0]] for name in KEPT}
    what = f"{model}, {session}, frame {t}"
    difference = np.abs(sampled(logits) - golden["logits"]).max()
    assert difference <= 1e-3 * golden["largest"], what
    assert np.abs(logits).max() == pytest.approx(golden["largest"], rel=1e-3), what
    assert iou(logits > 0, np.unpackbits(golden["masks"], axis=-1).astype(bool)) >= 0.999, what
    assert score == pytest.approx(golden["scores"], abs=1e-3), what


@pytest.mark.parametrize("model", ["ti", "ti_1", "ti_2"])
def test_tracks_as_the_authors_code(models: Models, model: str) -> None:
    models.track(model, models.bundle(model))


@pytest.mark.parametrize("model", ["s", "ti_512x512"])
def test_pytorch_tracks_as_the_authors_code(models: Models, model: str) -> None:
    """What is different in the graphs of these is compared in `test_parts`."""
    bundle = models.described(model)
    models.track(model, bundle, TorchBackend(bundle, models.checkpoint(model)))


def test_pytorch_tracks_alike_under_another_name(models: Models, tmp_path: Path) -> None:
    """The variant is in the bundle, so that the checkpoint may have been renamed."""
    other = shutil.copy(models.checkpoint("ti_1"), tmp_path / "mine.pt")
    models.track("ti_1", models.bundle("ti_1"), TorchBackend(models.bundle("ti_1"), other), frames=5)


def test_predicts_videos_as_the_authors_code(models: Models) -> None:
    size, _, _ = PLAYED["ti_1"]
    with VideoPredictor(models.bundle("ti_1")) as predictor:
        state = predictor.init_state(clip(size, 10))
        predictor.add_new_points_or_box(state, 0, 1, box=prompt("box", size)["box"])
        for t, _, logits in predictor.propagate_in_video(state, max_frame_num_to_track=9):
            difference = np.abs(sampled(logits[0, 0]) - GOLDEN["ti_1/box/full"][t]).max()
            assert difference <= 1e-3 * GOLDEN["ti_1/box/largest"][t], t


def test_transformers_session_tracks_alike(models: Models) -> None:
    """The class that `bench` measures as PyTorch; it follows the objects without a runtime of ours."""
    size = PLAYED["ti_1"][0]
    model = TorchVideo(str(models.checkpoint("ti_1")), "eager", image_size=size)
    for t, frame in enumerate(clip(size, 5)):
        mask = model.track(frame, [SESSIONS["box"][1]["box"]] if t == 0 else [])[0]
        logits = GOLDEN["ti_1/box/full"][t]
        clear = np.abs(logits) > 1e-3 * GOLDEN["ti_1/box/largest"][t]
        assert (sampled(mask) == (logits > 0))[clear].all(), t


def test_images(models: Models) -> None:
    """The image predictor and the mask generator, on the graphs and on PyTorch."""
    bundle, image = models.bundle("ti_1"), clip(256, 1)[0]
    results: list[Any] = []
    for backend in ("onnx", TorchBackend(bundle, models.checkpoint("ti_1"))):
        with ImagePredictor(bundle, backend) as predictor:
            predictor.set_image(image)
            given = predictor.predict(box=np.array(SESSIONS["box"][1]["box"]), multimask_output=False)
            again = predictor.predict(np.array([[80, 90]]), np.array([1]), mask_input=given[2], return_logits=True)
            embedding = predictor.get_image_embedding()
        with AutomaticMaskGenerator(
            bundle, backend=backend, points_per_side=3, pred_iou_thresh=0.0, stability_score_thresh=0.0
        ) as generator:
            records = generator.generate(image)
        results.append((again, embedding, [record["bbox"] for record in records]))
    (logits, found, expected) = results[0][0], results[0][2], results[1][2]
    assert_close(logits, results[1][0], 1e-3)
    assert_close(results[0][1], results[1][1], 1e-3)
    assert found == expected
    assert found


# ------------------------------------------------------------------------------------------------- pooled keys


@pytest.mark.parametrize("model", POOLED)
@pytest.mark.parametrize("slots", [1, 2, 3, 5, 8])
def test_every_object_has_keys_by_its_own_number_of_memories(models: Models, model: str, slots: int) -> None:
    """Slots are filled at random: one of the objects has one memory, wherever it lies, and others have more or less."""
    random = np.random.default_rng(slots)
    age = random.permuted(np.tile(np.arange(slots, dtype=np.int32) % 7, (3, 1)), axis=1)
    age[0, random.permutation(slots)[1:]] = -1  # one memory
    age[1, random.permutation(slots)[slots // 2 + 1 :]] = -1  # about half
    inputs = {
        "features": random.normal(size=(1, 256, 16, 16)).astype(np.float32),
        "memory": random.normal(size=(3, slots, 256, 64)).astype(np.float32),
        "memory_age": age,
        "pointers": random.normal(size=(3, 2, 256)).astype(np.float32),
        "pointer_age": np.array([[1, 2], [3, -1], [1, 9]], np.int32),
    }
    inputs["memory"][age < 0] = 50.0
    source = models.source(model)
    with torch.inference_mode():
        tensors = {name: torch.from_numpy(values) for name, values in inputs.items()}
        expected = Reference(source.model, source.mean, source.std).memory_attention(**tensors)
    graph = open_backend("onnx").open(models.bundle(model).graph_path("memory_attention"))
    assert_close(graph.run(inputs)["conditioned"], expected["conditioned"].numpy(), 1e-4)


def test_no_shape_is_computed_for_pooled_keys(models: Models) -> None:
    nodes = {node.op_type for node in onnx.load(models.bundle("ti_1").graph_path("memory_attention")).graph.node}
    assert not nodes & {"Shape", "ConstantOfShape", "Expand", "Range", "If", "Identity"}


def test_memories_are_pooled_in_the_plain_variants_only(models: Models, tmp_path: Path) -> None:
    message = "memory_pool must be 1 but got 2: EfficientTAM ti_2's keys are pooled already"
    with pytest.raises(InputError, match=message):
        export(models.checkpoint("ti_2"), tmp_path / "bundle", image_size=256, memory_pool=2)
    source, inputs = models.source("ti"), attention_inputs(16)
    memory, pointer_age = inputs["memory"][:, :2, :64], torch.zeros(1, 9, dtype=torch.int32)
    given = inputs["features"], memory, torch.tensor([[0, 3]]), inputs["pointers"], pointer_age
    with torch.inference_mode():
        expected = Reference(source.model, source.mean, source.std, pool=2).memory_attention(*given)["conditioned"]
        torch.testing.assert_close(MemoryAttention(source.model, pool=2)(*given), expected, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------- checkpoints


def refusal(source: Path, **options: Any) -> str:
    """Return the message with which load_source refuses a source."""
    with pytest.raises((InputError, SourceError)) as refused:
        load_source(source, **options)
    return str(refused.value)


def test_the_variant_is_that_of_the_authors_name_or_given(models: Models, tmp_path: Path) -> None:
    mine = Path(shutil.copy(models.checkpoint("ti"), tmp_path / "mine.pt"))
    assert "give the variant: --variant plain or --variant 512x512 or --variant 1 or --variant 2" in refusal(mine)
    assert "variant must be one of plain, 512x512, 1, 2 but got '3'" in refusal(mine, variant="3")
    source = load_source(mine, variant="512x512")
    assert (source.model.config.image_size, source.size, source.variant) == (512, "ti_512x512", "512x512")
    assert load_source(models.checkpoint("ti"), variant="2").size == "ti_2"
    assert "image size 260 is not possible: give a multiple of 32 from 256" in refusal(
        mine, variant="1", image_size=260
    )


def test_mixed_checkpoints_are_named(tmp_path: Path) -> None:
    file = tmp_path / "efficienttam_ti.pt"

    def refused(missing: str = "", **shapes: tuple[int, ...]) -> list[str]:
        state = formula_state("ti") | {name: torch.zeros(shape) for name, shape in shapes.items()}
        state.pop(missing, None)
        torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, file)
        return refusal(file).splitlines()

    sam2 = {"sam_mask_decoder.conv_s0.weight": (32, 256, 1, 1), "obj_ptr_tpos_proj.bias": (64,)}
    assert refused("image_encoder.trunk.blocks.11.norm1.bias", **sam2) == [
        f"{file}: the weights do not fit EfficientTAM ti:",
        "  missing module.image_encoder.trunk.blocks.11.norm1.bias (192,)",
        "  unexpected module.obj_ptr_tpos_proj.bias (64,)",
        "  unexpected module.sam_mask_decoder.conv_s0.weight (32, 256, 1, 1)",
    ]
    narrow = "image_encoder.neck.convs.0.conv_1x1.weight"
    assert refused(**{narrow: (256, 768, 1, 1)}) == [
        f"{file}: {narrow}, which tells the size, is (256, 768, 1, 1); expected (256, 192, 1, 1) for ti or "
        "(256, 384, 1, 1) for s"
    ]


def test_other_families_have_neither_variants_nor_this_directory(tmp_path: Path) -> None:
    assert "nano: SAM has no variants, but '1' was given; leave it out" in refusal(NANO, variant="1")
    (tmp_path / "config.json").write_text('{"model_type": "efficienttam_video"}')
    assert "describes 'efficienttam_video'; expected model_type sam2_video" in refusal(tmp_path)
