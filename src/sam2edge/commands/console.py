"""What the verbs print with."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sam2edge.closeable import Closeable


class StatusLine(Closeable):
    """A line on stderr that is overwritten and, at the end, wiped; it shows only if stderr is a terminal."""

    def show(self, text: str) -> None:
        """Replace the line."""
        self._write(f"\r\x1b[K{text}")

    def progress(self, message: str, fraction: float) -> None:
        """Replace the line by a message and how much of the work is done, from 0 to 1."""
        self.show(f"{fraction:4.0%} {message}")

    def report(self, text: str) -> None:
        """Print a line that stays, on any stderr."""
        self.close()
        print(f"sam2edge: {text}", file=sys.stderr)

    def close(self) -> None:
        """Wipe the line."""
        self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        if sys.stderr.isatty():
            print(text, end="", file=sys.stderr, flush=True)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows with the same number of cells, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
