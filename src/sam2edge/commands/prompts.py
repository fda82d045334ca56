"""--point, --box, --mask and --prompts of the verbs that take prompts: text in, `Prompt`s out."""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sam2edge.errors import ObjectIdError, PromptError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

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
        raise PromptError(f"{self}: expected {expected} numbers with commas between")

    def _part(self, group: int) -> str:
        match = _WORD.fullmatch(self.text)
        return (match[group] if match else None) or ""


@dataclass
class GivenPrompt:
    """The prompt that options, or a line of a file, give for one object on a frame.

    object_id is 0 for a new object until it gets an id. origin is how the prompt was given. Options for the same object
    and frame are one prompt; lines are prompts of their own.
    """

    object_id: int
    frame: int
    origin: str
    is_line: bool = False
    points: list[tuple[float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    box: tuple[float, ...] | None = None
    mask: npt.NDArray[np.bool_] | None = None
    remove: bool = False

    @property
    def prompt(self) -> Prompt:
        """The prompt that trackers take."""
        from sam2edge.runtime.model.prompts import Prompt

        return Prompt(self.points or None, self.labels or None, self.box, self.mask, self.origin)

    @property
    def marks_object(self) -> bool:
        """Whether it says where the object is, and not only where it is not."""
        return any(self.labels) or self.box is not None or self.mask is not None

    def add(self, other: GivenPrompt) -> None:
        """Add another option for the same object and frame."""
        for kind in ("box", "mask"):
            if getattr(self, kind) is not None and getattr(other, kind) is not None:
                raise ObjectIdError(
                    f"{other.origin}: duplicate {kind} for object {self.object_id}; give other objects other IDs"
                )
        self.points += other.points
        self.labels += other.labels
        self.box, self.mask = self.box or other.box, other.mask if self.mask is None else self.mask
        self.origin += f" {other.origin}"


def gather(options: Sequence[Option], frame: int = 0) -> list[GivenPrompt]:
    """Gather the options by object and frame, in the order of the frames.

    Options without a frame are for `frame`. Those without an ID are new objects with the lowest ids that are free.
    """
    given = [prompt for option in options for prompt in _read(option, frame)]
    taken = {prompt.object_id for prompt in given}
    free = (number for number in itertools.count(1) if number not in taken)
    prompts: dict[object, GivenPrompt] = {}
    for prompt in given:
        prompt.object_id = prompt.object_id or next(free)
        key = prompt.object_id, prompt.frame, prompt.origin if prompt.is_line else ""
        if key in prompts:
            prompts[key].add(prompt)
        else:
            prompts[key] = prompt
    ordered = sorted(prompts.values(), key=lambda prompt: prompt.frame)
    _check_starts(ordered)
    return ordered


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


def _check_starts(prompts: Sequence[GivenPrompt]) -> None:
    """Raise an error for an object that is first said where it is not, or that is removed before there is one."""
    known: set[int] = set()
    for prompt in prompts:
        if prompt.remove:
            if prompt.object_id not in known:
                raise ObjectIdError(
                    f"{prompt.origin}: object {prompt.object_id} is not tracked on frame {prompt.frame}"
                )
            known.remove(prompt.object_id)
        elif prompt.object_id in known or prompt.marks_object:
            known.add(prompt.object_id)
        else:
            raise PromptError(
                f"{prompt.origin}: only says where the new object {prompt.object_id} is not; give it the ID of the "
                "object that it belongs to, as --box 1:x0,y0,x1,y1 --point 1:x,y,0"
            )


def _read(option: Option, frame: int) -> Iterator[GivenPrompt]:
    """Yield the prompts of an option: one, or those of the objects of a label image or of the lines of a file."""
    if option.kind == "prompts":
        yield from _read_lines(option.text, frame)
        return
    start = option.object_id, option.frame(frame), str(option)
    if option.kind == "mask":
        yield from _read_masks(option.value, *start)
    elif option.kind == "box":
        yield GivenPrompt(*start, box=tuple(option.numbers(4)))
    else:
        x, y, *label = option.numbers(2, 3)
        if label and not label[0].is_integer():
            raise PromptError(f"{option}: the label must be 1 (on the object) or 0 (not on it)")
        yield GivenPrompt(*start, points=[(x, y)], labels=[int(label[0]) if label else 1])


def _read_masks(
    file: str | Path, object_id: int, frame: int, origin: str, *, is_line: bool = False
) -> Iterator[GivenPrompt]:
    from sam2edge.runtime.media.mask_files import read_masks

    for label, mask in read_masks(file, wanted=object_id or None).items():
        which = f"{origin} (object {label})" if label and not object_id else origin
        yield GivenPrompt(object_id or label or 0, frame, which, is_line, mask=mask)


def _read_lines(file: str, frame: int) -> Iterator[GivenPrompt]:
    from sam2edge.runtime.media.prompt_files import read_prompts

    for line in read_prompts(file):
        start = line.object_id or 0, frame if line.frame is None else line.frame, line.origin
        prompts = [GivenPrompt(*start, True)] if line.mask is None else _read_masks(line.mask, *start, is_line=True)
        for prompt in prompts:
            prompt.points, prompt.labels = list(line.points), list(line.labels)
            prompt.box, prompt.remove = line.box, line.remove
            yield prompt
