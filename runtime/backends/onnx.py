"""Graphs on ONNX Runtime: on the CPU, and what the CUDA provider needs too."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
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


class Sessions:
    """The sessions in use, one for a graph: each is closed when its last user is gone. Any thread may open one.

    A file that has been replaced is another graph: who has the old one open keeps it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions = weakref.WeakValueDictionary[tuple[object, ...], onnxruntime.InferenceSession]()

    def open(self, graph: Path, new: Callable[[Path], onnxruntime.InferenceSession]) -> onnxruntime.InferenceSession:
        """Return the session of a graph, which `new` makes if there is none yet."""
        try:
            status = graph.stat()
        except OSError:
            return new(graph)  # says what is wrong
        key = graph.resolve(), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        with self._lock:
            session = self._sessions.get(key)
            if session is None:
                session = self._sessions[key] = new(graph)
            return session


class OnnxBackend(Backend):
    """ONNX Runtime on the CPU, with as many threads as there are cores or as are given."""

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads
        self._sessions = Sessions()

    def open(self, graph: Path) -> GraphRunner:
        return _OnnxRunner(self._sessions.open(graph, self._session), graph.name)

    def _session(self, graph: Path) -> onnxruntime.InferenceSession:
        return new_session(graph, "CPUExecutionProvider", {}, threads=self._threads)


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
