"""A stand-in for NVIDIA's driver with two GPUs.

It is strict where mistakes would otherwise not show. Queued work happens when its stream is waited for, and not before,
and only up to the event that is waited for; page-locked memory is read and written then. Memory that was freed, or that
is not the GPU's, cannot be used. New memory holds noise. A recorded graph reads and writes the addresses that it was
recorded with; waiting for a stream that is being recorded spoils the recording. What is freed while no context is
current is lost (`lost`). Memory, streams, events and recorded graphs belong to one GPU, and its context must be current
when they are used.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections import Counter
from types import SimpleNamespace

import numpy as np

INVALID, OUT_OF_MEMORY, INVALID_DEVICE, INVALID_CONTEXT, INVALID_HANDLE = 1, 2, 101, 201, 400
FAILED, UNSUPPORTED, INVALIDATED, UNKNOWN = 700, 900, 901, 999
ERRORS = {
    INVALID: ("CUDA_ERROR_INVALID_VALUE", "invalid argument"),
    OUT_OF_MEMORY: ("CUDA_ERROR_OUT_OF_MEMORY", "out of memory"),
    INVALID_DEVICE: ("CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"),
    INVALID_CONTEXT: ("CUDA_ERROR_INVALID_CONTEXT", "invalid device context"),
    INVALID_HANDLE: ("CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"),
    UNKNOWN: ("CUDA_ERROR_UNKNOWN", "unknown error"),
    FAILED: ("CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"),
    UNSUPPORTED: ("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"),
    INVALIDATED: ("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"),
}
"""Names and descriptions of CUDA."""
TEXTS = {code: [ctypes.create_string_buffer(text.encode()) for text in texts] for code, texts in ERRORS.items()}
CONTEXT = 0x1000
"""The handle of the first GPU's primary context; the others follow."""


class _UnknownError(Exception): ...


class _Handles(dict):
    def __missing__(self, handle):
        raise _UnknownError


class Driver:
    """The driver of GPUs that `devices` describes (name, compute capability, memory, multiprocessors).

    Methods that begin with "cu" are its calls as CUDA documents them, with integers for pointers and handles. `call` is
    for those that are not the driver itself, and `LibCuda` for ctypes.

    `faults`: the error codes of calls, the memory in bytes, and whether a kernel has failed. After the last,
    queued work is lost, and waiting fails; leaving the context too, unless it `leaves`. On a real GPU that is for good.
    """

    failures: type[Exception] | tuple[()] = ()
    """What queued work raises as an error of the GPU."""

    def __init__(self):
        self.handles = itertools.count(0x100, 0x100)
        self.addresses = itertools.count(0x7F00_0000_0000, 1 << 32)
        self.stacks = {}
        self.reset()

    def reset(self):
        """Forget everything but what threads have current."""
        codes = dict.fromkeys(("begin_capture", "end_capture", "instantiate", "launch"), 0)
        self.faults = SimpleNamespace(**codes, mem_limit=1 << 40, kernel=False, leaves=False)
        self.devices = [("Fake RTX", (8, 9), 8 << 30, 46)] * 2
        self.blocks, self.owners, self.pinned = {}, {}, {}
        self.streams, self.events, self.graphs, self.graph_owners, self.launched = (_Handles() for _ in range(5))
        self.retained = Counter()
        self.lost = []
        self.launches = self.downloaded = self.allocations = 0

    @property
    def stack(self):
        """The GPUs whose contexts this thread has, the current one last."""
        return self.stacks.setdefault(threading.get_ident(), [])

    @property
    def current(self):
        """The GPU whose context is current, or None."""
        return self.stack[-1] if self.stack else None

    @property
    def used(self):
        return sum(len(block) for block in self.blocks.copy().values())

    def call(self, name, *arguments):
        """Return the code of a call of the driver."""
        try:
            return getattr(self, name)(*arguments)
        except _UnknownError:
            return INVALID_HANDLE

    def memory(self, address, size, gpu):
        """Return the bytes at an address, uint8 [size], which must belong to one array on that GPU."""
        assert address, "a null address"
        for begin, block in self.blocks.copy().items():  # other threads free meanwhile
            if begin <= address and address + size <= begin + len(block):
                assert self.owners[begin] == gpu, f"GPU {gpu} reads or writes memory of GPU {self.owners[begin]}"
                return block[address - begin : address - begin + size]
        raise AssertionError(f"{size} bytes at {address:#x} are no memory of the GPU, or were freed")

    def page_locked(self, address, size):
        """Return the bytes at an address of the host, uint8 [size]; None unless they are page-locked."""
        for begin, block in self.pinned.copy().items():
            if begin <= address and address + size <= begin + len(block):
                return block[address - begin : address - begin + size]
        return None

    def on_host(self, address, size):
        """Return a function that finds bytes of the host when a copy is done."""
        if self.page_locked(address, size) is None:
            return lambda: on_host(address, size)

        def find():
            found = self.page_locked(address, size)
            assert found is not None, "page-locked memory was freed before a copy was done"
            return found

        return find

    def queue(self, stream, operation):
        """Queue or record; return the code of the call."""
        state = self.streams[stream]
        assert self.current == state.gpu, f"work on GPU {state.gpu} with the context of GPU {self.current}"
        if self.faults.kernel:
            return FAILED
        if state.spoilt:
            return INVALIDATED
        (state.pending if state.capturing is None else state.capturing).append(operation)
        return 0

    def work(self, stream, last=None):
        """Do the queued work up to the operation `last`, by default all; return the code of the call that waits."""
        pending = self.streams[stream].pending
        while pending and not self.faults.kernel:
            operation = pending.pop(0)
            try:
                operation()
            except BaseException as error:
                pending.clear()  # it is lost, and what it was to write may not be there any more
                if isinstance(error, self.failures):
                    return FAILED
                raise
            if operation is last:
                break
        return FAILED if self.faults.kernel else 0

    # Devices and contexts

    def cuInit(self, flags):  # noqa: N802
        return 0

    def cuDriverGetVersion(self, version):  # noqa: N802
        return store(version, ctypes.c_int, 13000)

    def cuDeviceGetCount(self, count):  # noqa: N802
        return store(count, ctypes.c_int, len(self.devices))

    def cuDeviceGet(self, found, index):  # noqa: N802
        return store(found, ctypes.c_int, index) if index < len(self.devices) else INVALID_DEVICE

    def cuDeviceGetName(self, title, length, device):  # noqa: N802
        return store(title, ctypes.c_char * length, self.devices[device][0].encode())

    def cuDeviceTotalMem_v2(self, memory, device):  # noqa: N802
        return store(memory, ctypes.c_size_t, self.devices[device][2])

    def cuDeviceGetAttribute(self, found, attribute, device):  # noqa: N802
        _, capability, _, multiprocessors = self.devices[device]
        return store(found, ctypes.c_int, {75: capability[0], 76: capability[1], 16: multiprocessors}[attribute])

    def cuDevicePrimaryCtxRetain(self, made, device):  # noqa: N802
        self.retained[device] += 1
        return store(made, ctypes.c_void_p, CONTEXT + device)

    def cuDevicePrimaryCtxRelease_v2(self, device):  # noqa: N802
        self.retained[device] -= 1
        if not self.retained[device]:
            for owned in (self.streams, self.events):
                for handle in [handle for handle, thing in owned.items() if thing.gpu == device]:
                    del owned[handle]
            for owners, owned in ((self.owners, self.blocks), (self.graph_owners, self.graphs)):
                for key in [key for key in owned if owners[key] == device]:
                    del owned[key]
            self.pinned.clear()
        return FAILED if self.faults.kernel else 0

    def cuCtxDetach(self, handle):  # noqa: N802
        return INVALID_CONTEXT  # it is for contexts of cuCtxCreate

    def cuCtxPushCurrent_v2(self, handle):  # noqa: N802
        self.stack.append(handle - CONTEXT)
        return 0

    def cuCtxPopCurrent_v2(self, handle):  # noqa: N802
        if not self.stack:
            return INVALID_CONTEXT
        popped = self.stack.pop()
        if handle:
            store(handle, ctypes.c_void_p, CONTEXT + popped)
        return FAILED if self.faults.kernel and not self.faults.leaves else 0

    # Memory

    def cuMemAlloc_v2(self, address, size):  # noqa: N802
        if code := self._may_make():
            return code
        if self.used + size > self.faults.mem_limit:
            return OUT_OF_MEMORY
        self.allocations += 1
        made = next(self.addresses)
        self.owners[made] = self.current
        self.blocks[made] = np.random.default_rng(made).integers(0, 255, size, np.uint8)
        return store(address, ctypes.c_void_p, made)

    def cuMemFree_v2(self, address):  # noqa: N802
        return self._freed("memory", self.owners.get(address), self.blocks, address)

    def cuMemHostAlloc(self, address, size, flags):  # noqa: N802
        if code := self._may_make():
            return code
        assert flags == 0
        memory = np.full(size, 0xCD, np.uint8)
        self.pinned[memory.ctypes.data] = memory
        return store(address, ctypes.c_void_p, memory.ctypes.data)

    def cuMemFreeHost(self, address):  # noqa: N802
        if address in self.pinned:
            self.pinned[address][:] = 0xDD
        return self._freed("page-locked memory", self.current, self.pinned, address)

    def cuMemGetInfo_v2(self, unused, total):  # noqa: N802
        memory = self.devices[self.current][2]
        store(total, ctypes.c_size_t, memory)
        return store(unused, ctypes.c_size_t, memory - self.used)

    def cuMemcpyHtoDAsync_v2(self, to, source, size, stream):  # noqa: N802
        gpu, find = self.streams[stream].gpu, self.on_host(source, size)
        if self.page_locked(source, size) is None and self.streams[stream].capturing is None:
            staged = find().copy()
            find = lambda: staged  # noqa: E731
        return self.queue(stream, lambda: put(self.memory(to, size, gpu), find()))

    def cuMemcpyDtoHAsync_v2(self, to, source, size, stream):  # noqa: N802
        gpu, find = self.streams[stream].gpu, self.on_host(to, size)
        self.downloaded += size
        code = self.queue(stream, lambda: put(find(), self.memory(source, size, gpu)))
        if not code and self.page_locked(to, size) is None and self.streams[stream].capturing is None:
            code = self.work(stream)
        return code

    def cuMemcpyDtoDAsync_v2(self, to, source, size, stream):  # noqa: N802
        gpu = self.streams[stream].gpu
        return self.queue(stream, lambda: put(self.memory(to, size, gpu), self.memory(source, size, gpu)))

    def cuMemsetD8Async(self, to, byte, size, stream):  # noqa: N802
        gpu = self.streams[stream].gpu
        return self.queue(stream, lambda: put(self.memory(to, size, gpu), np.full(size, byte, np.uint8)))

    # Streams and events

    def cuStreamCreate(self, handle, flags):  # noqa: N802
        assert flags == 1, "a stream that waits for the default stream"
        state = SimpleNamespace(gpu=self.current, pending=[], capturing=None, spoilt=False)
        return self._may_make() or store(handle, ctypes.c_void_p, self._keep(self.streams, state))

    def cuStreamDestroy_v2(self, handle):  # noqa: N802
        stream = self.streams.get(handle)
        assert stream is None or not stream.pending or self.faults.kernel, "a stream ended with work on it"
        return self._freed("a stream", stream and stream.gpu, self.streams, handle)

    def cuStreamSynchronize(self, handle):  # noqa: N802
        stream = self.streams[handle]
        assert self.current == stream.gpu, f"GPU {stream.gpu} is waited for with the context of GPU {self.current}"
        if stream.capturing is not None:
            stream.spoilt = True
            return UNSUPPORTED
        return self.work(handle)

    def cuEventCreate(self, handle, flags):  # noqa: N802
        assert flags == 2, "an event that takes the time"
        state = SimpleNamespace(gpu=self.current, stream=None, mark=None)
        return self._may_make() or store(handle, ctypes.c_void_p, self._keep(self.events, state))

    def cuEventDestroy_v2(self, handle):  # noqa: N802
        event = self.events.get(handle)
        return self._freed("an event", event and event.gpu, self.events, handle)

    def cuEventRecord(self, handle, stream):  # noqa: N802
        event = self.events[handle]
        assert self.streams[stream].gpu == event.gpu, "an event of another GPU"
        capturing = self.streams[stream].capturing is not None
        assert not capturing, "becomes part of the recording, and can then not be waited for"
        event.stream, event.mark = stream, lambda: None
        return self.queue(stream, event.mark)

    def cuEventSynchronize(self, handle):  # noqa: N802
        event = self.events[handle]
        assert self.current == event.gpu, f"GPU {event.gpu} is waited for with the context of GPU {self.current}"
        if event.stream in self.streams and event.mark in self.streams[event.stream].pending:
            return self.work(event.stream, event.mark)
        return FAILED if self.faults.kernel else 0

    # Recordings

    def cuStreamBeginCapture_v2(self, handle, mode):  # noqa: N802
        assert mode == 2
        assert self.current == self.streams[handle].gpu
        if not self.faults.begin_capture:
            self.streams[handle].capturing = []
        return self.faults.begin_capture

    def cuStreamEndCapture(self, handle, graph):  # noqa: N802
        ended = self.streams[handle]
        assert self.current == ended.gpu
        operations, code = ended.capturing, INVALIDATED if ended.spoilt else self.faults.end_capture
        ended.capturing, ended.spoilt = None, False
        if not code:
            store(graph, ctypes.c_void_p, self._keep(self.graphs, operations, self.graph_owners))
        return code

    def cuGraphInstantiateWithFlags(self, executable, graph, flags):  # noqa: N802
        if not self.faults.instantiate:
            made = self._keep(self.graphs, list(self.graphs[graph]), self.graph_owners)
            store(executable, ctypes.c_void_p, made)
        return self.faults.instantiate

    def cuGraphLaunch(self, executable, stream):  # noqa: N802
        if self.faults.launch:
            return self.faults.launch
        assert self.current == self.graph_owners[executable]
        self.launches += 1
        self.launched[executable] = stream
        return max(self.queue(stream, operation) for operation in self.graphs[executable])

    def cuGraphExecDestroy(self, executable):  # noqa: N802
        stream = self.streams.get(self.launched.get(executable))
        assert stream is None or not stream.pending or self.faults.kernel, "destroyed before it was done"
        return self._freed("a recording", self.graph_owners.get(executable), self.graphs, executable)

    def cuGraphDestroy(self, graph):  # noqa: N802
        return self._freed("a graph", self.graph_owners.get(graph), self.graphs, graph)

    # Errors

    def cuGetErrorName(self, code, text):  # noqa: N802
        return store(text, ctypes.c_void_p, ctypes.addressof(TEXTS[code][0]) if code in TEXTS else None)

    def cuGetErrorString(self, code, text):  # noqa: N802
        return store(text, ctypes.c_void_p, ctypes.addressof(TEXTS[code][1]) if code in TEXTS else None)

    def _may_make(self):
        return INVALID_CONTEXT if self.current is None else FAILED if self.faults.kernel else 0

    def _keep(self, kept, thing, owners=None):
        handle = next(self.handles)
        kept[handle] = thing
        if owners is not None:
            owners[handle] = self.current
        return handle

    def _freed(self, what, owner, kept, handle):
        if self.current is None:
            self.lost.append(what)
            return INVALID_CONTEXT
        if handle not in kept:
            raise _UnknownError
        assert owner == self.current, f"{what} of GPU {owner} is freed with the context of GPU {self.current}"
        del kept[handle]
        return FAILED if self.faults.kernel else 0


def store(address, kind, value):
    """Write a result of a call to an address; return 0."""
    kind.from_address(address).value = value
    return 0


def on_host(address, size):
    """Return bytes of the host, uint8 [size]."""
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)


def put(to, source):
    to[:] = source.reshape(-1).view(np.uint8)


class LibCuda:
    """The driver, as ctypes has it."""

    def __init__(self, gpu):
        self._gpu = gpu

    def __getattr__(self, name):
        return lambda *arguments: self._gpu.call(name, *map(plain, arguments))


def plain(argument):
    """Return an argument of a call through ctypes as an integer."""
    if isinstance(argument, ctypes.Array):
        return ctypes.addressof(argument)
    if isinstance(argument, ctypes._SimpleCData):
        return argument.value or 0
    return argument if isinstance(argument, int) else ctypes.addressof(argument._obj)
