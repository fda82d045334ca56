"""Save the model as transformers does, measure it through transformers' own inference, and test the trainer by that."""

from __future__ import annotations

import copy
import json
import time

import cv2
import numpy as np
import torch
import transformers
from nano_data import IMG, MEAN, STD, Renderer, build_bank
from nano_model import Net, fast_patch, make_config, make_model, upsample
from nano_prompts import boxes, click, several_points
from transformers import Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

PROMPTS = ("click1", "box", "points", "mask")


def save(weights, out, step, **meta):
    """Write weights as a transformers directory: stored in float16, loaded in float32."""
    model = Sam2VideoModel(make_config())
    model.load_state_dict(weights)
    model.half()
    model.config.dtype = "float32"
    model.save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    config["dtype"] = "float32"
    config.pop("torch_dtype", None)
    processor = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "do_convert_rgb": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "rescale_factor": 1 / 255,
        "resample": 2,
        "size": {"height": IMG, "width": IMG},
    }
    mask_size = {"height": IMG // 4, "width": IMG // 4}
    for name, content in {
        "config": config,
        "preprocessor_config": {**processor, "image_processor_type": "Sam2ImageProcessor", "mask_size": mask_size},
        "video_preprocessor_config": {**processor, "video_processor_type": "Sam2VideoVideoProcessor"},
        "processor_config": {"processor_class": "Sam2VideoProcessor", "target_size": IMG, "point_pad_value": -10},
        "train_meta": {"step": step, **meta},
    }.items():
        (out / f"{name}.json").write_text(json.dumps(content, indent=2))


def iou(mask, true):
    """Return the IoU of two boolean masks, 1 if both are empty."""
    union = (mask | true).sum()
    return 1.0 if union == 0 else float((mask & true).sum() / union)


def session_of(video, device):
    """Return an inference session; without a video, frames are given one by one."""
    places = dict.fromkeys(("inference_device", "inference_state_device", "video_storage_device"), device)
    return Sam2VideoInferenceSession(video=video, video_height=IMG, video_width=IMG, dtype=torch.float32, **places)


def add_prompt(session, object_id, prompt, frame=0):
    """Give a session a mask [H,W], or points [P,2] with labels [P], for an object."""
    index = session.obj_id_to_idx(object_id)
    if isinstance(prompt, tuple):
        points = {"point_coords": prompt[0].float()[None, None], "point_labels": prompt[1].int()[None, None]}
        session.add_point_inputs(index, frame, points)
    else:
        session.add_mask_inputs(index, frame, prompt.float()[None, None])


def track(model, video, prompts, device, streaming=False):
    """Track objects, each with a prompt on frame 0: masks bool [T,n,IMG,IMG] and scores [T,n]."""
    session = session_of(None if streaming else video, device)
    for i, prompt in enumerate(prompts):
        add_prompt(session, i + 1, prompt)
    session.obj_with_new_inputs = list(range(1, len(prompts) + 1))
    if streaming:
        outputs = (model(session, frame=frame) for frame in video)
    else:
        model(session, frame_idx=0)
        outputs = model.propagate_in_video_iterator(session)
    masks, scores = [], []
    for output in outputs:
        masks.append((upsample(output.pred_masks.float())[:, 0] > 0).cpu())
        scores.append(output.object_score_logits.float().flatten().cpu())
    return torch.stack(masks), torch.stack(scores)


def evaluate(out, renderer, device, clips, length, metrics=None, seed=777):
    """Measure the model in `out` on clips of two objects; write metrics.json and contact_sheet.png beside it."""
    model = Sam2VideoModel.from_pretrained(out, dtype=torch.float32).to(device).eval()
    start = time.time()
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    pixels, truth, valid = renderer.batch(clips, length, 2, generator)
    first, later, visible, late = ({name: [] for name in PROMPTS} for _ in range(4))
    right, columns = [], []
    for clip in range(clips):
        prompts, targets = [], []
        for target in (2 * clip, 2 * clip + 1):
            if not bool(valid[target]):
                continue
            mask = truth[0, target : target + 1]
            corners, labels = boxes(mask, jitter=False)
            points, signs = several_points(mask.repeat(2, 1, 1), 3)
            one = click(mask.repeat(2, 1, 1), interior=True)[0][None]
            prompts += [(one, torch.ones(1)), (corners[0], labels[0]), (points[0], signs[0]), mask[0]]
            targets.append(truth[:, target].cpu())
        masks, scores = track(model, pixels[:, clip], prompts, device, streaming=clip % 4 == 3)
        for k, target in enumerate(targets):
            areas = target.flatten(1).sum(1)
            for j, name in enumerate(PROMPTS):
                row = len(PROMPTS) * k + j
                ious = [iou(masks[t, row], target[t]) for t in range(length)]
                first[name].append(ious[0])
                later[name] += ious[1:]
                visible[name] += [ious[t] for t in range(1, length) if areas[t] > 0]
                late[name] += ious[length // 2 :]
                counted = [t for t in range(1, length) if areas[t] == 0 or areas[t] >= 16]
                right += [float((scores[t, row] > 0) == (areas[t] > 0)) for t in counted]
        if clip < 8:
            columns.append(_contact_column(pixels[:, clip], targets, masks, prompts))

    def mean(values):
        return float(np.mean(values)) if values else None

    report = {
        "frame0_iou": {name: mean(values) for name, values in first.items()},
        "mean_J_frames1plus": {name: mean(values) for name, values in later.items()},
        "mean_J_visible_only": {name: mean(values) for name, values in visible.items()},
        "mean_J_last_half": {name: mean(values) for name, values in late.items()},
        "object_score_acc": mean(right),
        "clips": clips,
        "frames": length,
        "objects": len(first["box"]),
        "absent_frac": float((truth[1:].flatten(2).sum(-1) == 0).float().mean()),
        "eval_s": round(time.time() - start, 1),
        "note": "click1 J counts the whole-vs-part ambiguity as error; every 4th clip ran through the streaming API",
        **(metrics or {}),
    }
    (out / "metrics.json").write_text(json.dumps(report, indent=2))
    cv2.imwrite(str(out / "contact_sheet.png"), np.concatenate(columns, 1))
    print("EVAL", json.dumps(report), flush=True)


def _contact_column(pixels, targets, masks, prompts):
    """Draw true contours (green) and those after one click on up to eight frames of a clip, one below the other."""
    length = len(pixels)
    rows = []
    for t in np.linspace(0, length - 1, min(length, 8)).round().astype(int):
        frame = pixels[t].cpu() * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
        image = (frame.clamp(0, 1).permute(1, 2, 0).numpy() * 255).astype(np.uint8)[:, :, ::-1].copy()
        for k, target in enumerate(targets):
            tracked = ((0, 0, 255), (255, 0, 255))[k]
            for mask, colour in ((target[t], (0, 255, 0)), (masks[t, len(PROMPTS) * k], tracked)):
                contours, _ = cv2.findContours(mask.numpy().astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
                cv2.drawContours(image, contours, -1, colour, 1)
        for k in range(len(targets) if t == 0 else 0):
            x, y = prompts[len(PROMPTS) * k][0][0].tolist()
            cv2.circle(image, (int(x), int(y)), 3, (255, 255, 255), -1)
        cv2.putText(image, f"t={t}", (4, 14), 0, 0.45, (255, 255, 255), 1)
        rows.append(image)
    return np.concatenate(rows, 0)


def selftest(device="cpu"):
    """Compare Net with transformers' own inference: first where objects are in view, then where some are not."""
    worst, median = _compare(device, 30.0, ("box", "points"))
    worst |= _compare(device, 30.0 - median, ("click1", "mask", "click1+corr"))[0]
    largest = max(worst.values())
    print(
        f"selftest transformers {transformers.__version__} {'OK' if largest < 1e-4 else 'FAILED'} max relative to "
        f"logit std {largest:.1e} (transformers rounds stored memories to bfloat16; without that the absolute "
        "difference is 3.8e-5)",
        flush=True,
    )


@torch.no_grad()
def _compare(device, score_bias, kinds, length=10):
    """Return the relative difference for each kind of prompt, and the median score, with a bias of the scores."""
    renderer = Renderer(build_bank(60, 30, 10, seed=5), device)
    generator = torch.Generator().manual_seed(3)
    model = make_model(1)
    for name, parameter in model.named_parameters():  # let every branch matter
        if parameter.dim() < 2 or "positional" in name or "no_" in name or "occlusion" in name:
            parameter.add_(torch.randn_like(parameter) * 0.05)
        elif parameter.dim() == 2 and "embed" not in name:
            parameter.mul_(1.3)
    model.mask_decoder.pred_obj_score_head.proj_out.bias.data.fill_(score_bias)
    model.to(device)
    reference = copy.deepcopy(model)
    net = Net(fast_patch(model))
    pixels, truth, _ = renderer.batch(3, length, 1, generator)
    encoded = net.encode(pixels.flatten(0, 1))
    position = encoded[3]
    frames = list(zip(*(x.view(length, 3, *x.shape[1:]).unbind(0) for x in encoded[:3]), strict=True))
    worst, scores = {}, []
    for kind in kinds:
        torch.manual_seed(0)
        prompt, correction = _prompts_of(kind, truth[0])
        kept, bank = [], {}
        for t, (high_res_0, high_res_1, features) in enumerate(frames):
            prompted = t == 0
            if t == 0 and kind == "mask":
                selected = net.mask_as_output(features, high_res_0, high_res_1, prompt)[1]
            elif t == 0:
                first = features + model.no_memory_embedding.view(1, -1, 1, 1)
                decoded = net.decode(first, high_res_0, high_res_1, *net.prompt(*prompt))
                selected = net.select(decoded, "click1" in kind)
            else:
                prompted = t == 4 and "corr" in kind
                conditioned = net.condition(features, position, bank, t, max_pointers=min(length, 16))
                encoded_prompt = net.prompt(*correction) if prompted else net.no_prompt(3)
                selected = net.select(net.decode(conditioned, high_res_0, high_res_1, *encoded_prompt), True)
            memory, code = net.memory(features, selected, prompted)
            bank[t] = {"memory": memory.float(), "code": code, "pointer": selected["pointer"]}
            kept.append(selected)
            scores.append(selected["score"])
        prompts = list(zip(*prompt, strict=True)) if isinstance(prompt, tuple) else list(prompt)
        difference = 0.0
        for clip, corrected in enumerate(zip(*correction, strict=True)):
            mine = [{name: values[clip] for name, values in selected.items()} for selected in kept]
            args = (pixels[:, clip], prompts[clip], corrected if "corr" in kind else None, mine, device)
            difference = max(difference, _difference(reference, *args))
        low = torch.stack([selected["low"] for selected in kept])
        deviation = low[low > -1000].std().item()
        present = sum(int((selected["score"] > 0).sum()) for selected in kept)
        worst[kind] = difference / max(deviation, 1.0)
        print(
            f"selftest {kind:12s} max|batched - API| over masks/score/pointer, {length} frames x 3 objects: "
            f"{difference:.2e}  (object bias {score_bias:.1f}, predicted present {present}/{3 * length}, "
            f"logit std where present {deviation:.2f}, relative {worst[kind]:.1e})",
            flush=True,
        )
    return worst, float(torch.cat(scores).median())


def _prompts_of(kind, masks):
    """Return the prompts of three objects on frame 0, and points with which frame 4 may be corrected."""
    if kind == "mask":
        prompt = masks
    elif kind == "box":
        prompt = boxes(masks)
    elif kind == "points":
        prompt = several_points(masks, 4)
    else:
        prompt = click(masks)[:, None], torch.ones(3, 1, dtype=torch.int32, device=masks.device)
    labels = torch.tensor([[1], [0], [1]], dtype=torch.int32, device=masks.device)
    return prompt, (click(torch.ones_like(masks))[:, None], labels)


def _difference(model, video, prompt, correction, kept, device):
    """Return the largest difference of transformers' inference on one clip from what Net kept of each frame."""
    session = session_of(video, device)
    add_prompt(session, 1, prompt)
    session.obj_with_new_inputs = [1]
    model(session, frame_idx=0)
    limits = {"start_frame_idx": 1, "max_frame_num_to_track": 3} if correction else {}
    outputs = {output.frame_idx: output for output in model.propagate_in_video_iterator(session, **limits)}
    if correction:
        add_prompt(session, 1, correction, frame=4)
        session.obj_with_new_inputs = [1]
        outputs[4] = model(session, frame_idx=4)
        outputs |= {o.frame_idx: o for o in model.propagate_in_video_iterator(session, start_frame_idx=5)}
    worst = 0.0
    stored = session.output_dict_per_obj[0]
    for t in range(1 if correction else 0, len(kept)):
        pointer = (stored["cond_frame_outputs"].get(t) or stored["non_cond_frame_outputs"][t])["object_pointer"]
        for mine, theirs in (
            (kept[t]["low"], outputs[t].pred_masks[0]),
            (kept[t]["score"], outputs[t].object_score_logits.flatten()),
            (kept[t]["pointer"], pointer.flatten()),
        ):
            worst = max(worst, (theirs - mine).abs().max().item())
    return worst
