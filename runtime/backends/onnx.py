"""Graphs on ONNX Runtime: on the CPU, and what other providers share with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import onnxruntime

from sam2edge.errors import BackendError
from sam2edge.runtime.backends.base import Array, Backend, GraphRunner


def check_provider(provider: str) -> None:
    """BackendError unless ONNX Runtime has the provider."""
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise BackendError(
            f"ONNX Runtime {onnxruntime.__version__} here has no {provider} (it has {', '.join(available)}); "
            'install onnxruntime-gpu in place of onnxruntime, or use backend="onnx"'
        )


def new_session(
    graph: Path, provider: str, provider_options: dict[str, str], settings: Mapping[str, str] = MappingProxyType({})
) -> onnxruntime.InferenceSession:
    """A session on `provider`, or on the CPU where that does not load; BackendError when ONNX Runtime refuses.

    settings: entries of its session options.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Four graphs run in turn: threads that spin after one run would take the cores from the next graph. On two
    # cores, with the bundled model and three objects, a frame takes 24 ms without and 110 ms with spinning.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # INT8 products in exact arithmetic on x86 without VNNI too: there sums of two would be cut off at 16 bits, and
    # the image encoder's error is 6 times as large.
    options.add_session_config_entry("session.x64quantprecision", "1")
    for name, value in settings.items():
        options.add_session_config_entry(name, value)
    providers = [(provider, provider_options)]
    try:
        # enable_fallback: Python would print what is wrong with the provider and try the CPU
        return onnxruntime.InferenceSession(str(graph), options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        raise BackendError(f"{graph}: ONNX Runtime cannot load it: {error}") from error


class OnnxBackend(Backend):
    """ONNX Runtime on the CPU."""

    def open(self, graph: Path) -> GraphRunner:
        """Load an .onnx file."""
        return _OnnxRunner(new_session(graph, "CPUExecutionProvider", {}), graph.name)


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
