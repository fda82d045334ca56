"""TensorRT engines, with everything between them left on the GPU."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sam2edge.bundle import Bundle, TensorSpec, contract, read_manifest
from sam2edge.bundle.engines import (
    MANIFEST,
    PREFERENCE,
    RESIZE,
    RESIZE_WINDOWS,
    RTX,
    TENSORRT,
    Engines,
    Target,
    build_command,
    default_directory,
    engine_directories,
)
from sam2edge.bundle.words import DETECTOR, read_words_manifest, words_contract
from sam2edge.errors import BackendError, DamagedEngineError, EngineError, StaleEngineError
from sam2edge.files import user_path
from sam2edge.runtime.backends import tensorrt_api
from sam2edge.runtime.backends.base import GraphRunner
from sam2edge.runtime.backends.cuda import gpus
from sam2edge.runtime.backends.cuda.backend import CudaBackend
from sam2edge.runtime.backends.cuda.context import out_of_memory
from sam2edge.runtime.backends.cuda.memory import CudaArray
from sam2edge.runtime.backends.cuda.runner import CudaRunner, Signature
from sam2edge.runtime.backends.cuda.stream import Stream
from sam2edge.runtime.backends.runtime_cache import RuntimeCache
from sam2edge.runtime.backends.tensorrt_api import PRODUCTS, TensorRT, TensorRTForRTX

if TYPE_CHECKING:
    import tensorrt

Specs = tuple[TensorSpec, ...]
_ALIGNMENT = 256
"""Bytes, at a multiple of which TensorRT requires inputs and outputs to begin."""


def this_target(api: TensorRT, number: int = 0) -> Target:
    """Return the product and a GPU of this machine; EngineError without that GPU, or if the product runs on others."""
    title = PRODUCTS[api.PRODUCT].title
    try:
        gpu = gpus.find_gpu(number)
    except BackendError as error:
        raise EngineError(f"{title} needs an NVIDIA GPU, but {error}; see `sam2edge doctor`") from error
    if api.compute_capabilities and gpu.compute_capability not in api.compute_capabilities:
        raise EngineError(
            f"{title} does not run on {gpu.name}, whose compute capability is {gpu.compute_capability}: it knows "
            f"{', '.join(api.compute_capabilities)}; use TensorRT (the backend {TENSORRT})"
        )
    return Target(api.PRODUCT, api.version, gpu.name, gpu.multiprocessors, gpus.board(), (gpu.compute_capability,))


def resize_contract(side: int) -> tuple[Specs, Specs]:
    """Return inputs and outputs of the graph that resizes frames to a square (engines/resize.py)."""
    inputs = (
        TensorSpec("frame", "uint8", ("H", "W", 3)),
        TensorSpec("used_rows", "int32", (RESIZE_WINDOWS, "KR")),
        TensorSpec("rows", "float32", (RESIZE_WINDOWS, side // RESIZE_WINDOWS, "KR")),
        TensorSpec("used_columns", "int32", (RESIZE_WINDOWS, "KC")),
        TensorSpec("columns", "float32", (RESIZE_WINDOWS, side // RESIZE_WINDOWS, "KC")),
    )
    return inputs, (TensorSpec("image", "uint8", (1, side, side, 3)),)


class TensorRTBackend(CudaBackend):
    """Runs the engines that `sam2edge build` made for this GPU; BackendError without the product, a GPU or pycuda.

    Args:
        engines: Directory of the engines. Default: BUNDLE.engines/PRECISION, for RTX BUNDLE.engines/rtx/PRECISION, with
            the first precision of sam2edge.bundle.engines.PREFERENCE that was built.
        product: "tensorrt", or "tensorrt-rtx" for TensorRT for RTX.
        gpu: The GPU's number, as open_backend's.

    `target` is what engines must have been built for.
    """

    def __init__(self, engines: str | os.PathLike[str] | None = None, product: str = TENSORRT, gpu: int = 0) -> None:
        try:
            self._api = tensorrt_api.load(product)
            self.target = this_target(self._api, gpu)
        except EngineError as error:
            raise BackendError(str(error)) from error
        super().__init__(gpu)
        self._directory = None if engines is None else user_path(engines)
        self._loaded = _LoadedEngines(self._api, self.target, threading.Lock(), weakref.WeakValueDictionary())

    @classmethod
    def for_rtx(cls, gpu: int = 0) -> TensorRTBackend:
        """Make one for TensorRT for RTX."""
        return cls(product=RTX, gpu=gpu)

    def open(self, graph: Path) -> GraphRunner:
        """Load the engine of a bundle's graph file.

        Raises StaleEngineError or DamagedEngineError; BackendError if the bundle has no engines or memory runs out.
        """
        if graph.stem == DETECTOR:
            return self._open_detector(graph)
        bundle, engines = self._engines(graph.parent)
        names = [name for name, listed in bundle.manifest.graphs.items() if listed.file == graph.name]
        if not names:
            raise BackendError(f"{graph}: not a graph of the bundle")
        inputs, outputs = contract(bundle.model)[names[0]]
        return self._runner(engines, names[0], graph.name, inputs, outputs)

    def _open_detector(self, graph: Path) -> GraphRunner:
        """Load the engine of BUNDLE/words/detector.onnx, which engines need not have for anything else."""
        words = read_words_manifest(graph.parent)
        bundle, engines = self._engines(graph.parent.parent)
        engine = engines.manifest.engines.get(DETECTOR)
        if engine is None or engine.graph_sha256 != words.graphs[DETECTOR].sha256:
            what = "were built before the bundle got this word detector"
            again = f"{build_command(bundle.path, self.target.product)} --precision {engines.manifest.precision}"
            raise StaleEngineError(f"{engines.path}: {what}; build them again with `{again}`")
        return self._runner(engines, DETECTOR, graph.name, *words_contract(words.model)[DETECTOR])

    def resizer(self, bundle: Path, size: tuple[int, int]) -> GraphRunner | None:
        """Load the engine that resizes frames; None if there is none, or for frames larger than it was built for."""
        opened, engines = self._engines(bundle)
        if RESIZE not in engines.manifest.engines or max(size) > engines.manifest.limits.side:
            return None
        return self._runner(engines, RESIZE, RESIZE, *resize_contract(opened.model.image_size))

    def _engines(self, path: Path) -> tuple[Bundle, Engines]:
        bundle = Bundle(path, read_manifest(path))  # its graphs are not read
        product = self.target.product
        directories = [self._directory] if self._directory else engine_directories(path, product)
        if not directories:
            parent = default_directory(path, PREFERENCE[0], product).parent
            raise BackendError(f"{path}: has no engines in {parent}; build them with `{build_command(path, product)}`")
        return bundle, Engines.open(directories[0], bundle, self.target)

    def _runner(self, engines: Engines, name: str, title: str, inputs: Specs, outputs: Specs) -> GraphRunner:
        with self.exclusive():
            engine = self._loaded.engine(engines, name)
        listed = engines.manifest.engines[name]
        dtypes = {tensor: entry.dtype for tensor, entry in {**listed.inputs, **listed.outputs}.items()}
        # otherwise the engine would write beyond the end of arrays of other types
        if dtypes != self._api.tensor_dtypes(engine.engine):
            raise DamagedEngineError(
                f"{engines.path / MANIFEST}: lists other inputs, outputs or types of {name} than its engine has; build "
                "the engines again with `sam2edge build --force`"
            )
        signature = Signature(
            title,
            inputs,
            outputs,
            {tensor: np.dtype(dtype) for tensor, dtype in dtypes.items()},
            {name: (tensor.profile[0], tensor.profile[2]) for name, tensor in listed.inputs.items() if tensor.profile},
        )
        return _Runner(self, signature, engine, self._api)

    def fence(self) -> Callable[[], None]:
        wait = super().fence()
        with self.exclusive():
            for cache in self._loaded.caches():
                cache.frame()  # each has one fence
        return wait

    def forget(self) -> None:
        with self.exclusive():
            for cache in self._loaded.caches():
                cache.save()
        super().forget()

    def activations(self) -> CudaArray:
        """Return the memory that engines compute in: one array for all, since they run one after the other."""
        return self.scratch("activations", (self._loaded.activation_bytes,), np.uint8)


@dataclass(eq=False)
class _Engine:
    """TensorRT's engine, what its runs take beside weights, inputs and outputs, and where its kernels are kept."""

    engine: tensorrt.ICudaEngine
    activation_bytes: int
    cache: RuntimeCache | None


@dataclass(frozen=True)
class _LoadedEngines:
    """The engines in use, whose weights are on the GPU once for all streams of a backend.

    Their keys are file and hash, since a new build may replace the files of engines in use.
    """

    api: TensorRT
    target: Target
    lock: threading.Lock
    engines: weakref.WeakValueDictionary[tuple[Path, str], _Engine]

    def engine(self, engines: Engines, name: str) -> _Engine:
        listed = engines.manifest.engines[name]
        file = engines.path / listed.file
        with self.lock:
            loaded = self.engines.get((file, listed.sha256))
            if loaded is None:
                self.api.errors.clear()
                try:
                    engine = self.api.deserialize(engines.read(name))
                except EngineError as error:
                    raise _failure(self.api, f"{file}: {error}") if self.api.errors else error from error
                cache = None
                if isinstance(self.api, TensorRTForRTX):
                    cache = RuntimeCache(self.api, engine, file, self.target)
                loaded = _Engine(engine, self.api.activation_bytes(engine), cache)
                self.engines[file, listed.sha256] = loaded
            return loaded

    def in_use(self) -> list[_Engine]:
        """Return the engines; not as values(), which fails when another thread adds an engine meanwhile."""
        engines = [reference() for reference in self.engines.valuerefs()]
        return [engine for engine in engines if engine is not None]

    def caches(self) -> list[RuntimeCache]:
        """Return the runtime caches of the engines."""
        return [engine.cache for engine in self.in_use() if engine.cache is not None]

    @property
    def activation_bytes(self) -> int:
        return max(engine.activation_bytes for engine in self.in_use())


def _failure(api: TensorRT, what: str) -> BackendError:
    text, memory_ran_out = api.explain_errors()
    return out_of_memory(f"{what}: {text}") if memory_ran_out else BackendError(f"{what}: {text}")


class _Runner(CudaRunner):
    def __init__(self, backend: TensorRTBackend, signature: Signature, engine: _Engine, api: TensorRT) -> None:
        super().__init__(backend, signature)
        self._tensorrt, self._engine, self._api = backend, engine, api

    def _enqueue(self, inputs: Mapping[str, CudaArray], outputs: Mapping[str, CudaArray]) -> None:
        execution = self._tensorrt.resource(self._engine, self._new_execution)
        dynamic = {name: inputs[name].shape for name in self._signature.limits}
        execution.enqueue(dynamic, {**inputs, **outputs}, self._tensorrt.activations())

    def _new_execution(self) -> _Execution:
        self._api.errors.clear()
        cache = self._engine.cache
        context = self._api.new_context(self._engine.engine, cache and cache.tensorrt)
        if context is None or not self._api.choose_profile(context, self._tensorrt.stream.handle):
            raise _failure(self._api, f"{self._signature.name}: TensorRT cannot make an execution context")
        return _Execution(self._api, self._engine, context, self._signature.name, self._tensorrt.stream)


class _Execution:
    """An execution context. What is already set is not set again, which spares TensorRT most of its work."""

    def __init__(
        self, api: TensorRT, engine: _Engine, context: tensorrt.IExecutionContext, name: str, stream: Stream
    ) -> None:
        self._api, self._engine, self._name, self._stream = api, engine, name, stream
        self._used: list[Any] = [engine, context]  # freed from the end on, and the context before what it needs
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._activations = 0
        stream.memory.free_later(self, self._used.clear)

    def enqueue(
        self, shapes: Mapping[str, tuple[int, ...]], arrays: Mapping[str, CudaArray], activations: CudaArray
    ) -> None:
        """Queue a run with these shapes of dynamic inputs, and arrays for all inputs and outputs."""
        context: tensorrt.IExecutionContext = self._used[-1]
        self._api.errors.clear()
        for name, shape in shapes.items():
            if self._shapes.get(name) != shape:
                self._check(context.set_input_shape(name, shape))
                self._shapes[name] = shape
        for name, array in arrays.items():
            if self._addresses.get(name) != array.address:
                if array.address % _ALIGNMENT:
                    raise BackendError(
                        f"{self._name}: {name} must begin at a multiple of {_ALIGNMENT} bytes but is the part of an "
                        "array that begins elsewhere; copy() it into an array of its own"
                    )
                self._check(context.set_tensor_address(name, array.address))
                self._addresses[name] = array.address
        if self._activations != activations.address:
            self._api.set_activations(context, activations.address, activations.nbytes)
            self._activations = activations.address
        self._check(context.execute_async_v3(self._stream.handle))
        if self._engine.cache is not None:
            self._engine.cache.used(tuple(shapes.values()))

    def _check(self, accepted: bool) -> None:
        if not accepted:
            raise _failure(self._api, f"{self._name}: TensorRT failed")
