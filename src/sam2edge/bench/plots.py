"""Two kinds of pictures, as SVG: horizontal bars made of parts, and lines over numbers."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

COLOURS = ("#4878a8", "#d08030", "#509050", "#a05090", "#888888", "#b04040", "#30a0a0", "#807020")
_WIDTH, _BARS = 860, 480
_LINE_HEIGHT = 26
_LETTER = 7.5
"""Width of most letters."""

Bar = tuple[str, Sequence[float], str]
"""Label, parts, and what stands behind it."""


def bars(title: str, parts: Sequence[str], rows: Sequence[Bar]) -> str:
    """A bar a row, as long as the sum of its parts; with a legend if there is more than one part."""
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
        for n, value in enumerate(values):
            length = scale * value
            body.append(f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="19" fill="{COLOURS[n]}"/>')
            x += length
        body.append(_text(x + 6, y + 14, note))
    return _svg(title, width, top + len(rows) * _LINE_HEIGHT + 8, body)


def lines(title: str, across: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """A line with marks for each series of x, y; the vertical axis starts at 0."""
    points = [point for one in series.values() for point in one]
    xs = sorted({x for x, _ in points})
    step = _step(max((y for _, y in points), default=1))
    ceiling = step * math.ceil(max((y for _, y in points), default=1) / step)
    left, right, top, bottom = 64, 560, 44, 330

    def place(x: float, y: float) -> tuple[float, float]:
        share = (x - xs[0]) / (xs[-1] - xs[0]) if len(xs) > 1 else 0.5
        return left + 20 + share * (right - left - 40), bottom - (bottom - top) * y / ceiling

    body = []
    for y in range(round(ceiling / step) + 1):
        height = bottom - (bottom - top) * y * step / ceiling
        body.append(f'<path d="M{left} {height:.1f}H{right}" stroke="#ddd"/>')
        body.append(_text(left - 6, height + 4, f"{y * step:g}", "end"))
    written = 0.0
    for x in xs:
        if (middle := place(x, 0)[0]) - written >= _LETTER * 4:  # else it would overlap
            body.append(_text(middle, bottom + 18, f"{x:g}", "middle"))
            written = middle
    body.append(_text((left + right) / 2, bottom + 38, across, "middle"))
    for n, (name, values) in enumerate(series.items()):
        colour, at = COLOURS[n % len(COLOURS)], [place(*value) for value in sorted(values)]
        dashes = ' stroke-dasharray="6 4"' if n >= len(COLOURS) else ""
        legend = top + 8 + 20 * n
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
        for drawn in (path, f"{right + 12} {legend - 4}H{right + 36}"):
            body.append(f'<path d="M{drawn}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        body += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in at]
        body.append(_text(right + 42, legend, name))
    width = max(_WIDTH, right + 52 + _LETTER * max(map(len, series), default=0))
    return _svg(title, width, max(bottom + 50, top + 20 * len(series) + 20), body)


def _step(largest: float) -> float:
    """A round distance of the axis' marks, of which four to ten fit."""
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
