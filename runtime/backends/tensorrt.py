"""TensorRT engines, with everything between them left on the GPU."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from sam2edge.bundle import Bundle, TensorSpec, contract, read_manifest
from sam2edge.bundle.engines import (
    MANIFEST,
    PREFERENCE,
    RESIZE,
    Engines,
    Target,
    default_directory,
    engine_directories,
)
from sam2edge.errors import BackendError, DamagedEngineError, EngineError
from sam2edge.runtime.backends import tensorrt_api
from sam2edge.runtime.backends.base import GraphRunner
from sam2edge.runtime.backends.cuda import gpus
from sam2edge.runtime.backends.cuda.backend import CudaBackend
from sam2edge.runtime.backends.cuda.context import out_of_memory
from sam2edge.runtime.backends.cuda.memory import CudaArray
from sam2edge.runtime.backends.cuda.runner import CudaRunner, Signature
from sam2edge.runtime.backends.cuda.stream import Queue

Specs = tuple[TensorSpec, ...]


class TensorRTBackend(CudaBackend):
    """Runs the engines that `sam2edge build` made for this GPU.

    engines: their directory; by default that of the bundle, BUNDLE.engines/PRECISION with the first of
    sam2edge.bundle.engines.PREFERENCE that is there. Its streams share the engines. Raises BackendError without
    TensorRT, a GPU or pycuda.
    """

    def __init__(self, engines: str | os.PathLike[str] | None = None) -> None:
        try:
            self._trt = tensorrt_api.load()
            self._target = this_target(self._trt)
        except EngineError as error:
            raise BackendError(str(error)) from error
        super().__init__()
        self._directory = None if engines is None else Path(engines)
        self._loaded = _Loaded(self._trt, threading.Lock(), weakref.WeakValueDictionary())

    def open(self, graph: Path) -> GraphRunner:
        """Load the engine of a bundle's graph file.

        Raises StaleEngineError and DamagedEngineError; BackendError when the bundle has no engines or memory runs out.
        """
        bundle, engines = self._engines(graph.parent)
        names = [name for name, listed in bundle.manifest.graphs.items() if listed.file == graph.name]
        if not names:
            raise BackendError(f"{graph}: no graph of the bundle")
        inputs, outputs = contract(bundle.model)[names[0]]
        return self._runner(engines, names[0], graph.name, inputs, outputs)

    def resizer(self, bundle: Path, size: tuple[int, int]) -> GraphRunner | None:
        """What resizes frames up to the size that the engines were built for; the host resizes larger ones."""
        opened, engines = self._engines(bundle)
        if max(size) > engines.manifest.limits.side:
            return None
        side = opened.model.image_size
        inputs = (
            TensorSpec("frame", "uint8", ("H", "W", 3)),
            TensorSpec("rows", "float32", (side, "H")),
            TensorSpec("columns", "float32", (side, "W")),
        )
        outputs = (TensorSpec("image", "uint8", (1, side, side, 3)),)
        return self._runner(engines, RESIZE, RESIZE, inputs, outputs)

    def _engines(self, path: Path) -> tuple[Bundle, Engines]:
        bundle = Bundle(path, read_manifest(path))  # its graphs are not read
        return bundle, Engines.open(self._directory or _taken(bundle), bundle, self._target)

    def _runner(self, engines: Engines, name: str, called: str, inputs: Specs, outputs: Specs) -> GraphRunner:
        with self.exclusive():
            engine = self._loaded.engine(engines, name)
        listed = engines.manifest.engines[name]
        dtypes = {tensor: said.dtype for tensor, said in {**listed.inputs, **listed.outputs}.items()}
        # it would write beyond arrays of other types
        if dtypes != tensorrt_api.tensor_dtypes(self._trt, engine.engine):
            raise DamagedEngineError(
                f"{engines.path / MANIFEST}: lists other inputs, outputs or types of {name} than its engine has; build "
                "the engines again with `sam2edge build --force`"
            )
        signature = Signature(
            called,
            inputs,
            outputs,
            {tensor: np.dtype(dtype) for tensor, dtype in dtypes.items()},
            {name: (tensor.profile[0], tensor.profile[2]) for name, tensor in listed.inputs.items() if tensor.profile},
        )
        return _Runner(self, signature, engine, self._trt)

    def activations(self) -> CudaArray:
        """What engines calculate in: one array for all on this queue, since they run one after the other."""
        return self.scratch("activations", (self._loaded.activation_bytes,), np.uint8)


def this_target(trt: ModuleType) -> Target:
    """Return TensorRT and the GPU of this machine, or raise EngineError."""
    try:
        gpu = gpus.first_gpu()
    except BackendError as error:
        raise EngineError(f"TensorRT needs an NVIDIA GPU, but {error}; see `sam2edge doctor`") from error
    return Target(tensorrt_api.version(trt), gpu.name, gpu.compute_capability)


def _taken(bundle: Bundle) -> Path:
    found = engine_directories(bundle.path)
    if not found:
        directory = default_directory(bundle.path, PREFERENCE[0]).parent
        raise BackendError(
            f"{bundle.path}: has no engines in {directory}; build them with `sam2edge build {bundle.path}`"
        )
    return found[0]


@dataclass(eq=False)
class _Engine:
    """TensorRT's ICudaEngine, and what its runs take beside weights, inputs and outputs."""

    engine: Any
    activation_bytes: int


@dataclass(frozen=True)
class _Loaded:
    """Engines in use, by their file and its hash, since a new build may take the place of one that is in use.

    Weights are on the GPU once for a backend and its forks.
    """

    trt: ModuleType
    lock: threading.Lock
    engines: weakref.WeakValueDictionary[tuple[Path, str], _Engine]

    def engine(self, engines: Engines, name: str) -> _Engine:
        listed = engines.manifest.engines[name]
        file = engines.path / listed.file
        with self.lock:
            found = self.engines.get((file, listed.sha256))
            if found is None:
                logger, said = tensorrt_api.logger(self.trt)
                said.clear()
                try:
                    engine = tensorrt_api.deserialized(self.trt, logger, engines.read(name))
                except EngineError as error:
                    raise _failure(f"{file}: {error}", said) if said else error from error
                found = _Engine(engine, tensorrt_api.activation_bytes(self.trt, engine))
                self.engines[file, listed.sha256] = found
            return found

    @property
    def activation_bytes(self) -> int:
        # not values(), which fails when another thread adds an engine meanwhile
        engines = [reference() for reference in self.engines.valuerefs()]
        return max(engine.activation_bytes for engine in engines if engine is not None)


def _failure(what: str, said: Collection[str]) -> BackendError:
    text, full = tensorrt_api.explained(said)
    return out_of_memory(f"{what}: {text}") if full else BackendError(f"{what}: {text}")


class _Runner(CudaRunner):
    def __init__(self, backend: TensorRTBackend, signature: Signature, engine: _Engine, trt: ModuleType) -> None:
        super().__init__(backend, signature)
        self._tensorrt, self._engine, self._trt = backend, engine, trt

    def _enqueue(self, inputs: Mapping[str, CudaArray], outputs: Mapping[str, CudaArray]) -> None:
        execution = self._tensorrt.resource(self._engine, self._new_execution)
        dynamic = {name: inputs[name].shape for name in self._signature.limits}
        execution.enqueue(dynamic, {**inputs, **outputs}, self._tensorrt.activations())

    def _new_execution(self) -> _Execution:
        _, said = tensorrt_api.logger(self._trt)
        said.clear()
        context = tensorrt_api.new_context(self._trt, self._engine.engine)
        if context is None:
            raise _failure(f"{self._signature.name}: TensorRT makes no execution context", said)
        return _Execution(self._trt, self._engine, context, self._signature.name, self._tensorrt.queue)


class _Execution:
    """An execution context. What is already set is not set again, which spares TensorRT most of its work."""

    def __init__(self, trt: ModuleType, engine: _Engine, context: Any, name: str, queue: Queue) -> None:
        self._trt, self._engine, self._contexts, self._name, self._queue = trt, engine, [context], name, queue
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._activations = 0
        weakref.finalize(self, _end, queue, self._contexts)

    def enqueue(
        self, shapes: Mapping[str, tuple[int, ...]], arrays: Mapping[str, CudaArray], activations: CudaArray
    ) -> None:
        """Queue a run with these shapes of dynamic inputs, and arrays for all inputs and outputs."""
        (context,) = self._contexts
        _, said = tensorrt_api.logger(self._trt)
        said.clear()
        for name, shape in shapes.items():
            if self._shapes.get(name) != shape:
                self._check(tensorrt_api.set_shape(self._trt, context, name, shape))
                self._shapes[name] = shape
        for name, array in arrays.items():
            if self._addresses.get(name) != array.address:
                self._check(tensorrt_api.set_address(self._trt, context, name, array.address))
                self._addresses[name] = array.address
        if self._activations != activations.address:
            tensorrt_api.set_activations(self._trt, context, activations.address, activations.nbytes)
            self._activations = activations.address
        self._check(tensorrt_api.enqueue(self._trt, context, self._queue.handle))

    def _check(self, done: bool) -> None:
        if not done:
            _, said = tensorrt_api.logger(self._trt)
            raise _failure(f"{self._name}: TensorRT failed", said)


def _end(queue: Queue, contexts: list[Any]) -> None:
    queue.drain()
    with queue.context.active():
        contexts.clear()
