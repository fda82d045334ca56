"""Train owlv2-words: a very small OWLv2 on pictures and phrases that are drawn as it goes.

    python samples/words/train_words.py OUT --init samples/words --minutes 60

Resumes from OUT/state.pt if it is there. See README.md beside this file and --help.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import words_eval
from torch import nn
from transformers import CLIPTokenizer, Owlv2Config, Owlv2ForObjectDetection
from words_data import CLEAR, COLOURS, SHAPES, SIDE, phrases, picture

HERE = Path(__file__).resolve().parent
BESIDES = ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")
KINDS = len(COLOURS) * len(SHAPES)
COLOUR_NAMES, SHAPE_NAMES = list(COLOURS), list(SHAPES)


class Muon(torch.optim.Optimizer):
    """Steps of matrices along their momentum, with all singular values made equal: rare directions are learned, too.

    The step is as large as AdamW's would be. It is computed in float32: torch.optim.Muon takes bfloat16, which
    older processors emulate.
    """

    def __init__(self, matrices, lr):
        super().__init__(matrices, {"lr": lr})

    @torch.no_grad()
    def step(self):
        """Take a step with the gradients there are."""
        for group in self.param_groups:
            for matrix in group["params"]:
                momentum = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                momentum.lerp_(matrix.grad, 0.05)
                step = self.equalised(matrix.grad.lerp(momentum, 0.95))
                matrix.mul_(1 - 0.03 * group["lr"])
                matrix.sub_(step, alpha=group["lr"] * 0.2 * math.sqrt(max(matrix.shape)))

    @staticmethod
    def equalised(matrix):
        """Return a matrix of the same singular vectors whose singular values are about one (Newton and Schulz)."""
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        wide = wide / (wide.norm() + 1e-7)
        for _ in range(5):
            square = wide @ wide.T
            wide = 3.4445 * wide + (-4.7750 * square + 2.0315 * square @ square) @ wide
        return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


def fresh_model(config):
    """Return a model of random weights that start where they learn soon."""
    model = Owlv2ForObjectDetection(config)
    vision, text = model.owlv2.vision_model, model.owlv2.text_model
    width, patch = config.vision_config.hidden_size, config.vision_config.patch_size
    grid = SIDE // patch
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        places = vision.embeddings.position_embedding.weight  # sines of the place, as nothing else tells it
        frequencies = torch.exp(torch.linspace(0, math.log(grid), width // 4)) * math.pi / grid
        steps = torch.arange(grid) + 0.5
        y, x = (each.reshape(-1, 1) * frequencies for each in torch.meshgrid(steps, steps, indexing="ij"))
        places[0], places[1:] = 0, 0.3 * torch.cat((x.sin(), x.cos(), y.sin(), y.cos()), 1)
        vision.embeddings.patch_embedding.weight.copy_(cosines(width, patch))
        for layer in vision.encoder.layers:  # like attends to like
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
        vision.post_layernorm.weight.fill_(0.3)  # a patch times the class token starts as their sum
        vision.post_layernorm.bias.fill_(1.0)
        nn.init.normal_(text.embeddings.token_embedding.weight, std=0.5)
        for part, bias in ((model.class_head.logit_scale, 9.0), (model.class_head.logit_shift, -0.5)):
            part.weight.mul_(0.1)
            part.bias.fill_(bias)
        model.objectness_head.dense2.bias.fill_(-4.0)
        model.box_head.dense2.weight.mul_(0.1)
        model.box_head.dense2.bias[2:] = 1.2  # boxes start three patches wide
    return model


def cosines(width, patch):
    """Return filters that hold a patch's lowest frequencies, in a random basis: float32 [width,3,patch,patch]."""
    steps = torch.arange(patch).float()
    waves = F.normalize(torch.cos((2 * steps + 1) * steps[:, None] * math.pi / (2 * patch)), dim=1)
    order = sorted((math.hypot(a, b), a, b) for a in range(patch) for b in range(patch))
    colours = F.normalize(torch.tensor(((1.0, 1, 1), (1, -1, 0), (0.5, 0.5, -1))), dim=1)
    filters = [
        colour[:, None, None] * waves[a][:, None] * waves[b] * (0.12 if height == 0 else 0.18 * (1 + height))
        for height, a, b in order
        for colour in colours
    ]
    basis = torch.linalg.qr(torch.randn(width, width))[0]
    return (basis @ torch.stack(filters[:width]).flatten(1)).reshape(width, 3, patch, patch)


def assign(things, grid):
    """Return what each patch is to learn: int64 [P] the object whose box it lies in, else -1; its core; the unclear.

    Only patches near the middle of a box (its core) are to find the object and only those outside all boxes are to
    find nothing; the rest (unclear) may do either.
    """
    middles = (np.arange(grid) + 0.5) / grid
    boxes = np.array([thing.box for thing in things], np.float64).reshape(-1, 4, 1)
    x, y = np.tile(middles, grid), np.repeat(middles, grid)
    off_x = np.abs((boxes[:, 0] + boxes[:, 2]) / 2 - x) / (boxes[:, 2] - boxes[:, 0])
    off_y = np.abs((boxes[:, 1] + boxes[:, 3]) / 2 - y) / (boxes[:, 3] - boxes[:, 1])
    off = np.maximum(off_x, off_y)
    if not things:
        nothing = np.zeros(grid * grid, bool)
        return np.full(grid * grid, -1), nothing, nothing
    near = off < 0.3
    near[np.arange(len(things)), off.argmin(1)] = True
    owner = np.where(near, off - 1, off).argmin(0)
    inside = (off < 0.5).any(0) | near.any(0)
    clear = np.array([thing.visible >= CLEAR for thing in things])
    core = near.any(0) & clear[owner]
    return np.where(inside, owner, -1), core, inside & ~core


def batch(rng, count, grid):
    """Draw pictures and say what each patch of them is to learn.

    Returns:
        Pictures uint8 [B,SIDE,SIDE,3], boxes float32 [B,P,4], colours and shapes int64 [B,P] (-1 where no object is),
        cores and unclear bool [B,P].
    """
    columns = [[] for _ in range(6)]
    for _ in range(count):
        image, things = picture(rng)
        owner, core, unclear = assign(things, grid)
        boxes = np.array([thing.box for thing in things] + [(0, 0, 1, 1)], np.float32)[owner]
        colours = np.array([COLOUR_NAMES.index(thing.colour) for thing in things] + [-1])[owner]
        shapes = np.array([SHAPE_NAMES.index(thing.shape) for thing in things] + [-1])[owner]
        for column, value in zip(columns, (image, boxes, colours, shapes, core, unclear), strict=True):
            column.append(value)
    return [torch.from_numpy(np.stack(column)) for column in columns]


def box_loss(boxes, truth):
    """Return the distance and generalised IoU loss of boxes [N,4] given by their corners, and their mean IoU."""
    least, most = torch.minimum(boxes[:, :2], truth[:, :2]), torch.maximum(boxes[:, 2:], truth[:, 2:])
    inner = (torch.minimum(boxes[:, 2:], truth[:, 2:]) - torch.maximum(boxes[:, :2], truth[:, :2])).clamp(min=0)
    both = inner.prod(1)
    either = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (truth[:, 2:] - truth[:, :2]).prod(1) - both
    around = (most - least).prod(1)
    iou = both / either
    generalised = iou - (around - either) / around
    return 4 * (boxes - truth).abs().sum(1).mean() + 1.5 * (1 - generalised).mean(), iou.mean()


def focal_loss(logits, truth, weights):
    """Return the focal loss of logits, added up."""
    right = torch.where(truth, logits, -logits)
    return -0.5 * (weights * torch.sigmoid(-right) ** 1.5 * F.logsigmoid(right)).sum()


class Trainer:
    """A model in training, the average of its weights over time, and all that is needed to go on later."""

    def __init__(self, args):
        self.args = args
        self.tokenizer = CLIPTokenizer.from_pretrained(HERE)
        torch.manual_seed(args.seed)
        if args.init:
            self.model = Owlv2ForObjectDetection.from_pretrained(args.init, dtype=torch.float32)
        else:
            self.model = fresh_model(Owlv2Config.from_pretrained(HERE, dtype="float32"))
        self.model.train()
        for unused in (self.model.owlv2.visual_projection.weight, self.model.owlv2.logit_scale):
            unused.requires_grad_(False)
        self.average = copy.deepcopy(self.model).eval()
        self.grid = SIDE // self.model.config.vision_config.patch_size
        named = [(name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad]
        matrices = [weight for name, weight in named if weight.ndim == 2 and ".layers." in name]
        others = [weight for name, weight in named if not (weight.ndim == 2 and ".layers." in name)]
        self.optimizers = (
            Muon(matrices, args.lr),
            torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0),
        )
        self.rng = np.random.default_rng((args.seed, 1))  # never the held-out pictures, whose seed is one number
        self.steps, self.minutes = 0, 0.0
        self.state = args.out / "state.pt"
        if self.state.exists():
            self.resume()

    def resume(self):
        """Go on where the state that was kept ends."""
        state = torch.load(self.state, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.steps, self.minutes = state["steps"], state["minutes"]

    def keep(self):
        """Write the state, and the average as a transformers directory in float16."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "rng": json.dumps(self.rng.bit_generator.state),
            "steps": self.steps,
            "minutes": self.minutes,
        }
        torch.save(state, self.state.with_suffix(".new"))
        self.state.with_suffix(".new").replace(self.state)
        copy.deepcopy(self.average).half().save_pretrained(self.args.out)
        for name in BESIDES:
            shutil.copyfile(HERE / name, self.args.out / name)

    def step(self):
        """Learn from one batch; return its losses."""
        images, boxes, colours, shapes, core, unclear = batch(self.rng, self.args.batch, self.grid)
        asked = phrases(self.rng)
        queries = words_eval.encode(self.model, self.tokenizer, [phrase.text for phrase in asked])
        logits, found, objectness, _ = words_eval.look(self.model, words_eval.normalised(images), queries)
        truth = torch.zeros(logits.shape, dtype=torch.bool)
        kinds = colours * len(SHAPES) + shapes  # phrases are in this order, then the shapes, then the colours
        for columns in (kinds, KINDS + shapes, KINDS + len(SHAPES) + colours):
            truth.scatter_(2, columns.clamp(min=0)[..., None], core[..., None])
        truth[..., KINDS + len(SHAPES) + len(COLOURS)] = core
        weights = (~unclear).float()[..., None]
        inside = colours >= 0
        mine = logits[inside]
        named = (
            F.cross_entropy(mine[:, :KINDS], kinds[inside])
            + F.cross_entropy(mine[:, KINDS : KINDS + len(SHAPES)], shapes[inside])
            + F.cross_entropy(mine[:, KINDS + len(SHAPES) :][:, : len(COLOURS)], colours[inside])
        )
        box, iou = box_loss(words_eval.corners(found[inside]), boxes[inside])
        thing = F.binary_cross_entropy_with_logits(objectness, core.float(), weights[..., 0], reduction="sum")
        losses = {
            "word": focal_loss(logits, truth, weights) / truth.sum(),
            "named": 0.15 * named,
            "box": box,
            "object": 0.3 * thing / core.sum(),
        }
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = self.rate()
            optimizer.step()
        self.steps += 1
        with torch.no_grad():
            share = max(0.002, 1 / (self.steps + 1))
            for mean, weight in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(weight, share)
        right = (mine[:, KINDS : KINDS + len(SHAPES)].argmax(1) == shapes[inside]).float().mean()
        values = {name: loss.item() for name, loss in losses.items()}
        return {**values, "iou": iou.item(), "shape right": right.item()}

    def rate(self):
        """Return the learning rate: it rises for 50 steps, and falls to nothing over the last half of the time."""
        left = 1 - self.minutes / self.args.minutes
        return self.args.lr * min(1.0, (self.steps + 1) / 50, max(0.0, 2 * left) + 1e-3)

    def run(self):
        """Train until the minutes are over, or for the number of steps asked for; keep the state now and then."""
        begun, before, kept = time.monotonic(), self.minutes, time.monotonic()
        last = self.steps + self.args.steps if self.args.steps else math.inf
        log = []
        while self.minutes < self.args.minutes and self.steps < last:
            log.append(self.step())
            self.minutes = before + (time.monotonic() - begun) / 60
            if len(log) == 50:
                means = " ".join(f"{name} {np.mean([each[name] for each in log]):.3f}" for name in log[0])
                print(f"step {self.steps} minute {self.minutes:.1f} {means}", flush=True)
                log.clear()
            if time.monotonic() - kept > 120:
                self.keep()
                kept = time.monotonic()
        self.keep()


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="directory for the model, its metrics.json and the state")
    parser.add_argument("--init", type=Path, help="directory of a model to start from; without it, random weights")
    parser.add_argument("--minutes", type=float, default=60, help="how long to train in all (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="stop after so many steps; go on by calling again")
    parser.add_argument("--batch", type=int, default=16, help="pictures per step (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=1.2e-3, help="highest learning rate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights, and of what is drawn")
    parser.add_argument("--threads", type=int, default=1, help="of the processor (default: %(default)s)")
    parser.add_argument("--evaluate", action="store_true", help="only measure the model in OUT")
    return parser.parse_args()


def main():
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.evaluate:
        trainer = Trainer(args)
        trainer.run()
        if args.steps and trainer.minutes < args.minutes:
            return
    metrics = words_eval.measure(args.out)
    (args.out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
