"""--words and what belongs to it, of the verbs that find objects by words."""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sam2edge.commands.options import backend, refuse_ignored
from sam2edge.errors import InputError
from sam2edge.runtime.words import SCORE

if TYPE_CHECKING:
    from sam2edge.bundle import Bundle
    from sam2edge.runtime.words.detector import WordDetector
    from sam2edge.runtime.words.words import Words

_FILE = ".npz"


@dataclass(frozen=True)
class Search:
    """A bundle's detector, the words that it looks for, and what a box must score to be one of their objects."""

    bundle: Bundle
    detector: WordDetector
    words: Words
    score: float


def add_words(parser: argparse.ArgumentParser, *, following: bool = False) -> None:
    """Declare the options. following: whether the verb looks again and again, as in a video."""
    group = parser.add_argument_group("objects that words find, with a bundle that has a word detector")
    group.add_argument(
        "--words",
        metavar="WORDS",
        help="find what these words name, with commas between: 'red cup, person'; or a file that Words.save wrote, "
        f"FILE{_FILE}",
    )
    group.add_argument(
        "--not",
        metavar="WORDS",
        help="words for what looks similar and is not wanted: 'plate'; what fits one of them better is left out",
    )
    group.add_argument(
        "--words-score",
        type=float,
        metavar="S",
        help=f"what a box must score for an object, from 0 to 1 (default: {SCORE})",
    )
    if following:
        group.add_argument(
            "--words-every", type=int, metavar="N", help="frames from one search to the next (default: 25)"
        )


def check_words(args: argparse.Namespace) -> None:
    """Raise an InputError, before any work is done, for words that are none and options that are wrong."""
    from sam2edge import checks

    dependent = [name for name in ("not", "words_score", "words_every") if hasattr(args, name)]
    if args.words is None:
        refuse_ignored(args, *dependent, without="--words")
        return
    if is_file(args.words):
        if getattr(args, "not") is not None:
            raise InputError(f"--not: {args.words} has words of both kinds already; save it again with these")
    else:
        word_texts(args)
    if args.words_score is not None:
        checks.number("--words-score", args.words_score, 0, 1)
    if getattr(args, "words_every", None) is not None:
        checks.integer("--words-every", args.words_every, 1)


@contextlib.contextmanager
def open_search(args: argparse.Namespace) -> Iterator[Search | None]:
    """Yield what --words asks for, None without it; the detector is closed at the end.

    Raises a BundleError for a bundle without words, and an InputError for words that its text encoder does not take.
    """
    if args.words is None:
        yield None
        return
    from sam2edge.bundle import Bundle
    from sam2edge.runtime.words.detector import WordDetector
    from sam2edge.runtime.words.words import Words

    bundle = Bundle.open(args.bundle)
    with WordDetector(bundle, backend(args)) as detector:
        words = Words.load(args.words) if is_file(args.words) else detector.words(*word_texts(args))
        yield Search(bundle, detector, words, SCORE if args.words_score is None else args.words_score)


def split_words(text: str, origin: str) -> list[str]:
    """Return the words that stand between commas; raise an InputError, which starts with `origin`, if one is missing.

    A word is given once only, in whichever case: a detector takes capitals for small letters.
    """
    words = [" ".join(word.split()) for word in text.split(",")]
    if not all(words):
        raise InputError(f'{origin} {text!r}: a word is missing; put commas between names only: "red cup, person"')
    counts = Counter(word.casefold() for word in words)
    if twice := next((word for word in words if counts[word.casefold()] > 1), ""):
        raise InputError(f"{origin} {text!r}: {twice!r} is named twice")
    return words


def found_line(words: Sequence[str], found: Iterable[str]) -> str:
    """Return how many objects each word found, as a line for the end."""
    counts = Counter(found)
    return "found " + ", ".join(f"{counts[word]} × {word}" for word in words)


def is_file(words: str) -> bool:
    """Return whether words are the name of a file that Words.save wrote."""
    return words.endswith(_FILE)


def word_texts(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Return the words that are wanted, and those that are not."""
    unwanted = getattr(args, "not")
    texts = split_words(args.words, "--words")
    others = [] if unwanted is None else split_words(unwanted, "--not")
    known = {word.casefold() for word in texts}
    if both := next((word for word in others if word.casefold() in known), ""):
        raise InputError(f"--not {unwanted!r}: {both!r} is one of --words, too")
    return texts, others
