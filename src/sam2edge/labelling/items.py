"""What there is to label: the settings of a run, its items, and what a worker reports of one."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Literal

from sam2edge.runtime.media.prompt_files import PromptLine

_PART = re.compile(r"\.(\d+)of\d+$")


class StoppedError(Exception):
    """An item was given up halfway because the run is being ended; nothing of it is kept."""


@dataclass(frozen=True)
class Settings:
    """What decides how the labels look; a run goes on only with the same.

    Attributes:
        mode: Follow prompts; find everything in images; or find what words name.
        words: What to find.
        others: Words for what is not wanted.
        words_file: In place of both, a file that `Words.save` wrote.
        words_score: What a box must score; None for the default.
        words_every: Frames from one search to the next; None for the default.
        points_per_side: Of the grid of `auto`; None for the default, as of the next two.
        value_range: Of images with more than 8 bits.
    """

    mode: Literal["prompts", "auto", "words"] = "prompts"
    backend: str = "auto"
    format: Literal["jsonl", "parquet"] = "jsonl"
    layouts: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    words_file: str = ""
    words_score: float | None = None
    words_every: int | None = None
    points_per_side: int | None = None
    pred_iou_thresh: float | None = None
    stability_score_thresh: float | None = None
    value_range: tuple[float, float] | None = None
    min_confidence: float = 0.0
    memory_frames: int | None = None
    memory_stride: int = 1
    track_every: int = 1


@dataclass(frozen=True)
class Item:
    """A piece of work that one worker does whole, and that is kept whole or not at all.

    Attributes:
        key: The name of its results: that of the source, and a hash of all that is in it.
        kind: A video, or a folder of its frames, that is tracked; or images, each for itself.
        sources: One for a video; images in their order.
        prompts: In the order of the frames; objects have ids, masks are run lengths (see `schedule`).
        start: The first frame that has a prompt, of all the parts of a video; those before it are not tracked.
        part: Which of how many parts of a video this is; each has some of its objects. None for a whole one.
    """

    key: str
    kind: Literal["video", "images"]
    sources: tuple[str, ...]
    prompts: tuple[PromptLine, ...] = ()
    start: int = 0
    part: tuple[int, int] | None = None


@dataclass(frozen=True)
class Doubtful:
    """An object on a frame that a person should look at; the lower the score, the more so."""

    source: str
    frame: int
    object: int
    score: float
    reason: str


@dataclass(frozen=True)
class Record:
    """What a worker says of an item that is done.

    Attributes:
        key: The item's.
        sources: The item's.
        frames: Frames or images with results.
        objects: How many objects there are in all.
        seconds: How long it took.
        problems: What could not be done without ending the item, as an image that cannot be read; each names its file.
        doubtful: The worst few.
        where: The worker.
        remarks: What a person should know, as that damaged frames were left out; each names its file.
    """

    key: str
    sources: tuple[str, ...]
    frames: int
    objects: int
    seconds: float
    problems: tuple[str, ...] = ()
    doubtful: tuple[Doubtful, ...] = ()
    where: str = ""
    remarks: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Record:
        fields = json.loads(text)
        for name in ("sources", "problems", "remarks"):
            fields[name] = tuple(fields[name])
        fields["doubtful"] = tuple(Doubtful(**one) for one in fields["doubtful"])
        return cls(**fields)


def part_key(key: str, number: int, count: int) -> str:
    """Return the key of a part of an item, which no whole item can have."""
    return f"{key}.{number}of{count}"


def whole_key(key: str) -> str:
    """Return the key of the item that a key is of, or is of a part of."""
    return _PART.sub("", key)
