"""Imports point one way (docs/explanation/architecture.md), and functions import only optional packages."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import REPO

PACKAGE = REPO / "src" / "sam2edge"
# A room may import itself and those before it; the rooms of the first rank may import each other.
ORDER = (
    "bundle checks closeable errors files types __version__ < runtime < runtime.backends < runtime.model < "
    "runtime.media < runtime.words < runtime.video runtime.image < engines export < calibration.measure < "
    "calibration.int8 < calibration < bench ui labelling serving < commands < cli < __main__"
)
RANK = {room: rank for rank, rooms in enumerate(ORDER.split(" < ")) for room in rooms.split()}
OPTIONAL = (
    "cv2",
    "onnx",
    "onnxruntime",
    "pyarrow",
    "pycuda",
    "ray",
    "tensorrt",
    "torch",
    "transformers",
    "triton_python_backend_utils",
)


def modules() -> Iterator[tuple[str, Path]]:
    """Yield the name below `sam2edge` and the file of every module in the package."""
    for root in (PACKAGE, *(REPO / link.name for link in PACKAGE.iterdir() if link.is_symlink())):
        for file in root.rglob("*.py"):
            name = file.relative_to(PACKAGE if root == PACKAGE else REPO).with_suffix("")
            yield ".".join(name.parts).removesuffix(".__init__"), file


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Yield the full name of everything that a file imports, and whether it does so inside a function."""
    tree = ast.parse(file.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    inside = {statement for function in functions for statement in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            yield from ((start + alias.name, node in inside) for alias in node.names)


def room_of(name: str) -> str:
    return next(room for room in sorted(RANK, reverse=True) if f"{name}.".startswith(f"{room}."))


def is_allowed(module: str, name: str, in_function: bool) -> bool:
    here, (package, _, name) = room_of(module), name.partition(".")
    for_start_up = here in ("commands", "cli")
    if package != "sam2edge":
        return not in_function or package in OPTIONAL or for_start_up
    other = room_of(name)
    if other == "export" != here:  # it needs PyTorch
        return in_function and RANK[here] > RANK[other]
    below = RANK[other] < RANK[here] or other == here or RANK[other] == 0
    return below and (not in_function or for_start_up)


def test_imports_point_one_way() -> None:
    arrows = [(module, *arrow) for module, file in modules() if module != "__init__" for arrow in imports(file)]
    assert len(arrows) > 500
    assert [arrow for arrow in arrows if not is_allowed(*arrow)] == []


def test_runtime_is_no_flat_folder() -> None:
    assert len(list((REPO / "runtime").glob("*.py"))) <= 3
