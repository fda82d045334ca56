"""What a word detector looks for: words, or boxes in reference pictures, as queries."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sam2edge.errors import InputError
from sam2edge.files import check_output_file, replacing_file, user_path
from sam2edge.types import Floats

_FORMAT = "sam2edge-queries"
_AGAIN = "make them again with a detector's words() and save()"


@dataclass(frozen=True, eq=False)
class Words:
    """Queries for one word detector, made by its `words` and `words_like`; `+` joins two.

    They are data: a device that loads them encodes no text. They fit every export of the same weights, of any size and
    precision.

    Attributes:
        texts: What to find, as it was written.
        others: What to reject: what looks more like one of these is not reported.
        queries: float32 [Q,D], one row for each of the texts, then of the others.
        detector: Name of the detector that they are for.
        sha256: Of its weights.
    """

    texts: tuple[str, ...]
    others: tuple[str, ...]
    queries: Floats
    detector: str
    sha256: str

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each query."""
        return self.texts + self.others

    def __add__(self, more: Words) -> Words:
        """Return both together; InputError if they are for different detectors or share a word."""
        if not isinstance(more, Words):
            return NotImplemented
        more.check_for(self.detector, self.sha256)
        check_distinct(self.names + more.names)
        cut, more_cut = len(self.texts), len(more.texts)
        queries = [self.queries[:cut], more.queries[:more_cut], self.queries[cut:], more.queries[more_cut:]]
        joined = np.concatenate(queries)
        return Words(self.texts + more.texts, self.others + more.others, joined, self.detector, self.sha256)

    def check_for(self, detector: str, sha256: str) -> None:
        """Raise InputError if they are not for this detector, given by its name and the sha256 of its weights."""
        if self.sha256 != sha256:
            raise InputError(
                f"the words are for {self.detector} (sha256 {self.sha256[:8]}…), but this is {detector} "
                f"({sha256[:8]}…): make them with this detector's words()"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file, best called .npz, which appears whole or not at all; InputError if it cannot be written."""
        file = user_path(path)
        check_output_file(file)
        about = {
            **{"format": _FORMAT, "schema": 1, "texts": self.texts, "others": self.others},
            **{"detector": self.detector, "sha256": self.sha256},
        }
        with replacing_file(file) as new, new.open("wb") as stream:
            np.savez(stream, about=np.array(json.dumps(about)), queries=self.queries)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Words:
        """Read what `save` wrote; InputError if there is no such file, or it holds anything else."""
        file = user_path(path)
        try:
            with file.open("rb") as stream, np.load(stream) as data:
                about, queries = json.loads(str(data["about"])), data["queries"]
            texts, others = (tuple(map(_text, about[part])) for part in ("texts", "others"))
            words = Words(texts, others, queries, _text(about["detector"]), _text(about["sha256"]))
            known = (about["format"], about["schema"]) == (_FORMAT, 1)
        except OSError as error:
            raise InputError(f"{file}: cannot be read: {error.strerror or error}") from error
        except Exception as error:  # damage surfaces as an exception of numpy, zipfile, zlib or json
            raise InputError(f"{file}: not words that were saved, or damaged ({error}); {_AGAIN}") from error
        shape = len(words.names), *queries.shape[1:]
        if not known or not texts or queries.ndim != 2 or queries.dtype != np.float32 or queries.shape != shape:
            raise InputError(f"{file}: not words that this sam2edge reads; {_AGAIN}")
        if not np.isfinite(queries).all():
            raise InputError(f"{file}: its queries are not finite; {_AGAIN}")
        return words


def check_distinct(names: Sequence[str]) -> None:
    """Raise InputError if a word is there twice."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"the word {twice[0]!r} is there twice; name each word once, to find or to reject")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text but got {value!r}")
    return value
