"""Track the bundled clip with PyTorch's own predictor (transformers) and score it as demo.py does.

    python samples/score_pytorch.py [MODEL]
MODEL is a directory that transformers wrote, by default the bundled model.
"""

import sys

import numpy as np
import torch
from demo import CLIP, SAMPLES, print_scores, read_truth
from torch.nn.functional import interpolate
from transformers import Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from sam2edge import VideoSource
from sam2edge.export.reference import preprocess


def follow(model, video, prompt, size):
    """Track one object from a box on frame 0, in a session of its own: masks bool [T,H,W]."""
    side, (height, width) = video.shape[-1], size
    session = Sam2VideoInferenceSession(video=video, video_height=side, video_width=side, dtype=torch.float32)
    corners = torch.tensor(prompt["box"], dtype=torch.float32).reshape(1, 1, 2, 2)
    corners = corners * torch.tensor([side / width, side / height])
    inputs = {"point_coords": corners, "point_labels": torch.tensor([[[2, 3]]], dtype=torch.int32)}
    session.add_point_inputs(session.obj_id_to_idx(1), 0, inputs)
    session.obj_with_new_inputs = [1]
    model(session, frame_idx=0)
    outputs = model.propagate_in_video_iterator(session)
    logits = torch.cat([output.pred_masks.float() for output in outputs])
    return (interpolate(logits, size, mode="bilinear", align_corners=False)[:, 0] > 0).numpy()


@torch.inference_mode()
def main(model_path):
    """Track each object of the clip and print its mean IoU."""
    torch.set_num_threads(1)  # the model is too small to gain from more, which on a busy machine only wait
    model = Sam2VideoModel.from_pretrained(model_path, dtype=torch.float32).eval()
    prompts, true = read_truth()
    with VideoSource(CLIP) as source:
        video = preprocess(np.stack(list(source)), model.config.image_size)
    masks = [follow(model, video, prompt, true.shape[-2:]) for prompt in prompts.values()]
    print_scores(prompts, np.stack(masks, axis=1), true)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else SAMPLES / "nano")
