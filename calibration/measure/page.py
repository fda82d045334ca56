"""HTML pages that need no other files."""

from __future__ import annotations

import html
from collections.abc import Sequence

_STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 1020px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { padding: .2em .9em; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left } figure { display: inline-block; margin: 0 1em 1em 0 }
img { max-width: 480px } figcaption { font-size: 13px } .fail { color: #b00 } .pass { color: #070 }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """HTML of a whole page from the HTML of its parts."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def html_table(lines: Sequence[Sequence[str]]) -> str:
    """A table of text, its head first."""
    head, *body = ["".join(f"<td>{html.escape(cell)}</td>" for cell in line) for line in lines]
    rows = "\n".join(f"<tr>{line}</tr>" for line in body)
    return f"<table>\n<tr>{head.replace('td>', 'th>')}</tr>\n{rows}\n</table>"
