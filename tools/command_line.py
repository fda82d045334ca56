"""Write docs/reference/command-line.md from what the verbs declare: `python tools/command_line.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sam2edge.cli import VERBS
from sam2edge.commands import EXIT_CODES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "command-line.md"


class Declared:
    """Takes declarations as argparse's parser does, and keeps them."""

    def __init__(self, title: str = "") -> None:
        self.title = title
        self.description = ""
        self.arguments: list[tuple[str, str]] = []
        self.groups: list[Declared] = []

    def add_argument(self, *names: str, **settings: Any) -> None:
        value = settings.get("metavar") or "{" + ",".join(map(str, settings.get("choices", ()))) + "}"
        optional = settings.get("nargs") in ("*", "?")
        value = f"[{value}]" if optional else value
        value += " …" if settings.get("nargs") in ("*", "+") else ""
        if not names[0].startswith("-"):
            usage = value
        elif settings.get("action") == "store_true":
            usage = ", ".join(names)
        else:
            usage = f"{', '.join(names)} {value}"
        self.arguments.append((usage, settings.get("help", "")))

    def add_argument_group(self, title: str) -> Declared:
        self.groups.append(Declared(title))
        return self.groups[-1]

    def set_defaults(self, **defaults: object) -> None:
        """The function that runs the verb is not documented."""


def page() -> str:
    """Return the page: a section for each verb, and the exit codes."""
    parts = [
        "# Command line",
        "`sam2edge VERB …`; `sam2edge help VERB` prints the same as a section here, `sam2edge --version` the version. "
        "A leading `~` in a path is the home directory.",
    ]
    for name, (verb, _) in VERBS.items():
        declared = Declared()
        verb.add(declared)
        positional = [usage for usage, _ in declared.arguments if not usage.startswith("-")]
        usage = " ".join(["sam2edge", name, *positional, "[options]"])
        parts += [f"## sam2edge {name}", declared.description, f"`{usage}`"]
        for section in (declared, *declared.groups):
            parts += [f"{section.title[0].upper()}{section.title[1:]}:"] if section.title else []
            parts += [_table("argument", section.arguments)] if section.arguments else []
    parts += ["## Exit codes", _table("code", [(str(code), text) for code, text in EXIT_CODES.items()])]
    return "\n\n".join(parts) + "\n"


def _table(head: str, rows: list[tuple[str, str]]) -> str:
    lines = [f"| {head} | |", "|---|---|", *(f"| `{left}` | {right} |" for left, right in rows)]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE}")
