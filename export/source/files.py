"""Read checkpoint files without running anything in them."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from sam2edge.errors import SourceError


def read_safetensors(path: Path) -> dict[str, Any]:
    try:
        tensors: dict[str, Any] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise SourceError(f"{path} is not a safetensors file, or is damaged ({reason(error)})") from error
    return tensors


def read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles raise almost anything
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked:
            raise SourceError(
                f"{path} was refused: it asks to load {asked[1]}, and only tensors are loaded, never code. "
                f'If you trust its author, save only its weights: torch.save({{"model": weights}}).'
            ) from error
        raise SourceError(f"{path} is not a PyTorch checkpoint, or is damaged ({reason(error)})") from error


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{path} cannot be read as JSON ({reason(error)})") from error
    if not isinstance(content, dict):
        raise SourceError(f"{path} is not a JSON object")
    return content


def reason(error: Exception) -> str:
    """Return an error's class and first sentence; torch goes on to advise running the file's code after all."""
    sentence = str(error).strip().partition("\n")[0].partition(". ")[0]
    return f"{type(error).__name__}: {sentence}".removesuffix(": ")
