"""Prompts as text, the one form in which files, the web page, `track`, `label` and Triton give them.

Text is JSON lines, or one JSON array, of objects with the fields of docs/reference/manifests.md, "Prompts". Each is a
`PromptLine`: a call of `VideoTracker.prompt` or `remove`. `read_prompts` and `parse_prompts` read text as it is;
`schedule` makes of it what is to be done with one source: ids for objects without one, masks out of files, and the
order.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2edge.errors import InputError, MediaError, ObjectIdError, PromptError
from sam2edge.files import user_path, write_text
from sam2edge.runtime.media import rle
from sam2edge.runtime.media.mask_files import read_masks
from sam2edge.runtime.media.rle import Rle
from sam2edge.runtime.model.prompts import Prompt

_MAX_TEXT = 16 << 20
"""Characters of a text from a network."""
_LARGEST = 2**31 - 1
"""The largest number of a frame or an object."""


@dataclass(frozen=True)
class PromptLine:
    """A prompt for an object on a frame, or its removal; `str()` is its line of JSON.

    Lines for the same object and frame are given one after the other: each refines what the one before found.

    Attributes:
        object_id: From 1; 0 for a new object that gets its id from `schedule`.
        labels: One for each point.
        mask: A file, or COCO's run lengths.
        source: The video or folder that the line is about, if it says so.
        origin: Where the line came from, as "prompts.jsonl, line 3", with which errors about it begin.
    """

    frame: int = 0
    object_id: int = 0
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, ...] | None = None
    mask: Path | Rle | None = None
    remove: bool = False
    source: Path | None = None
    origin: str = dataclasses.field(default="", compare=False)

    def __str__(self) -> str:
        fields = {
            "source": None if self.source is None else str(self.source),
            "frame": self.frame,
            "object": self.object_id or None,
            "points": [list(point) for point in self.points] or None,
            "labels": list(self.labels) or None,
            "box": self.box,
            "mask": str(self.mask) if isinstance(self.mask, Path) else self.mask,
            "remove": self.remove or None,
        }
        return json.dumps({name: value for name, value in fields.items() if value is not None})

    @property
    def marks_object(self) -> bool:
        """Whether it says where the object is, and not only where it is not."""
        return any(self.labels) or self.box is not None or self.mask is not None

    @property
    def prompt(self) -> Prompt:
        """The prompt that trackers take, with run lengths as a mask; of lines without a mask file, as from `schedule`.

        A mask from a network must have been checked before (`check`), since its size may be an invention.
        """
        assert not isinstance(self.mask, Path)
        mask = None if self.mask is None else rle.decode(self.mask)
        return Prompt(self.points or None, self.labels or None, self.box, mask, self.origin)

    def check(self, size: tuple[int, int]) -> None:
        """Raise a PromptError, which names the origin, for a prompt that is invalid on frames of `size` (H,W)."""
        if self.remove:
            return
        if isinstance(self.mask, dict) and self.mask["size"] != list(size):
            raise PromptError(
                f"{self.origin}: a mask must be of the frame's size {list(size)} but is {self.mask['size']}"
            )
        self.prompt.check(size)

    def in_lengths(self) -> list[PromptLine]:
        """Return the line without files: the mask as run lengths, and of a label image a line for each object.

        Raises MediaError or PromptError if the file is no mask.
        """
        if not isinstance(self.mask, Path):
            return [self]
        lines = []
        for label, mask in read_masks(self.mask, wanted=self.object_id or None).items():
            origin = f"{self.origin} (object {label})" if label and not self.object_id else self.origin
            object_id = self.object_id or label or 0
            lines.append(dataclasses.replace(self, object_id=object_id, mask=rle.encode(mask), origin=origin))
        return lines


def read_prompts(path: str | os.PathLike[str], frame: int = 0) -> list[PromptLine]:
    """Read a file of prompts; masks and sources are relative to its folder.

    Args:
        path: The file.
        frame: That of lines without one.

    Raises:
        MediaError: The file cannot be read.
        PromptError: It holds no prompts, or something else.
    """
    path = user_path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PromptError(f"{path}: is not a file of prompts: expected JSON lines in UTF-8") from error
    lines = list(_read(text, str(path), path.parent, frame))
    if not lines:
        raise PromptError(f"{path}: holds no prompts; expected a line of JSON for each")
    return lines


def parse_prompts(text: str | bytes, origin: str, frame: int = 0) -> list[PromptLine]:
    """Read prompts that came without files, as through a network; none of an empty text.

    Args:
        text: At most 16 million characters.
        origin: What errors call the text.
        frame: That of prompts without one.

    Raises:
        PromptError: The text is not prompts, or names a file.
    """
    if len(text) > _MAX_TEXT:
        raise PromptError(f"{origin}: has {len(text)} characters; give at most {_MAX_TEXT}")
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise PromptError(f"{origin}: is not text in UTF-8: {error.reason}") from error
    return list(_read(decoded, origin, None, frame))


def write_prompts(path: Path, lines: Sequence[PromptLine]) -> None:
    """Write a file of prompts as a whole; MediaError if that fails."""
    try:
        write_text(path, "".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise MediaError(f"{path}: cannot be written: {error.strerror or error}") from error


def schedule(lines: Iterable[PromptLine], known: Collection[int] = ()) -> list[PromptLine]:
    """Return what is to be done with one source, in the order of its frames, and without files or the source's name.

    Objects without an id get the lowest that are free.

    Args:
        lines: The prompts of the source.
        known: The objects that are tracked already.

    Raises:
        MediaError, PromptError: A file is no mask; or a new object is only said where it is not.
        ObjectIdError: An object is removed that is not tracked.
    """
    ready = [part for line in lines for part in line.in_lengths()]
    taken = {line.object_id for line in ready}.union(known)
    free = (number for number in itertools.count(1) if number not in taken)
    numbered = [dataclasses.replace(line, object_id=line.object_id or next(free), source=None) for line in ready]
    ordered = sorted(numbered, key=lambda line: line.frame)
    _check_starts(ordered, set(known))
    return ordered


def _check_starts(lines: Sequence[PromptLine], tracked: set[int]) -> None:
    """Raise an error for an object that is first said where it is not, or that is removed before there is one."""
    for line in lines:
        if line.remove:
            if line.object_id not in tracked:
                raise ObjectIdError(f"{line.origin}: object {line.object_id} is not tracked on frame {line.frame}")
            tracked.remove(line.object_id)
        elif line.object_id in tracked or line.marks_object:
            tracked.add(line.object_id)
        else:
            raise PromptError(
                f"{line.origin}: only says where the new object {line.object_id} is not; give it the ID of the object "
                'that it belongs to, as --point ID:x,y,0 or "object": ID in a line'
            )


def _read(text: str, origin: str, folder: Path | None, frame: int) -> Iterator[PromptLine]:
    """Read a JSON array or JSON lines."""
    if text.lstrip().startswith("["):
        for number, value in enumerate(_loads(text, origin), 1):
            yield _line(value, f"{origin}, prompt {number}", folder, frame)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{origin}, line {number}"
            yield _line(_loads(line, where), where, folder, frame)


def _loads(text: str, origin: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{origin}: is not JSON: {error}") from error


def _line(fields: object, origin: str, folder: Path | None, frame: int) -> PromptLine:
    """Read one object. folder: that of the files that it may name; None if it may name none."""
    if not isinstance(fields, dict):
        raise PromptError(f"{origin}: must be a JSON object but is {_shown(fields)}")
    for name, value in fields.items():
        if name not in _FIELDS:
            raise PromptError(f"{origin}: unknown field {name!r}; the fields are {', '.join(_FIELDS)}")
        is_valid, expected = _FIELDS[name]
        if not is_valid(value):
            raise PromptError(f"{origin}: {name} must be {expected} but is {_shown(value)}")
    points = tuple((point[0], point[1]) for point in fields.get("points", ()))
    labels = tuple(fields.get("labels", [1] * len(points)))
    if len(labels) != len(points):
        raise PromptError(f"{origin}: has {len(points)} points but {len(labels)} labels; give one for each")
    given = {name for name in ("points", "box", "mask", "remove") if fields.get(name)}
    if not given:
        raise PromptError(f"{origin}: needs points, a box, a mask or remove")
    if "remove" in given and (len(given) > 1 or "object" not in fields):
        raise PromptError(f"{origin}: remove needs the object's id and nothing else; prompt it in another line")
    return PromptLine(
        frame=fields.get("frame", frame),
        object_id=fields.get("object", 0),
        points=points,
        labels=labels,
        box=tuple(fields["box"]) if "box" in fields else None,
        mask=_mask(fields["mask"], origin, folder) if "mask" in fields else None,
        remove="remove" in given,
        source=_file("source", fields["source"], origin, folder) if "source" in fields else None,
        origin=origin,
    )


def _shown(value: object) -> str:
    """Return the beginning of a value as JSON, without a look at the rest, which may be nested as deeply as can be."""
    return "".join(itertools.islice(json.JSONEncoder().iterencode(value), 60))[:60]


def _mask(value: Any, origin: str, folder: Path | None) -> Path | Rle:
    if isinstance(value, str):
        return _file("mask", value, origin, folder)
    try:
        return rle.check(value)
    except InputError as error:
        raise PromptError(f"{origin}: mask: {error}") from error


def _file(name: str, value: str, origin: str, folder: Path | None) -> Path:
    if folder is not None:
        try:
            return folder / user_path(value)
        except InputError as error:
            raise PromptError(f"{origin}: {name}: {error}") from error
    instead = {
        "mask": 'give the mask itself as COCO run lengths, {"size": [height, width], "counts": "…"}',
        "source": "leave it out: the prompt is for what it comes with",
    }[name]
    raise PromptError(f"{origin}: {name} is the name of a file, {value[:40]!r}, and files are not read here; {instead}")


def _is_integer(value: object, least: int) -> bool:
    return type(value) is int and least <= value <= _LARGEST


def _are_numbers(value: object, count: int) -> bool:
    limit = sys.float_info.max  # neither NaN nor an infinity, which Python reads too, nor an integer beyond all floats
    return (
        isinstance(value, list)
        and len(value) == count
        and all(type(number) in (int, float) and -limit <= number <= limit for number in value)
    )


def _is_list(value: object, is_item: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(is_item, value))


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "source": (lambda value: isinstance(value, str) and bool(value), "the name of a video or a folder of images"),
    "frame": (lambda value: _is_integer(value, 0), f"a whole number from 0 to {_LARGEST}"),
    "object": (lambda value: _is_integer(value, 1), f"a whole number from 1 to {_LARGEST}"),
    "points": (lambda value: _is_list(value, lambda point: _are_numbers(point, 2)), "a list of [x, y]"),
    "labels": (lambda value: _is_list(value, lambda label: _is_integer(label, 0)), "a list of 1 (object) and 0"),
    "box": (lambda value: _are_numbers(value, 4), "[x0, y0, x1, y1]"),
    "mask": (
        lambda value: isinstance(value, (str, dict)) and bool(value),
        "the name of an image file, or COCO run lengths",
    ),
    "remove": (lambda value: type(value) is bool, "true or false"),
}
