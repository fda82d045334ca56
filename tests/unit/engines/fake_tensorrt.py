"""A stand-in for TensorRT, or for RTX, with the API of one real version: anything else is an AttributeError.

Networks are really parsed (with onnx), and engines report what the builder was told: an 8.x network is FP16 and INT8
only with the flags, a typed one as its types and Q/DQ nodes are. `fake.calls` logs the calls. Contexts run their engine
on ONNX Runtime and a stand-in for a GPU (`fake.gpu`), when its stream is waited for.
"""

from __future__ import annotations

import enum
import functools
import json
import pickle
import sys
import warnings
import weakref
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from sam2edge.engines.low_precision import tensor_types
from sam2edge.errors import BackendError
from sam2edge.runtime.backends.cuda import gpus
from tests.conftest import SHARED
from tests.fake_gpu import TYPES, new_gpu
from tests.sessions import Remembering
from tools.rounding import with_rounding

Api = dict[str, dict[str, str]]
VERSIONS = ("8.6.0", "10.3.0", "11.4.0.106")
RTX = "1.7.1.116"
"""The version of TensorRT for RTX."""
FIND_GPU = gpus.find_gpu
FOLDERS = (SHARED / "tensorrt" / "api", SHARED / "tensorrt" / "api-rtx")

LAYER_TYPES = {
    "MatMul": "MATRIX_MULTIPLY",
    "Sin": "UNARY",
    "Cos": "UNARY",
    "ReduceSum": "REDUCE",
    "Resize": "RESIZE",
    "Sigmoid": "ACTIVATION",
    "Where": "SELECT",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Greater", "GreaterOrEqual"), "ELEMENTWISE"),
}
DTYPES = {TensorProto.DataType.Value(name): name for name in ("FLOAT", "INT32", "INT8", "BOOL", "UINT8")}
DTYPES |= {TensorProto.FLOAT16: "HALF", TensorProto.BFLOAT16: "BF16", TensorProto.INT64: "INT32"}
REPORTED = {TensorProto.FLOAT: "Float", TensorProto.FLOAT16: "Half", TensorProto.BFLOAT16: "BFloat16"}
NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "BOOL": np.bool_, "UINT8": np.uint8}


def read_api() -> dict[str, Api]:
    """Return the public API of each version, oldest first."""
    for folder in FOLDERS:
        if not folder.is_dir():
            pytest.skip(f"{folder} is not there: the API of the TensorRT versions is not in the repository")
    found = [file for folder in FOLDERS for file in folder.glob("*.json")]
    files = sorted(found, key=lambda file: tuple(map(int, file.stem.split("."))))
    return {file.stem: json.loads(file.read_text()) for file in files}


class FakeTensorRT:
    """The module. Set what should go wrong on `faults` before a build."""

    def __init__(self, version: str) -> None:
        self.__version__ = version
        self.api = read_api()[version]
        self.calls: list[str] = []
        self.faults = SimpleNamespace(
            **dict.fromkeys(("build_error", "deserialize_error", "context_error", "run_error", "output_type"), ""),
            **dict.fromkeys(("no_builder", "no_int8", "ignore_precision", "fused", "old_driver", "inspector"), False),
            during=lambda: None,
        )
        self.gpu = None
        self.activation_bytes = 1 << 20
        self.engines = weakref.WeakSet()
        self.is_rtx = version == RTX
        self.compiled = []  # for RTX: the kernels that were compiled while engines ran
        for name in ("BuilderFlag", "NetworkDefinitionCreationFlag", "DataType", "LayerType", "MemoryPoolType",
                     "ProfilingVerbosity", "LayerInformationFormat", "ExecutionContextAllocationStrategy",
                     "PreviewFeature", "TacticSource", "ComputeCapability", "CudaGraphStrategy",
                     "DynamicShapesKernelSpecializationStrategy", "EngineValidity"):  # fmt: skip
            members = [member for member in self.api.get(name, ()) if member not in ("__init__", "name", "value")]
            setattr(self, name, enum.IntEnum(name, members, start=0))
        flags = [name for name in self.api.get("EngineInvalidityDiagnostics", ()) if name.isupper()]
        self.EngineInvalidityDiagnostics = enum.IntFlag("EngineInvalidityDiagnostics", flags)
        for kind in (ILogger, IProgressMonitor, Builder, OnnxParser, Runtime):
            if kind.__name__ in self.api:
                setattr(self, kind.__name__, self.limited(kind))

    def limited(self, kind: type) -> type:
        """Return a class with the members that the version has; private state starts with an underscore."""
        members, fake = self.api[kind.__name__], self

        def check(name: str) -> None:
            if not name.startswith("_") and name not in members:
                raise AttributeError(f"TensorRT {fake.__version__} has no {kind.__name__}.{name}")

        class Limited(kind):
            _fake = fake

            def __getattribute__(self, name):
                if type(self) is Limited:
                    check(name)
                return super().__getattribute__(name)

            def __setattr__(self, name, value):
                if type(self) is Limited:
                    check(name)
                super().__setattr__(name, value)

        return Limited

    @property
    def current(self):
        """The number of the GPU on which TensorRT works: that of the current context, or the first."""
        return self.gpu.current or 0

    def make(self, kind, *arguments):
        return self.limited(kind)(*arguments)


def install(monkeypatch, version):
    """Make the stand-in the module of its product, on a stand-in for a GPU that runs its engines."""
    fake = FakeTensorRT(version)
    fake.gpu = new_gpu()
    fake.gpu.install(monkeypatch)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)  # the front end, which may be missing
    name = "tensorrt_rtx_bindings" if fake.is_rtx else "tensorrt"
    fake.__spec__ = ModuleSpec(name, None)  # PyTorch asks for it when its compiler is imported
    monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setattr(gpus, "find_gpu", FIND_GPU)  # a test may have replaced it
    return fake


def edit_manifest(directory, edit):
    """Change the content of an engines.json."""
    file = directory / "engines.json"
    edit(data := json.loads(file.read_text()))
    file.write_text(json.dumps(data))


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class IProgressMonitor:
    pass


class Builder:
    def __init__(self, logger):
        if self._fake.faults.no_builder:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger, self._gpu = logger, self._fake.current

    def create_network(self, flags=0):
        self._fake.calls.append("create_network")
        return self._fake.make(INetworkDefinition, flags)

    def create_builder_config(self):
        return self._fake.make(IBuilderConfig)

    def create_optimization_profile(self):
        return self._fake.make(IOptimizationProfile)

    def build_serialized_network(self, network, config):
        fake = self._fake
        fake.calls.append(f"build {network.name}" + (f" on GPU {self._gpu}" if self._gpu else ""))
        assert fake.current == self._gpu, "a builder of another GPU"
        fake.faults.during()
        monitor = vars(config).get("progress_monitor")
        if monitor is not None:
            monitor.phase_start("Building Engine", None, 2)
            monitor.phase_start("Tactics", "Building Engine", 7)
            for step in range(2):
                monitor.step_complete("Tactics", step)
                if not monitor.step_complete("Building Engine", step):
                    return None
            monitor.phase_finish("Building Engine")
        if fake.faults.build_error:
            self._logger.log(ILogger.ERROR, fake.faults.build_error)
            return None
        assert config._profile, "no optimisation profile"
        assert network._parser() is not None, "the parser, which owns the weights, is gone"
        built = network._built(config)
        if not fake.is_rtx:
            config._cache._entries.add(network.name)
        else:
            self._log_engine(built)
        return pickle.dumps(built)

    def _log_engine(self, built):
        """Log what the engine is made of, in the format of the real one."""

        def tensors(types):
            shown = "Dimensions: [-1,64], Strides: [64,1], StrideOrder: [1,0], Datatype: {}, Format: (Linear) Row major"
            return "[ " + ", ".join(f"{{ Name: t, {shown.format(dtype)} linear format }}" for dtype in types) + "]"

        types = {"FLOAT": "Float", "HALF": "Half", "INT32": "Int32", "BOOL": "Bool", "UINT8": "UInt8"}
        lines = ["Layers:", "Name: __mye1_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], "
                 "TacticName: , StreamId: 0, Metadata: "]  # fmt: skip
        for layer in built["layers"]:
            outputs = tensors(end["Format/Datatype"] for end in layer["Outputs"])
            inputs = tensors(["Int8"] if "TacticName" in layer else [])
            lines.append(f"Name: {layer['Name']}_myl0_1, LayerType: {'gemm' if 'TacticName' in layer else 'kgen'}, "
                         f"Inputs: {inputs}, Constants: [], Outputs: {outputs}, TacticName: __myelin_CASK_STUB, "
                         f"StreamId: 0, Metadata: [ONNX Layer: {layer['Name']}]")  # fmt: skip
        lines += ["", "I/O Tensors:"]
        for name, dtype in built["tensors"].items():
            lines.append(f" Name: {name}, IOMode: Input, DataType: {types.get(dtype, dtype)}, Dimensions: [-1,64], "
                         "Location: Device, IsShapeInferenceIO: false, ProfileInfo: [ { }]")  # fmt: skip
        self._logger.log(ILogger.INFO, f"Total Activation Memory: {self._fake.activation_bytes} bytes")
        self._logger.log(ILogger.VERBOSE, "\n".join([*lines, "", "Engine Metadata:", " Multi-Device: Disabled"]))


class INetworkDefinition:
    def __init__(self, flags):
        self._flags, self._layers, self._model, self._types = flags, [], None, {}
        self._inputs, self._outputs = [], []
        self.name = ""

    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))
    num_layers = property(lambda self: len(self._layers))

    def get_input(self, index):
        return self._inputs[index]

    def get_output(self, index):
        return self._outputs[index]

    def get_layer(self, index):
        return self._layers[index]

    def _built(self, config):
        """Return the content of the engine, with what tests look at."""
        fake = self._fake
        strongly = fake.NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
        typed = strongly is not None and bool(self._flags & 1 << strongly)
        flags = {flag.name for flag in config._flags}
        model, types = self._model, self._types
        layers = []
        quantised = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
        dequantised = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
        for node, layer in zip(model.graph.node, self._layers, strict=True):
            kind = reported = REPORTED.get(types.get(node.output[0]))
            if not typed:
                # with Q/DQ nodes all types are FP32, and 8.x chooses among what the flags allow
                low = (kind == "Half" or quantised) and "FP16" in flags and layer.precision is None
                reported = "Half" if low else "Float"
            if fake.faults.ignore_precision:
                reported = "Float"
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                continue  # part of their neighbours' kernels
            if kind:
                described = [{"Format/Datatype": reported}]
                metadata = "\x1e".join(f"[ONNX Layer: {name}]" for name in (node.name, f"{node.name}/fused"))
                layers.append({"Name": node.name, "LayerType": "kgen", "Outputs": described, "Metadata": metadata})
                if (
                    node.input
                    and dequantised.issuperset(node.input[:2])
                    and (typed or "INT8" in flags)
                    and not fake.faults.no_int8
                ):
                    layers[-1]["TacticName"] = "sm80_xmma_gemm_i8i8_i8i32_f32_tn_n"
        tensors = {tensor.name: tensor.dtype.name for tensor in (*self._inputs, *self._outputs)}
        if fake.faults.fused:
            # as 8.6 reports a transformer: one region with its inputs and outputs, and the layers beside it
            types = {"FLOAT": "Row major linear FP32", "HALF": "Row major linear FP16 format"}
            ends = [{"Format/Datatype": types[name]} for name in tensors.values() if name in types]
            layers = [{"Name": "{ForeignNode[...]}", "LayerType": "Myelin", "Inputs": ends, "Outputs": []}]
            layers += [{"LayerType": "Reduce", "Outputs": [{"Format/Datatype": "Row major linear FP32"}]}] * 4
        if fake.faults.output_type:
            tensors[model.graph.output[0].name] = fake.faults.output_type
        return {
            "layers": layers,
            "tensors": tensors,
            "flags": sorted(flags),
            "typed": typed,
            "held": [layer.name for layer in self._layers if layer.precision is not None],
            "workspace": config._pools,
            "capabilities": config._capabilities,
            "profile": config._profile,
            "shared": not fake.__version__.startswith("8") or config._preview.get("PROFILE_SHARING_0806", False),
            "sources": config._sources,
            "cache": sorted(config._loaded),
            "model": self._model.SerializeToString(),
        }


class ITensor:
    is_shape_tensor = False

    def __init__(self, name, dtype):
        self.name, self.dtype = name, dtype


class ILayer:
    def __init__(self, name, kind, inputs):
        self._name, self._kind, self._inputs, self._precision = name, kind, inputs, None

    name = property(lambda self: self._name)
    type = property(lambda self: self._kind)
    num_inputs = property(lambda self: len(self._inputs))
    precision = property(lambda self: self._precision)

    def get_input(self, index):
        return self._inputs[index]

    @precision.setter
    def precision(self, value):
        read = {tensor.dtype.name for tensor in self._inputs if tensor is not None}
        assert not read & {"INT32", "UINT8"}, f"no implementation of {self._name} obeys the requested constraints"
        self._precision = value


@functools.lru_cache(maxsize=64)
def _tensor_types(model):
    """Infer the types of a serialised graph's tensors; many tests build the same graphs."""
    return tensor_types(onnx.load_model_from_string(model))


class OnnxParser:
    num_errors = property(lambda self: len(self._errors))

    def __init__(self, network, logger):
        self._network, self._errors = network, []

    def parse(self, model):
        parsed = onnx.load_model_from_string(model)
        self._network._parser = weakref.ref(self)
        bad = [f"No importer for op: {node.op_type}" for node in parsed.graph.node if node.op_type == "Attention"]
        if parsed.opset_import[0].version > (17 if self._network._fake.__version__.startswith("8") else 20):
            bad.append(f"Opset {parsed.opset_import[0].version} is not supported")
        fake = self._network._fake
        made = {name for node in parsed.graph.node if node.op_type != "Constant" for name in node.output}
        if fake.__version__.startswith("8"):
            # a layer for each of two inputs: data and weights; the third is no tensor
            bad += [
                f"{node.name}: Cannot have more than two inputs."
                for node in parsed.graph.node
                if node.op_type == "Conv" and made.intersection(node.input[2:])
            ]
            constants = {tensor.name: tensor.data_type for tensor in parsed.graph.initializer}
            bad += [
                f"{node.name}: Invalid weights type of Int8"
                for node in parsed.graph.node
                if node.input and constants.get(node.input[0]) == TensorProto.INT8
            ]
        self._errors = [SimpleNamespace(desc=lambda: "; ".join(bad))] if bad else []
        self._network._model = parsed
        self._network.name = parsed.graph.name
        self._network._types = _tensor_types(model)
        kinds = self._network._types | {tensor.name: tensor.data_type for tensor in parsed.graph.initializer}
        tensors = {name: ITensor(name, fake.DataType[DTYPES[kind]]) for name, kind in kinds.items()}
        self._network._layers += [
            # not limited: here a layer has a precision in every version, which tensorrt_api must not use
            ILayer(
                node.name,
                fake.LayerType[LAYER_TYPES.get(node.op_type, "SHUFFLE")],
                # for these layers axes and sizes are not tensors
                [tensors.get(name) for name in node.input[: 1 if node.op_type in ("ReduceSum", "Resize") else None]],
            )
            for node in parsed.graph.node
        ]
        for values, side in ((parsed.graph.input, "_inputs"), (parsed.graph.output, "_outputs")):
            dtypes = {value.name: fake.DataType[DTYPES[value.type.tensor_type.elem_type]] for value in values}
            getattr(self._network, side).extend(fake.make(ITensor, *one) for one in dtypes.items())
        return not bad

    def get_error(self, index):
        return self._errors[index]


class IBuilderConfig:
    profiling_verbosity = None

    def __init__(self):
        self._flags, self._pools, self._profile, self._loaded = {self._fake.BuilderFlag.TF32}, {}, None, set()
        self._cache = None if self._fake.is_rtx else self._fake.make(ITimingCache, b"")
        self._preview, self._sources, self._capabilities = {}, None, []

    @property
    def num_compute_capabilities(self):
        return len(self._capabilities)

    @num_compute_capabilities.setter
    def num_compute_capabilities(self, count):
        self._capabilities = [None] * count

    def set_compute_capability(self, capability, index):
        self._capabilities[index] = capability.name
        return True

    def set_memory_pool_limit(self, pool, size):
        self._pools[pool.name] = size

    def set_flag(self, flag):
        self._flags.add(flag)

    def set_preview_feature(self, feature, enable):
        self._preview[feature.name] = enable

    def set_tactic_sources(self, sources):
        self._sources = sources
        return True

    def clear_flag(self, flag):
        self._flags.discard(flag)

    def add_optimization_profile(self, profile):
        self._profile = profile._shapes

    def create_timing_cache(self, content):
        return None if content.startswith(b"junk") else self._fake.make(ITimingCache, content)

    def set_timing_cache(self, cache, ignore_mismatch):
        if self._fake.is_rtx:
            warnings.warn("Timing cache operations are no-ops in TensorRT-RTX", DeprecationWarning, stacklevel=2)
        assert not ignore_mismatch
        self._cache, self._loaded = cache, set(cache._entries)
        return True

    def get_timing_cache(self):
        return self._cache


class ITimingCache:
    def __init__(self, content):
        self._entries = set(content.decode().split())

    def combine(self, other, ignore_mismatch):
        assert not ignore_mismatch
        self._entries |= other._entries
        return True

    def serialize(self):
        return " ".join(sorted(self._entries)).encode()


class IOptimizationProfile:
    def __init__(self):
        self._shapes = {}

    def set_shape(self, name, smallest, usual, largest):
        self._shapes[name] = [list(smallest), list(usual), list(largest)]


class Runtime:
    def __init__(self, logger):
        self._logger = logger

    def get_engine_validity(self, content):
        fake = self._fake
        try:
            gpu = gpus.find_gpu(fake.current)
        except BackendError:
            self._logger.log(ILogger.INTERNAL_ERROR, "CUDA driver version is insufficient for CUDA runtime version")
            return fake.EngineValidity.INVALID, 0
        built = pickle.loads(content)["capabilities"]
        wrong = fake.EngineInvalidityDiagnostics(0)
        if f"SM{gpu.compute_capability.replace('.', '')}" not in built:
            wrong |= fake.EngineInvalidityDiagnostics.UNSUPPORTED_CC
        if fake.faults.old_driver:
            wrong |= fake.EngineInvalidityDiagnostics.OLD_CUDA_DRIVER
        return fake.EngineValidity.INVALID if wrong else fake.EngineValidity.VALID, int(wrong)

    def deserialize_cuda_engine(self, content):
        self._fake.calls.append("deserialize")
        assert not self._fake.is_rtx or self.get_engine_validity(content)[0] == self._fake.EngineValidity.VALID
        if self._fake.faults.deserialize_error:
            self._logger.log(ILogger.ERROR, self._fake.faults.deserialize_error)
            return None
        return self._fake.make(ICudaEngine, pickle.loads(content), self._logger)


@functools.lru_cache(maxsize=48)
def _session(model):
    """Open the graph of an engine; the engines of many tests are alike."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    graph = onnx.load_model_from_string(model)
    if any(tensor.data_type == TensorProto.BFLOAT16 for tensor in graph.graph.initializer):
        graph = with_rounding(graph)  # ONNX Runtime has no BF16 on the CPU
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Remembering(session, model)


class ICudaEngine:
    device_memory_size = device_memory_size_v2 = property(lambda self: self._memory)
    num_io_tensors = property(lambda self: len(self._names))

    def __init__(self, built, logger):
        self._built, self._names, self._logger, self._session = built, list(built["tensors"]), logger, None
        self._fake.engines.add(self)
        self._contexts = weakref.WeakSet()
        self._memory = self._fake.activation_bytes
        self._gpu = self._fake.current

    def get_tensor_name(self, index):
        return self._names[index]

    def get_tensor_dtype(self, name):
        return self._fake.DataType[self._built["tensors"][name]]

    def create_execution_context(self, strategy=None):
        self._fake.calls.append("context")
        assert self._fake.current == self._gpu, "an engine of another GPU"
        if self._fake.faults.context_error:
            self._logger.log(ILogger.ERROR, self._fake.faults.context_error)
            return None
        config = strategy if isinstance(strategy, IRuntimeConfig) else None
        strategy = config._allocation if config else strategy
        if "REQUIRE_USER_ALLOCATION" in self._built["flags"] and strategy.name != "USER_MANAGED":
            self._logger.log(ILogger.ERROR, "Execution context creation requires kUSER_MANAGED allocation strategy.")
            return None
        return self._fake.make(
            IExecutionContext, self, strategy is not None and strategy.name == "USER_MANAGED", config
        )

    def create_runtime_config(self):
        return self._fake.make(IRuntimeConfig, self._logger)

    def create_execution_context_without_device_memory(self):
        return ICudaEngine.create_execution_context(self, SimpleNamespace(name="USER_MANAGED"))

    def _inputs(self):
        """Return the shapes of the inputs; dynamic sides are names."""
        return {value.name: tuple(value.shape) for value in self._loaded().get_inputs()}

    def _run(self, inputs):
        names = [output.name for output in self._loaded().get_outputs()]
        if self._built["typed"]:
            return dict(zip(names, self._loaded().run(names, inputs), strict=True))
        # inputs and outputs have the types that the network was told, whatever its graph has
        graph = {value.name: TYPES[value.type] for value in self._loaded().get_inputs()}
        results = self._loaded().run(names, {name: array.astype(graph[name]) for name, array in inputs.items()})
        types = [NUMPY[self._built["tensors"][name]] for name in names]
        return {name: array.astype(kind) for name, array, kind in zip(names, results, types, strict=True)}

    def _loaded(self):
        if self._session is None:
            self._session = _session(self._built["model"])
        return self._session

    def create_engine_inspector(self):
        return self._fake.make(EngineInspector, self._built)


class IExecutionContext:
    """A context that is in a recorded graph must not be touched: according to NVIDIA the effect is undefined."""

    def __init__(self, engine, without_memory, config=None):
        self._engine, self._built, self._without, self._config = engine, engine._built, without_memory, config
        self._shapes, self._addresses, self._memory, self._recorded = {}, {}, None, False
        self._profile = -1 if engine._contexts else 0
        engine._contexts.add(self)

    def __del__(self):
        if self._addresses and self._fake.gpu.current is None:
            self._fake.gpu.lost.append("a context of TensorRT")

    def _change(self):
        assert not self._recorded, "a context was touched that is in a recorded graph"

    active_optimization_profile = property(lambda self: self._profile)

    def set_optimization_profile_async(self, profile_index, stream_handle):
        self._change()
        assert profile_index == 0
        assert self._fake.gpu.streams[stream_handle].capturing is None
        if not self._built["shared"] and self._engine._contexts - {self}:
            self._engine._logger.log(ILogger.ERROR, "Profile 0 has been chosen by another IExecutionContext.")
            return False
        self._profile = profile_index
        return True

    def set_input_shape(self, name, shape):
        self._change()
        if self._profile < 0:
            self._engine._logger.log(ILogger.ERROR, "No optimization profile has been set.")
            return False
        smallest, _, largest = self._built["profile"][name]
        if not all(low <= side <= high for low, side, high in zip(smallest, shape, largest, strict=True)):
            self._engine._logger.log(ILogger.ERROR, f"{name}: {shape} is beyond the profile")
            return False
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name, address):
        self._change()
        assert name in self._built["tensors"]
        assert address % 256 == 0, "the pointer must have at least 256-byte alignment"
        self._addresses[name] = address
        return True

    def set_device_memory(self, address, size):
        self._change()
        assert self._without
        assert size >= self._engine._memory
        self._memory = address

    @property
    def device_memory(self):
        return self._memory

    @device_memory.setter
    def device_memory(self, address):
        assert self._fake.__version__.startswith("8")
        IExecutionContext.set_device_memory(self, address, 1 << 40)

    def execute_async_v3(self, stream):
        self._change()
        fake, built = self._fake, self._built
        if fake.faults.run_error:
            self._engine._logger.log(ILogger.ERROR, fake.faults.run_error)
            return False
        assert self._without, "a context with memory of its own"
        assert set(self._shapes) == set(built["profile"])
        assert set(self._addresses) == set(built["tensors"])
        memory, gpu, shapes = self._memory, fake.gpu, {**self._engine._inputs(), **self._shapes}
        places = {
            name: (np.dtype(NUMPY[built["tensors"][name]]), shapes.get(name), address)
            for name, address in self._addresses.items()
        }

        def run(inputs):
            gpu.memory(memory, self._engine._memory, self._engine._gpu)[:] = 0xEE
            return self._engine._run(inputs)

        assert gpu.streams[stream].gpu == self._engine._gpu, "a stream of another GPU"
        capturing = gpu.streams[stream].capturing is not None
        if fake.is_rtx:
            self._compile(capturing)
        inputs = {name: place for name, place in places.items() if name in shapes}
        gpu.queue_run(stream, run, inputs, {name: place for name, place in places.items() if name not in shapes})
        self._recorded = capturing
        return True

    def _compile(self, capturing):
        """Compile kernels for new shapes, if the cache has none; that must not happen during a capture."""
        config, fake = self._config, self._fake
        kernels = str((list(self._built["tensors"]), sorted(self._shapes.items())))
        if kernels not in config._cache._kernels:
            assert not capturing, "kernels are compiled while a graph is recorded"
            fake.compiled.append(kernels)
            config._cache._kernels.add(kernels)
        if capturing:
            assert config.cuda_graph_strategy.name == "DISABLED", "a graph within a graph"
            assert config.dynamic_shapes_kernel_specialization_strategy.name != "LAZY", "kernels may be replaced"


class IRuntimeConfig:
    def __init__(self, logger):
        self._logger, self._cache, self._allocation = logger, None, SimpleNamespace(name="STATIC")
        self.cuda_graph_strategy = self._fake.CudaGraphStrategy.DISABLED
        self.dynamic_shapes_kernel_specialization_strategy = self._fake.DynamicShapesKernelSpecializationStrategy.LAZY

    def set_execution_context_allocation_strategy(self, strategy):
        self._allocation = strategy

    def create_runtime_cache(self):
        return self._fake.make(IRuntimeCache, self._logger)

    def set_runtime_cache(self, cache):
        self._cache = cache
        return True


class IRuntimeCache:
    """Both ways need a current CUDA context, by which the cache is compared with the machine."""

    def __init__(self, logger):
        self._logger, self._kernels = logger, set()

    def serialize(self):
        if self._fake.gpu.current is None:
            self._logger.log(ILogger.ERROR, "[Runtime Cache]: Failed to capture the device fingerprint")
            return None
        return json.dumps([str(gpus.find_gpu(self._fake.current)), sorted(self._kernels)]).encode()

    def deserialize(self, blob):
        assert self._fake.gpu.current is not None, "[Runtime Cache]: No current CUDA context to validate against"
        gpu, kernels = json.loads(blob)
        if gpu != str(gpus.find_gpu(self._fake.current)):
            self._logger.log(ILogger.ERROR, "[Runtime Cache]: Fingerprint check failed; rejecting cache.")
            return False
        self._kernels.update(kernels)
        return True


class EngineInspector:
    execution_context = None

    def __init__(self, built):
        self._built = built

    def get_engine_information(self, kind):
        assert kind.name == "JSON"
        layers = self._built["layers"]
        if set(self.execution_context._shapes) != set(self._built["profile"]):
            layers = [{**layer, "Outputs": [{"Format/Datatype": "N/A due to dynamic shapes"}]} for layer in layers]
        text = json.dumps({"Layers": layers, "Bindings": self._built["tensors"]})
        if self._fake.faults.inspector:
            return text[:-2]
        return text.replace(r"\u001e", "\x1e") if self._fake.__version__.startswith("8") else text
