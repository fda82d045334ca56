"""--point, --box, --mask and --prompts of the verbs that take prompts: text in, lines of prompts out."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sam2edge.errors import ObjectIdError, PromptError
from sam2edge.files import user_path

if TYPE_CHECKING:
    from sam2edge.runtime.media.prompt_files import PromptLine
    from sam2edge.runtime.model.prompts import Prompt

_COORDINATES = {"--point": 2, "--box": 4}
"""How many numbers these options need."""
_NUMBERS = re.compile(r"(\d+:)?[-+]?[\d.][-+\d.,e]*(@\d+)?")
_WORD = re.compile(r"(?:(\d{1,9}):)?(.*?)(?:@(\d{1,9}))?", re.DOTALL)


def add_prompts(parser: argparse.ArgumentParser, *, frames: bool = False) -> None:
    """Declare the options; `prompts` becomes a list of Option. frames: whether frames after the first have prompts."""
    at = "[@FRAME]" if frames else ""
    for option, form, text in (
        ("point", f"[ID:]X,Y[,LABEL]{at}", "a click; LABEL is 1 on the object (the default) or 0 on the background"),
        ("box", f"[ID:]X0,Y0,X1,Y1{at}", "a box around the object"),
        (
            "mask",
            f"[ID:]FILE.png{at}",
            "an image of the frame's size that is black or transparent outside the object, or a label image: an object "
            "for each id, or with ID only that one",
        ),
        ("prompts", "FILE.jsonl", "a file of prompts, as `sam2edge ui` saves them: a line of JSON for each"),
    ):
        # One list for all: objects without an ID are numbered in the order of the command line.
        parser.add_argument(
            f"--{option}",
            dest="prompts",
            action="append",
            default=[],
            metavar=form,
            help=text,
            type=functools.partial(Option, option),
        )


def join_coordinates(words: Sequence[str]) -> list[str]:
    """Join `--box 1 2 3 4` and `--point -5,10` into one word each: argparse reads the rest as other arguments."""
    joined: list[str] = []
    waiting = list(words)
    while waiting:
        word, numbers = waiting.pop(0), ""
        while waiting and numbers.count(",") < _COORDINATES.get(word, 0) and _NUMBERS.fullmatch(waiting[0]):
            numbers += waiting.pop(0).rstrip(",") + ","
        joined.append(f"{word}={numbers.rstrip(',')}" if numbers else word)
    return joined


@dataclass(frozen=True)
class Option:
    """A --point, --box, --mask or --prompts as it was given."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"--{self.kind} {self.text}"

    @property
    def object_id(self) -> int:
        """The ID, 0 without one."""
        given = self._part(1)
        if given and not int(given):
            raise ObjectIdError(f"{self}: object ids start at 1")
        return int(given or 0)

    @property
    def value(self) -> str:
        return self._part(2)

    def frame(self, default: int) -> int:
        """Return the frame, `default` without one."""
        given = self._part(3)
        return int(given) if given else default

    def numbers(self, *allowed: int) -> list[float]:
        """Read the value as numbers with commas between, as many as one of `allowed`."""
        with contextlib.suppress(ValueError):
            numbers = [float(number) for number in self.value.split(",")]
            if len(numbers) in allowed:
                return numbers
        expected = " or ".join(map(str, allowed))
        if "@" in self.value:
            raise PromptError(f"{self}: expected the number of a frame, from 0 on, after the @")
        if ":" in self.value:
            raise PromptError(f"{self}: expected the id of an object, from 1 on, before the colon")
        raise PromptError(f"{self}: expected {expected} numbers with commas between")

    def _part(self, group: int) -> str:
        match = _WORD.fullmatch(self.text)
        return (match[group] if match else None) or ""


def gather(options: Sequence[Option], frame: int = 0, source: str | None = None) -> list[PromptLine]:
    """Gather the options in the order of the frames; see `schedule`.

    Args:
        options: Those for the same object and frame are one prompt; lines of files are prompts of their own.
        frame: That of options and lines without one.
        source: What is tracked: of a file of prompts, the lines of other sources are left out. None for verbs that
            know no source, which take no such files.
    """
    from sam2edge.runtime.media.prompt_files import schedule

    lines: dict[object, PromptLine] = {}
    for option in options:
        if option.kind == "prompts":
            for line in _read_file(option.text, frame, source):
                lines[len(lines)] = line
            continue
        for line in _read(option, frame).in_lengths():
            key = (line.object_id, line.frame) if line.object_id else len(lines)
            lines[key] = _joined(lines[key], line) if key in lines else line
    return schedule(lines.values())


def prompts_by_id(options: Sequence[Option]) -> dict[int, Prompt]:
    """Gather the options by object, for verbs that take one prompt for each object, on the first frame."""
    prompts: dict[int, Prompt] = {}
    for given in gather(options):
        if given.frame:
            raise PromptError(f"{given.origin}: is for frame {given.frame}, but only the first frame is prompted here")
        if given.object_id in prompts or given.remove:
            raise PromptError(f"{given.origin}: here every object takes one prompt, but {given.object_id} has more")
        prompts[given.object_id] = given.prompt
    return prompts


def _joined(line: PromptLine, other: PromptLine) -> PromptLine:
    """Return two options for the same object and frame as one prompt."""
    for kind in ("box", "mask"):
        if getattr(line, kind) is not None and getattr(other, kind) is not None:
            raise ObjectIdError(
                f"{other.origin}: duplicate {kind} for object {line.object_id}; give other objects other IDs"
            )
    return dataclasses.replace(
        line,
        points=line.points + other.points,
        labels=line.labels + other.labels,
        box=line.box or other.box,
        mask=line.mask or other.mask,
        origin=f"{line.origin} {other.origin}",
    )


def _read(option: Option, frame: int) -> PromptLine:
    """Read an option other than --prompts."""
    from sam2edge.runtime.media.prompt_files import PromptLine

    line = PromptLine(option.frame(frame), option.object_id, origin=str(option))
    if option.kind == "mask":
        return dataclasses.replace(line, mask=user_path(option.value))
    if option.kind == "box":
        return dataclasses.replace(line, box=tuple(option.numbers(4)))
    x, y, *label = option.numbers(2, 3)
    if label and not label[0].is_integer():
        raise PromptError(f"{option}: the label must be 1 (on the object) or 0 (not on it)")
    return dataclasses.replace(line, points=((x, y),), labels=(int(label[0]) if label else 1,))


def _read_file(file: str, frame: int, source: str | None) -> list[PromptLine]:
    """Read the lines of a file that are about the source."""
    from sam2edge.runtime.media.prompt_files import read_prompts

    lines = read_prompts(file, frame)
    named = [line for line in lines if line.source is not None]
    if source is None and named:
        raise PromptError(f"{named[0].origin}: names a source, which only `track` and `label` take; leave it out")
    chosen = [line for line in lines if line.source is None or _is_same(str(line.source), str(source))]
    if not chosen:
        others = sorted({str(line.source) for line in named})
        raise PromptError(f"{file}: has no prompt for {source}, only for {', '.join(others[:9])}")
    return chosen


def _is_same(path: str, other: str) -> bool:
    return path == other or (os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other))
