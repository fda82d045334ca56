"""--point, --box and --mask of the verbs that take prompts: text in, `Prompt`s out."""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sam2edge.errors import MediaError, ObjectIdError, PromptError
from sam2edge.files import user_path

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from sam2edge.runtime.model.prompts import Prompt

_COORDINATES = {"--point": 2, "--box": 4}
"""How many numbers these options need."""
_NUMBERS = re.compile(r"(\d+:)?[-+]?[\d.][-+\d.,e]*")


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """Declare the three options; `prompts` becomes a list of Option."""
    for option, form, text in (
        ("point", "[ID:]X,Y[,LABEL]", "a click; LABEL is 1 on the object (the default) or 0 on the background"),
        ("box", "[ID:]X0,Y0,X1,Y1", "a box around the object"),
        ("mask", "[ID:]FILE.png", "an image of the frame's size that is black outside the object"),
    ):
        # One list for all three: objects without an ID are numbered in the order of the command line.
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
    """A --point, --box or --mask as it was given."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"--{self.kind} {self.text}"

    @property
    def object_id(self) -> int | None:
        match = re.match(r"(\d+):", self.text)
        return int(match[1]) if match else None

    @property
    def value(self) -> str:
        return re.sub(r"^\d+:", "", self.text)

    def numbers(self, *allowed: int) -> list[float]:
        """Read the value as numbers with commas between, as many as one of `allowed`."""
        with contextlib.suppress(ValueError):
            numbers = [float(number) for number in self.value.split(",")]
            if len(numbers) in allowed:
                return numbers
        expected = " or ".join(map(str, allowed))
        raise PromptError(f"{self}: expected {expected} numbers with commas between")


@dataclass
class GivenPrompt:
    """The prompt that the options give for one object."""

    object_id: int
    points: list[tuple[float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    box: tuple[float, ...] | None = None
    mask: npt.NDArray[np.bool_] | None = None
    mask_file: str = ""

    def add(self, option: Option) -> None:
        """Add one option."""
        if option.kind == "point":
            x, y, *label = option.numbers(2, 3)
            if label and not label[0].is_integer():
                raise PromptError(f"{option}: the label must be 1 (on the object) or 0 (not on it)")
            self.points.append((x, y))
            self.labels.append(int(label[0]) if label else 1)
        elif option.kind == "box":
            self._refuse_second(option, self.box)
            self.box = tuple(option.numbers(4))
        else:
            self._refuse_second(option, self.mask)
            self.mask, self.mask_file = _read_mask(option.value), option.value

    @property
    def prompt(self) -> Prompt:
        """The prompt that trackers take."""
        from sam2edge.runtime.model.prompts import Prompt

        return Prompt(self.points or None, self.labels or None, self.box, self.mask)

    def check_size(self, size: tuple[int, int], subject: str) -> None:
        """Raise a PromptError for a mask that is not of this size (width, height), that of `subject`."""
        if self.mask is not None and self.mask.shape[::-1] != size:
            height, width = self.mask.shape
            raise PromptError(f"{self.mask_file}: the mask is {width}×{height} but {subject} {size[0]}×{size[1]}")

    def _refuse_second(self, option: Option, first: object) -> None:
        if first is not None:
            raise ObjectIdError(
                f"{option}: duplicate {option.kind} for object {self.object_id}; give other objects other IDs"
            )


def gather(options: Sequence[Option]) -> list[GivenPrompt]:
    """Gather the options by object; those without an ID are new objects with the lowest ids that are free."""
    taken = {option.object_id for option in options}
    free = (number for number in itertools.count(1) if number not in taken)
    prompts: dict[int, GivenPrompt] = {}
    for option in options:
        object_id = next(free) if option.object_id is None else option.object_id
        if object_id == 0:
            raise ObjectIdError(f"{option}: object ids start at 1")
        prompts.setdefault(object_id, GivenPrompt(object_id)).add(option)
    return list(prompts.values())


def prompts_by_id(options: Sequence[Option]) -> dict[int, Prompt]:
    """Gather the options by object, as trackers take them."""
    return {given.object_id: given.prompt for given in gather(options)}


def _read_mask(file: str) -> npt.NDArray[np.bool_]:
    import cv2

    path = user_path(file)
    # As colours without alpha: an opaque background must not count as the object.
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) if path.is_file() else None
    if image is None:
        raise MediaError(f"{path}: {'no image that OpenCV can read' if path.exists() else 'no such mask file'}")
    mask: npt.NDArray[np.bool_] = image.any(axis=2)
    if not mask.any():
        raise PromptError(f"{path}: the mask is empty: every pixel is black")
    return mask
