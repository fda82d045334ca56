"""Loading checkpoints. upstream_golden.json has what upstream's own code computes from the same weights."""

import argparse
import collections
import functools
import hashlib
import json
import os
import shutil
import sys
import types
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Sam2VideoInferenceSession, Sam2VideoModel

from sam2edge.errors import SourceError
from sam2edge.export.source import IMAGENET, load_source
from sam2edge.export.source.weights import read_checkpoint
from tests.conftest import NANO
from tests.unit.export import upstream_layout as upstream

GOLDEN = json.loads(Path(__file__).with_name("upstream_golden.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Use one thread: on busy cores, threads that wait for each other are several times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny_state():
    return upstream.formula_state("tiny", "2.1")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Write a made-up upstream checkpoint, which no test may change."""
    return upstream.write_checkpoint(tmp_path_factory.mktemp("tiny") / "sam2.1_tiny.pt", "tiny", "2.1")


@pytest.fixture(scope="module")
def tiny_source(tiny):
    """Load that checkpoint, which no test may change."""
    return load_source(tiny)


@pytest.fixture(scope="module")
def at_256(tmp_path_factory):
    """Return a function that loads a made-up upstream tiny of a version at 256, which no test may change."""

    @functools.cache
    def load(version):
        path = tmp_path_factory.mktemp("tiny") / "checkpoint.pt"
        return load_source(upstream.write_checkpoint(path, "tiny", version), image_size=256)

    return load


@pytest.fixture(scope="module")
def custom_model():
    """Load the bundled model, whose trunk has no upstream size, with transformers."""
    return Sam2VideoModel.from_pretrained(NANO, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def saved(custom_model, tmp_path_factory):
    """Save that model in a directory, which no test may change."""
    directory = tmp_path_factory.mktemp("saved") / "custom"
    custom_model.save_pretrained(directory)
    return directory


@pytest.fixture
def directory(saved, tmp_path):
    """Copy that directory, so that the test may damage it."""
    return shutil.copytree(saved, tmp_path / "custom")


def edit_weights(directory, edit):
    """Change the tensors of a directory by `edit`."""
    tensors = {key: tensor.clone() for key, tensor in load_file(directory / "model.safetensors").items()}
    edit(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def sha256(*paths):
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def same_weights(model, other):
    return same_tensors(model.state_dict(), other.state_dict())


def same_tensors(some, others):
    return some.keys() == others.keys() and all(torch.equal(some[key], others[key]) for key in some)


def track(model, count):
    """Click on the first of `count` made-up frames and return the logits, pointer and score of each."""
    size = model.config.image_size
    frames = torch.cat([upstream.formula_frame(size, time) for time in range(count)])
    session = Sam2VideoInferenceSession(video=frames, video_height=size, video_width=size, dtype=torch.float32)
    point = {"point_coords": torch.tensor([[[[60.0, 70.0]]]]), "point_labels": torch.tensor([[[1]]])}
    session.add_point_inputs(session.obj_id_to_idx(1), 0, point)
    session.obj_with_new_inputs = [1]
    for time in range(count):
        model(session, frame_idx=time)
    outputs = session.output_dict_per_obj[0]
    ordered = [*outputs["cond_frame_outputs"].values(), *outputs["non_cond_frame_outputs"].values()]
    return [(out["pred_masks"], out["object_pointer"], out["object_score_logits"].item()) for out in ordered]


def assert_digest(tensor, golden, tolerance):
    """Compare digests to within `tolerance` of the tensor's root mean square."""
    assert upstream.digest(tensor) == pytest.approx(golden, rel=0, abs=tolerance * golden[0])


# -------------------------------------------------------------------------------------- upstream's layout


@pytest.mark.parametrize("size", upstream.SIZES)
@pytest.mark.parametrize("version", upstream.VERSIONS)
def test_names_and_shapes_are_upstreams(size, version):
    listing = upstream.listing(upstream.Layout(size, version))
    assert hashlib.sha256(listing.encode()).hexdigest() == GOLDEN["layout"][f"{size} {version}"]


@pytest.mark.parametrize(("version", "size"), [("2.0", "tiny"), *(("2.1", size) for size in upstream.SIZES)])
def test_every_released_architecture_loads(size, version, at_256, tmp_path):
    path = upstream.write_checkpoint(tmp_path / "checkpoint.pt", size, version)
    source = at_256(version) if size == "tiny" else load_source(path, image_size=256)
    assert (source.size, source.version, source.name) == (size, version, "checkpoint.pt")
    assert source.sha256 == sha256(path)
    assert (source.mean, source.std) == IMAGENET
    config = source.model.config
    assert config.enable_occlusion_spatial_embedding is (version == "2.1")
    assert config.enable_temporal_pos_encoding_for_object_pointers is (version == "2.1")
    if version == "2.1":  # the image encoders of 2.0 are the same
        with torch.no_grad():
            features = source.model.get_image_features(upstream.formula_frame(256, 0)).fpn_hidden_states
        for name, feature in zip(("high_res_0", "high_res_1", "features"), features, strict=True):
            as_image = feature.permute(1, 2, 0)  # transformers flattens to [h·w, 1, C]
            assert_digest(as_image, GOLDEN["encoder"][size][name], 1e-4)


@pytest.mark.parametrize("version", upstream.VERSIONS)
def test_tracks_as_upstream(version, at_256):
    results = track(at_256(version).model, 3)
    for (logits, pointer, score), golden in zip(results, GOLDEN["track"][version], strict=True):
        assert_digest(logits, golden["logits"], 5e-4)
        assert_digest(pointer, golden["pointer"], 5e-4)
        assert score == pytest.approx(golden["score"], abs=5e-4)


def test_decodes_prompts_as_upstream(at_256, monkeypatch):
    model = at_256("2.1").model
    with torch.no_grad():
        *high_res, features = model.get_image_embeddings(upstream.formula_frame(256, 0))
        sparse, dense = model.get_prompt_embeddings(
            input_points=torch.tensor([[[[60.0, 70.0], [100.0, 30.0], [20.0, 20.0], [200.0, 210.0]]]]),
            input_labels=torch.tensor([[[1, 0, 2, 3]]]),
            input_masks=upstream.formula_frame(64, 5)[:, :1],
        )
        positions = model.get_image_wide_positional_embeddings()
        outputs = {
            "multimask": model.mask_decoder(features, positions, sparse, dense, True, high_res),
            "stable": model.mask_decoder(features, positions, sparse, dense, False, high_res),
        }
        monkeypatch.setattr(model.mask_decoder, "dynamic_multimask_via_stability", False)
        outputs["single"] = model.mask_decoder(features, positions, sparse, dense, False, high_res)
    assert_digest(sparse, GOLDEN["prompts"]["sparse"], 1e-4)
    assert_digest(dense, GOLDEN["prompts"]["dense"], 1e-4)
    for name, (masks, ious, _, score) in outputs.items():
        assert_digest(masks, GOLDEN["decoder"][name]["masks"], 1e-4)
        assert_digest(ious, GOLDEN["decoder"][name]["ious"], 1e-4)
        assert_digest(score, GOLDEN["decoder"][name]["score"], 1e-4)


def test_weights_that_few_frames_use_arrive(tiny_source, tiny_state):
    mine = tiny_source.model.state_dict()
    for ours, theirs in {
        "no_memory_embedding": "no_mem_embed",
        "no_memory_positional_encoding": "no_mem_pos_enc",
        "no_object_pointer": "no_obj_ptr",
        "occlusion_spatial_embedding_parameter": "no_obj_embed_spatial",
        "memory_temporal_positional_encoding": "maskmem_tpos_enc",
        "mask_downsample.weight": "mask_downsample.weight",
        "mask_downsample.bias": "mask_downsample.bias",
        "temporal_positional_encoding_projection_layer.weight": "obj_ptr_tpos_proj.weight",
        "temporal_positional_encoding_projection_layer.bias": "obj_ptr_tpos_proj.bias",
    }.items():
        assert torch.equal(mine[ours], tiny_state[theirs])


def test_other_switches_are_those_of_upstreams_yaml(tiny_source):
    config = tiny_source.model.config
    assert config.image_size == config.prompt_encoder_config.image_size == 1024
    assert (config.sigmoid_scale_for_mem_enc, config.sigmoid_bias_for_mem_enc) == (20, -10)
    assert (config.num_maskmem, config.max_object_pointers_in_encoder, config.max_cond_frame_num) == (7, 16, -1)
    assert config.multimask_output_in_sam
    assert config.multimask_output_for_tracking
    assert (config.multimask_min_pt_num, config.multimask_max_pt_num) == (0, 1)
    assert config.rope_parameters["rope_theta"] == 10000
    decoder = config.mask_decoder_config
    assert decoder.dynamic_multimask_via_stability
    assert (decoder.dynamic_multimask_stability_delta, decoder.dynamic_multimask_stability_thresh) == (0.05, 0.98)


def test_the_model_is_for_inference_and_the_library_draws_nothing(tiny, capfd):
    model = load_source(tiny).model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert capfd.readouterr() == ("", "")


def test_a_trainers_checkpoint_loads_alike(tiny_source, tiny_state, tmp_path):
    """Lightning's, of a model in torch.compile: names with a prefix, in BF16, beside objects that are not tensors."""
    wrapped = {f"model._orig_mod.{name}": tensor.bfloat16() for name, tensor in tiny_state.items()}
    for name in (inexact := list(wrapped)[3:]):  # three are enough
        wrapped[name] = tiny_state[name.removeprefix("model._orig_mod.")]
    assert len(inexact) == len(wrapped) - 3
    trainer = {"state_dict": wrapped, "epoch": 3, "hyper_parameters": argparse.Namespace(lr=np.float64(1e-5))}
    torch.save(trainer, tmp_path / "last.pt")
    state = {name: tensor.bfloat16().float() for name, tensor in list(tiny_state.items())[:3]}
    save_file({name: tensor.contiguous() for name, tensor in (tiny_state | state).items()}, tmp_path / "x.safetensors")
    trained = load_source(tmp_path / "last.pt").model
    assert same_weights(trained, load_source(tmp_path / "x.safetensors").model)
    assert not same_weights(trained, tiny_source.model)


def refusal(source, **options):
    """Return the message with which load_source refuses a source."""
    with pytest.raises(SourceError) as refused:
        load_source(source, **options)
    return str(refused.value)


@pytest.fixture
def refusal_of_state(tiny_state, tmp_path):
    """Return a function that edits a copy of the tiny checkpoint's tensors and returns the refusal."""

    def refuse(edit):
        state = dict(tiny_state)
        edit(state)
        torch.save({"model": state}, tmp_path / "edited.pt")
        return refusal(tmp_path / "edited.pt")

    return refuse


def test_missing_extra_and_misshapen_weights_are_named_as_in_the_file(refusal_of_state, directory):
    def edit(state):
        del state["image_encoder.trunk.blocks.3.mlp.layers.1.bias"]
        del state["sam_prompt_encoder.point_embeddings.2.weight"]
        state["text_encoder.weight"] = torch.zeros(3, 4)
        state["obj_ptr_proj.layers.2.weight"] = torch.zeros(256, 255)

    title, *lines = refusal_of_state(edit).splitlines()
    assert title.endswith("edited.pt: the weights do not fit SAM 2.1 tiny:")
    assert lines == [
        "  missing image_encoder.trunk.blocks.3.mlp.layers.1.bias (384,)",
        "  missing sam_prompt_encoder.point_embeddings.2.weight (1, 256)",
        "  unexpected text_encoder.weight (3, 4)",
        "  misshapen obj_ptr_proj.layers.2.weight: expected (256, 256), found (256, 255)",
    ]

    def edit_directory(tensors):
        del tensors["no_object_pointer"]
        tensors["surplus"] = torch.zeros(2)
        tensors["mask_downsample.bias"] = torch.zeros(3)

    edit_weights(directory, edit_directory)
    title, *lines = refusal(directory).splitlines()
    assert title.endswith("custom: the weights do not fit config.json, SAM 2.1 custom:")
    assert lines == [
        "  missing no_object_pointer (1, 256)",
        "  unexpected surplus (2,)",
        "  misshapen mask_downsample.bias: expected (1,), found (3,)",
    ]


def test_a_2_1_checkpoint_must_have_all_that_2_1_added(refusal_of_state):
    message = refusal_of_state(lambda state: state.pop("no_obj_embed_spatial"))
    assert message.splitlines()[1:] == ["  missing no_obj_embed_spatial (1, 64)"]


def test_long_lists_are_cut(refusal_of_state):
    message = refusal_of_state(lambda state: state.update({f"extra.{i:02}": torch.zeros(1) for i in range(14)}))
    assert message.splitlines()[1:] == [*(f"  unexpected extra.{i:02} (1,)" for i in range(10)), "  and 4 more"]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.ones(1, dtype=torch.int8), "mask_downsample.bias are not floating-point numbers in memory (torch.int8)"),
        (torch.ones(1).to_sparse(), "mask_downsample.bias are not floating-point numbers in memory (torch.float32"),
        (torch.ones(1, device="meta"), "mask_downsample.bias are not floating-point numbers in memory (torch.float32"),
        (torch.tensor([torch.nan]).to(torch.float8_e4m3fn), "mask_downsample.bias contain NaN or infinity"),
        (np.ones(1), "mask_downsample.bias among the weights is a "),
    ],
    ids=["int8", "sparse", "meta", "fp8", "numpy"],
)
def test_weights_that_are_no_numbers_are_named(refusal_of_state, weights, message):
    assert message in refusal_of_state(lambda state: state.update({"mask_downsample.bias": weights}))


def test_prefixed_names_are_those_of_the_file(refusal_of_state):
    def edit(state):
        for name in list(state):
            state[f"module.{name}"] = state.pop(name)
        del state["module.no_obj_ptr"]

    assert refusal_of_state(edit).splitlines()[1:] == ["  missing module.no_obj_ptr (1, 256)"]


def test_several_models_in_one_file_are_refused(refusal_of_state):
    def edit(state):
        state.update({f"teacher.{name}": tensor for name, tensor in state.items()})

    message = "holds several models (image_encoder.trunk.*, teacher.image_encoder.trunk.*); save the weights of one"
    assert message in refusal_of_state(edit)


def test_weights_that_are_not_finite_are_named(refusal_of_state, directory):
    message = refusal_of_state(lambda state: state.update({"mask_downsample.bias": torch.tensor([torch.nan])}))
    assert "edited.pt: the weights mask_downsample.bias contain NaN or infinity" in message
    edit_weights(directory, lambda tensors: tensors["no_object_pointer"].fill_(torch.inf))
    assert "the weights no_object_pointer contain NaN or infinity" in refusal(directory)


def test_a_trunk_of_unknown_depth_is_refused(refusal_of_state):
    message = refusal_of_state(lambda state: state.update({"image_encoder.trunk.blocks.12.norm1.bias": torch.zeros(1)}))
    assert "the trunk has 13 blocks" in message
    assert "tiny 12, small 16, base-plus 24, large 48" in message


# ----------------------------------------------------------------------- files that are not checkpoints


class Malicious:
    """A pickle that makes a directory when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


WEIGHTS = {"image_encoder.weight": torch.arange(3.0)}
OBJECTS = {
    "numpy": [np.float64(2.5), np.int64(3), np.array([1.5])],
    "argparse": argparse.Namespace(lr=1e-5, sizes=[1, 2]),
    "scheduler": torch.optim.lr_scheduler.StepLR(torch.optim.SGD([torch.ones(1)], 0.1), 2),
    "path": Path("somewhere"),
    "meters": collections.defaultdict(float, {"loss": 0.5}),
}


@pytest.mark.parametrize("beside", OBJECTS)
def test_objects_beside_the_weights_are_passed_over(tmp_path, beside):
    torch.save({"model": WEIGHTS, beside: OBJECTS[beside], "epoch": 3}, tmp_path / "file.pt")
    before = set(torch.serialization.get_safe_globals())
    assert same_tensors(read_checkpoint(tmp_path / "file.pt"), WEIGHTS)
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_file_that_asks_for_very_many_names_is_refused(tmp_path):
    kinds = [type(f"Kind{number}", (), {"__module__": "somebodys_trainer"}) for number in range(70)]
    module = types.ModuleType("somebodys_trainer")
    vars(module).update({kind.__name__: kind for kind in kinds})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        torch.save({"model": WEIGHTS, "state": [kind() for kind in kinds]}, tmp_path / "file.pt")
    with pytest.raises(SourceError, match=r"it asks to load somebodys_trainer\.Kind64, and only tensors are loaded"):
        read_checkpoint(tmp_path / "file.pt")


def test_a_class_that_is_asked_for_is_not_looked_up(tmp_path):
    module = types.ModuleType("somebodys_trainer")
    module.State = type("State", (), {"__reduce__": lambda self: (module.State, (1,), {"loss": 0.5})})
    module.State.__module__ = module.__name__
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        torch.save({"state_dict": WEIGHTS, "state": module.State()}, tmp_path / "file.pt")
    assert same_tensors(read_checkpoint(tmp_path / "file.pt"), WEIGHTS)
    assert module.__name__ not in sys.modules


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": WEIGHTS, "pytorch-lightning_version": "2.4", "hyper_parameters": {"lr": 1}},
        {"model_state_dict": WEIGHTS, "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(3)}}}},
        {"model": {"state_dict": WEIGHTS}},
        {"model": "sam2.1_hiera_t", "state_dict": WEIGHTS, "mean": torch.ones(3)},
        WEIGHTS,
    ],
    ids=["lightning", "tutorial", "nested", "name of the model", "alone"],
)
def test_weights_are_found_where_trainers_save_them(content, tmp_path):
    torch.save(content, tmp_path / "file.pt")
    assert same_tensors(read_checkpoint(tmp_path / "file.pt"), WEIGHTS)


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, tiny_state):
    trap = tmp_path / "sprung"
    torch.save({"model": tiny_state, "optimizer": Malicious(trap)}, tmp_path / "malicious.pt")
    message = refusal(tmp_path / "malicious.pt")
    assert not trap.exists()
    assert f"asks to load {os.mkdir.__module__}.mkdir" in message
    assert "never code" in message


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 and no more", b"\x80\x02]q\x00.", b"\x80\x02."])
def test_a_file_that_is_not_a_checkpoint_is_refused(content, tmp_path):
    (tmp_path / "file.pt").write_bytes(content)
    message = refusal(tmp_path / "file.pt")
    assert "file.pt is not a PyTorch checkpoint" in message or "file.pt has no weights" in message
    (tmp_path / "file.safetensors").write_bytes(content)
    assert "file.safetensors is not a safetensors file" in refusal(tmp_path / "file.safetensors")


def test_a_truncated_checkpoint_is_refused(tiny, tmp_path):
    (tmp_path / "half.pt").write_bytes(tiny.read_bytes()[: tiny.stat().st_size // 2])
    assert "half.pt is not a PyTorch checkpoint, or is damaged" in refusal(tmp_path / "half.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((content, "file.pt has no weights") for content in ([], {}, {"model": {}}, {"model": {"step": 3}})),
        ({"model": {0: torch.ones(1)}}, "file.pt has no weights"),
        (
            {"model": {"backbone.weight": torch.ones(1)}},
            "image_encoder.trunk.blocks.* (SAM); the first names are backbone.weight",
        ),
        ({"vision_encoder.weight": torch.ones(1)}, "give the directory with config.json"),
    ],
)
def test_a_pickle_without_the_weights_of_a_sam_2_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "file.pt")
    assert message in refusal(tmp_path / "file.pt")


def test_a_missing_path_is_named():
    for missing in ("nowhere/sam2.pt", "no/such/directory", Path("no/where")):
        assert f"{missing}: no such file or directory" in refusal(missing)


# ---------------------------------------------------------------------------------- transformers' layout


def test_a_directory_returns_what_was_saved(custom_model, directory):
    source = load_source(directory)
    assert same_weights(source.model, custom_model)
    assert (source.name, source.size, source.version) == ("custom", "custom", "2.1")
    assert source.sha256 == sha256(directory / "model.safetensors")
    assert (source.mean, source.std) == IMAGENET
    assert source.model.config.image_size == 128


def test_shards_are_joined(custom_model, tmp_path):
    custom_model.save_pretrained(tmp_path, max_shard_size="3MB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    source = load_source(tmp_path)
    assert same_weights(source.model, custom_model)
    assert source.sha256 == sha256(*shards)
    shards[-1].unlink()
    assert f"{shards[-1]} is missing" in refusal(tmp_path)


def test_a_saved_upstream_checkpoint_keeps_its_size_and_version(tiny_source, tmp_path):
    tiny_source.model.save_pretrained(tmp_path)
    source = load_source(tmp_path)
    assert (source.size, source.version) == ("tiny", "2.1")
    assert same_weights(source.model, tiny_source.model)


def test_a_directory_may_hold_the_point_codes_once(custom_model, directory):
    codes = "prompt_encoder.shared_embedding.positional_embedding"
    edit_weights(directory, lambda tensors: tensors.pop(codes))
    state = load_source(directory).model.state_dict()
    assert torch.equal(state[codes], custom_model.shared_image_embedding.positional_embedding)


@pytest.mark.parametrize("dtype", ["float16", "float8_e4m3fn"])
def test_shorter_numbers_become_float32(directory, dtype):
    kind = getattr(torch, dtype)
    edit_weights(directory, lambda tensors: tensors.update({key: t.to(kind) for key, t in tensors.items()}))
    edit_json(directory / "config.json", dtype=dtype)
    assert {parameter.dtype for parameter in load_source(directory).model.parameters()} == {torch.float32}


def test_the_older_name_of_the_rope_frequency_counts(directory, capfd):
    settings = json.loads((directory / "config.json").read_text())
    del settings["rope_parameters"]
    (directory / "config.json").write_text(json.dumps(settings | {"memory_attention_rope_theta": 5000}))
    model = load_source(directory).model
    assert model.memory_attention.rotary_emb.inv_freq[-1].item() == pytest.approx(5000 ** -(63 / 64), rel=1e-5)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "sam2"}, "describes an image-only Sam2Model"),
        ({"model_type": "sam2"}, "expected model_type sam2_video. Copy its weights into the Sam2VideoModel"),
        ({"model_type": "sam3_video"}, "describes 'sam3_video'; expected model_type sam2_video"),
        ({"model_type": None}, "describes None; expected model_type sam2_video"),
        ({"num_maskmem": "seven"}, "config.json is not a valid Sam2VideoConfig"),
        ({"memory_fuser_num_layers": 10**9}, "memory_fuser_num_layers is 1000000000, but the weights are only"),
        ({"memory_encoder_hidden_size": -1}, "describes no model that can be made"),
        ({"mask_decoder_config": {"num_attention_heads": 0}}, "0 attention heads cannot share 128 channels"),
        ({"mask_decoder_config": {"num_attention_heads": 7}}, "7 attention heads cannot share 128 channels"),
    ],
)
def test_an_unusable_configuration_is_refused(directory, changes, message):
    edit_json(directory / "config.json", **changes)
    assert message in refusal(directory)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "config.json cannot be read as JSON"),
        ("config.json", "[" * 100_000, "config.json cannot be read as JSON"),
        ("config.json", "[]", "config.json is not a JSON object"),
        ("preprocessor_config.json", '{"image_mean": [0.5], "image_std": [0.5]}', "must be three numbers, got [0.5]"),
        ("model.safetensors", "\0" * 100, "model.safetensors is not a safetensors file"),
    ],
    ids=range(5),
)
def test_an_unreadable_file_is_named(directory, name, content, message):
    (directory / name).write_text(content)
    assert f"{directory / name}" in refusal(directory)
    assert message in refusal(directory)


def test_a_missing_file_is_named(directory, tiny):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    assert "has no model.safetensors" in refusal(directory)
    (directory / "model.safetensors.index.json").write_text("{}")
    assert "lists no shards" in refusal(directory)
    (directory / "config.json").unlink()
    assert "it has no config.json" in refusal(directory)
    assert f"give the file: {tiny}" in refusal(tiny.parent)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("preprocessor_config.json", None),
        ("video_preprocessor_config.json", None),
        ("processor_config.json", "video_processor"),
    ],
)
def test_the_directory_gives_the_normalisation(directory, name, part):
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (directory / name).write_text(json.dumps({part: settings, "target_size": 128} if part else settings))
    source = load_source(directory)
    assert (source.mean, source.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


# --------------------------------------------------------------------------------------------------- hub


def test_a_model_id_is_fetched_from_the_hub(directory, monkeypatch):
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name) or str(directory))
    assert load_source("facebook/sam2.1-hiera-tiny").name == "facebook/sam2.1-hiera-tiny"
    assert asked == ["facebook/sam2.1-hiera-tiny"]


@pytest.mark.parametrize(
    "address",
    [
        "facebook/sam2.1-hiera-tiny/",
        "https://huggingface.co/facebook/sam2.1-hiera-tiny",
        "https://hf.co/facebook/sam2.1-hiera-tiny/",
        "https://huggingface.co/facebook/sam2.1-hiera-tiny/tree/main?show_file_info=config.json",
        "https://huggingface.co/facebook/sam2.1-hiera-tiny/blob/main/model.safetensors",
    ],
)
def test_an_address_is_its_models_id(tmp_path, monkeypatch, address):
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name) or str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name, revision: [])
    assert "facebook/sam2.1-hiera-tiny on the Hugging Face hub is not a model that can be exported" in refusal(address)
    assert asked == ["facebook/sam2.1-hiera-tiny"]


def test_upstreams_file_on_the_hub(tiny, monkeypatch):
    asked = []

    def download(*arguments, **options):
        asked.append((*arguments, options))
        return str(tiny)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    address = "https://huggingface.co/someone/tuned/resolve/v2/last/sam2.1_tiny.pt?download=true"
    assert load_source(address, image_size=256).name == "sam2.1_tiny.pt"
    assert asked == [("someone/tuned", "last/sam2.1_tiny.pt", {"revision": "v2"})]


def test_a_repository_that_holds_only_upstreams_files(monkeypatch, tmp_path):
    files = ["README.md", "sam2.1_hiera_tiny.pt"]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name, revision: files)
    address = "https://huggingface.co/someone/tuned/resolve/main/sam2.1_hiera_tiny.pt"
    assert f"layout, give the address of the file: {address}" in refusal("someone/tuned")
    files.pop()
    assert "someone/tuned on the Hugging Face hub is not a model that can be exported" in refusal("someone/tuned/")


def test_another_address_is_to_be_downloaded():
    message = refusal("https://dl.fbaipublicfiles.com/segment_anything_2/092824/sam2.1_hiera_tiny.pt")
    assert message.endswith("is not a model of the Hugging Face hub; download the file and give its path")


def test_for_an_unreachable_hub_the_message_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    message = refusal("facebook/sam2.1-hiera-none")
    assert "facebook/sam2.1-hiera-none is neither a file or directory here" in message
    assert "hf download facebook/sam2.1-hiera-none --local-dir DIR" in message


# -------------------------------------------------------------------------------------------- image size


def test_the_image_size_is_set_wherever_it_is_known(tiny):
    model = load_source(tiny, image_size=288).model
    config = model.config
    assert config.image_size == config.prompt_encoder_config.image_size == model.image_size == 288
    assert config.vision_config.backbone_config.image_size == [288, 288]
    assert model.backbone_feature_sizes == [[72, 72], [36, 36], [18, 18]]
    assert config.memory_attention_rope_feat_sizes == [18, 18]
    assert model.memory_attention.position_ids.tolist()[:19] == [[i % 18, i // 18] for i in range(19)]


@pytest.mark.parametrize("image_size", [128, 288])
def test_transformers_tracks_at_other_image_sizes(directory, image_size):
    for logits, pointer, _ in track(load_source(directory, image_size=image_size).model, 2):
        assert logits.shape == (1, 1, image_size // 4, image_size // 4)
        assert pointer.shape == (1, 1, 256)


@pytest.mark.parametrize("image_size", [-256, 0, 128, 224, 300, 1056])
def test_impossible_image_sizes_are_refused(tiny, image_size):
    message = refusal(tiny, image_size=image_size)
    assert message == (
        f"image size {image_size} is not possible: give a multiple of 32 from 256 to 1024, "
        f"or 1024, the checkpoint's own"
    )


def test_a_checkpoints_own_image_size_is_always_possible(directory):
    assert load_source(directory, image_size=128).model.config.image_size == 128
    assert "from 256 to 1024, or 128, the checkpoint's own" in refusal(directory, image_size=160)


@pytest.mark.parametrize("image_size", [-128, 0, 100])
def test_a_checkpoints_own_image_size_may_not_fit_its_trunk(directory, image_size):
    edit_json(directory / "config.json", image_size=image_size)
    message = f"image size {image_size}, the checkpoint's own, is not possible: give a multiple of 32"
    assert refusal(directory) == message
    assert load_source(directory, image_size=256).model.config.image_size == 256
