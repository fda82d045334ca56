"""Arrays, copies and recordings on a stand-in for a GPU that does nothing until it is waited for."""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest

from sam2edge.errors import BackendError
from sam2edge.runtime.backends.cuda import context, driver
from sam2edge.runtime.backends.cuda.backend import CudaBackend
from tests.fake_driver import INVALID, UNSUPPORTED


class Copies(CudaBackend):
    """The device alone."""

    def open(self, graph):
        raise NotImplementedError


@pytest.fixture
def backend(gpu):
    made = Copies()
    yield made
    made.forget()  # pytest keeps it longer than the GPU


def test_kernels_are_loaded_when_they_run(monkeypatch):
    """TensorRT's libraries have thousands; the user's own choice stays."""
    monkeypatch.setattr(driver.ctypes, "CDLL", lambda name: name)
    load, name = driver.library.__wrapped__, "CUDA_MODULE_LOADING"
    monkeypatch.setenv(name, "EAGER")
    load()
    assert os.environ[name] == "EAGER"
    monkeypatch.delenv(name)
    load()
    assert os.environ[name] == "LAZY"


def stored(backend, values):
    host = backend.staging(values.shape, values.dtype)
    host[...] = values
    array = backend.zeros(values.shape, values.dtype)
    backend.copy(host, array)
    backend.synchronize()
    return array


@pytest.mark.parametrize("shape", [(2, 3), (1, 0, 2)])
def test_zeros(backend, shape):
    """Empty arrays have an address, too."""
    array, expected = backend.zeros(shape, np.int32), np.zeros(shape, np.int32)
    assert (array.dtype, array.nbytes, len(array)) == (np.int32, expected.nbytes, len(expected))
    assert array.address
    np.testing.assert_array_equal(backend.download(array), expected, strict=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32, np.bool_, np.uint8])
def test_upload_and_download(backend, dtype):
    values = np.random.default_rng(0).integers(0, 2, (3, 5)).astype(dtype)
    np.testing.assert_array_equal(backend.download(stored(backend, values)), values)


def test_views_are_of_the_first_axis(backend):
    values = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    array = stored(backend, values)
    for index in (0, 3, -1, slice(1, 3), slice(None), slice(-2, None), slice(3, 1)):
        np.testing.assert_array_equal(backend.download(array[index]), values[index])
    np.testing.assert_array_equal(backend.download(array[2][1]), values[2, 1])
    assert [len(entry) for entry in array] == [3] * 4
    backend.copy(array[0], array[3])
    np.testing.assert_array_equal(backend.download(array[3]), values[0])


@pytest.mark.parametrize(
    ("index", "message"), [(4, "entry 4 of an array on the GPU with 4"), (slice(0, 4, 2), "the step is 2")]
)
def test_wrong_views(backend, index, message):
    array = backend.zeros((4, 2))
    with pytest.raises(IndexError, match=message):
        array[index]
    with pytest.raises(BackendError, match=r"on the GPU: copy\(\) it into one from staging"):
        np.asarray(array)


def test_a_copy_happens_when_it_is_waited_for(backend):
    """Only then are staging arrays read and written, so that a missing wait is noticed."""
    array, host = backend.zeros((3,)), backend.staging((3,))
    host[...] = 1
    backend.copy(host, array)
    host[...] = 2
    found = backend.staging((3,))
    backend.copy(array, found)
    assert found.tolist() == [0, 0, 0]
    backend.synchronize()
    assert found.tolist() == [2, 2, 2]


def test_copies_between_unequal_arrays_are_refused(backend):
    array = backend.zeros((2, 3))
    with pytest.raises(BackendError, match=r"they are float32\[3, 2\] and float32\[2, 3\]"):
        backend.copy(backend.staging((3, 2)), array)
    with pytest.raises(BackendError, match=r"they are float16\[2, 3\]"):
        backend.copy(backend.staging((2, 3), np.float16), array)
    with pytest.raises(BackendError, match="needs contiguous arrays"):
        backend.copy(backend.staging((2, 6))[:, ::2], array)
    with pytest.raises(BackendError, match="needs an array on the GPU"):
        backend.copy(backend.staging((2,)), backend.staging((2,)))


# Memory


def test_all_memory_is_freed(gpu):
    backend = Copies()
    array, host = stored(backend, np.ones((1000,), np.float32)), backend.staging((7,))
    view = array[3:5]
    del array
    np.testing.assert_array_equal(backend.download(view), [1, 1])
    assert gpu.used
    del view, host, backend
    assert (gpu.used, len(gpu.pinned), len(gpu.streams)) == (0, 0, 0)


def test_memory_is_freed_from_any_thread(gpu):
    """In pycuda, memory leaks that is freed without its context, and a thread that keeps a context ends the process."""
    made = []
    for step in (lambda: made.extend((backend := Copies(), backend.zeros((9,)), backend.staging((9,)))), made.clear):
        with ThreadPoolExecutor(1) as thread:
            thread.submit(step).result()
    assert (gpu.used, len(gpu.pinned), len(gpu.streams)) == (0, 0, 0)


def test_steady_state_does_not_allocate(gpu, backend):
    for _ in range(6):
        backend.zeros((5, 5))
        backend.synchronize()
    assert gpu.allocations == 1


def test_memory_in_use_is_not_reused(gpu, backend):
    """An array may be dropped while work is queued on it, on this stream or on another."""
    other = backend.new_stream()
    array, host = stored(backend, np.full(4, 7, np.float32)), other.staging((4,))
    other.copy(array, host)
    address = array.address
    del array
    backend.synchronize()
    assert backend.zeros((4,)).address != address
    other.synchronize()
    assert host.tolist() == [7] * 4
    backend.synchronize()
    assert address in {backend.zeros((4,)).address, *(block for block in gpu.blocks)}


def test_idle_streams_do_not_delay_reuse(gpu, backend):
    """For example, images are encoded on one stream and never read on the other."""
    other = backend.new_stream()
    allocations = []
    for _ in range(5):
        array = other.zeros((4,))
        other.copy(array, other.staging((4,)))
        del array
        other.synchronize()
        allocations.append((gpu.allocations, len(gpu.pinned)))
    assert allocations[1:] == allocations[1:2] * 4
    backend.copy(other.zeros((4,)), other.staging((4,)))  # from here on this stream may use what is dropped
    array = other.zeros((4,))
    address = array.address
    del array
    other.synchronize()
    assert other.zeros((4,)).address != address


def test_streams_that_have_nothing_to_do_are_idle(gpu, backend):
    """After a fence, and after calls that queue nothing: what others drop need not wait for their next work."""
    other = backend.new_stream()
    backend.copy(backend.zeros((4,)), backend.staging((4,)))
    backend.fence()()
    with backend.exclusive():
        pass
    array = other.zeros((4,))
    address = array.address
    del array
    assert other.zeros((4,)).address == address


def test_a_stream_may_end_while_memory_is_looked_for(backend):
    """The garbage collector may end one in the thread that goes through the streams, and must not make it skip one."""
    other = backend.new_stream()
    streams = backend._memory._timelines
    before = list(streams)
    del other
    gc.collect()
    assert streams == before
    assert backend._memory._timelines == before[:-1]


def test_a_large_array_does_not_keep_small_ones_from_reuse(gpu, backend):
    large, small = backend.zeros((1024,)), backend.zeros((4,))
    address = small.address
    del large, small
    backend._memory.settle(keep=1024)
    assert gpu.used == 512
    assert backend.zeros((4,)).address == address


def test_forget_frees_memory(gpu, backend):
    keep = backend.zeros((8,))
    backend.zeros((100, 100))
    assert gpu.used > 40000
    backend.forget()
    assert gpu.used == 512
    assert keep.nbytes == 32


def test_a_full_gpu_frees_the_memory_kept_for_reuse(gpu, backend):
    backend.zeros((1000,))
    backend.synchronize()
    gpu.faults.mem_limit = 4096
    assert backend.zeros((1024,)).nbytes == 4096
    with pytest.raises(BackendError, match=r"GPU memory ran out \(cuMemAlloc failed: out of memory\).*max_objects"):
        backend.zeros((1025,))


# Recordings


def counting(backend):
    """Return steps that only copy source to middle to result, and count their calls."""
    source, result = backend.staging((4,)), backend.staging((4,))
    middle, last = backend.zeros((4,)), backend.zeros((4,))
    calls = []

    def steps():
        calls.append(1)
        backend.copy(source, middle)
        backend.copy(middle, last)
        backend.copy(last, result)

    return source, result, steps, calls


def test_the_third_time_is_recorded(gpu, backend):
    source, result, steps, calls = counting(backend)
    for frame in range(6):
        source[...] = frame
        backend.replay("key", steps)
        backend.synchronize()
        assert result.tolist() == [frame] * 4
    assert (len(calls), gpu.launches) == (3, 4)


def test_a_recording_holds_its_arrays(gpu, backend):
    source, result, steps, _ = counting(backend)
    for _ in range(3):
        backend.replay("key", steps)
    backend.synchronize()
    del steps
    gc.collect()
    backend.synchronize()
    others = [backend.zeros((4,)) for _ in range(3)]
    source[...] = 5
    backend.replay("key", lambda: pytest.fail("is recorded"))
    backend.synchronize()
    assert result.tolist() == [5] * 4
    assert [backend.download(other).any() for other in others] == [False] * 3
    del others
    backend.forget()
    assert (gpu.used, gpu.graphs) == (0, {})


def test_the_keys_used_last_are_kept(gpu, backend):
    kept = [counting(backend) for _ in range(17)]
    for number, (_, _, steps, _) in enumerate(kept):
        for _ in range(3):
            backend.replay(number, steps)
    backend.synchronize()
    assert len(gpu.graphs) == 16
    for number, (source, result, steps, _) in reversed(list(enumerate(kept))):
        source[...] = number
        backend.replay(number, steps)
        backend.synchronize()
        assert result.tolist() == [number] * 4
    assert [len(calls) for *_, calls in kept] == [4] + [3] * 16


def test_keys_used_once_evict_no_recording(gpu, backend):
    _, _, steps, calls = counting(backend)
    for _ in range(3):
        backend.replay("kept", steps)
    for number in range(200):
        backend.replay(number, steps)
    backend.replay("kept", steps)
    assert (len(calls), len(gpu.graphs)) == (203, 1)


@pytest.mark.parametrize("time", [1, 2, 3])
def test_an_error_of_the_steps_leaves_the_stream_usable(gpu, backend, time):
    source, result, steps, calls = counting(backend)

    def failing():
        steps()
        if len(calls) == time:
            raise KeyError("mine")

    for _ in range(time - 1):
        backend.replay("key", failing)
    with pytest.raises(KeyError, match="mine"):
        backend.replay("key", failing)
    backend.synchronize()
    for frame in range(5):
        source[...] = frame
        backend.replay("key", failing)
        backend.synchronize()
        assert result.tolist() == [frame] * 4
    assert gpu.launches


@pytest.mark.parametrize("call", ["begin_capture", "end_capture", "instantiate"])
def test_steps_that_cannot_be_recorded_are_called(gpu, backend, call):
    """From then on, under every key for which it is so; only the first is reported."""
    source, result, steps, calls = counting(backend)
    setattr(gpu.faults, call, UNSUPPORTED)
    message = r"does not record these steps .*CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED \(900\): operation .*one by one"
    for key in ("one", "other"):
        for frame in range(5):
            source[...] = frame
            with pytest.warns(RuntimeWarning, match=message) if (key, frame) == ("one", 2) else nullcontext():
                backend.replay(key, steps)
            backend.synchronize()
            assert result.tolist() == [frame] * 4
    setattr(gpu.faults, call, 0)
    backend.replay("one", steps)
    assert (gpu.launches, gpu.graphs) == (0, {})
    assert len(calls) == 11 + (0 if call == "begin_capture" else 2)


def test_a_launch_that_fails(gpu, backend):
    _, _, steps, _ = counting(backend)
    for _ in range(3):
        backend.replay("key", steps)
    gpu.faults.launch = INVALID
    with pytest.raises(BackendError, match="cuGraphLaunch failed with CUDA_ERROR_INVALID_VALUE"):
        backend.replay("key", steps)


def test_steps_that_wait_are_not_recorded(gpu, backend):
    """Waiting spoils a recording, whatever the steps do after it."""
    source, result, steps, calls = counting(backend)

    def waiting():
        steps()
        backend.synchronize()

    for frame in range(5):
        source[...] = frame
        with pytest.warns(RuntimeWarning, match="not permitted when stream is cap") if frame == 2 else nullcontext():
            backend.replay("key", waiting)
        assert result.tolist() == [frame] * 4
    assert (len(calls), gpu.launches) == (6, 0)


def test_what_is_dropped_during_a_recording_does_not_spoil_it(gpu, backend):
    """The garbage collector may find an old recording at any moment."""
    source, result, steps, _ = counting(backend)
    for key in ("old", "new"):
        for _ in range(3 if key == "old" else 2):
            backend.replay(key, steps)
    old = [backend._recordings.pop("old")]

    def dropping():
        steps()
        old.clear()
        gc.collect()

    source[...] = 5
    backend.replay("new", dropping)
    backend.synchronize()
    assert result.tolist() == [5] * 4
    assert (gpu.launches, len(gpu.graphs)) == (2, 1)


# Fences


def test_a_fence_waits_for_what_was_queued_before_it(backend):
    source, result, steps, _ = counting(backend)
    two, later = stored(backend, np.full(4, 2, np.float32)), backend.staging((4,))
    source[...] = 1
    steps()
    wait = backend.fence()
    backend.copy(two, later)
    wait()
    assert (result.tolist(), later.tolist()) == ([1] * 4, [0] * 4)
    wait()
    assert later.tolist() == [0] * 4
    backend.synchronize()
    assert later.tolist() == [2] * 4
    wait()


def test_memory_that_later_work_uses_is_not_reused(backend):
    first, later = (stored(backend, np.full(4, value, np.float32)) for value in (1, 2))
    found = [backend.staging((4,)) for _ in range(2)]
    backend.copy(first, found[0])
    addresses = first.address, later.address
    del first
    wait = backend.fence()
    backend.copy(later, found[1])
    del later
    wait()
    assert {backend.zeros((4,)).address, (array := backend.zeros((4,))).address} & {*addresses} == {addresses[0]}
    backend.synchronize()
    assert [host.tolist() for host in found] == [[1] * 4, [2] * 4]
    assert array.nbytes == 16


def test_a_fence_within_steps_is_refused(backend):
    backend.replay("key", backend.fence)
    with pytest.raises(BackendError, match=r"fence\(\) was called within the steps"):
        backend.replay("key", backend.fence)


def test_steps_within_steps_are_refused(backend):
    def steps():
        backend.replay("other", lambda: None)

    backend.replay("key", steps)
    with pytest.raises(BackendError, match="within the steps of another"):
        backend.replay("key", steps)


def test_streams_work_side_by_side(gpu, backend):
    """Two threads with a stream each, on arrays of one backend, recorded."""
    streams = [backend, backend.new_stream()]
    made = [counting(stream) for stream in streams]
    barrier = threading.Barrier(2)

    def work(number):
        source, result, steps, _ = made[number]
        barrier.wait()
        for frame in range(100):
            source[...] = 1000 * number + frame
            streams[number].replay("key", steps)
            streams[number].synchronize()
            assert result.tolist() == [1000 * number + frame] * 4

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, range(2)))
    assert gpu.launches == 2 * 98


# Users that share a backend


def test_users_have_recordings_of_their_own(gpu, backend):
    """Under keys that may be equal; what one of them forgets, the others keep."""
    users = [backend.for_user() for _ in range(3)]
    made = [counting(user) for user in users]

    def frame(number, value):
        source, result, steps, _ = made[number]
        source[...] = value
        users[number].replay("key", steps)
        users[number].synchronize()
        assert result.tolist() == [value] * 4

    for value in range(5):
        for number in range(3):
            frame(number, 10 * number + value)
    assert len(gpu.graphs) == 3
    users[0].forget()
    assert len(gpu.graphs) == 2
    for number in range(3):
        frame(number, 100 + number)
    assert [len(calls) for *_, calls in made] == [4, 3, 3]
    assert len(gpu.streams) == 2  # with that of the memory


def test_threads_that_share_a_stream_take_turns(gpu, backend):
    made = [(user := backend.for_user(), *counting(user)) for _ in range(3)]

    def work(number):
        user, source, result, steps, _ = made[number]
        for frame in range(50):
            source[...] = 1000 * number + frame
            user.replay("key", steps)
            user.fence()()
            assert result.tolist() == [1000 * number + frame] * 4

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(work, range(3)))
    assert gpu.launches == 3 * 48


def test_the_last_of_many_users_is_recorded_too(gpu, backend):
    """Each has two frames with two keys, far more in all than one user may have."""
    made = [(user := backend.for_user(), *counting(user)) for _ in range(8)]
    for _ in range(4):
        for user, _, _, steps, _ in made:
            for key in range(4):
                user.replay(key, steps)
            user.synchronize()
    assert {len(calls) for *_, calls in made} == {12}
    assert gpu.launches == 2 * 4 * 8


# Several GPUs


def test_two_gpus(gpu):
    """Each thread queues on its own; the stand-in has the memory, streams and recordings of each apart."""
    backends = [Copies(gpu=number) for number in (0, 1)]
    made = [counting(backend) for backend in backends]

    def work(number):
        source, result, steps, _ = made[number]
        for frame in range(20):
            source[...] = frame
            backends[number].replay("key", steps)
            backends[number].fence()()
            assert result.tolist() == [frame] * 4

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, range(2)))
    assert [backend.gpu for backend in backends] == [backend.zeros((1,)).gpu for backend in backends] == [0, 1]
    assert set(gpu.owners.values()) == {0, 1}


def test_an_array_of_another_gpu(gpu, backend):
    other = Copies(gpu=1)
    for arrays in ((backend.zeros((4,)), other.staging((4,))), (other.zeros((4,)), backend.zeros((4,)))):
        with pytest.raises(BackendError, match=r"copy\(\) on GPU 1 got an array on GPU 0"):
            other.copy(*arrays)


def test_a_gpu_that_is_not_there(gpu):
    with pytest.raises(BackendError, match=r"GPU 3: the driver has 2 \(they are numbered from 0, after CUDA_VISIBLE"):
        Copies(gpu=3)


# What may be missing


@pytest.mark.parametrize("leaves", [False, True])
def test_an_error_of_the_gpu(gpu, leaves):
    """It is for good. Nobody knows whether the context can be left then; pycuda ends the process if it cannot."""
    gpu.faults.leaves = leaves

    def work():
        backend = Copies()
        made = counting(backend), backend.new_stream()
        for _ in range(3):
            backend.replay("key", made[0][2])
        gpu.faults.kernel = True
        with pytest.raises(BackendError, match="CUDA failed: cuStreamSynchronize failed: an illegal memory access"):
            backend.synchronize()
        for call in (backend.synchronize, backend.forget, lambda: backend.zeros((1,)), backend.fence):
            with pytest.raises(BackendError, match=r"illegal memory access was encountered.*restart the process"):
                call()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(work).result()
    gc.collect()
    assert (gpu.used, len(gpu.pinned), len(gpu.streams), gpu.graphs) == (0, 0, 0, {})


def test_an_error_of_the_gpu_in_two_threads(gpu):
    """One of them is still in the context when the other one gives it up."""
    backend, inside, failed = Copies(), threading.Event(), threading.Event()

    def stay():
        with backend.context:
            inside.set()
            failed.wait()

    with ThreadPoolExecutor(1) as thread:
        staying = thread.submit(stay)
        inside.wait()
        gpu.faults.kernel = True
        with pytest.raises(BackendError, match="an illegal memory access"):
            backend.synchronize()
        failed.set()
        with pytest.raises(BackendError, match="an illegal memory access"):
            staying.result()


def test_the_context_of_a_process_is_never_freed(gpu):
    """Freeing it is what pycuda complains about."""
    made = weakref.ref(context.primary())
    context._primary.cache_clear()
    gc.collect()
    assert made() is not None


def test_without_pycuda(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycuda", None)
    context._primary.cache_clear()
    with pytest.raises(BackendError, match=r"need pycuda .*: pip install pycuda.*`sam2edge doctor`"):
        Copies()


def test_without_a_gpu(gpu, monkeypatch):
    def init():
        raise gpu.driver.LogicError("cuInit failed: no CUDA-capable device is detected")

    monkeypatch.setattr(gpu.driver, "init", init)
    with pytest.raises(BackendError, match="CUDA has no GPU for this process: cuInit failed"):
        context.Context(gpu.driver)


def test_without_a_driver(monkeypatch):
    driver.library.cache_clear()
    monkeypatch.setattr(driver, "LIBCUDA", "libnothing.so.1")
    with pytest.raises(BackendError, match=r"libnothing\.so\.1 does not load .*: install the driver"):
        driver.begin_capture(1)


def test_a_driver_that_is_too_old(monkeypatch):
    monkeypatch.setattr(driver, "library", lambda: object())
    with pytest.raises(BackendError, match="this driver has no cuGraphLaunch; update"):
        driver.launch(1, 2)
