"""What the verbs print with."""

from __future__ import annotations

import sys
from collections.abc import Sequence


class StatusLine:
    """One line on stderr that is overwritten again and again; nothing where stderr is no terminal."""

    def show(self, text: str) -> None:
        self._write(f"\r\x1b[K{text}")

    def report(self, text: str) -> None:
        """A line of its own, which stays, on any stderr."""
        self.clear()
        print(f"sam2edge: {text}", file=sys.stderr)

    def clear(self) -> None:
        self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        if sys.stderr.isatty():
            print(text, end="", file=sys.stderr, flush=True)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of equally many cells in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
