"""HTML pages and SVG pictures that need no other file, and files that are written whole or not at all."""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sam2edge.errors import MediaError
from sam2edge.files import write_text

COLOURS = ("#4878a8", "#d08030", "#509050", "#a05090", "#888888", "#b04040", "#30a0a0", "#807020")
_STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 1020px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { padding: .2em .9em; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left } figure { display: inline-block; margin: 0 1em 1em 0 }
img { max-width: 480px } figcaption { font-size: 13px } .fail { color: #b00 } .pass { color: #070 }
"""
_WIDTH, _BARS = 860, 480
_LINE_HEIGHT = 26
_LETTER = 7.5
"""Width of most letters."""

Bar = tuple[str, Sequence[float], str]
"""Label, lengths of the parts, and the note behind the bar."""


def page(title: str, parts: Sequence[str]) -> str:
    """Return a whole page from the HTML of its parts."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def html_table(lines: Sequence[Sequence[str]]) -> str:
    """Return a table of text, whose first line is the head."""
    head, *body = ["".join(f"<td>{html.escape(cell)}</td>" for cell in line) for line in lines]
    rows = "\n".join(f"<tr>{line}</tr>" for line in body)
    return f"<table>\n<tr>{head.replace('td>', 'th>')}</tr>\n{rows}\n</table>"


def write(path: Path, text: str) -> None:
    """Write a file and the directories above it; MediaError if that fails."""
    try:
        write_text(path, text)
    except OSError as error:
        raise MediaError(f"{path}: cannot be written: {error.strerror or error}") from error


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as comma-separated values."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def bars(title: str, parts: Sequence[str], rows: Sequence[Bar]) -> str:
    """Draw a bar for each row, as long as the sum of its parts, with a legend if there are several parts."""
    scale = _BARS / (max((sum(values) for _, values, _ in rows), default=0) or 1)
    before = 18 + _LETTER * max((len(label) for label, *_ in rows), default=0)
    width = max(_WIDTH, before + _BARS + 16 + _LETTER * max((len(note) for *_, note in rows), default=0))
    top = 58 if len(parts) > 1 else 36
    body = []
    for n, part in enumerate(parts if len(parts) > 1 else ()):
        x = 10 + n * (width - 20) / len(parts)
        body.append(f'<rect x="{x:.0f}" y="32" width="12" height="12" fill="{COLOURS[n]}"/>{_text(x + 17, 42, part)}')
    for number, (label, values, note) in enumerate(rows):
        y, x = top + number * _LINE_HEIGHT, before
        body.append(_text(before - 8, y + 14, label, "end"))
        for n, length in enumerate(scale * value for value in values):
            if length:
                body.append(f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="19" fill="{COLOURS[n]}"/>')
            x += length
        body.append(_text(x + 6, y + 14, note))
    return _svg(title, width, top + len(rows) * _LINE_HEIGHT + 8, body)


def lines(
    title: str,
    across: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    bottom: float = 0.0,
    colours: Sequence[str] = (),
) -> str:
    """Draw a line for each series of points (x, y) over an axis that begins at `bottom`.

    Given colours are drawn on a dark background and without marks at the points.
    """
    points = [point for values in series.values() for point in values]
    xs = sorted({x for x, _ in points})
    highest = max((y for _, y in points), default=1)
    step = _step(highest - bottom)
    steps = max(1, math.ceil(round((highest - bottom) / step, 6)))
    left, right, top, base = 64, 560, 44, 330

    def place(x: float, y: float) -> tuple[float, float]:
        share = (x - xs[0]) / (xs[-1] - xs[0]) if len(xs) > 1 else 0.5
        return left + 20 + share * (right - left - 40), base - (base - top) * (y - bottom) / (steps * step)

    body = []
    if colours:
        body.append(f'<rect x="{left}" y="{top}" width="{right - left}" height="{base - top}" fill="#2b2b2b"/>')
    for n in range(steps + 1):
        height = base - (base - top) * n / steps
        body.append(f'<path d="M{left} {height:.1f}H{right}" stroke="{"#555" if colours else "#ddd"}"/>')
        body.append(_text(left - 6, height + 4, f"{bottom + n * step:.6g}", "end"))
    written = 0.0
    for x in xs:
        if (middle := place(x, bottom)[0]) - written >= _LETTER * 4:  # else it would overlap
            body.append(_text(middle, base + 18, f"{x:g}", "middle"))
            written = middle
    body.append(_text((left + right) / 2, base + 38, across, "middle"))
    palette = colours or COLOURS
    for n, (name, values) in enumerate(series.items()):
        places, legend = [place(*value) for value in sorted(values)], top + 8 + 20 * n
        dashes = ' stroke-dasharray="6 4"' if n >= len(palette) else ""
        style = f'fill="none" stroke="{palette[n % len(palette)]}" stroke-width="2"{dashes}'
        body.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}" {style}/>')
        body.append(f'<path d="M{right + 12} {legend - 4}H{right + 36}" {style}/>')
        if not colours:
            fill = palette[n % len(palette)]
            body += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}"/>' for x, y in places]
        body.append(_text(right + 42, legend, name))
    width = max(_WIDTH, right + 52 + _LETTER * max(map(len, series), default=0))
    return _svg(title, width, max(base + 50, top + 20 * len(series) + 20), body)


def _step(largest: float) -> float:
    """Return a round distance between the marks of an axis that gives four to ten of them."""
    power = 10 ** math.floor(math.log10(largest)) if largest > 0 else 1.0
    return next(power * factor for factor in (0.2, 0.5, 1, 2) if largest / (power * factor) <= 8)


def _svg(title: str, width: float, height: int, body: Sequence[str]) -> str:
    size = f'width="{width:.0f}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" {size}',
        ' style="max-width: 100%; height: auto" font-family="sans-serif" font-size="13" fill="#222">',
        f'<rect {size} fill="white"/>',
        f'<text x="10" y="20" font-size="15" font-weight="bold">{html.escape(title)}</text>',
        *body,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
