"""Compute edgetam_golden.npz with the authors' own code.

python -m tests.unit.export.make_edgetam_golden EDGETAM

EDGETAM is a checkout of https://github.com/facebookresearch/EdgeTAM (the numbers are of 9cc44bf). What stands in for
hydra, and what is kept of parts and sessions, is as in make_efficienttam_golden.py; timm is imported as in
tests/timm_models.py. The weights are those of edgetam_layout.py.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tests.timm_models import create_model
from tests.unit.export.edgetam_layout import FRAMES, SESSIONS, SIZE, formula_state
from tests.unit.export.efficienttam_layout import attention_inputs, clip
from tests.unit.export.make_efficienttam_golden import Float32, make, normalised, play, postprocessing, without_hydra
from tests.unit.export.upstream_layout import digest, formula_frame, listing


def build(checkout: Path) -> Any:
    """Return the authors' SAM2VideoPredictor with the made-up weights."""
    settings = yaml.safe_load((checkout / "sam2" / "configs" / "edgetam.yaml").read_text())["model"]
    settings |= postprocessing() | {"image_size": SIZE, "_target_": "sam2.sam2_video_predictor.SAM2VideoPredictor"}
    attention = settings["memory_attention"]["layer"]
    attention["self_attention"]["feat_sizes"] = attention["cross_attention"]["q_sizes"] = [SIZE // 16] * 2
    predictor = make(settings).eval()
    predictor.load_state_dict(formula_state())
    return predictor


def parts(predictor: Any) -> dict[str, np.ndarray]:
    """Return digests of the parts' outputs."""
    encoded = predictor.forward_image(normalised(clip(SIZE, 1)))
    results = dict(zip(("high_res_0", "high_res_1", "features"), encoded["backbone_fpn"], strict=True))
    memory = predictor.memory_encoder(results["features"], formula_frame(SIZE, 3)[:, :1], skip_mask_sigmoid=True)
    results["map"] = memory["vision_features"]
    results["memory"], code = predictor.spatial_perceiver(memory["vision_features"], memory["vision_pos_enc"][0])
    inputs = attention_inputs(SIZE // 16, tokens=512)
    pointers = inputs["pointers"].reshape(-1, 1, 64)
    position = predictor.image_encoder.neck.position_encoding(inputs["features"])
    for count in (1, 3, 7):  # ages 0, 1, 2, …
        results[f"attention {count}"] = predictor.memory_attention(
            curr=[inputs["features"].flatten(2).permute(2, 0, 1)],
            curr_pos=[position.flatten(2).permute(2, 0, 1)],
            memory=torch.cat([*(inputs["memory"][0, age, :, None] for age in range(count)), pointers]),
            memory_pos=torch.cat(
                [
                    *(code[0, :, None] + predictor.maskmem_tpos_enc[age - 1] for age in range(count)),
                    torch.zeros_like(pointers),
                ]
            ),
            num_obj_ptr_tokens=len(pointers),
            num_spatial_mem=count,
        )
    return {name: np.array(digest(tensor)) for name, tensor in results.items()}


@torch.inference_mode()
def main(checkout: Path) -> None:
    """Write the file."""
    without_hydra()
    sys.path.insert(0, str(checkout))
    importlib.import_module("sam2.modeling.backbones.timm").create_model = lambda name, pretrained, **options: (
        create_model(name.partition(".")[0], num_classes=0, **options)
    )
    video = importlib.import_module("sam2.sam2_video_predictor")
    vars(video)["torch"] = Float32()
    predictor = build(checkout)
    shapes = {name: tuple(tensor.shape) for name, tensor in predictor.state_dict().items()}
    golden: dict[str, Any] = {"layout": hashlib.sha256(listing(shapes).encode()).hexdigest(), **parts(predictor)}
    for session in SESSIONS:
        results = play(predictor, video, session, clip(SIZE, FRAMES))
        golden |= {f"{session}/{name}": values for name, values in results.items()}
    np.savez_compressed(Path(__file__).with_name("edgetam_golden.npz"), **golden)


if __name__ == "__main__":
    create_model("repvit_m1")  # imports timm, which the authors' package does too
    main(Path(sys.argv[1]).resolve())
