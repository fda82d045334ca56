"""Every TensorRT name that engines/ and runtime/ use is in the API of each version that reaches it.

A name is `trt.X`, `trt.X.Y`, or an attribute of an object whose class is known: from an annotation
(`builder: tensorrt.Builder`), from `trt.X(...)`, or as the element of an annotated list. A method of a class with
`VERSIONS` (runtime/backends/tensorrt_api.py) is reached by these, and by those of subclasses that do not override it or
that call `super()`; everything else is reached by all versions.
"""

from __future__ import annotations

import ast
import textwrap
from collections import defaultdict
from collections.abc import Collection, Iterator

import pytest

from tests.conftest import REPO
from tests.unit.engines.fake_tensorrt import Api, read_api

SOURCES = sorted([*(REPO / "engines").rglob("*.py"), *(REPO / "runtime").rglob("*.py")])
MODULES = ("trt", "tensorrt")
Types = dict[str, str]
Use = tuple[int, str, str, Collection[int]]


@pytest.fixture(scope="module")
def apis() -> dict[str, Api]:
    return read_api()


def uses(source: str) -> Iterator[Use]:
    """Line, class ("" for the module), name and major versions of every TensorRT name in a source."""
    tree = ast.parse(source)
    reached = _reached_methods(tree)

    def walk(node: ast.AST, types: Types, versions: Collection[int]) -> Iterator[Use]:
        versions = reached.get(node, versions)
        if isinstance(node, ast.FunctionDef):
            types = {**types, **{a.arg: kind for a in node.args.args if (kind := _annotated(a.annotation))}}
        elif isinstance(node, ast.ClassDef):
            types = {**types}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            types[node.target.id] = _annotated(node.annotation) or ""
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            types[node.targets[0].id] = _type(node.value, types)
        elif isinstance(node, (ast.comprehension, ast.For)) and isinstance(node.target, ast.Name):
            if isinstance(node.iter, ast.Name) and types.get(node.iter.id, "").startswith("list "):
                types[node.target.id] = types[node.iter.id].removeprefix("list ")
        elif isinstance(node, ast.Attribute):
            owner = _type(node.value, types)
            if node.attr.startswith("__"):
                pass  # Python's own, such as __members__ of enumerations
            elif _is_module(node.value):
                yield node.lineno, "", node.attr, versions
            elif owner and not owner.startswith("list "):
                yield node.lineno, owner, node.attr, versions
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            children.sort(key=lambda child: not isinstance(child, ast.comprehension))  # its variables come first
        for child in children:
            yield from walk(child, types, versions)

    yield from walk(tree, {}, range(100))


def _reached_methods(tree: ast.Module) -> dict[ast.AST, set[int]]:
    """Major versions that reach each method of the classes with VERSIONS."""
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    methods = {
        name: {method.name: method for method in node.body if isinstance(method, ast.FunctionDef)}
        for name, node in classes.items()
    }
    reached: dict[ast.AST, set[int]] = defaultdict(set)
    for name, node in classes.items():
        versions = _declared_versions(node)
        lineage = [name]
        while bases := [base.id for base in classes[lineage[-1]].bases if getattr(base, "id", "") in classes]:
            lineage += bases
        for method in {method for owner in lineage for method in methods[owner]} if versions else ():
            for owner in lineage:
                if method in methods[owner]:
                    reached[methods[owner][method]] |= versions
                    if method not in _inherited_calls(classes[owner]):
                        break
    return reached


def _declared_versions(node: ast.ClassDef) -> set[int]:
    """The range that the class assigns to VERSIONS; empty for any other class."""
    for statement in node.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "VERSIONS":
            assert isinstance(statement.value, ast.Call)
            return set(range(*map(ast.literal_eval, statement.value.args)))
    return set()


def _inherited_calls(node: ast.ClassDef) -> set[str]:
    """Methods that a class calls as `super().method`."""
    attributes = [attribute for attribute in ast.walk(node) if isinstance(attribute, ast.Attribute)]
    return {attribute.attr for attribute in attributes if ast.unparse(attribute.value) == "super()"}


def _is_module(node: ast.expr) -> bool:
    """Whether an expression is the module: `trt`, `self.trt` or `tensorrt`."""
    return (isinstance(node, ast.Name) and node.id in MODULES) or ast.unparse(node) == "self.trt"


def _type(node: ast.expr, types: Types) -> str:
    """Class of an expression, "" if it is not known to be TensorRT's."""
    if isinstance(node, ast.Name):
        return types.get(node.id, "")
    if isinstance(node, ast.Call):
        return _type(node.func, types) if _annotated(node.func) else ""
    return _annotated(node) or ""


def _annotated(node: ast.expr | None) -> str | None:
    """X of trt.X, "list X" of list[trt.X]; of trt.X.Y the X, since members of an enumeration have its class."""
    if isinstance(node, ast.Attribute) and _is_module(node.value):
        return node.attr
    if isinstance(node, ast.Subscript) and (element := _annotated(node.slice)):
        return f"list {element}"
    return None


def missing(source: str, apis: dict[str, Api]) -> list[str]:
    """What a source uses and a version lacks."""
    return [
        f"line {line}: {version} has no {f'{owner}.' if owner else ''}{name}"
        for line, owner, name, versions in uses(source)
        for version, api in apis.items()
        if int(version.partition(".")[0]) in versions and name not in (api.get(owner, {}) if owner else api)
    ]


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_name_is_in_every_version(file, apis):
    assert missing(file.read_text(), apis) == []


def test_the_names_of_tensorrt_api_are_seen():
    """The walk sees classes, members of enumerations, attributes and methods, and which versions reach them."""
    source = (REPO / "runtime" / "backends" / "tensorrt_api.py").read_text()
    reached = defaultdict(set)
    for _, owner, name, versions in uses(source):
        reached[owner, name] |= {1, 8, 10, 11}.intersection(versions)
    assert {
        ("", "OnnxParser"): {1, 8, 10, 11},
        ("BuilderFlag", "TF32"): {1, 8, 10, 11},
        ("IBuilderConfig", "profiling_verbosity"): {1, 8, 10, 11},
        ("IBuilderConfig", "set_compute_capability"): {1},
        ("IRuntimeConfig", "cuda_graph_strategy"): {1},
        ("IRuntimeCache", "deserialize"): {1},
        ("Runtime", "get_engine_validity"): {1},
        ("ITimingCache", "combine"): {1, 8, 10, 11},
        ("ParserError", "desc"): {1, 8, 10, 11},
        ("ILayer", "precision"): {8},
        ("ICudaEngine", "device_memory_size_v2"): {1, 10, 11},
        ("DataType", "name"): {1, 8, 10, 11},
        ("INetworkDefinition", "get_output"): {8},
        ("ITensor", "dtype"): {8},
    }.items() <= reached.items()
    assert len(reached) > 60


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(trt): trt.Bilder", "1.7.1.116 has no Bilder"),
        ("def f(trt): trt.BuilderFlag.FP61", "1.7.1.116 has no BuilderFlag.FP61"),
        ("def f(trt): trt.BuilderFlag.FP16", "11.4.0.106 has no BuilderFlag.FP16"),
        ("def f(self): self.trt.BuilderFlag.FP16", "11.4.0.106 has no BuilderFlag.FP16"),
        ("def f(trt, b: tensorrt.Builder): b.max_batch_size", "10.3.0 has no Builder.max_batch_size"),
        ("def f(trt): trt.Builder(1).build_engine(2)", "10.3.0 has no Builder.build_engine"),
        ("c: tensorrt.IBuilderConfig = g(); c.progress_monitor = 1", "8.6.0 has no IBuilderConfig.progress_monitor"),
        ("def f(trt):\n    b = trt.Builder(1)\n    b.nothing()", "1.7.1.116 has no Builder.nothing"),
        ("def f(e: list[tensorrt.ParserError]): [x.text() for x in e]", "1.7.1.116 has no ParserError.text"),
    ],
)
def test_a_wrong_name_is_found(source, message, apis):
    assert message in "; ".join(missing(source, apis))


SOURCE = """
    class New:
        VERSIONS = range(10, 100)

        def typed(self):
            self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED

        def any(self):
            self.trt.Builder

    class Old(New):
        VERSIONS = range(8, 9)

        def typed(self, config: tensorrt.IBuilderConfig):
            config.set_flag(self.trt.BuilderFlag.FP16)
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", []),
        ("range(8, 9)", "range(8, 100)", ["line 15: 11.4.0.106 has no BuilderFlag.FP16"]),
        ("def typed(self, config", "def other(self, config", ["line 6: 8.6.0 has no "]),
        ("config.set_flag(", "super().typed(", ["line 6: 8.6.0 has no "]),
        ("trt.Builder\n", "trt.IProgressMonitor\n", ["line 9: 8.6.0 has no IProgressMonitor"]),
    ],
)
def test_versions_that_reach_a_method(apis, old, new, expected):
    """Only its class's, and those of subclasses that inherit it or call it through `super()`."""
    found = missing(textwrap.dedent(SOURCE).replace(old, new), apis)
    assert [line[: len(start)] for line, start in zip(found, expected, strict=True)] == expected
