"""Graphs on ONNX Runtime: on the CPU, and what other providers share with it. Falling back unasked is an error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnxruntime

from sam2edge.errors import BackendError
from sam2edge.runtime.backend import Array, Backend, GraphRunner


def check_provider(provider: str) -> None:
    """BackendError unless ONNX Runtime has the provider."""
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise BackendError(
            f"ONNX Runtime {onnxruntime.__version__} here has no {provider} (it has {', '.join(available)}); "
            'install onnxruntime-gpu in place of onnxruntime, or use backend="onnx"'
        )


def new_session(graph: Path, provider: str, provider_options: dict[str, str]) -> onnxruntime.InferenceSession:
    """A session on `provider`; BackendError when the file cannot be loaded or the CPU would run it unasked."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Four graphs run in turn: threads that spin after one run would take the cores from the next graph. On two
    # cores, with the bundled model and three objects, a frame takes 24 ms without and 110 ms with spinning.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(graph), options, providers=[(provider, provider_options)])
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        raise BackendError(f"{graph}: ONNX Runtime cannot load it: {error}") from error
    if session.get_providers()[0] != provider:
        raise BackendError(
            f"{graph}: ONNX Runtime fell back from {provider} to {session.get_providers()[0]}; "
            "its log above says why (often a CUDA or cuDNN version; see `sam2edge doctor`)"
        )
    return session


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
