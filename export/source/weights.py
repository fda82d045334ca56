"""Named tensors from the files of checkpoints, whatever lies beside them; nothing in a file is ever run."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from sam2edge.errors import SourceError

_PLACES = ("model", "state_dict", "model_state_dict")
"""Keys under which trainers save the weights: upstream's and many others', Lightning's, PyTorch's tutorial's."""

_MOST_NAMES = 64
"""How many names may get a stand-in: the file is read again for each."""


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read a safetensors file; SourceError if it is damaged."""
    try:
        tensors: dict[str, Any] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise SourceError(f"{path} is not a safetensors file, or is damaged ({reason(error)})") from error
    return tensors


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the weights in a file of torch.save, alone or beside a trainer's state; SourceError if there are none."""
    weights = _named(_read_pickle(path))
    if weights is None:
        places = ", ".join(map(repr, _PLACES))
        raise SourceError(f"{path} has no weights: expected named tensors, alone or under one of the keys {places}")
    for name, value in weights.items():
        if not torch.is_tensor(value):
            kind = type(value)
            raise SourceError(
                f"{path}: {name} among the weights is a {kind.__module__}.{kind.__qualname__}; expected tensors only. "
                'Save only the weights: torch.save({"model": model.state_dict()}, FILE)'
            )
    return weights


def _named(content: Any) -> dict[str, Any] | None:
    """Return the values by name, some of which are tensors, that a file's content is or has in one of its places."""
    if not isinstance(content, dict):
        return None
    for place in _PLACES:
        if (found := _named(content.get(place))) is not None:
            return found
    named = all(isinstance(key, str) for key in content) and any(map(torch.is_tensor, content.values()))
    return content if named else None


def _read_pickle(path: Path) -> Any:
    """Return the content of a file, with a stand-in for everything in it that is no tensor, number, text or container.

    PyTorch refuses what it does not know without importing it. The name is then given to something inert, which is
    what schedulers, configurations and numpy's numbers become.
    """
    inert: dict[str, Callable[..., Any]] = {}
    while True:
        try:
            with _allowed(*inert.values()):
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged pickles raise almost anything
            asked = re.search(r"GLOBAL ([\w.]+) ", str(error))
            if not asked:
                raise SourceError(f"{path} is not a PyTorch checkpoint, or is damaged ({reason(error)})") from error
            name = asked[1] if "." in asked[1] else f"builtins.{asked[1]}"
            if name in inert or len(inert) == _MOST_NAMES:
                raise SourceError(
                    f"{path} was refused: it asks to load {name}, and only tensors are loaded, never code. "
                    f'If you trust its author, save only its weights: torch.save({{"model": weights}}).'
                ) from error
            inert[name] = _stand_in(name)


class _Inert:
    """Takes the place of an object that is not loaded."""

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _stand_in(name: str) -> Callable[..., Any]:
    """Return what PyTorch finds under a name of a module's content."""
    module, _, own = name.rpartition(".")
    made: Callable[..., Any] = type(own, (_Inert,), {})
    if name == "collections.defaultdict":  # is filled like a dict

        def made(*_: Any) -> dict[Any, Any]:
            return {}

    made.__module__, made.__name__, made.__qualname__ = module, own, own
    return made


@contextlib.contextmanager
def _allowed(*stand_ins: Callable[..., Any]) -> Iterator[None]:
    """Let torch.load find these under their names, and whatever it was allowed to load before."""
    serialization = torch.serialization
    before = serialization.get_safe_globals()
    serialization.add_safe_globals(list(stand_ins))
    try:
        yield
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(before)


def reason(error: Exception) -> str:
    """Return an error's class and first sentence; torch goes on to advise running the file's code after all."""
    sentence = str(error).strip().partition("\n")[0].partition(". ")[0]
    return f"{type(error).__name__}: {sentence}".removesuffix(": ")
