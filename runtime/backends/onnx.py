"""Graphs on ONNX Runtime: on the CPU, and what the CUDA provider needs too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import onnxruntime

from sam2edge.errors import BackendError
from sam2edge.runtime.backends.base import Array, Backend, GraphRunner


def new_session(
    graph: Path,
    provider: str,
    provider_options: dict[str, str],
    settings: Mapping[str, str] = MappingProxyType({}),
    *,
    threads: int | None = None,
) -> onnxruntime.InferenceSession:
    """Open a graph with a provider, or on the CPU if the provider does not load; BackendError if it is refused.

    `settings` are entries of the session's options, `threads` the CPU's; None for as many as there are cores.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    # Four graphs run in turn: threads that spin after a run would take the cores from the next graph. On two cores,
    # with the bundled model and three objects, a frame takes 24 ms without and 110 ms with spinning.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Exact INT8 products also on x86 without VNNI, where otherwise sums of two saturate at 16 bits and the image
    # encoder's error is 6 times as large.
    options.add_session_config_entry("session.x64quantprecision", "1")
    for name, value in settings.items():
        options.add_session_config_entry(name, value)
    providers = [(provider, provider_options)]
    try:
        # with enable_fallback Python would print what is wrong with the provider and try the CPU
        return onnxruntime.InferenceSession(str(graph), options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions have no base class of their own
        raise BackendError(f"{graph}: ONNX Runtime cannot load it: {error}") from error


class OnnxBackend(Backend):
    """ONNX Runtime on the CPU, with as many threads as there are cores or as are given."""

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads

    def open(self, graph: Path) -> GraphRunner:
        return _OnnxRunner(new_session(graph, "CPUExecutionProvider", {}, threads=self._threads), graph.name)


class _OnnxRunner(GraphRunner):
    def __init__(self, session: onnxruntime.InferenceSession, name: str) -> None:
        self._session, self._name = session, name
        self._outputs = [output.name for output in session.get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        try:
            values = self._session.run(self._outputs, dict(inputs))
        except Exception as error:
            raise BackendError(f"{self._name}: ONNX Runtime failed: {error}") from error
        return dict(zip(self._outputs, values, strict=True))
