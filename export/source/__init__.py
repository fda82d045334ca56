"""Checkpoints in: whatever SAM 2 comes as, one transformers model goes out.

Two layouts exist. transformers writes a directory (config.json, model.safetensors); facebookresearch/sam2
writes one pickle of tensors under names of its own and leaves the architecture to a yaml beside the code. The
second is brought to the first: the size and version are read off the tensors, and a table says under which
upstream name each of the model's tensors is found. Both are then checked key by key against the model they
claim to be, before anything is loaded, and refused with the names that the file itself uses.

Nothing in a checkpoint is ever run: safetensors, or pickles through torch.load(weights_only=True).
"""

import os
import re
from pathlib import Path

from sam2edge.errors import SourceError
from sam2edge.export.source.architecture import IMAGENET_MEAN, IMAGENET_STD, Source
from sam2edge.export.source.directory import WEIGHTS, download, from_directory
from sam2edge.export.source.upstream import from_upstream

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Source", "load_source"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?<!\.pt)(?<!\.pth)(?<!\.safetensors)")


def load_source(source: str | os.PathLike[str], *, image_size: int | None = None) -> Source:
    """Load a SAM 2 checkpoint as transformers' Sam2VideoModel.

    Args:
        source: one of
            - a directory that transformers wrote (config.json with model_type sam2_video, and safetensors
              weights, sharded or not);
            - a hub model id such as "facebook/sam2.1-hiera-tiny", downloaded or taken from the local cache;
            - an upstream checkpoint (facebookresearch/sam2, .pt): {"model": tensors}, as released or as its
              trainer saves it, or the tensors alone; in a .safetensors file, too.
        image_size: the side in pixels of the square images that the model shall take; by default the
            checkpoint's own, which is 1024 for upstream's. Allowed are that and the multiples of 32 from 256
            to 1024: the trunk halves a grid of stride 4 three times and tiles it with 8×8 position codes
            (upstream: hieradet.py, _get_pos_embed), while windows that do not fit are padded. A custom trunk
            whose first window has another side w needs a multiple of 4w, too.

    Raises:
        SourceError: the source is not there, is no SAM 2, holds more than tensors, lacks, adds or misshapes a
            tensor (named as in the file), has numbers that are not finite, or cannot take images of that size.

    """
    path = Path(source)
    if path.is_dir():
        return from_directory(path, path.resolve().name, image_size)
    if path.is_file():
        return from_upstream(path, image_size)
    if isinstance(source, str) and _HUB_ID.fullmatch(source):
        return from_directory(download(source), source, image_size)
    raise SourceError(
        f"{path}: no such file or directory. Give an upstream .pt file, a directory with config.json and "
        f"{WEIGHTS}, or a hub model id such as facebook/sam2.1-hiera-tiny."
    )
