"""Every TensorRT name that engines/ and runtime/ use is in the API of each version that reaches it.

A name is `trt.X`, `trt.X.Y`, or an attribute of an object whose class is known: from an annotation
(`builder: tensorrt.Builder`), from `trt.X(...)`, or as the element of an annotated list. `@on(first, last)` of
runtime/backends/tensorrt_api.py says which versions reach a function.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator

import pytest

from tests.conftest import REPO
from tests.unit.engines.fake_tensorrt import Api, read_api

SOURCES = sorted([*(REPO / "engines").rglob("*.py"), *(REPO / "runtime").rglob("*.py")])
MODULES = ("trt", "tensorrt")
Types = dict[str, str]


@pytest.fixture(scope="module")
def apis() -> dict[str, Api]:
    return read_api()


def uses(source: str) -> Iterator[tuple[int, str, str, range]]:
    """Line, class ("" for the module), name and major versions of every TensorRT name in a source."""
    yield from _walk(ast.parse(source), {}, range(0, 100))


def _walk(node: ast.AST, types: Types, versions: range) -> Iterator[tuple[int, str, str, range]]:
    if isinstance(node, ast.FunctionDef):
        types = {**types, **{a.arg: kind for a in node.args.args if (kind := _annotated(a.annotation))}}
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == "on":
                first, last = (ast.literal_eval(argument) for argument in decorator.args)
                versions = range(first, last + 1)
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        types[node.target.id] = _annotated(node.annotation) or ""
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        types[node.targets[0].id] = _type(node.value, types)
    elif isinstance(node, (ast.comprehension, ast.For)) and isinstance(node.target, ast.Name):
        if isinstance(node.iter, ast.Name) and types.get(node.iter.id, "").startswith("list "):
            types[node.target.id] = types[node.iter.id].removeprefix("list ")
    elif isinstance(node, ast.Attribute):
        owner = _type(node.value, types)
        if isinstance(node.value, ast.Name) and node.value.id in MODULES and node.attr != "__version__":
            yield node.lineno, "", node.attr, versions
        elif owner and not owner.startswith("list "):
            yield node.lineno, owner, node.attr, versions
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
        children.sort(key=lambda child: not isinstance(child, ast.comprehension))  # its variables come first
    for child in children:
        yield from _walk(child, types, versions)


def _type(node: ast.expr, types: Types) -> str:
    """Class of an expression, "" if it is not known to be TensorRT's."""
    if isinstance(node, ast.Name):
        return types.get(node.id, "")
    if isinstance(node, ast.Call):
        return _type(node.func, types) if _annotated(node.func) else ""
    return _annotated(node) or ""


def _annotated(node: ast.expr | None) -> str | None:
    """X of trt.X, "list X" of list[trt.X]; of trt.X.Y the X, since members of an enumeration have its class."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in MODULES:
        return node.attr
    if isinstance(node, ast.Subscript) and (element := _annotated(node.slice)):
        return f"list {element}"
    return None


def missing(source: str, apis: dict[str, Api]) -> list[str]:
    """What of a source is not there, and in which version."""
    return [
        f"line {line}: {version} has no {f'{owner}.' if owner else ''}{name}"
        for line, owner, name, versions in uses(source)
        for version, api in apis.items()
        if int(version.partition(".")[0]) in versions and name not in (api.get(owner, {}) if owner else api)
    ]


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_name_is_in_every_version(file, apis):
    assert missing(file.read_text(), apis) == []


def test_the_names_of_compat_are_found():
    """The walk sees classes, members of enumerations, attributes and methods."""
    found = {
        (owner, name) for _, owner, name, _ in uses((REPO / "runtime" / "backends" / "tensorrt_api.py").read_text())
    }
    expected = {
        ("", "OnnxParser"),
        ("BuilderFlag", "TF32"),
        ("IBuilderConfig", "profiling_verbosity"),
        ("ITimingCache", "combine"),
        ("ParserError", "desc"),
        ("ILayer", "precision"),
        ("ICudaEngine", "device_memory_size_v2"),
        ("DataType", "name"),
        ("INetworkDefinition", "get_output"),
        ("ITensor", "dtype"),
    }
    assert expected <= found
    assert len(found) > 60


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(trt): trt.Bilder", "8.6.0 has no Bilder"),
        ("def f(trt): trt.BuilderFlag.FP61", "8.6.0 has no BuilderFlag.FP61"),
        ("def f(trt): trt.BuilderFlag.FP16", "11.4.0.106 has no BuilderFlag.FP16"),
        ("def f(trt, b: tensorrt.Builder): b.max_batch_size", "10.3.0 has no Builder.max_batch_size"),
        ("def f(trt): trt.Builder(1).build_engine(2)", "10.3.0 has no Builder.build_engine"),
        (
            "def f(trt):\n    c: tensorrt.IBuilderConfig = g()\n    c.progress_monitor = 1",
            "8.6.0 has no IBuilderConfig.",
        ),
        ("def f(trt):\n    b = trt.Builder(1)\n    b.nothing()", "8.6.0 has no Builder.nothing"),
        ("def f(e: list[tensorrt.ParserError]): [x.text() for x in e]", "8.6.0 has no ParserError.text"),
        ("@on(10, 11)\ndef f(trt): trt.BuilderFlag.FP16", "11.4.0.106 has no BuilderFlag.FP16"),
    ],
)
def test_a_wrong_name_is_found(source, said, apis):
    assert said in "; ".join(missing(source, apis))


def test_versions_that_do_not_reach_a_function_do_not_count(apis):
    source = """
        @on(8, 8)
        def f(trt, config: tensorrt.IBuilderConfig):
            config.set_flag(trt.BuilderFlag.FP16)

        @on(10, 11)
        def g(trt):
            trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    """
    assert missing(textwrap.dedent(source), apis) == []
    assert missing(textwrap.dedent(source).replace("@on(8, 8)", ""), apis) == [
        "line 4: 11.4.0.106 has no BuilderFlag.FP16"
    ]
