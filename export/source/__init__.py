"""Load any checkpoint of a family of models (FAMILIES in upstream.py) as a model of transformers, or derived from one.

There are two layouts. transformers writes a directory (config.json, model.safetensors). A model's authors write one
pickle of tensors under their own names and leave the architecture to a yaml file beside the code. The second is
converted to the first: the size and version follow from the tensors, and a table gives the authors' name of each of
the model's tensors. Either way, every name and shape is checked against the model before anything is loaded, and
errors use the names in the file.

Nothing in a checkpoint is ever run (weights.py).
"""

import os

from sam2edge.errors import SourceError
from sam2edge.export.source.architecture import IMAGENET, Source
from sam2edge.export.source.directory import WEIGHTS, from_directory
from sam2edge.export.source.hub import HubModel
from sam2edge.export.source.upstream import from_upstream
from sam2edge.files import user_path

__all__ = ["IMAGENET", "Source", "load_source"]


def load_source(source: str | os.PathLike[str], *, image_size: int | None = None, variant: str | None = None) -> Source:
    """Load a checkpoint as transformers' Sam2VideoModel, or as the class of another family.

    Args:
        source: One of
            - a directory that transformers wrote (config.json with model_type sam2_video or edgetam_video, and
              safetensors weights, sharded or not);
            - a hub model id such as "facebook/sam2.1-hiera-tiny", or the address of its page or of a .pt file there,
              downloaded or taken from the local cache;
            - an authors' checkpoint (facebookresearch/sam2, facebookresearch/EdgeTAM, yformer/EfficientTAM): a
              .safetensors file, or a .pt file with the tensors alone or under "model", "state_dict" or
              "model_state_dict", beside whatever a trainer saves. All names may have a prefix, such as that
              of DataParallel or Lightning.
        image_size: Side in pixels of the square images that the model takes; the checkpoint's own by default, which
            is 1024 for SAM 2's authors. That and the multiples of 32 from 256 to 1024 are possible: the trunk halves a
            grid of stride 4 three times and tiles it with 8×8 position codes (upstream: hieradet.py,
            _get_pos_embed); windows that do not fit are padded. A custom trunk whose first window has another
            side w also needs a multiple of 4w, and EdgeTAM, whose memories have 16×16 windows, one of 256.
        variant: Which variant of an EfficientTAM the weights are, "plain", "512x512", "1" or "2"; by default what the
            authors' name of the file says.

    Returns:
        The model, float32 on the CPU, and where it came from.

    Raises:
        SourceError: The source does not exist, is of no known family, asks for code to be run, has missing, unexpected
            or misshapen tensors (named as in the file), integers or numbers that are not finite, or cannot take images
            of that size.
        InputError: `variant` is not one of the model's.
    """
    path = user_path(source)
    if path.is_dir():
        return from_directory(path, path.resolve().name, image_size, variant)
    if path.is_file():
        return from_upstream(path, image_size, variant)
    if isinstance(source, str) and (model := HubModel.parse(source)):
        found = model.download()
        if model.file:
            return from_upstream(found, image_size, variant)
        return from_directory(found, model.id, image_size, variant)
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise SourceError(f"{source} is not a model of the Hugging Face hub; download the file and give its path")
    raise SourceError(
        f"{path}: no such file or directory. Give a .pt file of the model's authors, a directory with config.json and "
        f"{WEIGHTS}, or a hub model id such as facebook/sam2.1-hiera-tiny."
    )
