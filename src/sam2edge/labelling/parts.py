"""Videos that several workers do, each some of the objects: what they wrote becomes the labels of the whole."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

from sam2edge.errors import MediaError
from sam2edge.labelling.items import Item, Record, part_key
from sam2edge.labelling.store import LABELS, Store, write_record

_DOUBTFUL = 20
"""Frames of a record, as of an item that was not split."""


def split(item: Item, count: int) -> list[Item]:
    """Return items that have some of a video's objects each, `count` at most; the item alone if it has but one."""
    ids = list(dict.fromkeys(line.object_id for line in item.prompts))
    count = min(count, len(ids))
    if count < 2:
        return [item]
    return [
        dataclasses.replace(
            item,
            key=part_key(item.key, number, count),
            prompts=tuple(line for line in item.prompts if line.object_id in ids[number::count]),
            part=(number, count),
        )
        for number in range(count)
    ]


def merge(store: Store, item: Item, parts: Sequence[Item]) -> Record:
    """Commit an item of which all parts are done, as it would be had it not been split, and remove the parts.

    Raises MediaError if that cannot be written, as on a full disk; the parts stay.
    """
    record = _sum(item, [store.record(part.key) for part in parts])
    with store.staged(item.key) as folder:
        try:
            (folder / LABELS).mkdir()
            with (folder / LABELS / f"{item.key}.jsonl").open("w", encoding="ascii") as whole:
                whole.writelines(_lines(store, item, parts))
            write_record(folder, record)
        except OSError as error:
            raise MediaError(f"{store.out}: cannot be written: {error.strerror or error}") from error
    for part in parts:
        store.forget(part.key)
    return record


def _lines(store: Store, item: Item, parts: Sequence[Item]) -> Iterator[str]:
    """Yield the lines of the whole: those of the parts differ in their objects only.

    A tracker has its objects in the order in which they joined, and one that was removed joins again.
    """
    waiting = collections.deque(item.prompts)
    order: list[int] = []
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context((store.out / LABELS / f"{part.key}.jsonl").open(encoding="ascii")) for part in parts
        ]
        for texts in zip(*files, strict=True):
            frames: list[dict[str, Any]] = [json.loads(text) for text in texts]
            whole = frames[0]
            while waiting and waiting[0].frame <= whole["frame_index"]:
                line = waiting.popleft()
                if line.remove:
                    order.remove(line.object_id)
                elif line.object_id not in order:
                    order.append(line.object_id)
            objects = [each for frame in frames for each in frame["objects"]]
            whole["objects"] = sorted(objects, key=lambda each: order.index(each["id"]))
            yield json.dumps(whole) + "\n"


def _sum(item: Item, records: Sequence[Record]) -> Record:
    doubtful = sorted((one for record in records for one in record.doubtful), key=lambda one: one.score)
    return Record(
        item.key,
        item.sources,
        frames=max(record.frames for record in records),
        objects=sum(record.objects for record in records),
        seconds=sum(record.seconds for record in records),
        doubtful=tuple(doubtful[:_DOUBTFUL]),
        where=", ".join(sorted({record.where for record in records})),
        remarks=tuple(dict.fromkeys(remark for record in records for remark in record.remarks)),
    )
