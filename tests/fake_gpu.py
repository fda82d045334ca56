"""A stand-in for a GPU: pycuda.driver, the calls of libcuda and sessions of ONNX Runtime on it.

It behaves as the real ones where a mistake would otherwise not show. Work waits in streams until somebody waits for
it. Page-locked memory is read and written then, and not when a copy is queued. Memory that was freed, or that is not
the GPU's, cannot be used. New memory holds noise. A recorded graph reads and writes the addresses that it was recorded
with. Objects that are freed where no context is current are lost (`lost`), and a thread that ends with a context on
its stack has failed (`check`).
"""

from __future__ import annotations

import itertools
import sys
import threading
import weakref
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime

from sam2edge.runtime.backends.cuda import context, driver
from tests.cuda_kernels import without_kernel

INVALID, OUT_OF_MEMORY, UNSUPPORTED = 1, 2, 900
NAMES = {INVALID: b"CUDA_ERROR_INVALID_VALUE", UNSUPPORTED: b"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"}


class Gpu:
    """faults: end_capture and launch give an error code, mem_limit bytes are all there is."""

    def __init__(self):
        self.faults = SimpleNamespace(end_capture=0, launch=0, mem_limit=1 << 40, synchronize=False)
        self.addresses = itertools.count(0x7F00_0000_0000, 1 << 32)
        self.blocks = {}
        self.pinned = {}
        self.streams = weakref.WeakValueDictionary()
        self.graphs = {}
        self.launched = {}
        self.handles = itertools.count(1)
        self.lost = []
        self.stacks = {}
        self.launches = 0
        self.downloaded = 0
        self.allocations = 0
        self.driver = make_driver(self)
        self.libcuda = LibCuda(self)

    def install(self, monkeypatch):
        package = ModuleType("pycuda")
        package.driver = self.driver
        monkeypatch.setitem(sys.modules, "pycuda", package)
        monkeypatch.setitem(sys.modules, "pycuda.driver", self.driver)
        monkeypatch.setattr(driver, "library", lambda: self.libcuda)
        found = context.Context(self.driver)
        monkeypatch.setattr(context, "_primary", lambda: found)

    @property
    def stack(self):
        return self.stacks.setdefault(threading.get_ident(), [])

    @property
    def used(self):
        return sum(len(block) for block in self.blocks.copy().values())

    def check(self):
        """Nothing was lost and no thread has a context left."""
        assert self.lost == []
        assert not any(self.stacks.values())

    def need_context(self, what):
        if not self.stack:
            raise self.driver.LogicError(f"{what} failed: invalid device context - no currently active context?")

    def memory(self, address, size):
        """The bytes on the GPU there, uint8 [size]; all of one array."""
        assert address, "a null address"
        for begin, block in self.blocks.copy().items():  # other threads free meanwhile
            if begin <= address and address + size <= begin + len(block):
                return block[address - begin : address - begin + size]
        raise AssertionError(f"{size} bytes at {address:#x} are no memory of the GPU, or were freed")

    def is_pinned(self, array):
        address = array.ctypes.data
        return any(
            begin <= address and address + array.nbytes <= begin + len(block)
            for begin, block in self.pinned.copy().items()
        )

    def queue(self, stream, operation):
        self.need_context("launch")
        stream = self.streams[stream] if isinstance(stream, int) else stream
        (stream.pending if stream.capturing is None else stream.capturing).append(operation)


def make_driver(gpu):
    """The module pycuda.driver, with what is used of it (names and arguments as in pycuda 2022.1 to 2026.1)."""
    cuda = ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class MemoryError(Error):
        pass

    class LogicError(Error):
        pass

    class LaunchError(Error):
        pass

    class Freed:
        """What must be freed where a context is current."""

        gone = False

        def __del__(self):
            if not self.gone and not gpu.stack:
                gpu.lost.append(type(self).__name__)
            elif not self.gone:
                self.free()

    class DeviceAllocation(Freed):
        def __init__(self, size):
            self.address = next(gpu.addresses)
            gpu.blocks[self.address] = np.random.default_rng(self.address).integers(0, 255, size, np.uint8)

        def __int__(self):
            return self.address

        def free(self):
            gpu.need_context("mem_free")
            del gpu.blocks[self.address]
            self.gone = True

    class PagelockedHostAllocation(Freed):
        def __init__(self, size):
            self.memory = np.full(size, 0xCD, np.uint8)
            gpu.pinned[self.memory.ctypes.data] = self.memory
            self.__array_interface__ = self.memory.__array_interface__

        def free(self):
            gpu.need_context("mem_host_free")
            del gpu.pinned[self.memory.ctypes.data]
            self.memory[:] = 0xDD
            self.gone = True

    class Stream(Freed):
        def __init__(self, flags=0):
            assert flags == 1, "a stream that waits for the default stream"
            gpu.need_context("Stream")
            self.handle, self.pending, self.capturing = next(gpu.handles) << 8, [], None
            gpu.streams[self.handle] = self

        def free(self):
            assert not self.pending, "a stream ended with work on it"
            self.gone = True

        def synchronize(self):
            gpu.need_context("synchronize")
            if self.capturing is not None:
                raise LogicError("cuStreamSynchronize failed: operation not permitted when stream is capturing")
            if gpu.faults.synchronize:
                raise LaunchError("cuStreamSynchronize failed: an illegal memory access was encountered")
            while self.pending:
                self.pending.pop(0)()

    class Context:
        def push(self):
            gpu.stack.append(self)

        @staticmethod
        def pop():
            gpu.stack.pop()

    def mem_alloc(size):
        gpu.need_context("mem_alloc")
        if gpu.used + size > gpu.faults.mem_limit:
            raise MemoryError("cuMemAlloc failed: out of memory")
        gpu.allocations += 1
        return DeviceAllocation(size)

    def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
        gpu.need_context("pagelocked_empty")
        assert (np.dtype(dtype), order, mem_flags) == (np.uint8, "C", 0)
        return np.asarray(PagelockedHostAllocation(shape))

    def memcpy_htod_async(dest, src, stream=None):
        now = src if gpu.is_pinned(src) or stream.capturing is not None else src.copy()
        gpu.queue(stream, lambda: put(gpu.memory(dest, src.nbytes), now))

    def memcpy_dtoh_async(dest, src, stream=None):
        gpu.downloaded += dest.nbytes
        gpu.queue(stream, lambda: put(dest.reshape(-1).view(np.uint8), gpu.memory(src, dest.nbytes)))
        if not gpu.is_pinned(dest) and stream.capturing is None:
            stream.synchronize()

    def memcpy_dtod_async(dest, src, size, stream=None):
        gpu.queue(stream, lambda: put(gpu.memory(dest, size), gpu.memory(src, size)))

    def memset_d8_async(dest, data, size, stream=None):
        gpu.queue(stream, lambda: put(gpu.memory(dest, size), np.full(size, data, np.uint8)))

    for thing in (Error, MemoryError, LogicError, LaunchError, Stream, Context, mem_alloc, pagelocked_empty,
                  memcpy_htod_async, memcpy_dtoh_async, memcpy_dtod_async, memset_d8_async):  # fmt: skip
        setattr(cuda, thing.__name__, thing)
    cuda.init = lambda: None
    cuda.Device = lambda ordinal: SimpleNamespace(retain_primary_context=Context)
    return cuda


def put(to, source):
    to[:] = source.reshape(-1).view(np.uint8)


class LibCuda:
    """What is called through ctypes; `old` is a driver before CUDA 11.4."""

    def __init__(self, gpu, old=False):
        self._gpu = gpu
        if old:
            self.cuGraphInstantiate_v2 = lambda executable, graph, node, log, size: self._instantiate(executable, graph)
        else:
            self.cuGraphInstantiateWithFlags = lambda executable, graph, flags: self._instantiate(executable, graph)

    def cuStreamBeginCapture_v2(self, stream, mode):  # noqa: N802
        assert mode.value == 2
        self._gpu.streams[stream.value].capturing = []
        return 0

    def cuStreamEndCapture(self, stream, graph):  # noqa: N802
        operations, self._gpu.streams[stream.value].capturing = self._gpu.streams[stream.value].capturing, None
        if self._gpu.faults.end_capture:
            return self._gpu.faults.end_capture
        graph._obj.value = next(self._gpu.handles)
        self._gpu.graphs[graph._obj.value] = operations
        return 0

    def _instantiate(self, executable, graph):
        executable._obj.value = next(self._gpu.handles)
        self._gpu.graphs[executable._obj.value] = list(self._gpu.graphs[graph.value])
        return 0

    def cuGraphLaunch(self, executable, stream):  # noqa: N802
        if self._gpu.faults.launch:
            return self._gpu.faults.launch
        self._gpu.launches += 1
        self._gpu.launched[executable.value] = stream.value
        for operation in self._gpu.graphs[executable.value]:
            self._gpu.queue(stream.value, operation)
        return 0

    def cuGraphExecDestroy(self, executable):  # noqa: N802
        stream = self._gpu.streams.get(self._gpu.launched.get(executable.value))
        assert stream is None or not stream.pending, "destroyed before it was done"
        del self._gpu.graphs[executable.value]
        return 0

    def cuGraphDestroy(self, graph):  # noqa: N802
        del self._gpu.graphs[graph.value]
        return 0

    def cuGetErrorName(self, code, text):  # noqa: N802
        text._obj.value = NAMES[code.value]
        return 0

    def cuGetErrorString(self, code, text):  # noqa: N802
        text._obj.value = b"what CUDA says"
        return 0


REFUSED = (
    "This session contains graph nodes that are assigned to the default CPU EP, but fallback to CPU EP has been "
    "explicitly disabled by the user."
)
TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}


class Session:
    """A session on the GPU's memory and on the stream that it was given; the arithmetic is the CPU's.

    loads: whether the CUDA libraries are there; without them ONNX Runtime warns and goes on with the CPU.
    """

    real = onnxruntime.InferenceSession
    loads = True

    def __init__(self, gpu, file, options, providers, enable_fallback):
        ((_, settings),) = providers
        assert enable_fallback == 0, "prints, and tries the CPU"
        self._gpu = gpu
        self._stream = int(settings["user_compute_stream"])
        rest = {"device_id": "0", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
        assert settings == {"user_compute_stream": str(self._stream), **rest}
        plain = onnxruntime.SessionOptions()
        plain.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = Session.real(file, plain, providers=["CPUExecutionProvider"])
        if entry(options, "session.disable_cpu_ep_fallback") == "1" and (
            not self.loads or without_kernel(file, entry(options, "session.disable_quant_qdq"))
        ):
            raise RuntimeError(REFUSED)

    def __del__(self):
        if self._stream not in self._gpu.streams:
            self._gpu.lost.append("the stream of a session")

    def get_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"] if self.loads else ["CPUExecutionProvider"]

    def get_inputs(self):
        return self._session.get_inputs()

    def get_outputs(self):
        return self._session.get_outputs()

    def io_binding(self):
        return Binding(self)

    def run_with_iobinding(self, binding, options):
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        inputs, outputs = dict(binding.inputs), dict(binding.outputs)
        for tensor in self.get_inputs():
            if tensor.name not in inputs:
                raise RuntimeError(f"Missing Input: {tensor.name}")
            if inputs[tensor.name][0] != TYPES[tensor.type]:
                raise RuntimeError(f"Unexpected input data type for {tensor.name}")

        def operation():
            arrays = {name: read(self._gpu, *where) for name, where in inputs.items()}
            for (kind, shape, address), found in zip(
                outputs.values(), self._session.run(list(outputs), arrays), strict=True
            ):
                assert (found.shape, found.dtype) == (shape, kind)
                put(self._gpu.memory(address, found.nbytes), found)

        self._gpu.queue(self._stream, operation)


class Binding:
    """What of onnxruntime.IOBinding takes addresses."""

    def __init__(self, session):
        self._names = [{tensor.name for tensor in side} for side in (session.get_inputs(), session.get_outputs())]
        self.inputs, self.outputs = {}, {}

    def bind_input(self, name, device_type, device_id, element_type, shape, buffer_ptr):
        if name not in self._names[0]:
            raise RuntimeError(f"Error when binding input: Failed to find input name in the mapping: {name}")
        self._bind(self.inputs, name, device_type, device_id, element_type, shape, buffer_ptr)

    def bind_output(self, name, device_type, device_id, element_type, shape, buffer_ptr):
        if name not in self._names[1]:
            raise RuntimeError(f"Failed to find NodeArg with name: {name} in the def list")
        if not buffer_ptr:
            raise RuntimeError("Pointer to data memory is not valid")
        self._bind(self.outputs, name, device_type, device_id, element_type, shape, buffer_ptr)

    def _bind(self, bound, name, device_type, device_id, element_type, shape, buffer_ptr):
        assert (device_type, device_id) == ("cuda", 0)
        assert all(type(side) is int for side in shape)
        bound[name] = (np.dtype(element_type), tuple(shape), buffer_ptr)


def entry(options, name):
    """An entry of session options, "0" where there is none."""
    try:
        return options.get_session_config_entry(name)
    except RuntimeError:
        return "0"


def read(gpu, kind, shape, address):
    """A copy of an array on the GPU."""
    size = int(np.prod(shape)) * kind.itemsize
    return gpu.memory(address, size).copy().view(kind).reshape(shape)


def install_onnxruntime(monkeypatch, gpu):
    """Let ONNX Runtime have a CUDA provider."""

    def session(file, options, providers, **settings):
        if providers[0][0] == "CUDAExecutionProvider":
            return Session(gpu, file, options, providers, **settings)
        return Session.real(file, options, providers=providers, **settings)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
