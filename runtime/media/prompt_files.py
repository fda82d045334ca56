"""Prompts in a file of JSON lines: each line is a call of `VideoTracker.prompt` or `remove`.

A line is an object with `object`, its id, and `points` [[x, y], …] with `labels` (by default all 1), `box` [x0, y0, x1,
y1], or `mask`, an image file, relative to the folder of the lines; or with `remove`, true. `frame` is its frame's
number. Lines for the same object and frame are given one after the other, each refining what the one before found.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2edge.errors import MediaError, PromptError
from sam2edge.files import user_path, write_text


@dataclass(frozen=True)
class PromptLine:
    """A line: what is not in it is None or empty."""

    frame: int | None = None
    object_id: int | None = None
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, ...] | None = None
    mask: Path | None = None
    remove: bool = False
    origin: str = ""
    """The file and the number of the line, for messages."""

    def __str__(self) -> str:
        fields = {
            "frame": self.frame,
            "object": self.object_id,
            "points": [list(point) for point in self.points] or None,
            "labels": list(self.labels) or None,
            "box": self.box,
            "mask": None if self.mask is None else str(self.mask),
            "remove": self.remove or None,
        }
        return json.dumps({name: value for name, value in fields.items() if value is not None})


def read_prompts(path: str | os.PathLike[str]) -> list[PromptLine]:
    """Read a file of prompts; MediaError if it cannot be read, PromptError for a line that is not a prompt."""
    path = user_path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PromptError(f"{path}: is not a file of prompts: expected JSON lines in UTF-8") from error
    lines = [
        _read_line(line, f"{path}, line {number}", path.parent)
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    if not lines:
        raise PromptError(f"{path}: holds no prompts; expected a line of JSON for each")
    return lines


def write_prompts(path: Path, lines: Sequence[PromptLine]) -> None:
    """Write a file of prompts as a whole; MediaError if that fails."""
    try:
        write_text(path, "".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise MediaError(f"{path}: cannot be written: {error.strerror or error}") from error


def _read_line(line: str, origin: str, folder: Path) -> PromptLine:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{origin}: is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise PromptError(f"{origin}: must be a JSON object but is {line.strip()[:40]}")
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in _FIELDS:
            raise PromptError(f"{origin}: unknown field {name!r}; the fields are {', '.join(_FIELDS)}")
        is_valid, expected = _FIELDS[name]
        if not is_valid(value):
            raise PromptError(f"{origin}: {name} must be {expected} but is {json.dumps(value)[:60]}")
        values[name] = value
    points = tuple((point[0], point[1]) for point in values.get("points", ()))
    labels = tuple(values.get("labels", [1] * len(points)))
    if len(labels) != len(points):
        raise PromptError(f"{origin}: has {len(points)} points but {len(labels)} labels; give one for each")
    given = {name for name in ("points", "box", "mask", "remove") if values.get(name)}
    if not given:
        raise PromptError(f"{origin}: needs points, a box, a mask or remove")
    if "remove" in given and (len(given) > 1 or "object" not in values):
        raise PromptError(f"{origin}: remove needs the object's id and nothing else; prompt it in another line")
    return PromptLine(
        frame=values.get("frame"),
        object_id=values.get("object"),
        points=points,
        labels=labels,
        box=tuple(values["box"]) if "box" in values else None,
        mask=folder / user_path(values["mask"]) if "mask" in values else None,
        remove="remove" in given,
        origin=origin,
    )


def _is_integer(value: object, least: int) -> bool:
    return type(value) is int and value >= least


def _are_numbers(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(type(number) in (int, float) for number in value)


def _is_list(value: object, is_item: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(is_item, value))


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "frame": (lambda value: _is_integer(value, 0), "a whole number from 0"),
    "object": (lambda value: _is_integer(value, 1), "a whole number from 1"),
    "points": (lambda value: _is_list(value, lambda point: _are_numbers(point, 2)), "a list of [x, y]"),
    "labels": (lambda value: _is_list(value, lambda label: _is_integer(label, 0)), "a list of 1 (object) and 0"),
    "box": (lambda value: _are_numbers(value, 4), "[x0, y0, x1, y1]"),
    "mask": (lambda value: isinstance(value, str) and bool(value), "the name of an image file"),
    "remove": (lambda value: type(value) is bool, "true or false"),
}
