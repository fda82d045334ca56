"""The wrappers pass every method on: a missing one would silently fall back to the default for the CPU."""

from __future__ import annotations

import inspect
from types import FunctionType
from unittest.mock import create_autospec, sentinel

import pytest

from sam2edge.runtime.backends.base import Backend, GraphRunner, WrappedBackend, WrappedRunner

METHODS = [
    (wrapper, kind, name)
    for wrapper, kind in ((WrappedBackend, Backend), (WrappedRunner, GraphRunner))
    for name, value in vars(kind).items()
    if isinstance(value, FunctionType) and not name.startswith("_")
]


@pytest.mark.parametrize(("wrapper", "kind", "method"), METHODS)
def test_every_method_is_passed_on(wrapper, kind, method):
    inner = create_autospec(kind, instance=True)
    names = list(inspect.signature(getattr(kind, method)).parameters)[1:]
    arguments = [getattr(sentinel, name) for name in names]
    getattr(inner, method).return_value = sentinel.result
    given = getattr(wrapper(inner), method)(*arguments)
    getattr(inner, method).assert_called_once_with(*arguments)
    assert len(inner.method_calls) == 1
    gives = inspect.signature(getattr(kind, method)).return_annotation != "None"
    assert given is (sentinel.result if gives else None)


def test_the_methods_are_listed():
    assert {"open", "replay", "new_stream", "run_into"} <= {name for *_, name in METHODS}
