"""From what the command line names to items: which videos and images there are, and what is to be done with each.

Nothing is opened: 10,000 videos take as long as their names take to read. What turns out to be no video, no mask or not
there is that item's failure, and the others go on.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sam2edge.errors import InputError, MediaError, PromptError
from sam2edge.files import PathKind, is_file_address, is_hidden, path_kind, user_path
from sam2edge.labelling.items import Item, Settings
from sam2edge.runtime.media.image_files import find_images, natural, stands_for_images
from sam2edge.runtime.media.prompt_files import PromptLine, schedule

_IMAGES = 64
"""Images of an item: enough that its record costs nothing, and few enough that little is done again."""
_HASHED = 10
"""Hex digits of a key, 40 bits, which tell apart what has the same name."""
_NAMED = 9
"""Sources that an error names at most."""


@dataclass(frozen=True)
class Draft:
    """An item whose prompts are as they were given: masks are still files, so that many drafts fit into memory.

    Attributes:
        problem: Why there will be no item, "" if nothing is known against it.
    """

    key: str
    kind: Literal["video", "images"]
    sources: tuple[str, ...]
    lines: tuple[PromptLine, ...] = ()
    problem: str = ""

    def item(self) -> Item:
        """Return the item.

        Raises:
            MediaError, PromptError, ObjectIdError: What is known against it; a mask that is none; see `schedule`.
        """
        if self.problem:
            raise MediaError(self.problem)
        lines = schedule(self.lines)
        return Item(self.key, self.kind, self.sources, tuple(lines), lines[0].frame if lines else 0)


def plan(sources: Sequence[str], prompts: Sequence[PromptLine], settings: Settings) -> list[Draft]:
    """Return what is to be done, each thing once.

    Args:
        sources: Files, folders and patterns. Prompts follow videos and folders of images; a folder of videos stands for
            all of them. `auto` takes images. `words` follows in video files and looks at each image for itself.
        prompts: Without sources, all that they name; lines of other sources are left out.
        settings: Of the run.

    Raises:
        InputError: A source is no file, or of a kind that the mode does not take.
        PromptError: A source has no prompts, or it is not clear what a prompt is for.
    """
    for source in sources:
        if ("://" in source and not is_file_address(source)) or source.startswith(("gst:", "csi:")):
            raise InputError(f"{source}: is no file; `sam2edge track` follows what a camera or a stream shows")
    if settings.mode == "prompts":
        drafts = _prompted(sources, prompts)
    elif settings.mode == "auto":
        drafts = _images(sources)
    else:
        drafts = _searched(sources)
    return list({draft.key: draft for draft in drafts}.values())


def _prompted(sources: Sequence[str], prompts: Sequence[PromptLine]) -> Iterator[Draft]:
    given: dict[str, list[PromptLine]] = {}
    for line in prompts:
        given.setdefault("" if line.source is None else os.path.realpath(line.source), []).append(line)
    videos: dict[str, str] = {}
    for source in sources or [str(line.source) for line in prompts if line.source is not None]:
        for path in _videos(source):
            videos.setdefault(os.path.realpath(path), str(path))
    if unnamed := given.pop("", []):
        if len(videos) != 1:
            raise PromptError(
                f'{unnamed[0].origin}: does not say which video it is for, and there are {len(videos)}; add "source"'
            )
        [only] = videos
        given.setdefault(only, []).extend(unnamed)
    if without := [video for place, video in videos.items() if place not in given]:
        raise PromptError(f"without prompts, so that nothing can be followed: {_names(without)}")
    for place, video in videos.items():
        yield _draft("video", [video], given[place])


def _images(sources: Sequence[str]) -> Iterator[Draft]:
    for source in sources:
        path = _absolute(source)
        images, problems = find_images([path])
        for problem in problems:
            yield _draft("images", [str(path)], problem=problem)
        # A folder's images stay together, so that one that is added changes no other folder's items.
        for _, group in itertools.groupby(images, key=lambda image: image.parent):
            while chunk := list(itertools.islice(group, _IMAGES)):
                yield _draft("images", list(map(str, chunk)))


def _searched(sources: Sequence[str]) -> Iterator[Draft]:
    for source in sources:
        if stands_for_images(source):
            videos = _videos_in(_absolute(source))
            yield from (_draft("video", [str(video)]) for video in videos)
            if not videos or find_images([source])[0]:
                yield from _images([source])
        elif path_kind(source) is PathKind.IMAGE:
            yield from _images([source])
        else:
            yield _draft("video", [str(_absolute(source))])


def _videos(source: str | Path) -> list[Path]:
    """Return the videos that a path stands for: those in a folder or of a pattern that has no images, or itself."""
    path = _absolute(source)
    if not stands_for_images(path) or find_images([path])[0]:
        return [path]
    return _videos_in(path) or [path]


def _videos_in(path: Path) -> list[Path]:
    """Return the video files directly in a folder, or of a pattern."""
    files = path.iterdir() if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
    return sorted((file for file in files if not is_hidden(file) and path_kind(file) is PathKind.VIDEO), key=natural)


def _absolute(source: str | Path) -> Path:
    """Return a path that means the same in any folder and on any machine that has it."""
    return Path(os.path.abspath(user_path(source)))


def _draft(
    kind: Literal["video", "images"], sources: Sequence[str], lines: Sequence[PromptLine] = (), problem: str = ""
) -> Draft:
    """Return a draft, whose key changes with all that decides its labels, or with a problem if it is not there."""
    states = [_state(Path(source)) for source in sources]
    if kind == "video" and states == [[]]:
        problem = f"{sources[0]}: no such file or folder"
    masks = [_state(line.mask) for line in lines if isinstance(line.mask, Path)]
    text = json.dumps([kind, sources, states, [_words(line) for line in lines], masks])
    stem = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in Path(sources[0]).stem)[:60]
    key = f"{stem or 'images'}-{hashlib.sha256(text.encode()).hexdigest()[:_HASHED]}"
    return Draft(key, kind, tuple(sources), tuple(lines), problem)


def _state(path: Path) -> list[tuple[str, int, int]]:
    """Return the sizes and times of the file or files that a path stands for; none if there is nothing."""
    files = find_images([path])[0] if stands_for_images(path) else [path]
    states = []
    for file in files:
        try:
            state = file.stat()
        except OSError:
            continue
        states.append((file.name, state.st_size, state.st_mtime_ns))
    return states


def _words(line: PromptLine) -> str:
    """Return a line as text that does not change with the way in which its source is written."""
    return str(dataclasses.replace(line, source=None))


def _names(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
