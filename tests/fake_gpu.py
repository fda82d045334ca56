"""A stand-in for two GPUs: pycuda.driver, the calls of libcuda, sessions of ONNX Runtime and a whole backend on one.

It is strict where mistakes would otherwise not show. Queued work happens when its stream is waited for, and not before,
and only up to the event that is waited for; page-locked memory is read and written then. Memory that was freed, or that
is not the GPU's, cannot be used. New memory holds noise. A recorded graph reads and writes the addresses that it was
recorded with; waiting for a stream that is being recorded spoils the recording. Objects that are freed while no context
is current are lost (`lost`), and a thread must not end with a context on its stack (`check`). Memory, streams, events,
recorded graphs and sessions belong to one GPU, and its context must be current when they are used.
"""

from __future__ import annotations

import functools
import itertools
import sys
import threading
import weakref
from collections import Counter
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime

from sam2edge.bundle import TensorSpec
from sam2edge.engines.low_precision import HOST_TENSORS
from sam2edge.runtime.backends.base import open_backend
from sam2edge.runtime.backends.cuda import context, driver
from sam2edge.runtime.backends.cuda.backend import CudaBackend
from sam2edge.runtime.backends.cuda.runner import CudaRunner, Signature
from tests.cuda_kernels import without_kernel

INVALID, UNSUPPORTED, INVALIDATED = 1, 900, 901
NAMES = {
    INVALID: b"CUDA_ERROR_INVALID_VALUE",
    UNSUPPORTED: b"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
    INVALIDATED: b"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
}


class Gpu:
    """The GPUs, which `devices` describes (name, compute capability, memory, multiprocessors).

    `faults`: the error codes of calls, the memory in bytes, and whether a kernel has failed. After the last,
    queued work is lost, and waiting and leaving the context fail; on a real GPU, for good.
    """

    def __init__(self):
        codes = dict.fromkeys(("begin_capture", "end_capture", "instantiate", "launch"), 0)
        self.faults = SimpleNamespace(**codes, mem_limit=1 << 40, kernel=False)
        self.devices = [("Fake RTX", (8, 9), 8 << 30, 46)] * 2
        self.addresses = itertools.count(0x7F00_0000_0000, 1 << 32)
        self.blocks = {}
        self.owners = {}
        self.pinned = {}
        self.streams = weakref.WeakValueDictionary()
        self.graphs = {}
        self.graph_owners = {}
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
        monkeypatch.setattr(context, "_primary", functools.cache(lambda gpu: context.Context(self.driver, gpu)))

    @property
    def stack(self):
        return self.stacks.setdefault(threading.get_ident(), [])

    @property
    def used(self):
        return sum(len(block) for block in self.blocks.copy().values())

    def check(self):
        """Check that nothing was lost and that no thread has a context left."""
        assert self.lost == []
        assert not any(self.stacks.values())

    def need_context(self, what, gpu=None):
        """Return the number of the GPU whose context is current, which must be `gpu` unless that is None."""
        if not self.stack:
            raise self.driver.LogicError(f"{what} failed: invalid device context - no currently active context?")
        assert gpu in (None, self.stack[-1].gpu), f"{what} on GPU {gpu} with the context of GPU {self.stack[-1].gpu}"
        return self.stack[-1].gpu

    def memory(self, address, size, gpu):
        """Return the bytes at an address, uint8 [size], which must belong to one array on that GPU."""
        assert address, "a null address"
        for begin, block in self.blocks.copy().items():  # other threads free meanwhile
            if begin <= address and address + size <= begin + len(block):
                assert self.owners[begin] == gpu, f"GPU {gpu} reads or writes memory of GPU {self.owners[begin]}"
                return block[address - begin : address - begin + size]
        raise AssertionError(f"{size} bytes at {address:#x} are no memory of the GPU, or were freed")

    def is_pinned(self, array):
        return self.page_locked(array.ctypes.data, array.nbytes) is not None

    def page_locked(self, address, size):
        """Return the bytes at an address of the host, uint8 [size]; None unless they are page-locked."""
        for begin, block in self.pinned.copy().items():
            if begin <= address and address + size <= begin + len(block):
                return block[address - begin : address - begin + size]
        return None

    def on_host(self, array):
        """Return a function that finds an array's bytes when a copy is done, which does not keep the array alive."""
        if not self.is_pinned(array):
            return lambda: array.reshape(-1).view(np.uint8)
        address, size = array.ctypes.data, array.nbytes

        def find():
            found = self.page_locked(address, size)
            assert found is not None, "page-locked memory was freed before a copy was done"
            return found

        return find

    def queue(self, stream, operation):
        stream = self.streams[stream] if isinstance(stream, int) else stream
        self.need_context("launch", stream.gpu)
        if stream.spoilt:
            raise self.driver.LogicError("launch failed: operation failed due to a previous error during capture")
        (stream.pending if stream.capturing is None else stream.capturing).append(operation)

    def queue_run(self, stream, run, inputs, outputs):
        """Queue a run of a graph; inputs and outputs are (dtype, shape, address), an output's shape may be None."""
        gpu = self.streams[stream].gpu

        def operation():
            results = run({name: self.read(*place, gpu) for name, place in inputs.items()})
            for name, (dtype, shape, address) in outputs.items():
                assert (results[name].dtype, results[name].shape) == (dtype, shape or results[name].shape)
                put(self.memory(address, results[name].nbytes, gpu), results[name])

        self.queue(stream, operation)

    def read(self, dtype, shape, address, gpu):
        """Return a copy of an array on a GPU."""
        return self.memory(address, int(np.prod(shape)) * dtype.itemsize, gpu).copy().view(dtype).reshape(shape)


def make_driver(gpu):
    """Make the module pycuda.driver with the names that are used (as in pycuda 2022.1 to 2026.1)."""
    cuda = ModuleType("pycuda.driver")

    class Error(Exception): ...

    class MemoryError(Error): ...

    class LogicError(Error): ...

    class LaunchError(Error): ...

    def check_kernels(call):
        if gpu.faults.kernel:
            raise LaunchError(f"{call} failed: an illegal memory access was encountered")

    class Freed:
        """An object that must be freed while a context is current."""

        gone = False

        def __del__(self):
            if not self.gone and not gpu.stack:
                gpu.lost.append(type(self).__name__)
            elif not self.gone:
                self.free()

    class DeviceAllocation(Freed):
        def __init__(self, size):
            self.address = next(gpu.addresses)
            gpu.owners[self.address] = gpu.need_context("mem_alloc")
            gpu.blocks[self.address] = np.random.default_rng(self.address).integers(0, 255, size, np.uint8)

        def __int__(self):
            return self.address

        def free(self):
            gpu.need_context("mem_free", gpu.owners[self.address])
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
            self.gpu = gpu.need_context("Stream")
            self.handle, self.pending = next(gpu.handles) << 8, []
            self.capturing, self.spoilt = None, False
            gpu.streams[self.handle] = self

        def free(self):
            assert not self.pending, "a stream ended with work on it"
            self.gone = True

        def synchronize(self):
            gpu.need_context("synchronize", self.gpu)
            if self.capturing is not None:
                self.spoilt = True
                raise LogicError("cuStreamSynchronize failed: operation not permitted when stream is capturing")
            self.run()

        def run(self, last=None):
            """Do the queued work up to the operation `last`, by default all."""
            if gpu.faults.kernel:
                self.pending.clear()
            check_kernels("cuStreamSynchronize")
            while self.pending:
                operation = self.pending.pop(0)
                operation()
                if operation is last:
                    return

    class Event(Freed):
        def __init__(self, flags=0):
            assert flags == 2, "an event that takes the time"
            self.gpu = gpu.need_context("Event")
            self.stream, self.mark = None, None

        def free(self):
            self.gone = True

        def record(self, stream=None):
            gpu.need_context("record", self.gpu)
            assert stream.gpu == self.gpu, "an event of another GPU"
            assert stream.capturing is None, "becomes part of the recording, and can then not be waited for"
            self.stream, self.mark = stream, lambda: None
            stream.pending.append(self.mark)

        def synchronize(self):
            gpu.need_context("synchronize", self.gpu)
            check_kernels("cuEventSynchronize")
            if self.mark in self.stream.pending:
                self.stream.run(self.mark)

    class Context:
        def __init__(self, ordinal):
            self.gpu = ordinal

        def push(self):
            gpu.stack.append(self)

        @staticmethod
        def pop():
            gpu.stack.pop()
            check_kernels("cuCtxPopCurrent")

    class Device:
        def __init__(self, ordinal):
            if ordinal >= len(gpu.devices):
                raise LogicError("cuDeviceGet failed: invalid device ordinal")
            self.retain_primary_context = lambda: Context(ordinal)

        @staticmethod
        def count():
            return len(gpu.devices)

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
        size = src.nbytes
        now = gpu.on_host(src if gpu.is_pinned(src) or stream.capturing is not None else src.copy())
        gpu.queue(stream, lambda: put(gpu.memory(dest, size, stream.gpu), now()))

    def memcpy_dtoh_async(dest, src, stream=None):
        size, then = dest.nbytes, gpu.on_host(dest)
        gpu.downloaded += size
        gpu.queue(stream, lambda: put(then(), gpu.memory(src, size, stream.gpu)))
        if not gpu.is_pinned(dest) and stream.capturing is None:
            stream.synchronize()

    def memcpy_dtod_async(dest, src, size, stream=None):
        gpu.queue(stream, lambda: put(gpu.memory(dest, size, stream.gpu), gpu.memory(src, size, stream.gpu)))

    def memset_d8_async(dest, data, size, stream=None):
        gpu.queue(stream, lambda: put(gpu.memory(dest, size, stream.gpu), np.full(size, data, np.uint8)))

    for thing in (Error, MemoryError, LogicError, LaunchError, Stream, Event, Context, Device, mem_alloc,
                  pagelocked_empty, memcpy_htod_async, memcpy_dtoh_async, memcpy_dtod_async,
                  memset_d8_async):  # fmt: skip
        setattr(cuda, thing.__name__, thing)
    cuda.gpu, cuda.init = gpu, lambda: None
    return cuda


def put(to, source):
    to[:] = source.reshape(-1).view(np.uint8)


class LibCuda:
    """The functions that are called through ctypes."""

    def __init__(self, gpu):
        self._gpu = gpu

    def cuInit(self, flags):  # noqa: N802
        return 0

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = len(self._gpu.devices)
        return 0

    def cuDeviceGet(self, device, index):  # noqa: N802
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, title, size, device):  # noqa: N802
        title.value = self._gpu.devices[device.value][0].encode()
        return 0

    def cuDeviceTotalMem_v2(self, memory, device):  # noqa: N802
        memory._obj.value = self._gpu.devices[device.value][2]
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):  # noqa: N802
        _, capability, _, multiprocessors = self._gpu.devices[device.value]
        value._obj.value = {75: capability[0], 76: capability[1], 16: multiprocessors}[attribute]
        return 0

    def cuStreamBeginCapture_v2(self, stream, mode):  # noqa: N802
        assert mode.value == 2
        self._gpu.need_context("begin_capture", self._gpu.streams[stream.value].gpu)
        if not self._gpu.faults.begin_capture:
            self._gpu.streams[stream.value].capturing = []
        return self._gpu.faults.begin_capture

    def cuStreamEndCapture(self, stream, graph):  # noqa: N802
        ended = self._gpu.streams[stream.value]
        self._gpu.need_context("end_capture", ended.gpu)
        operations, code = ended.capturing, INVALIDATED if ended.spoilt else self._gpu.faults.end_capture
        ended.capturing, ended.spoilt = None, False
        if not code:
            graph._obj.value = next(self._gpu.handles)
            self._gpu.graphs[graph._obj.value] = operations
        return code

    def cuGraphInstantiateWithFlags(self, executable, graph, flags):  # noqa: N802
        if not self._gpu.faults.instantiate:
            executable._obj.value = next(self._gpu.handles)
            self._gpu.graph_owners[executable._obj.value] = self._gpu.need_context("instantiate")
            self._gpu.graphs[executable._obj.value] = list(self._gpu.graphs[graph.value])
        return self._gpu.faults.instantiate

    def cuGraphLaunch(self, executable, stream):  # noqa: N802
        if self._gpu.faults.launch:
            return self._gpu.faults.launch
        self._gpu.need_context("launch", self._gpu.graph_owners[executable.value])
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
        text._obj.value = NAMES.get(code.value)
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
    """A session on the GPU's memory and on the stream that it was given, computed on the CPU.

    Unless `loads`, CUDA's libraries are not there: ONNX Runtime then warns and continues on the CPU.
    """

    real = onnxruntime.InferenceSession
    loads = True

    def __init__(self, gpu, file, options, providers, enable_fallback):
        ((_, settings),) = providers
        assert enable_fallback == 0, "prints, and tries the CPU"
        self._gpu = gpu
        self._stream = int(settings["user_compute_stream"])
        rest = {"device_id": str(gpu.streams[self._stream].gpu), "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
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
        return Binding(self, self._gpu.streams[self._stream].gpu)

    def run_with_iobinding(self, binding, options):
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        inputs, outputs = dict(binding.inputs), dict(binding.outputs)
        assert {name: dtype for name, (dtype, *_) in inputs.items()} == {
            tensor.name: TYPES[tensor.type] for tensor in self.get_inputs()
        }

        def run(arrays):
            return dict(zip(outputs, self._session.run(list(outputs), arrays), strict=True))

        self._gpu.queue_run(self._stream, run, inputs, outputs)


class Binding:
    """The methods of onnxruntime.IOBinding that take addresses."""

    def __init__(self, session, gpu):
        self._gpu = gpu
        self._names = [{tensor.name for tensor in side} for side in (session.get_inputs(), session.get_outputs())]
        self.inputs, self.outputs = {}, {}

    def bind_input(self, *arguments):
        self._bind(self._names[0], self.inputs, *arguments)

    def bind_output(self, *arguments):
        self._bind(self._names[1], self.outputs, *arguments)

    def _bind(self, names, bound, name, device_type, device_id, element_type, shape, buffer_ptr):
        assert name in names
        assert buffer_ptr, "ONNX Runtime refuses a null pointer as an output"
        assert (device_type, device_id) == ("cuda", self._gpu)
        assert all(type(side) is int for side in shape)
        bound[name] = (np.dtype(element_type), tuple(shape), buffer_ptr)


def entry(options, name):
    """Return an entry of session options, "0" if there is none."""
    try:
        return options.get_session_config_entry(name)
    except RuntimeError:
        return "0"


def install_onnxruntime(monkeypatch, gpu):
    """Give ONNX Runtime a CUDA provider."""

    def session(file, options, providers, **settings):
        if providers[0][0] == "CUDAExecutionProvider":
            return Session(gpu, file, options, providers, **settings)
        return Session.real(file, options, providers=providers, **settings)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])


class SimulatedDevice(CudaBackend):
    """A backend on the installed stand-in: its arrays cannot be read on the host, its work waits, frames are recorded.

    With `half`, arrays that only pass between graphs are FP16, as those of FP16 engines. `resize` is an ONNX file that
    resizes frames of up to 320 pixels. It counts new arrays and waits, and `done` has the graphs that have run.
    """

    def __init__(self, half=False, resize=None, gpu=0):
        super().__init__(gpu)
        self.half, self.resize, self._inner = half, resize, open_backend("onnx")
        self.machine = self.context.cuda.gpu
        self.counts = Counter()  # which all users share
        self.done = []

    @property
    def allocated(self):
        return self.counts["allocated"]

    @property
    def waits(self):
        return self.counts["waits"]

    @property
    def replayed(self):
        return self.machine.launches

    def open(self, graph):
        return _SimulatedRunner(self, graph.name, self._inner.open(graph))

    def resizer(self, bundle, size):
        return self.open(self.resize) if self.resize and max(size) <= 320 else None

    def zeros(self, shape, dtype=np.float32):
        self.counts["allocated"] += 1
        return super().zeros(shape, dtype)

    def staging(self, shape, dtype=np.float32):
        self.counts["allocated"] += 1
        return super().staging(shape, dtype)

    def synchronize(self):
        self.counts["waits"] += 1
        super().synchronize()

    def fence(self):
        wait = super().fence()

        def counted():
            self.counts["waits"] += 1
            wait()

        return counted


class _SimulatedRunner(CudaRunner):
    def __init__(self, device, name, inner):
        session = inner._session
        inputs, outputs = (
            tuple(TensorSpec(tensor.name, np.dtype(TYPES[tensor.type]).name, tuple(tensor.shape)) for tensor in tensors)
            for tensors in (session.get_inputs(), session.get_outputs())
        )
        dtypes = {spec.name: np.dtype(spec.dtype) for spec in (*inputs, *outputs)}
        if device.half:
            dtypes |= {name: np.dtype("f2") for name in dtypes.keys() - HOST_TENSORS if dtypes[name] == np.float32}
        super().__init__(device, Signature(name, inputs, outputs, dtypes))
        self._inner, self._types = inner, {spec.name: spec.dtype for spec in inputs}

    def _enqueue(self, inputs, outputs):
        inputs, outputs = (
            {name: (array.dtype, array.shape, array.address) for name, array in arrays.items()}
            for arrays in (inputs, outputs)
        )

        def run(arrays):
            results = self._inner.run({name: array.astype(self._types[name]) for name, array in arrays.items()})
            self._backend.done.append(self._signature.name)
            return {name: array.astype(outputs[name][0]) for name, array in results.items()}

        self._backend.machine.queue_run(self._backend.stream.handle, run, inputs, outputs)
