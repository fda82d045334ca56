"""ONNX Runtime on the CPU: how many threads it takes."""

from __future__ import annotations

from typing import Any

import onnxruntime
import pytest

from sam2edge import Bundle
from sam2edge.errors import InputError
from sam2edge.runtime.backends.base import open_backend
from tests.helpers import assert_close, graph_inputs


def test_threads(nano: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    real, taken = onnxruntime.InferenceSession, []

    def session(graph: str, options: Any, **more: Any) -> Any:
        taken.append(options.intra_op_num_threads)
        return real(graph, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    file, inputs = nano.graph_path("mask_decoder"), graph_inputs(nano, "mask_decoder", {"N": 1, "P": 2})
    one, two, all_cores = (
        open_backend(name, threads=threads).open(file).run(inputs)
        for name, threads in (("onnx", 1), ("auto", 2), ("auto", None))
    )
    assert taken == [1, 2, 0]
    assert_close(one, two)
    assert_close(one, all_cores)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_threads_that_are_none(threads: Any) -> None:
    with pytest.raises(InputError, match="threads must be an integer of at least 1 but got"):
        open_backend("onnx", threads=threads)


@pytest.mark.parametrize("name", ["onnx-cuda", "tensorrt", "tensorrt-rtx"])
def test_threads_of_a_backend_that_has_none(name: str) -> None:
    with pytest.raises(InputError, match=f"threads must be left out for the backend {name}: they are those of the CPU"):
        open_backend(name, threads=2)
