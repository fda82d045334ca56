"""The commands in the documentation, wherever they stand: in blocks of shell and between backticks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sam2edge import cli
from tests.conftest import REPO

PAGES = [
    REPO / "README.md",
    REPO / "CONTRIBUTING.md",
    *sorted(page for page in (REPO / "docs").rglob("*.md") if page.name != "command-line.md"),  # that is generated
    REPO / "samples" / "README.md",
    REPO / "samples" / "nano" / "README.md",
]
VERBS = cli.parsers()[1]
"""The parser of each verb of `sam2edge`."""
RUN = frozenset({"sam2edge", "python", "make"})
NOT_RUN = frozenset(
    {".", "apt-get", "cp", "dmesg", "docker", "gst-launch-1.0", "install", "jetson_clocks", "journalctl", "kubectl",
     "nvpmodel", "pip", "python3", "ray", "ssh", "systemctl", "tail", "tritonserver", "trtexec", "useradd"}
)  # fmt: skip
"""Programs that need a network, root or another machine: only what they name is checked."""


@dataclass(frozen=True)
class Command:
    """One program and its arguments, without sudo, NAME=value and comments."""

    page: Path
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPO)}: {shlex.join(self.words)}"

    @property
    def program(self) -> str:
        return self.words[0].rpartition("/")[2]

    @property
    def real(self) -> bool:
        """Whether it can be typed as it stands: not `build BUNDLE [--force] …`, and not `sam2edge verify`, a name."""
        if any(re.match(r"\[|.*…|[A-Z][A-Z0-9_,]*$", word) for word in self.words):
            return False
        bare = len(self.words) < 3 or self.words[2].startswith("-")
        return not (self.program == "sam2edge" and bare and self.words[1] != "doctor")


def commands(page: Path) -> list[Command]:
    """Return the commands of a page, in order."""
    on_page = []
    for block, span in re.findall(
        r"^```sh\n(.*?)^```|^```.*?^```|`([^`]+)`", page.read_text(), re.MULTILINE | re.DOTALL
    ):
        lines = block.replace("\\\n", " ").splitlines() if block else _line(span.split())
        on_page += [Command(page, words) for line in lines for words in _parts(line)]
    return on_page


def _line(words: list[str]) -> list[str]:
    """Return what stands between backticks, if it is a command; `build --force` is one of sam2edge."""
    if len(words) > 1 and words[0] in VERBS and words[1].startswith("-"):
        words = ["sam2edge", *words]
    return [" ".join(words)] if len(words) > 1 and words[0] in RUN | NOT_RUN | {"sudo"} else []


def _parts(line: str) -> Iterator[tuple[str, ...]]:
    """Yield the commands between && and |."""
    part: list[str] = []
    for word in [*shlex.split(line, comments=True), "&&"]:
        if word in ("&&", "|"):
            if part:
                yield tuple(part)
            part = []
        elif part or not (word == "sudo" or re.match(r"\w+=", word)):
            part.append(word)


COMMANDS = [command for page in PAGES for command in commands(page)]
