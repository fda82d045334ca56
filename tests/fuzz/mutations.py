"""Ways to spoil files, JSON and arguments. What a mutation does follows from the random numbers it is given."""

from __future__ import annotations

import copy
import json
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

_EDGES = [b"\0", b"\xff", b"\x7f", b"\x80"]
EXTREMES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 255, 256, 65536, 2**31 - 1, 2**31, -(2**31), 2**63, 10**30, 10**400),
    *(0.0, 0.5, -0.5, 1e-320, 1e9, 1e308, -1e308, math.nan, math.inf, -math.inf),
    *("", "0", "x", "../../x", "/dev/null", "\0", "é\ud800", "x" * 70_000, [], {}, [[]], [None], {"": None}, [[[1]]]),
    *([0] * 1000, [1, 2], [1.5, "x"], {"x": {"y": []}}),
]
"""Values that no field and no argument is made for."""


def bytes_of(random: Random, content: bytes) -> bytes:
    """Cut, flip, overwrite, repeat or move bytes, most often in the first part, where headers are."""
    data = bytearray(content)

    def place(size: int = 1) -> int:
        end = len(data) if random.random() < 0.4 else min(len(data), 256)
        return random.randrange(max(1, end - size + 1))

    def flip() -> None:
        for _ in range(random.choice([1, 1, 2, 8, 64])):
            data[place()] ^= 1 << random.randrange(8)

    def overwrite() -> None:
        size = random.choice([1, 2, 4, 4, 8])
        at = place(size)
        data[at : at + size] = random.choice([random.choice(_EDGES) * size, random.randbytes(size)])

    def splice() -> None:
        size = random.randrange(1, 1 + max(1, len(data) // 4))
        source, at = place(size), place(size)
        data[at : at + random.choice([0, size])] = data[source : source + size]

    def truncate() -> None:
        del data[random.choice([0, 1, 8, 30, random.randrange(1 + len(data)), max(0, len(data) - 1)]) :]

    def drop() -> None:
        at = place(8)
        del data[at : at + random.choice([1, 4, 8, 100])]

    for _ in range(random.choice([1, 1, 1, 2, 5])):
        if data:
            random.choice([flip, flip, overwrite, overwrite, splice, truncate, drop])()
    return bytes(data)


def file(random: Random, path: Path) -> Path:
    """Spoil the bytes of a file in place; the checksums of a PNG may be right again afterwards."""
    content = bytes_of(random, path.read_bytes())
    if path.suffix == ".png" and random.random() < 0.7:
        content = _with_checksums(content)
    path.write_bytes(content)
    return path


def _with_checksums(png: bytes) -> bytes:
    """Return a PNG with the right checksums of as many chunks as there are by their lengths."""
    data, at = bytearray(png), 8
    while at + 12 <= len(data):
        end = at + 8 + struct.unpack_from(">I", data, at)[0]
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(data)


def value(random: Random, valid: Any) -> Any:
    """Return a copy of nested lists and dictionaries in which one to three places are spoiled."""
    spoilt = copy.deepcopy(valid)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        places = _places(spoilt)
        if not places:
            return random.choice(EXTREMES)
        holder, key = random.choice(places)
        change = random.choice(["extreme", "extreme", "extreme", "near", "drop", "add", "swap"])
        if change == "extreme":
            holder[key] = copy.deepcopy(random.choice(EXTREMES))
        elif change == "near":
            holder[key] = _near(random, holder[key])
        elif change == "drop":
            del holder[key]
        elif change == "swap":
            other, place = random.choice(places)
            holder[key] = copy.deepcopy(other[place])
        elif isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        else:
            holder[f"{key}_"] = copy.deepcopy(holder[key])
    return spoilt


def json_file(random: Random, path: Path) -> Path:
    """Spoil a value of a file of JSON, or of one of its lines, or now and then its text."""
    if random.random() < 0.2:
        return file(random, path)
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number = random.randrange(len(lines))
    lines[number] = json.dumps(value(random, json.loads(lines[number])))
    path.write_text("\n".join(lines))
    return path


def arguments(random: Random, valid: dict[str, Any]) -> dict[str, Any]:
    """Spoil arguments: a value in them, or what kind of array holds them, or both."""
    spoilt = value(random, valid) if random.random() < 0.6 else copy.deepcopy(valid)
    spoilt = spoilt if isinstance(spoilt, dict) else {"points": spoilt}
    for name in list(spoilt):
        if random.random() < 0.3:
            spoilt[name] = _as_array(random, spoilt[name])
    return spoilt


def _near(random: Random, one: Any) -> Any:
    """Return a value of the same kind that is wrong by a little, or by a lot."""
    if isinstance(one, bool) or one is None:
        return not one
    if isinstance(one, (int, float)):
        a_little = 0.4 if abs(one) < 2**53 else 1  # some of these numbers are larger than any float
        return random.choice([one + 1, one - 1, -one, one * 1000, one + a_little, str(one), [one]])
    if isinstance(one, str):
        return random.choice([one[:-1], one + "x", one.upper(), f" {one}", one * 3])
    return [one, one]


def _as_array(random: Random, one: Any) -> Any:
    kinds: list[Callable[[Any], Any]] = [
        lambda one: np.asarray(one, random.choice(["f2", "f4", "f8", "i1", "u1", "i8", "?", "c8", "U3", "O"])),
        lambda one: np.asarray(one)[None],
        lambda one: np.asarray(one)[..., ::-1].T,
        lambda one: np.asarray(one)[..., :0],
        lambda one: tuple(one),
        lambda one: iter(one),
    ]
    try:
        return random.choice(kinds)(one)
    except (TypeError, ValueError, IndexError, OverflowError):  # numpy makes no such array of it
        return one


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Return all (container, key) of nested lists and dictionaries."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [place for key in keys for place in [(tree, key), *_places(tree[key])]]
