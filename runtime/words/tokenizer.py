"""CLIP's byte-pair encoding, read from a tokenizer.json: texts become the tokens that the text encoder takes.

Equal to the package `tokenizers`, which would bring 46 MB to the device. The text is normalised (NFC, spaces, lower
case) and split into words: contractions, runs of letters, single digits, and runs of anything else but spaces. A word's
UTF-8 bytes, each written as a printable character, are merged pair by pair, always the pair that was learned first.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sam2edge.bundle.words import WordsModel
from sam2edge.errors import CorruptFileError, InputError, SchemaError

_LONGEST = 1000
"""Characters of a text; far more than any that fits."""
_CONTRACTIONS = ("'re", "'ve", "'ll", "'s", "'t", "'m", "'d")
_SPACES = frozenset(
    "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
)
"""What regular expressions call a space; str.isspace() also means the separators U+001C to U+001F."""
_END_OF_WORD = "</w>"
_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_CLIP: dict[str, Sequence[Any]] = {
    "model": ("BPE",),
    "normalizer": ("NFC", "Replace", "Lowercase"),
    "pre_tokenizer": ("Split", "ByteLevel"),
}
"""The steps of a tokenizer.json that does what this file does."""


class Tokenizer:
    """The tokenizer of a word detector.

    Args:
        file: Its tokenizer.json.
        model: The numbers of the detector, which say what the special tokens are.

    Raises:
        CorruptFileError: The file is not JSON.
        SchemaError: It is not CLIP's byte-pair encoding, or not of this model.
    """

    def __init__(self, file: Path, model: WordsModel) -> None:
        self._model = model
        try:
            data = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise CorruptFileError(f"{file}: not a tokenizer ({error}); export the word detector again") from error
        try:
            self._read(data)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise SchemaError(
                f"{file}: not CLIP's byte-pair encoding for this detector ({error}); export the word detector again"
            ) from error

    def _read(self, data: Any) -> None:
        for part, expected in _CLIP.items():
            if (steps := tuple(_steps(data[part]))) != expected:
                raise ValueError(f"its {part} is {' '.join(steps)}, expected {' '.join(expected)}")
        pattern = data["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        if not pattern.endswith(_WORD):  # special tokens may come first
            raise ValueError(f"it splits words by {pattern}")
        bpe = data["model"]
        if bpe["end_of_word_suffix"] != _END_OF_WORD or bpe.get("continuing_subword_prefix"):
            raise ValueError(f"its words do not end with {_END_OF_WORD}")
        self._vocabulary: dict[str, int] = bpe["vocab"]
        # written as "a b" by older versions, as ["a", "b"] by newer ones
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in bpe["merges"])
        self._ranks = {(first, second): rank for rank, (first, second) in enumerate(pairs)}
        self._added: dict[str, int] = {token["content"]: token["id"] for token in data["added_tokens"]}
        model = self._model
        special = {model.start_token, model.end_token}
        if not special <= set(self._added.values()) <= special | {model.pad_token}:
            raise ValueError(f"its added tokens are {self._added}")
        alphabet = [char + end for char in _BYTES for end in ("", _END_OF_WORD)]
        missing = [part for part in (*alphabet, *map("".join, self._ranks)) if part not in self._vocabulary]
        if missing:
            raise ValueError(f"its vocabulary lacks {missing[0]}")
        ids = {*self._vocabulary.values(), *self._added.values()}
        if not all(type(token) is int and 0 <= token < model.vocabulary for token in ids):
            raise ValueError(f"its tokens are not all below {model.vocabulary}")

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, however many, between those for start and end.

        Raises:
            InputError: It is not a text, has nothing to see in it, is endless, or has a token that stands for start or
                end.
        """
        if not isinstance(text, str):
            raise InputError(f"a text must be a string but got {type(text).__name__}")
        if len(text) > _LONGEST:
            raise InputError(f"the text {text[:30]!r}… has {len(text)} characters; name an object in a few words")
        if all(char in _SPACES or unicodedata.category(char) in ("Cc", "Cf") for char in text):
            raise InputError(f"a text must name an object but is {text!r}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the text {text!r} has half a character ({error.reason})") from error
        pad = next((content for content, token in self._added.items() if token == self._model.pad_token), None)
        for content in self._added:
            if content != pad and content in text.lower():
                raise InputError(f"the text {text!r} has {content} in it, which marks the ends of texts; leave it out")
        ids = [self._model.start_token]
        for number, part in enumerate(text.split(pad) if pad else [text]):
            ids += [self._model.pad_token] * (number > 0)
            for word in _words(part):
                ids += self._merge(word)
        return [*ids, self._model.end_token]

    def table(self, texts: Sequence[str]) -> npt.NDArray[np.int32]:
        """Return the tokens of Q texts, filled up for the text encoder: int32 [Q,context].

        Raises:
            InputError: As of `encode`, or a text has too many tokens; the message says where it could end.
        """
        table = np.full((len(texts), self._model.context), self._model.pad_token, np.int32)
        for row, text in zip(table, texts, strict=True):
            ids = self.encode(text)
            if len(ids) > len(row):
                raise InputError(self._too_long(text, len(ids)))
            row[: len(ids)] = ids
        return table

    def _too_long(self, text: str, count: int) -> str:
        words = text.split()
        starts = (" ".join(words[:count]) for count in range(1, len(words)))
        fitting = list(takewhile(lambda start: len(self.encode(start)) <= self._model.context, starts))
        shorter = f"; {fitting[-1]!r} would fit" if fitting else ""
        return f"the text {text!r} has {count - 2} tokens, but at most {self._model.context - 2} fit{shorter}"

    def _merge(self, word: str) -> list[int]:
        parts = [_BYTES[byte] for byte in word.encode()]
        parts[-1] += _END_OF_WORD
        while len(parts) > 1:
            best = min(pairwise(parts), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            parts = list(_joined(parts, best))
        return [self._vocabulary[part] for part in parts]


def _steps(part: dict[str, Any]) -> Iterator[str]:
    """Yield the types of a normaliser's, pre-tokenizer's or model's steps."""
    inner = part.get("normalizers") or part.get("pretokenizers") or [part]
    yield from (step["type"] for step in inner)


def _joined(parts: list[str], pair: tuple[str, str]) -> Iterator[str]:
    """Yield the parts with every occurrence of a pair as one part."""
    place = 0
    while place < len(parts):
        together = tuple(parts[place : place + 2]) == pair
        yield "".join(pair) if together else parts[place]
        place += 2 if together else 1


def _words(text: str) -> Iterator[str]:
    """Yield the words of a text in normal form, in lower case, without the spaces between them."""
    # character by character: str.lower() of a whole word writes Σ at its end as ς
    text = "".join(char.lower() for char in unicodedata.normalize("NFC", text))
    start = 0
    while start < len(text):
        end = start + len(next((short for short in _CONTRACTIONS if text.startswith(short, start)), ""))
        if end == start:
            end, kind = start + 1, _kind(text[start])
            while kind in "LP" and end < len(text) and _kind(text[end]) == kind:
                end += 1
            if kind == " ":
                start = end
                continue
        yield text[start:end]
        start = end


def _kind(char: str) -> str:
    """Return whether a character is a letter (L), a digit or other number (N), a space, or anything else (P)."""
    category = unicodedata.category(char)[0]
    return category if category in "LN" else " " if char in _SPACES else "P"


def _byte_characters() -> tuple[str, ...]:
    """Return a printable character for each byte, as GPT-2 chose them: its own in Latin-1, or else one from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


_BYTES = _byte_characters()
