"""ONNX Runtime's CUDA provider on a stand-in for a GPU."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from sam2edge import VideoTracker
from sam2edge.bundle import GRAPHS
from sam2edge.errors import BackendError
from sam2edge.runtime.backends.base import open_backend
from tests import cuda_kernels
from tests.fake_gpu import Binding, Session, install_onnxruntime
from tests.helpers import BALL, assert_close, assert_same, clip_frames, graph_inputs, play


@pytest.fixture(autouse=True)
def provider(gpu, monkeypatch):
    install_onnxruntime(monkeypatch, gpu)


@pytest.fixture
def backend(gpu):
    made = open_backend("onnx-cuda")
    yield made
    made.forget()


def test_what_is_not_found_does_not_mix_with_results(capsys):
    open_backend("onnx-cuda")
    assert capsys.readouterr() == ("", "Failed to load libcublasLt.so.13\n")


def test_runs_are_queued_on_arrays_of_the_gpu(gpu, backend, nano):
    """A graph reads what the one before has not written yet; replay() records nothing."""
    encoder, memory = (backend.open(nano.graph_path(name)) for name in ("image_encoder", "memory_encoder"))
    image = backend.staging((1, 128, 128, 3), np.uint8)
    host = backend.staging((1, 64, 64))
    there = {"image": backend.zeros(image.shape, np.uint8), "features": backend.zeros((1, 256, 8, 8))}
    rest = {
        "mask": backend.zeros((1, 1, 32, 32)),
        "object_score": backend.zeros((1, 1)),
        "binarize": backend.zeros((1,), np.bool_),
    }
    result = backend.zeros((1, 64, 64))

    def steps():
        backend.copy(image, there["image"])
        encoder.run_into({"image": there["image"]}, {"features": there["features"]})
        memory.run_into({"features": there["features"], **rest}, {"memory": result})
        backend.copy(result, host)

    cpu = open_backend("onnx")
    for seed in range(4):
        image[...] = np.random.default_rng(seed).integers(0, 256, image.shape)
        host[...] = 0
        backend.replay("frame", steps)
        assert not host.any()
        backend.synchronize()
        features = cpu.open(nano.graph_path("image_encoder")).run({"image": np.array(image)})["features"]
        expected = cpu.open(nano.graph_path("memory_encoder")).run(
            {"features": features, **{name: np.zeros(array.shape, array.dtype) for name, array in rest.items()}}
        )
        np.testing.assert_allclose(host, expected["memory"], rtol=0, atol=1e-4)
    assert gpu.launches == 0


def test_everything_is_freed(gpu, nano):
    backend = open_backend("onnx-cuda")
    runner = backend.open(nano.graph_path("memory_encoder"))
    runner.run(graph_inputs(nano, "memory_encoder", {"N": 1}))
    assert gpu.used
    del backend, runner
    assert (gpu.used, len(gpu.streams)) == (0, 0)


def test_trackers_on_one_backend(gpu, nano, monkeypatch):
    """They share the session of a graph on a stream, here of the second GPU."""
    opened, real = [], Session.__init__

    def init(session, gpu, file, *arguments, **options):
        opened.append(file)
        real(session, gpu, file, *arguments, **options)

    monkeypatch.setattr(Session, "__init__", init)
    backend, frames = open_backend("onnx-cuda", gpu=1), clip_frames(3)
    prompts = {0: [(1, {"box": BALL})]}
    with VideoTracker(nano, backend) as one, VideoTracker(nano, backend) as two, VideoTracker(nano) as cpu:
        found = [list(play(tracker, frames, prompts)) for tracker in (one, two, cpu)]
        assert len(opened) == len(GRAPHS)
    assert_close(found[0], found[2])
    assert_same(found[0], found[1])
    assert set(gpu.owners.values()) == {1}


@pytest.mark.parametrize(("owner", "call"), [(Session, "run_with_iobinding"), (Binding, "bind_input")])
def test_an_error_in_onnxruntime(backend, nano, monkeypatch, owner, call):
    def fail(*arguments):
        raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")

    monkeypatch.setattr(owner, call, fail)
    with pytest.raises(BackendError, match=r"image_encoder\.onnx: ONNX Runtime failed: CUBLAS_STATUS_ALLOC_FAILED"):
        backend.open(nano.graph_path("image_encoder")).run({"image": np.zeros((1, 128, 128, 3), np.uint8)})


def test_falling_back_is_an_error(backend, nano, monkeypatch):
    monkeypatch.setattr(Session, "loads", False)
    with pytest.raises(BackendError, match="fell back from CUDAExecutionProvider to CPUExecutionProvider"):
        backend.open(nano.graph_path("image_encoder"))


def test_a_node_on_the_cpu_is_an_error(backend, nano, monkeypatch):
    """Versions before 1.21 had no ArgMax."""
    monkeypatch.setitem(cuda_kernels.KERNELS, "ArgMax", "")
    cuda_kernels.without_kernel.cache_clear()
    with pytest.raises(
        BackendError, match=r"mask_decoder\.onnx: .*assigned to the default CPU EP.*nodes need the CPU: export"
    ):
        backend.open(nano.graph_path("mask_decoder"))
    cuda_kernels.without_kernel.cache_clear()


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("bundle", ["nano", "pooled", "nano_int8"])
def test_every_node_has_a_kernel(bundle, graph, request):
    assert cuda_kernels.without_kernel(str(request.getfixturevalue(bundle).graph_path(graph)), "1") == set()


def test_int8_weights_become_floats(backend, nano_int8):
    """Otherwise ONNX Runtime makes biases INT32, for which there is no kernel, and the decoder needs the CPU."""
    assert backend.open(nano_int8.graph_path("mask_decoder")).dtype("mask") == np.float32


def test_a_file_that_cannot_be_read(backend, tmp_path):
    (tmp_path / "image_encoder.onnx").write_bytes(b"no graph")
    with pytest.raises(BackendError, match=r"image_encoder\.onnx: ONNX Runtime cannot load it"):
        backend.open(tmp_path / "image_encoder.onnx")


def test_without_the_provider(gpu, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendError, match=r"has no CUDAExecutionProvider .*install onnxruntime-gpu"):
        open_backend("onnx-cuda")
