"""TensorRT behind one interface: `TensorRT` for version 10 and newer, and subclasses with what is different elsewhere.

`TensorRT8` is for version 8, `TensorRTForRTX` for the product of that name, whose API is TensorRT's of about 11.4. No
other file depends on the version. Variables are annotated with TensorRT's classes (`builder: tensorrt.Builder`), so
that tests/unit/engines/test_tensorrt_api.py can look up every name in the API of each version that reaches it.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sam2edge.errors import BuildError, EngineError

if TYPE_CHECKING:
    import tensorrt

    from sam2edge.types import Progress  # which needs numpy, and `sam2edge doctor` may not

Shape = tuple[int, ...]
Shapes = tuple[Shape, Shape, Shape]
"""Smallest, usual and largest shape of an input."""

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "BOOL": "bool", "UINT8": "uint8"}


@dataclass(frozen=True)
class Product:
    """A library of NVIDIA that builds and runs engines: the first of its `modules` that is there is imported."""

    title: str
    modules: tuple[str, ...]
    build: str
    install: str
    supported: str


PRODUCTS = {
    "tensorrt": Product(
        "TensorRT",
        ("tensorrt",),
        "sam2edge build",
        "pip install 'sam2edge[tensorrt]', or on a Jetson make the environment with --system-site-packages",
        "install 8.6, or 10.3 or newer",
    ),
    "tensorrt-rtx": Product(
        "TensorRT for RTX",
        ("tensorrt_rtx", "tensorrt_rtx_bindings"),  # the first may be missing: it only passes on the second
        "sam2edge build --for rtx",
        "pip install 'sam2edge[rtx]'",
        "install 1.7, or a newer 1.x",
    ),
}
"""What may be loaded, by the name of its backend."""


def load(product: str = "tensorrt") -> TensorRT:
    """Import a product, or raise EngineError if it is missing, does not load or has an unsupported version."""
    listed = PRODUCTS[product]
    try:
        module = _import_first(listed.modules)
    except ImportError as error:
        raise EngineError(
            f"{listed.title} cannot be imported ({error}): {listed.install}; `sam2edge doctor` says what is missing"
        ) from error
    if not is_supported(module):
        raise EngineError(f"{listed.title} {module.__version__} is not supported; {listed.supported}")
    kinds = (TensorRT, TensorRT8, TensorRTForRTX)
    return next(kind for kind in kinds if _version(module)[0] in kind.VERSIONS)(module)


def _import_first(modules: tuple[str, ...]) -> ModuleType:
    for name in modules[:-1]:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
    return importlib.import_module(modules[-1])


def is_supported(trt: ModuleType) -> bool:
    """Tell whether everything used here was looked up in the API of this version, of either product."""
    version = _version(trt)
    return (8, 6) <= version < (9, 0) or version >= (10, 3) or (1, 7) <= version < (2, 0)


def _version(trt: ModuleType) -> tuple[int, ...]:
    return tuple(int(part) for part in str(trt.__version__).split(".")[:2])


@dataclass
class _Log:
    """What is kept of the messages of a library: the last errors and warnings, and what a build said of its engine."""

    errors: deque[str] = field(default_factory=lambda: deque(maxlen=3))
    warnings: deque[str] = field(default_factory=lambda: deque(maxlen=100))
    layers: str = ""
    activation_bytes: int | None = None


@functools.cache
def _logger(trt: ModuleType) -> tuple[tensorrt.ILogger, _Log]:
    """Return the logger of the process, which prints nothing, and what it keeps.

    There is one, and it is never freed: TensorRT keeps using the first logger that a process gave it.
    """
    log = _Log()

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                log.errors.append(msg)
            elif severity == trt.ILogger.WARNING:
                log.warnings.append(msg)
            elif msg.startswith("Layers:\n"):
                log.layers = msg
            elif found := re.match(r"Total Activation Memory: (\d+) bytes", msg):
                log.activation_bytes = int(found[1])

    return Logger(), log


@dataclass(frozen=True)
class Description:
    """What an engine is: the numpy names of the types of its inputs and outputs, its layers, and its memory.

    Attributes:
        layers: What the inspector says of each, with keys that depend on the version.
        activation_bytes: Memory that running it takes beside its weights, inputs and outputs.
    """

    dtypes: Mapping[str, str]
    layers: Sequence[Mapping[str, Any]]
    activation_bytes: int


class TensorRT:
    """TensorRT 10 and newer, whose networks are strongly typed: engines get exactly the types of their graphs.

    `errors` has the last errors that TensorRT logged, `warnings` its warnings. Clear them before a call that they are
    to explain.
    """

    VERSIONS = range(10, 100)
    """Major versions that the class is for."""
    PRODUCT = "tensorrt"

    reads_half_scales = True
    """Whether Q/DQ nodes may have FP16 scales and outputs, and constants be INT8."""
    has_bfloat16 = True
    """Whether a graph may have BF16."""

    attention = "fused"
    """The form of the memory attention that it is expected to run fastest (engines/rewrites.py)."""

    def __init__(self, trt: ModuleType) -> None:
        self.trt, self.version = trt, str(trt.__version__)
        self._logger, self._log = _logger(trt)
        self.errors, self.warnings = self._log.errors, self._log.warnings

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        """Those for which engines can be built without their GPU, lowest first; () where building needs the GPU."""
        return ()

    @property
    def title(self) -> str:
        """Name of the product and its version, as messages have it."""
        return f"{PRODUCTS[self.PRODUCT].title} {self.version}"

    def explain_errors(self) -> tuple[str, bool]:
        """Return what TensorRT logged, and whether it ran out of memory.

        Where no kernel is left for a layer, warnings say which were skipped for want of memory.
        """
        said = [*self.errors] or ["it gives no reason"]
        memory = re.compile(r"out ?of ?memory|insuf+icient (memory|workspace)|memory is insufficient|cudaMalloc", re.I)
        if any("Could not find any implementation" in error for error in said):
            said += list(filter(memory.search, self.warnings))[-1:]
        text = "; ".join(said)
        return text, bool(memory.search(text))

    # Building

    def new_builder(self) -> tensorrt.Builder:
        """Make a builder. Look for a GPU first: without one TensorRT may end the process."""
        try:
            return self.trt.Builder(self._logger)
        except TypeError as error:  # what the bindings raise for a null pointer
            raise BuildError(
                f"{self.title} cannot make a builder for this GPU or driver; see `sam2edge doctor`"
            ) from error

    def new_network(self, builder: tensorrt.Builder) -> tensorrt.INetworkDefinition:
        """Make an empty network."""
        return builder.create_network(1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))

    def parse(self, network: tensorrt.INetworkDefinition, model: bytes, name: str) -> tensorrt.OnnxParser:
        """Read an ONNX model into a network; BuildError says what TensorRT does not accept.

        The parser owns the network's weights: keep it, and `model`, until the network is built.
        """
        parser: tensorrt.OnnxParser = self.trt.OnnxParser(network, self._logger)
        if not parser.parse(model):
            errors: list[tensorrt.ParserError] = [parser.get_error(index) for index in range(parser.num_errors)]
            raise BuildError(
                f"{name}: {self.title} cannot read the graph: {'; '.join(error.desc() for error in errors)}"
                "; export the bundle again with this sam2edge, or use a newer TensorRT"
            )
        return parser

    def new_config(self, builder: tensorrt.Builder, workspace: int) -> tensorrt.IBuilderConfig:
        """Make the settings of a build; a layer may use `workspace` bytes of scratch memory."""
        config: tensorrt.IBuilderConfig = builder.create_builder_config()
        config.set_memory_pool_limit(self.trt.MemoryPoolType.WORKSPACE, workspace)
        # the inspector reports the types of layers only for detailed engines
        config.profiling_verbosity = self.trt.ProfilingVerbosity.DETAILED
        # TF32 has FP16's mantissa: with it an FP32 engine would be no reference, and an FP32 island no island
        config.clear_flag(self.trt.BuilderFlag.TF32)
        return config

    def set_precision(
        self,
        network: tensorrt.INetworkDefinition,
        config: tensorrt.IBuilderConfig,
        precision: str,
        float_nodes: Collection[str],
        half_tensors: Collection[str],
    ) -> None:
        """Request "fp32", "fp16", or "int8" with FP16 around Q/DQ nodes; strongly typed networks already have it.

        `float_nodes` are the names of the ONNX nodes that stay FP32, `half_tensors` of the inputs and outputs that are
        FP16 even if the graph has FP32.
        """

    def add_profile(
        self, builder: tensorrt.Builder, config: tensorrt.IBuilderConfig, shapes: Mapping[str, Shapes]
    ) -> None:
        """Add the one optimisation profile, with the shapes of every dynamic input."""
        profile: tensorrt.IOptimizationProfile = builder.create_optimization_profile()
        for name, (smallest, usual, largest) in shapes.items():
            profile.set_shape(name, smallest, usual, largest)
        config.add_optimization_profile(profile)

    def set_compute_capabilities(self, config: tensorrt.IBuilderConfig, capabilities: Sequence[str]) -> None:
        """Build for GPUs of these compute capabilities, such as "8.6", where that is not this machine's GPU anyway."""

    def use_timing_cache(self, config: tensorrt.IBuilderConfig, content: bytes) -> bool:
        """Start from a serialised timing cache, b"" for none; return whether TensorRT accepted it."""
        cache: tensorrt.ITimingCache = config.create_timing_cache(content)
        return cache is not None and bool(config.set_timing_cache(cache, False))

    def merged_timing_cache(self, config: tensorrt.IBuilderConfig, others: bytes) -> bytes:
        """Return the timing cache of a finished build with the entries of another serialised one."""
        cache: tensorrt.ITimingCache = config.get_timing_cache()
        if others:
            other: tensorrt.ITimingCache = config.create_timing_cache(others)
            if other is not None:
                cache.combine(other, False)
        return bytes(cache.serialize())

    def build(
        self,
        builder: tensorrt.Builder,
        network: tensorrt.INetworkDefinition,
        config: tensorrt.IBuilderConfig,
        progress: Progress,
    ) -> bytes | None:
        """Build an engine, which takes minutes, and serialise it; return None if TensorRT fails.

        `progress` is called during the build (not by TensorRT 8); an exception that it raises ends the build.
        """
        trt = self.trt

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined, unused-ignore]
            """Follows the outermost phase. Exceptions cannot pass through TensorRT: the first is kept and ends it."""

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

        config.progress_monitor = monitor = Monitor()
        engine = builder.build_serialized_network(network, config)
        if monitor.error is not None:
            raise monitor.error
        return None if engine is None else bytes(engine)

    def describe(self, content: bytes, shapes: Mapping[str, Shape]) -> Description:
        """Say what the engine is that was built last, with these shapes of its dynamic inputs; EngineError."""
        engine = self.deserialize(content)
        return Description(self.tensor_dtypes(engine), self.layers(engine, shapes), self.activation_bytes(engine))

    # Running

    def deserialize(self, content: bytes) -> tensorrt.ICudaEngine:
        """Load an engine; EngineError if TensorRT refuses it."""
        runtime: tensorrt.Runtime = self.trt.Runtime(self._logger)
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise EngineError(f"{self.title} does not load an engine that it has built")
        return engine

    def tensor_dtypes(self, engine: tensorrt.ICudaEngine) -> dict[str, str]:
        """Return the numpy names of the types of an engine's inputs and outputs."""
        dtypes = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            dtype: tensorrt.DataType = engine.get_tensor_dtype(name)
            dtypes[name] = _DTYPES.get(dtype.name, dtype.name)
        return dtypes

    def layers(self, engine: tensorrt.ICudaEngine, shapes: Mapping[str, Shape]) -> list[dict[str, Any]]:
        """Return the inspector's description of each layer, whose keys depend on the version.

        Without the shapes of dynamic inputs it has "N/A due to dynamic shapes" for the types of all tensors.
        """
        context: tensorrt.IExecutionContext = engine.create_execution_context()
        if context is None:
            raise EngineError("there is not enough GPU memory to run the engine; lower --max-objects")
        for name, shape in shapes.items():
            context.set_input_shape(name, shape)
        inspector: tensorrt.EngineInspector = engine.create_engine_inspector()
        inspector.execution_context = context
        text = inspector.get_engine_information(self.trt.LayerInformationFormat.JSON)
        try:
            layers = json.loads(text, strict=False)["Layers"]  # 8.6 writes control characters into its strings
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(
                f"TensorRT {self.version} describes the engine's layers in JSON that cannot be read ({error!r}), so "
                "that their precision is unknown; use another version of TensorRT"
            ) from error
        # for an engine that is not detailed these are bare names
        return [layer if isinstance(layer, dict) else {"Name": layer} for layer in layers]

    def activation_bytes(self, engine: tensorrt.ICudaEngine) -> int:
        """Return the memory that running an engine takes beside its weights, inputs and outputs."""
        return int(engine.device_memory_size_v2)

    def new_context(self, engine: tensorrt.ICudaEngine, cache: Any = None) -> tensorrt.IExecutionContext | None:
        """Make a context that gets its memory from `set_activations`; return None if TensorRT fails.

        Kernels that it compiles are added to `cache` (`TensorRTForRTX.new_cache`), which must live as long.
        """
        return engine.create_execution_context(self.trt.ExecutionContextAllocationStrategy.USER_MANAGED)

    def choose_profile(self, context: tensorrt.IExecutionContext, stream: int) -> bool:
        """Give a new context the profile, which not every version gives to others than an engine's first context."""
        return context.active_optimization_profile >= 0 or bool(context.set_optimization_profile_async(0, stream))

    def set_activations(self, context: tensorrt.IExecutionContext, address: int, size: int) -> None:
        """Give a context the memory to compute in, at least `activation_bytes` of its engine."""
        context.set_device_memory(address, size)


class TensorRT8(TensorRT):
    """TensorRT 8.6, which chooses the type of every layer itself among the precisions that builder flags allow."""

    VERSIONS = range(8, 9)
    has_bfloat16 = False
    reads_half_scales = False  # it reads opset 17, where scales and outputs of Q/DQ nodes are FP32, and no INT8 weights
    attention = "narrow"  # it is not known to fuse attention over heads 256 wide

    def new_network(self, builder: tensorrt.Builder) -> tensorrt.INetworkDefinition:
        return builder.create_network(1 << int(self.trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))

    def new_config(self, builder: tensorrt.Builder, workspace: int) -> tensorrt.IBuilderConfig:
        config: tensorrt.IBuilderConfig = super().new_config(builder, workspace)
        # otherwise only the first context of an engine may use the profile, and each recording has its own context
        config.set_preview_feature(self.trt.PreviewFeature.PROFILE_SHARING_0806, True)
        # without cuBLAS and cuDNN, which take hundreds of MB on the GPU and need not be installed
        sources = (self.trt.TacticSource.EDGE_MASK_CONVOLUTIONS, self.trt.TacticSource.JIT_CONVOLUTIONS)
        config.set_tactic_sources(sum(1 << int(source) for source in sources))
        return config

    def set_precision(
        self,
        network: tensorrt.INetworkDefinition,
        config: tensorrt.IBuilderConfig,
        precision: str,
        float_nodes: Collection[str],
        half_tensors: Collection[str],
    ) -> None:
        if precision == "fp32":
            return
        config.set_flag(self.trt.BuilderFlag.FP16)
        config.set_flag(self.trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        self._constrain(network, float_nodes)
        if precision == "int8":
            # with Q/DQ nodes the flag only allows INT8: no calibrator is needed
            config.set_flag(self.trt.BuilderFlag.INT8)
            tensors: list[tensorrt.ITensor] = [network.get_input(index) for index in range(network.num_inputs)]
            tensors += [network.get_output(index) for index in range(network.num_outputs)]
            for tensor in tensors:
                if tensor.name in half_tensors:
                    tensor.dtype = self.trt.DataType.HALF

    def _constrain(self, network: tensorrt.INetworkDefinition, float_nodes: Collection[str]) -> None:
        """Keep nodes in FP32; BuildError if TensorRT has none of them."""
        # Only layers that compute: a constraint on all layers, or on output types too, makes 8.6 fail internally
        # (an assertion in shapeContext.cpp is reported for 600 layers and not for 300).
        computing = (
            self.trt.LayerType.ACTIVATION,
            self.trt.LayerType.ELEMENTWISE,
            self.trt.LayerType.MATRIX_MULTIPLY,
            self.trt.LayerType.REDUCE,
            self.trt.LayerType.RESIZE,
            self.trt.LayerType.SELECT,
            self.trt.LayerType.UNARY,
        )
        constrained = 0
        for index in range(network.num_layers):
            layer: tensorrt.ILayer = network.get_layer(index)
            if layer.name in float_nodes and layer.type in computing and self._reads_floats(layer):
                layer.precision = self.trt.DataType.FLOAT
                constrained += 1
        if float_nodes and not constrained:
            raise BuildError(
                f"{network.name}: none of the layers that must stay FP32 is in the network that TensorRT "
                f"{self.version} read ({', '.join(sorted(float_nodes)[:3])}, …); use TensorRT 10 or newer, or build "
                "with fp32"
            )

    def _reads_floats(self, layer: tensorrt.ILayer) -> bool:
        """Tell whether a layer can be constrained to FP32: for integers the build would fail."""
        tensors: list[tensorrt.ITensor] = [layer.get_input(index) for index in range(layer.num_inputs)]
        dtypes = {tensor.dtype for tensor in tensors if tensor is not None and not tensor.is_shape_tensor}
        return (
            bool(dtypes & {self.trt.DataType.FLOAT, self.trt.DataType.HALF}) and self.trt.DataType.INT32 not in dtypes
        )

    def build(
        self,
        builder: tensorrt.Builder,
        network: tensorrt.INetworkDefinition,
        config: tensorrt.IBuilderConfig,
        progress: Progress,
    ) -> bytes | None:
        engine = builder.build_serialized_network(network, config)
        return None if engine is None else bytes(engine)

    def activation_bytes(self, engine: tensorrt.ICudaEngine) -> int:
        return int(engine.device_memory_size)

    def new_context(self, engine: tensorrt.ICudaEngine, cache: Any = None) -> tensorrt.IExecutionContext | None:
        return engine.create_execution_context_without_device_memory()

    def set_activations(self, context: tensorrt.IExecutionContext, address: int, size: int) -> None:
        context.device_memory = address


class TensorRTForRTX(TensorRT):
    """TensorRT for RTX, which builds without a GPU, for GPUs of several compute capabilities.

    Kernels are compiled where an engine runs, at the first use of a shape, and kept in a runtime cache. Without a GPU
    an engine cannot be loaded. What it is made of is therefore read from what the builder logs.
    """

    VERSIONS = range(1, 2)
    PRODUCT = "tensorrt-rtx"

    def new_config(self, builder: tensorrt.Builder, workspace: int) -> tensorrt.IBuilderConfig:
        self._log.layers, self._log.activation_bytes = "", None  # of the build before
        config: tensorrt.IBuilderConfig = super().new_config(builder, workspace)
        # a network that could not be recorded in a CUDA graph, or would allocate memory while it runs, is not built
        config.set_flag(self.trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        return config

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        names = (re.fullmatch(r"SM(\d+)(\d)", name) for name in self.trt.ComputeCapability.__members__)
        found = sorted((int(name[1]), int(name[2])) for name in names if name)
        return tuple(f"{major}.{minor}" for major, minor in found)

    def set_compute_capabilities(self, config: tensorrt.IBuilderConfig, capabilities: Sequence[str]) -> None:
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            member = self.trt.ComputeCapability.__members__[f"SM{capability.replace('.', '')}"]
            if not config.set_compute_capability(member, index):
                reason, _ = self.explain_errors()
                raise BuildError(f"{self.title} does not build for compute capability {capability}: {reason}")

    def describe(self, content: bytes, shapes: Mapping[str, Shape]) -> Description:
        if self._log.activation_bytes is None:
            raise EngineError(f"{self.title} does not log what its engine is made of, as 1.7.1 does; install that")
        layers, _, ends = self._log.layers.partition("\nI/O Tensors:\n")
        described = [
            {
                "Name": found["name"],
                "LayerType": found["kind"],
                "TacticName": found["tactic"],
                **{side.capitalize(): _logged_tensors(found[side]) for side in ("inputs", "constants", "outputs")},
            }
            for found in _LOGGED_LAYER.finditer(layers)
        ]
        dtypes = {end["name"]: _DTYPES.get(end["dtype"].upper(), end["dtype"]) for end in _LOGGED_END.finditer(ends)}
        return Description(dtypes, described, self._log.activation_bytes)

    def deserialize(self, content: bytes) -> tensorrt.ICudaEngine:
        runtime: tensorrt.Runtime = self.trt.Runtime(self._logger)
        validity, diagnostics = runtime.get_engine_validity(content)
        if validity == self.trt.EngineValidity.INVALID:
            reasons = [
                name.replace("_", " ").lower()
                for name, flag in self.trt.EngineInvalidityDiagnostics.__members__.items()
                if diagnostics & int(flag)
            ]
            raise EngineError(f"{self.title} cannot run the engine here ({', '.join(reasons) or 'it gives no reason'})")
        return super().deserialize(content)

    def new_context(self, engine: tensorrt.ICudaEngine, cache: Any = None) -> tensorrt.IExecutionContext | None:
        config: tensorrt.IRuntimeConfig = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(self.trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        # The backend records whole frames itself. What it records must never change: so no graphs of the library
        # within, and kernels for a shape are compiled before its first run ends, not in the background while the
        # capture of a later run is under way.
        config.cuda_graph_strategy = self.trt.CudaGraphStrategy.DISABLED
        config.dynamic_shapes_kernel_specialization_strategy = self.trt.DynamicShapesKernelSpecializationStrategy.EAGER
        if cache is not None and not config.set_runtime_cache(cache):
            return None
        return engine.create_execution_context(config)

    def new_cache(self, engine: tensorrt.ICudaEngine, content: bytes) -> tuple[tensorrt.IRuntimeCache, bool]:
        """Make a cache for contexts of an engine, and tell whether it took this content; b"" for none."""
        config: tensorrt.IRuntimeConfig = engine.create_runtime_config()
        cache: tensorrt.IRuntimeCache = config.create_runtime_cache()
        return cache, not content or bool(cache.deserialize(content))

    def serialized_cache(self, cache: tensorrt.IRuntimeCache) -> bytes | None:
        """Return what a cache holds, or None if the library fails."""
        content = cache.serialize()
        return None if content is None else bytes(content)


_LOGGED_LAYER = re.compile(
    r"^Name: (?P<name>.*), LayerType: (?P<kind>.*), Inputs: (?P<inputs>.*), Constants: (?P<constants>.*), "
    r"Outputs: (?P<outputs>.*), TacticName: (?P<tactic>.*), StreamId: ",
    re.MULTILINE,
)
_LOGGED_END = re.compile(r"^ Name: (?P<name>.*), IOMode: \w+, DataType: (?P<dtype>\w+),", re.MULTILINE)


def _logged_tensors(text: str) -> list[dict[str, Any]]:
    """Return the tensors of a layer with their types and sizes, -1 for dynamic ones, under the inspector's keys."""
    found = re.findall(r", Dimensions: \[([-\d,]*)\], .*?Datatype: (\w+)", text)
    return [
        {"Dimensions": [int(size) for size in sizes.split(",") if size], "Format/Datatype": dtype}
        for sizes, dtype in found
    ]
