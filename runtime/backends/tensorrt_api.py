"""TensorRT behind functions that mean the same in every version. Only this file branches on the version.

`trt` is the module, whichever version; annotations as `tensorrt.Builder` say of which class an object is. A function
that only some versions reach says so with `on`. tests/unit/engines/test_tensorrt_api.py looks every name up in the API
of each of them.

8.x is told the precision by builder flags and may choose the type of every layer itself; 10 and 11 take the types
of the network as they are (strongly typed), and 11 has no precision flags any more.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
from collections import deque
from collections.abc import Callable, Collection, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from sam2edge.errors import BuildError, EngineError

if TYPE_CHECKING:
    import tensorrt

Shape = tuple[int, ...]
Shapes = tuple[Shape, Shape, Shape]
"""Smallest, usual and largest shape of an input."""
Progress = Callable[[str, float], None]
"""Called with a message and the fraction done, 0 to 1."""
SUPPORTED = "install 8.6, or 10.3 or newer"
"""What to do where TensorRT is of another version."""

_F = TypeVar("_F", bound=Callable[..., Any])


def on(first: int, last: int) -> Callable[[_F], _F]:
    """Mark a function that only TensorRT of major version `first` to `last` reaches."""

    def mark(function: _F) -> _F:
        return function

    return mark


def load() -> ModuleType:
    """The module tensorrt; EngineError when it is missing, does not load or is no version that is known."""
    try:
        module = importlib.import_module("tensorrt")
    except ImportError as error:
        raise EngineError(
            f"TensorRT cannot be imported ({error}): pip install 'sam2edge[tensorrt]', or on a Jetson make the "
            "environment with --system-site-packages; `sam2edge doctor` says what is missing"
        ) from error
    if not is_supported(module):
        raise EngineError(f"TensorRT {version(module)} is not supported; {SUPPORTED}")
    return module


def is_supported(trt: ModuleType) -> bool:
    """Whether the API of this version was compared with what is used."""
    found = tuple(int(part) for part in version(trt).split(".")[:2])
    return (8, 6) <= found < (9, 0) or found >= (10, 3)


def version(trt: ModuleType) -> str:
    """As "10.13.3.9"."""
    return str(trt.__version__)


def _major(trt: ModuleType) -> int:
    return int(str(trt.__version__).partition(".")[0])


def is_strongly_typed(trt: ModuleType) -> bool:
    """Whether networks are built with exactly the types that they have."""
    return _major(trt) >= 10


def reads_half_scales(trt: ModuleType) -> bool:
    """Whether Q/DQ nodes may have FP16 around them. 8 reads opset 17, where their scales and outputs are FP32."""
    return is_strongly_typed(trt)


def new_builder(trt: ModuleType, logger: tensorrt.ILogger) -> tensorrt.Builder:
    """A builder. On a machine without a GPU it may end the process: look for one before."""
    try:
        return trt.Builder(logger)
    except TypeError as error:  # what the bindings raise for a null pointer
        raise BuildError(
            f"TensorRT {version(trt)} makes no builder: it cannot use this GPU or driver; see `sam2edge doctor`"
        ) from error


def new_network(trt: ModuleType, builder: tensorrt.Builder) -> tensorrt.INetworkDefinition:
    """An empty network with explicit batch, strongly typed where there is that."""
    return _typed_network(trt, builder) if is_strongly_typed(trt) else _untyped_network(trt, builder)


@on(10, 11)
def _typed_network(trt: ModuleType, builder: tensorrt.Builder) -> tensorrt.INetworkDefinition:
    return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))


@on(8, 8)
def _untyped_network(trt: ModuleType, builder: tensorrt.Builder) -> tensorrt.INetworkDefinition:
    return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))


def parse(
    trt: ModuleType, network: tensorrt.INetworkDefinition, logger: tensorrt.ILogger, model: bytes, name: str
) -> tensorrt.OnnxParser:
    """Read an ONNX model into a network; BuildError with what TensorRT says against it.

    The parser that is returned owns the network's weights: keep it, and `model`, until the network is built.
    """
    parser: tensorrt.OnnxParser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        errors: list[tensorrt.ParserError] = [parser.get_error(index) for index in range(parser.num_errors)]
        raise BuildError(
            f"{name}: TensorRT {version(trt)} cannot read the graph: {'; '.join(error.desc() for error in errors)}; "
            "export the bundle again with this sam2edge, or use a newer TensorRT"
        )
    return parser


def new_config(trt: ModuleType, builder: tensorrt.Builder, workspace: int) -> tensorrt.IBuilderConfig:
    """Settings of a build that does not touch precision. workspace: bytes of scratch memory that a layer may use."""
    config: tensorrt.IBuilderConfig = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    # the inspector tells the layers' types of detailed engines only
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # TF32 has the mantissa of FP16: on, an FP32 engine would be no reference and an island no island
    config.clear_flag(trt.BuilderFlag.TF32)
    if not is_strongly_typed(trt):
        _as_10_does(trt, config)
    return config


@on(8, 8)
def _as_10_does(trt: ModuleType, config: tensorrt.IBuilderConfig) -> None:
    # else only the first context of an engine may have the profile, and each recording has its own
    config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)
    # without cuBLAS and cuDNN, which take hundreds of MB on the GPU and need not be installed
    sources = (trt.TacticSource.EDGE_MASK_CONVOLUTIONS, trt.TacticSource.JIT_CONVOLUTIONS)
    config.set_tactic_sources(sum(1 << int(source) for source in sources))


def set_precision(
    trt: ModuleType,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    precision: str,
    float_nodes: Collection[str],
    half_tensors: Collection[str],
) -> None:
    """Have the network built in the precision of its types.

    precision: "fp32", "fp16" or "int8", which is Q/DQ nodes with FP16 around them. float_nodes: names of the ONNX
    nodes that stay FP32 all the same. half_tensors: inputs and outputs that are FP16, also where the graph says FP32.
    Strongly typed networks need none of it.
    """
    if precision != "fp32" and not is_strongly_typed(trt):
        _set_precision_flags(trt, network, config, float_nodes)
        if precision == "int8":
            _set_int8(trt, network, config, half_tensors)


@on(8, 8)
def _set_int8(
    trt: ModuleType,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    half_tensors: Collection[str],
) -> None:
    # where there are Q/DQ nodes the flag only allows INT8: a calibrator is neither needed nor asked
    config.set_flag(trt.BuilderFlag.INT8)
    tensors: list[tensorrt.ITensor] = [network.get_input(index) for index in range(network.num_inputs)]
    tensors += [network.get_output(index) for index in range(network.num_outputs)]
    for tensor in tensors:
        if tensor.name in half_tensors:
            tensor.dtype = trt.DataType.HALF


@on(8, 8)
def _set_precision_flags(
    trt: ModuleType, network: tensorrt.INetworkDefinition, config: tensorrt.IBuilderConfig, float_nodes: Collection[str]
) -> None:
    config.set_flag(trt.BuilderFlag.FP16)
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    # Only layers that calculate: a constraint on all layers, or on output types too, makes 8.6 fail in itself
    # (an assertion in shapeContext.cpp is reported for 600 layers and not for 300).
    calculating = (
        trt.LayerType.ACTIVATION,
        trt.LayerType.ELEMENTWISE,
        trt.LayerType.MATRIX_MULTIPLY,
        trt.LayerType.REDUCE,
        trt.LayerType.RESIZE,
        trt.LayerType.SELECT,
        trt.LayerType.UNARY,
    )
    held = 0
    for index in range(network.num_layers):
        layer: tensorrt.ILayer = network.get_layer(index)
        if layer.name in float_nodes and layer.type in calculating and _reads_floats(trt, layer):
            layer.precision = trt.DataType.FLOAT
            held += 1
    if float_nodes and not held:
        raise BuildError(
            f"{network.name}: none of the layers that must stay FP32 is in the network that TensorRT {version(trt)} "
            f"read ({', '.join(sorted(float_nodes)[:3])}, …); use TensorRT 10 or newer, or build with fp32"
        )


@on(8, 8)
def _reads_floats(trt: ModuleType, layer: tensorrt.ILayer) -> bool:
    """Whether a layer can be held in FP32: no implementation obeys that for integers, and the build fails."""
    tensors: list[tensorrt.ITensor] = [layer.get_input(index) for index in range(layer.num_inputs)]
    dtypes = {tensor.dtype for tensor in tensors if tensor is not None and not tensor.is_shape_tensor}
    return bool(dtypes & {trt.DataType.FLOAT, trt.DataType.HALF}) and trt.DataType.INT32 not in dtypes


def add_profile(
    trt: ModuleType, builder: tensorrt.Builder, config: tensorrt.IBuilderConfig, shapes: Mapping[str, Shapes]
) -> None:
    """Add the one optimisation profile: smallest, usual and largest shape of every dynamic input."""
    profile: tensorrt.IOptimizationProfile = builder.create_optimization_profile()
    for name, (smallest, usual, largest) in shapes.items():
        profile.set_shape(name, smallest, usual, largest)
    config.add_optimization_profile(profile)


def use_timing_cache(trt: ModuleType, config: tensorrt.IBuilderConfig, content: bytes) -> bool:
    """Start a build from a serialised timing cache, b"" for none; whether TensorRT took it."""
    cache: tensorrt.ITimingCache = config.create_timing_cache(content)
    return cache is not None and bool(config.set_timing_cache(cache, False))


def merged_timing_cache(trt: ModuleType, config: tensorrt.IBuilderConfig, others: bytes) -> bytes:
    """The timing cache of a build that ended, with the entries of another serialised one."""
    cache: tensorrt.ITimingCache = config.get_timing_cache()
    if others:
        other: tensorrt.ITimingCache = config.create_timing_cache(others)
        if other is not None:
            cache.combine(other, False)
    return bytes(cache.serialize())


def serialized(
    trt: ModuleType,
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    progress: Progress,
) -> bytes | None:
    """Build the engine, which takes minutes; None when TensorRT fails, and its log then says why.

    progress: called during the build from TensorRT 10 on; what it raises ends the build there.
    """
    if not is_strongly_typed(trt):
        engine = builder.build_serialized_network(network, config)
        return None if engine is None else bytes(engine)
    return _monitored(trt, builder, network, config, progress)


@on(10, 11)
def _monitored(
    trt: ModuleType,
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    progress: Progress,
) -> bytes | None:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined, unused-ignore]
        """Follows the outermost phase. An exception cannot pass through TensorRT: it is kept, and the build ended."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.error: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self.steps[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                if phase_name in self.steps:
                    progress(phase_name, (step + 1) / max(self.steps[phase_name], step + 1))
            except BaseException as error:
                self.error = error
            return self.error is None

    monitor = Monitor()
    config.progress_monitor = monitor
    engine = builder.build_serialized_network(network, config)
    if monitor.error is not None:
        raise monitor.error
    return None if engine is None else bytes(engine)


@functools.cache
def logger(trt: ModuleType) -> tuple[tensorrt.ILogger, deque[str]]:
    """The process's logger, and the last three errors that it heard; it prints nothing.

    One for all, and never freed: TensorRT keeps using the first that a process gave it.
    """
    said: deque[str] = deque(maxlen=3)

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                said.append(msg)

    return Logger(), said


def explained(said: Collection[str]) -> tuple[str, bool]:
    """What the log said, and whether it was that memory ran out."""
    text = "; ".join(said) or "it says nothing of why"
    memory = r"out of memory|outofmemory|insufficient memory|insufficient workspace|cudaMalloc"
    return text, bool(re.search(memory, text, re.IGNORECASE))


def deserialized(trt: ModuleType, logger: tensorrt.ILogger, content: bytes) -> tensorrt.ICudaEngine:
    """An engine from its serialised form; EngineError when TensorRT does not take it."""
    runtime: tensorrt.Runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise EngineError(f"TensorRT {version(trt)} does not load an engine that it has built")
    return engine


_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "BOOL": "bool", "UINT8": "uint8"}


def tensor_dtypes(trt: ModuleType, engine: tensorrt.ICudaEngine) -> dict[str, str]:
    """Numpy names of the types of an engine's inputs and outputs."""
    dtypes = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype: tensorrt.DataType = engine.get_tensor_dtype(name)
        dtypes[name] = _DTYPES.get(dtype.name, dtype.name)
    return dtypes


def layers(trt: ModuleType, engine: tensorrt.ICudaEngine, shapes: Mapping[str, Shape]) -> list[dict[str, Any]]:
    """What the inspector tells of each layer, for inputs of these shapes; the keys differ between versions.

    Without shapes it says "N/A due to dynamic shapes" for the types of all tensors.
    """
    context: tensorrt.IExecutionContext = engine.create_execution_context()
    if context is None:
        raise EngineError("there is not enough GPU memory to run the engine; lower --max-objects")
    for name, shape in shapes.items():
        context.set_input_shape(name, shape)
    inspector: tensorrt.EngineInspector = engine.create_engine_inspector()
    inspector.execution_context = context
    found = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))["Layers"]
    # an engine that is not detailed lists bare names
    return [layer if isinstance(layer, dict) else {"Name": layer} for layer in found]


def activation_bytes(trt: ModuleType, engine: tensorrt.ICudaEngine) -> int:
    """Memory that running an engine takes beside its weights, inputs and outputs."""
    return _activation_bytes(engine) if is_strongly_typed(trt) else _activation_bytes_8(engine)


@on(10, 11)
def _activation_bytes(engine: tensorrt.ICudaEngine) -> int:
    return int(engine.device_memory_size_v2)


@on(8, 8)
def _activation_bytes_8(engine: tensorrt.ICudaEngine) -> int:
    return int(engine.device_memory_size)


def new_context(trt: ModuleType, engine: tensorrt.ICudaEngine) -> tensorrt.IExecutionContext | None:
    """A context that gets its memory from `set_activations`; None when TensorRT fails, and its log then says why."""
    return _new_context(trt, engine) if is_strongly_typed(trt) else _new_context_8(engine)


@on(10, 11)
def _new_context(trt: ModuleType, engine: tensorrt.ICudaEngine) -> tensorrt.IExecutionContext | None:
    return engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)


@on(8, 8)
def _new_context_8(engine: tensorrt.ICudaEngine) -> tensorrt.IExecutionContext | None:
    return engine.create_execution_context_without_device_memory()


def set_activations(trt: ModuleType, context: tensorrt.IExecutionContext, address: int, size: int) -> None:
    """Where a context calculates: at least `activation_bytes` of its engine."""
    if is_strongly_typed(trt):
        _set_activations(context, address, size)
    else:
        _set_activations_8(context, address)


@on(10, 11)
def _set_activations(context: tensorrt.IExecutionContext, address: int, size: int) -> None:
    context.set_device_memory(address, size)


@on(8, 8)
def _set_activations_8(context: tensorrt.IExecutionContext, address: int) -> None:
    context.device_memory = address


def set_shape(trt: ModuleType, context: tensorrt.IExecutionContext, name: str, shape: Shape) -> bool:
    """Shape of a dynamic input; whether TensorRT took it."""
    return bool(context.set_input_shape(name, shape))


def set_address(trt: ModuleType, context: tensorrt.IExecutionContext, name: str, address: int) -> bool:
    """Where an input or output lies on the GPU; whether TensorRT took it."""
    return bool(context.set_tensor_address(name, address))


def enqueue(trt: ModuleType, context: tensorrt.IExecutionContext, stream: int) -> bool:
    """Queue a run; whether TensorRT could."""
    return bool(context.execute_async_v3(stream))
