"""The tree of errors is the one that is drawn in the module's docstring."""

from __future__ import annotations

import inspect
import re

from sam2edge import errors

LINE = re.compile(r"(?P<indent>[ │├└─]*)(?P<name>\w+Error)(?: \((?P<other>\w+)\))?(?:  .*)?")


def drawn() -> dict[str, tuple[str, ...]]:
    """Return the bases of each class, as drawn; Exception, the base of the root, is not drawn."""
    tree: dict[str, tuple[str, ...]] = {}
    ancestors: list[tuple[int, str]] = [(-1, "Exception")]
    for line in inspect.cleandoc(errors.__doc__ or "").splitlines():
        if match := LINE.fullmatch(line):
            indent, name, other = len(match["indent"]), match["name"], match["other"]
            while ancestors[-1][0] >= indent:
                ancestors.pop()
            tree[name] = (ancestors[-1][1], *filter(None, [other]))
            ancestors.append((indent, name))
    return tree


def test_tree() -> None:
    classes = inspect.getmembers(errors, inspect.isclass)
    assert drawn() == {name: tuple(base.__name__ for base in error.__bases__) for name, error in classes}
