"""A stand-in for two GPUs: pycuda on the driver of fake_driver.py, sessions of ONNX Runtime and a whole backend."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
from collections import Counter
from types import ModuleType

import numpy as np
import onnxruntime

from sam2edge.bundle import TensorSpec
from sam2edge.engines.low_precision import HOST_TENSORS
from sam2edge.runtime.backends.base import open_backend
from sam2edge.runtime.backends.cuda import context, driver
from sam2edge.runtime.backends.cuda.backend import CudaBackend
from sam2edge.runtime.backends.cuda.runner import CudaRunner, Signature
from tests.cuda_kernels import without_kernel
from tests.fake_driver import ERRORS, OUT_OF_MEMORY, Driver, LibCuda, put

PRIMARY = context._primary.__wrapped__
"""What makes a context, without the cache."""


class Gpu(Driver):
    """The GPUs and pycuda; a thread must not end with a context on its stack (`check`)."""

    def __init__(self):
        super().__init__()
        self.pushed = {}  # pycuda's contexts of each thread, with any of which pycuda would end the process
        self.libcuda = LibCuda(self)
        self.driver = self.make_pycuda()
        self.failures = self.driver.Error

    def make_pycuda(self):
        """Make the module pycuda.driver."""
        return make_pycuda(self)

    def install(self, monkeypatch):
        package = ModuleType("pycuda")
        package.driver = self.driver
        monkeypatch.setitem(sys.modules, "pycuda", package)
        monkeypatch.setitem(sys.modules, "pycuda.driver", self.driver)
        monkeypatch.setattr(driver, "library", lambda: self.libcuda)
        monkeypatch.setattr(context, "_primary", functools.cache(PRIMARY))

    def check(self):
        """Check that nothing was lost and that no thread has a context left."""
        assert self.lost == []
        assert not any(self.stacks.values())
        assert not any(self.pushed.values())

    def queue_run(self, stream, run, inputs, outputs):
        """Queue a run of a graph; inputs and outputs are (dtype, shape, address), an output's shape may be None."""
        gpu = self.streams[stream].gpu

        def operation():
            results = run({name: self.read(*place, gpu) for name, place in inputs.items()})
            for name, (dtype, shape, address) in outputs.items():
                assert (results[name].dtype, results[name].shape) == (dtype, shape or results[name].shape)
                put(self.memory(address, results[name].nbytes, gpu), results[name])

        if code := self.queue(stream, operation):
            raise self.driver.LogicError(f"launch failed: {ERRORS[code][1]}")

    def lose_work(self, stream):
        """Forget what is queued on a pycuda stream, as after an error of the GPU."""
        self.streams[stream.handle].pending.clear()

    def read(self, dtype, shape, address, gpu):
        """Return a copy of an array on a GPU."""
        return self.memory(address, int(np.prod(shape)) * dtype.itemsize, gpu).copy().view(dtype).reshape(shape)


def new_gpu():
    """Make the stand-in, or with SAM2EDGE_SHIM one whose driver serves the real pycuda."""
    if "SAM2EDGE_SHIM" not in os.environ:
        return Gpu()
    from tests.gpu.real_pycuda import shared_gpu

    shared_gpu().reset()
    return shared_gpu()


def make_pycuda(gpu):
    """Make the module pycuda.driver with the names that are used, which does what pycuda 2022.1 to 2026.1 does."""
    cuda = ModuleType("pycuda.driver")

    class Error(Exception): ...

    class MemoryError(Error): ...

    class LogicError(Error): ...

    class LaunchError(Error): ...

    def call(name, *arguments):
        if code := getattr(gpu.libcuda, name)(*arguments):
            kind = MemoryError if code == OUT_OF_MEMORY else LogicError
            raise kind(f"{name.removesuffix('_v2')} failed: {ERRORS[code][1]}")

    def made(kind, name, *arguments):
        value = kind()
        call(name, ctypes.byref(value), *arguments)
        return value.value

    def contexts():
        """Return the contexts of the thread, of which the driver has the last one."""
        return gpu.pushed.setdefault(threading.get_ident(), [])

    class Context:
        """What fails stays on the stack, and leaves it when it is dead."""

        def __init__(self, ordinal):
            self.ordinal, self.valid = ordinal, True
            self.handle = made(ctypes.c_void_p, "cuDevicePrimaryCtxRetain", ordinal)

        def push(self):
            if contexts():
                call("cuCtxPopCurrent_v2", 0)
            call("cuCtxPushCurrent_v2", self.handle)
            contexts().append(self)

        @staticmethod
        def pop():
            if contexts():
                call("cuCtxPopCurrent_v2", 0)
            if not Context.get_current():
                raise LogicError("m_stack::pop failed: cannot pop context from empty stack")
            contexts().pop()
            if current := Context.get_current():
                call("cuCtxPushCurrent_v2", current.handle)

        @staticmethod
        def get_current():
            while contexts() and not contexts()[-1].valid:
                contexts().pop()
            return contexts()[-1] if contexts() else None

        def detach(self):
            if not self.valid:
                raise LogicError("context::detach failed: cannot detach from invalid context")
            self.valid = False
            gpu.call("cuDevicePrimaryCtxRelease_v2", self.ordinal)
            Context.get_current()

    class Freed:
        """An object that is freed while a context is current, unless its own is dead."""

        def __init__(self, kind, create, destroy, *arguments):
            self.context = Context.get_current()
            if self.context is None:
                raise LogicError("explicit_context_dependent failed: no currently active context?")
            self._destroy, self.handle = None, made(kind, create, *arguments)
            self._destroy = destroy

        def free(self):
            destroy, self._destroy = self._destroy, None
            if self.context.valid:
                gpu.call(destroy, self.handle)  # a failure is printed

        def __int__(self):
            return self.handle

        def __del__(self):
            if getattr(self, "_destroy", None):
                self.free()

    class PagelockedHostAllocation(Freed):
        def __init__(self, size):
            super().__init__(ctypes.c_void_p, "cuMemHostAlloc", "cuMemFreeHost", size, 0)
            self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (self.handle, False), "version": 3}

    class Stream(Freed):
        def __init__(self, flags=0):
            super().__init__(ctypes.c_void_p, "cuStreamCreate", "cuStreamDestroy_v2", flags)

        def synchronize(self):
            call("cuStreamSynchronize", self.handle)

    class Event(Freed):
        def __init__(self, flags=0):
            super().__init__(ctypes.c_void_p, "cuEventCreate", "cuEventDestroy_v2", flags)

        def record(self, stream=None):
            call("cuEventRecord", self.handle, stream.handle)

        def synchronize(self):
            call("cuEventSynchronize", self.handle)

    class Device:
        def __init__(self, ordinal):
            self.ordinal = made(ctypes.c_int, "cuDeviceGet", ordinal)

        def retain_primary_context(self):
            return Context(self.ordinal)

        @staticmethod
        def count():
            return made(ctypes.c_int, "cuDeviceGetCount")

    def init():
        call("cuInit", 0)

    def mem_alloc(size):
        return Freed(ctypes.c_void_p, "cuMemAlloc_v2", "cuMemFree_v2", size)

    def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
        assert (np.dtype(dtype), order, mem_flags) == (np.uint8, "C", 0)
        return np.asarray(PagelockedHostAllocation(shape))

    def memcpy_htod_async(dest, src, stream=None):
        call("cuMemcpyHtoDAsync_v2", dest, src.ctypes.data, src.nbytes, stream.handle)

    def memcpy_dtoh_async(dest, src, stream=None):
        call("cuMemcpyDtoHAsync_v2", dest.ctypes.data, src, dest.nbytes, stream.handle)

    def memcpy_dtod_async(dest, src, size, stream=None):
        call("cuMemcpyDtoDAsync_v2", dest, src, size, stream.handle)

    def memset_d8_async(dest, data, size, stream=None):
        call("cuMemsetD8Async", dest, data, size, stream.handle)

    for thing in (Error, MemoryError, LogicError, LaunchError, Stream, Event, Context, Device, init, mem_alloc,
                  pagelocked_empty, memcpy_htod_async, memcpy_dtoh_async, memcpy_dtod_async,
                  memset_d8_async):  # fmt: skip
        setattr(cuda, thing.__name__, thing)
    cuda.gpu = gpu
    return cuda


REFUSED = (
    "This session contains graph nodes that are assigned to the default CPU EP, but fallback to CPU EP has been "
    "explicitly disabled by the user."
)
TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


class Session:
    """A session on the GPU's memory and on the stream that it was given, computed on the CPU.

    Unless `loads`, CUDA's libraries are not there: ONNX Runtime then warns and continues on the CPU.
    """

    real = onnxruntime.InferenceSession
    loads = True
    preloaded = False

    def __init__(self, gpu, file, options, providers, enable_fallback):
        ((_, settings),) = providers
        assert self.preloaded, "libraries that pip installed are not found"
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

    def preload_dlls():
        print("Failed to load libcublasLt.so.13")
        monkeypatch.setattr(Session, "preloaded", True)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload_dlls)
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
