"""Prompts for training, drawn from true masks: clicks, boxes, points and corrections."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from nano_data import IMG


def click(weights, interior=False):
    """Draw a pixel for each of the weights [O,H,W] ≥ 0: [O,2] as x, y. `interior` makes half of them avoid edges."""
    count, weights = len(weights), weights.float()
    if interior:
        half = count // 2
        blurred = F.avg_pool2d(weights[:half, None], 25, 1, 12)[:, 0]
        weights = torch.cat([weights[:half] * (blurred**4 + 1e-4), weights[half:]])
    uniform = torch.rand(count, IMG * IMG, device=weights.device).clamp(1e-9, 1 - 1e-7)
    place = (torch.log(weights.flatten(1) + 1e-20) - torch.log(-torch.log(uniform))).argmax(1)
    return torch.stack([place % IMG, place // IMG], 1).float()


def boxes(masks, jitter=True):
    """Return the boxes of masks [O,H,W], a little off with `jitter`, as two points [O,2,2] with labels [O,2]."""
    columns, rows = masks.any(1).float(), masks.any(2).float()
    count, last = len(masks), IMG - 1
    left, right = columns.argmax(1), last - columns.flip(1).argmax(1)
    top, bottom = rows.argmax(1), last - rows.flip(1).argmax(1)
    box = torch.stack([left, top, right, bottom], 1).float()
    if jitter:
        size = torch.stack([box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]], 1).repeat(1, 2)
        box = (box + (torch.randn_like(box) * size * 0.04).clamp(-10, 10)).clamp(0, last)
    labels = torch.tensor([2, 3], device=masks.device, dtype=torch.int32)
    return box.view(count, 2, 2), labels.expand(count, 2)


def several_points(masks, count):
    """Return points [O,P,2] on masks and near them, and their labels [O,P]; the first is on the mask."""
    points = [click(masks, interior=True)]
    labels = [torch.ones(len(masks), dtype=torch.int32, device=masks.device)]
    near = (F.max_pool2d(masks.float()[:, None], 61, 1, 30)[:, 0] > 0) & ~masks
    for _ in range(count - 1):
        inside = torch.rand(len(masks), 1, device=masks.device) < 0.5
        points.append(torch.where(inside, click(masks), click(near)))
        labels.append(inside[:, 0].int())
    return torch.stack(points, 1), torch.stack(labels, 1)


def correction(predicted, masks):
    """Return a click where a prediction is wrong, or on the object: [O,1,2], label [O,1], and whether there is one."""
    wrong = predicted ^ masks
    any_wrong, in_view = wrong.flatten(1).any(1), masks.flatten(1).any(1)
    point = click(torch.where(any_wrong[:, None, None], wrong, masks))
    place = (point[:, 1] * IMG + point[:, 0]).long()[:, None]
    return point[:, None], masks.flatten(1).gather(1, place).int(), any_wrong | in_view
