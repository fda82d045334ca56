"""timm's models, as the reference of EdgeTAM's trunk, imported beside a stand-in for torchvision.

timm imports torchvision for its data sets and transforms, which RepViT does not use. There is no torchvision for the
CPU build of PyTorch that the tests run with.
"""

from __future__ import annotations

import enum
import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest
from torch import nn

_NAMES = {
    "torchvision": (),
    "torchvision.datasets": ("CIFAR100", "CIFAR10", "MNIST", "KMNIST", "FashionMNIST", "ImageFolder"),
    "torchvision.models": (),
    "torchvision.models.feature_extraction": ("create_feature_extractor", "get_graph_node_names"),
    "torchvision.ops": (),
    "torchvision.ops.misc": ("FrozenBatchNorm2d",),
    "torchvision.transforms": ("Compose", "RandomCrop", "ToTensor"),
    "torchvision.transforms.functional": (),
}
_INTERPOLATION = enum.Enum("InterpolationMode", ["NEAREST", "BILINEAR", "BICUBIC", "BOX", "HAMMING", "LANCZOS"])


class _Missing(nn.Module):
    """What timm imports and RepViT does not use."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise AssertionError("torchvision is not there")


def create_model(name: str, **arguments: Any) -> nn.Module:
    """Return a model of timm; skip the test if timm is not installed."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed: make test installs it without torchvision")
    with pytest.MonkeyPatch.context() as patch:
        for module, names in _NAMES.items():
            made = ModuleType(module)
            made.__path__ = []  # type: ignore[attr-defined]  # a package
            for name_ in names:
                setattr(made, name_, _Missing)
            patch.setitem(sys.modules, module, made)
            parent, _, own = module.rpartition(".")
            if parent:
                setattr(sys.modules[parent], own, made)
        sys.modules["torchvision.transforms.functional"].InterpolationMode = _INTERPOLATION  # type: ignore[attr-defined]
        timm = importlib.import_module("timm")
    model: nn.Module = timm.create_model(name, **arguments)
    return model
