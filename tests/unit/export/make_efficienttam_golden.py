"""Compute efficienttam_golden.npz with the authors' own code.

python -m tests.unit.export.make_efficienttam_golden EFFICIENTTAM

EFFICIENTTAM is a checkout of https://github.com/yformer/EfficientTAM (the numbers are of abcd061). Hydra is not
needed: a stand-in for it lets the package be imported, and the yaml's `_target_`s are made here. The weights and frames
are those of efficienttam_layout.py, in float32 on the CPU. Memories are not rounded to bfloat16, which the authors do
for the GPU's sake. For each model the file has the sha256 of the names and shapes of its weights, digests
(upstream_layout.digest) of what its parts compute, and each frame of each session: samples of the logits, the sign of
all, the object score, a digest of the pointer, and samples of the logits at the video's size.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tests.unit.export.efficienttam_layout import (
    PLAYED,
    SESSIONS,
    attention_inputs,
    clip,
    formula_state,
    prompt,
    sampled,
)
from tests.unit.export.upstream_layout import digest, formula_frame, listing

PACKAGE = "efficient_track_anything"
MEAN, STD = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))


def postprocessing() -> dict[str, Any]:
    """Return what build_efficienttam.py and build_sam.py add to the yaml, but for holes, which CUDA alone fills."""
    stability = {"via_stability": True, "stability_delta": 0.05, "stability_thresh": 0.98}
    return {
        "sam_mask_decoder_extra_args": {f"dynamic_multimask_{name}": value for name, value in stability.items()},
        "binarize_mask_from_pts_for_mem_enc": True,
        "compile_image_encoder": False,
    }


class Float32:
    """The torch module without bfloat16."""

    bfloat16 = torch.float32

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def make(node: Any) -> Any:
    """Return what hydra's `instantiate` makes of a part of the yaml."""
    if isinstance(node, list):
        return [make(value) for value in node]
    if not isinstance(node, dict):
        return 1e-6 if node == "1e-6" else node  # a number to hydra, a text to yaml
    made = {name: make(value) for name, value in node.items() if name != "_target_"}
    if "_target_" not in node:
        return made
    module, _, name = node["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**made)


def build(checkout: Path, model: str) -> Any:
    """Return the authors' EfficientTAMVideoPredictor with the made-up weights."""
    file = checkout / PACKAGE / "configs" / "efficienttam" / f"efficienttam_{model}.yaml"
    settings = yaml.safe_load(file.read_text())["model"] | postprocessing() | {"image_size": PLAYED[model][0]}
    settings["_target_"] = f"{PACKAGE}.efficienttam_video_predictor.EfficientTAMVideoPredictor"
    predictor = make(settings).eval()
    predictor.load_state_dict(formula_state(model.partition("_")[0]))
    return predictor


def normalised(frames: np.ndarray) -> torch.Tensor:
    """Return frames uint8 [T,S,S,3] as the image encoder takes them."""
    return ((torch.from_numpy(frames) / 255 - MEAN) / STD).permute(0, 3, 1, 2).contiguous()


def parts(predictor: Any) -> dict[str, np.ndarray]:
    """Return digests of the parts' outputs."""
    size, side = predictor.image_size, predictor.image_size // 16
    results = {"features": predictor.forward_image(normalised(clip(size, 1)))["vision_features"]}
    sparse, dense = predictor.sam_prompt_encoder(
        points=(torch.tensor([[[60.0, 70.0], [20, 20], [200, 210]]]), torch.tensor([[1, 2, 3]])), boxes=None, masks=None
    )
    for multimask in (True, False):
        masks, ious, _, score = predictor.sam_mask_decoder(
            image_embeddings=results["features"],
            image_pe=predictor.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            repeat_image=False,
            high_res_features=None,
        )
        results |= {f"masks {multimask}": masks, f"ious {multimask}": ious, f"score {multimask}": score}
    memory = predictor.memory_encoder(results["features"], formula_frame(size, 3)[:, :1], skip_mask_sigmoid=True)
    results["memory"] = memory["vision_features"]
    inputs = attention_inputs(side)
    code = memory["vision_pos_enc"][0].flatten(2).permute(2, 0, 1)
    pointers = inputs["pointers"].reshape(-1, 1, 64)
    for count in (1, 2, 3, 4, 7):  # ages 0, 1, 2, …
        keys = [inputs["memory"][0, age, :, None] for age in range(count)]
        codes = [code + predictor.maskmem_tpos_enc[age - 1] for age in range(count)]
        position = predictor.image_encoder.neck.position_encoding(inputs["features"])
        results[f"attention {count}"] = predictor.memory_attention(
            curr=[inputs["features"].flatten(2).permute(2, 0, 1)],
            curr_pos=[position.flatten(2).permute(2, 0, 1)],
            memory=torch.cat([*keys, pointers]),
            memory_pos=torch.cat([*codes, torch.zeros_like(pointers)]),
            num_obj_ptr_tokens=len(pointers),
        )
    return {name: np.array(digest(tensor)) for name, tensor in results.items()}


def play(predictor: Any, video: Any, session: str, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Return what is kept of every frame from the prompt on; `video` is the module of the predictor's class."""
    size, (start, _) = predictor.image_size, SESSIONS[session]
    video.load_video_frames = lambda **_: (normalised(frames), size, size)
    state = predictor.init_state("")
    given = prompt(session, size)
    if "mask" in given:
        predictor.add_new_mask(state, start, 1, given["mask"])
    elif "box" in given:
        predictor.add_new_points_or_box(state, start, 1, box=given["box"])
    else:
        labels = np.ones(len(given["points"]), np.int32)
        predictor.add_new_points_or_box(state, start, 1, points=given["points"], labels=labels)
    full = [masks[0, 0].numpy() for _, _, masks in predictor.propagate_in_video(state)]
    stored = state["output_dict_per_obj"][0]
    outputs = [(stored["cond_frame_outputs"] | stored["non_cond_frame_outputs"])[t] for t in range(start, len(frames))]
    logits = np.stack([out["pred_masks"][0, 0].numpy() for out in outputs])
    return {
        "logits": np.stack([sampled(frame) for frame in logits]),
        "full": np.stack([sampled(frame) for frame in full]),
        "largest": np.abs(logits).max(axis=(1, 2)),
        "masks": np.packbits(logits > 0, axis=-1),
        "scores": np.array([float(out["object_score_logits"]) for out in outputs], np.float32),
        "pointers": np.array([digest(out["obj_ptr"]) for out in outputs], np.float32),
    }


def without_hydra() -> None:
    """Let a package be imported that sets up hydra on import."""
    loaded = types.SimpleNamespace(is_initialized=lambda: True)
    for name, content in (
        ("hydra", {"initialize_config_module": None}),
        ("hydra.core", {}),
        ("hydra.core.global_hydra", {"GlobalHydra": types.SimpleNamespace(instance=lambda: loaded)}),
    ):
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)


@torch.inference_mode()
def main(checkout: Path) -> None:
    """Write the file."""
    without_hydra()
    sys.path.insert(0, str(checkout))
    video = importlib.import_module(f"{PACKAGE}.efficienttam_video_predictor")
    vars(video)["torch"] = Float32()
    golden: dict[str, Any] = {}
    for model, (size, count, sessions) in PLAYED.items():
        predictor = build(checkout, model)
        shapes = {name: tuple(tensor.shape) for name, tensor in predictor.state_dict().items()}
        golden[f"{model}/layout"] = hashlib.sha256(listing(shapes).encode()).hexdigest()
        golden |= {f"{model}/{name}": values for name, values in parts(predictor).items()}
        for session in sessions:
            results = play(predictor, video, session, clip(size, count))
            golden |= {f"{model}/{session}/{name}": values for name, values in results.items()}
    np.savez_compressed(Path(__file__).with_name("efficienttam_golden.npz"), **golden)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
