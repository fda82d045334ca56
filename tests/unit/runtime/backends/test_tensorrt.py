"""Engines on stand-ins for TensorRT and a GPU, which run on the CPU the graphs that they were built from."""

from __future__ import annotations

import dataclasses
import gc
import re
import shutil
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from sam2edge import ImagePredictor, VideoTracker
from sam2edge.bundle import GRAPHS, contract
from sam2edge.bundle.engines import ENGINES, Limits, default_directory
from sam2edge.cli import main
from sam2edge.engines.build import build
from sam2edge.engines.profiles import PRESETS
from sam2edge.errors import BackendError, DamagedEngineError, ObjectIdError, StaleEngineError
from sam2edge.runtime.backends import tensorrt
from sam2edge.runtime.backends.base import open_backend
from sam2edge.runtime.backends.cuda import gpus
from sam2edge.runtime.backends.tensorrt import TensorRTBackend
from sam2edge.runtime.media.grabber import Grabbed
from sam2edge.runtime.model.resize import filter_inputs, resize
from sam2edge.runtime.video.stream import stream
from tests.conftest import REPO
from tests.helpers import BALL, BLOCK, HEIGHT, WIDTH, assert_close, clip_frames, graph_inputs, play
from tests.unit.engines.fake_tensorrt import VERSIONS, IExecutionContext, edit_manifest, install

PRESET = dataclasses.replace(PRESETS["desktop"], limits=Limits(objects=4, prompts=8, points=3, images=3))


@pytest.fixture(scope="module")
def built(nano, tmp_path_factory):
    """Return a function that returns the directory with engines of a version and precision."""
    found = {}

    def get(version, precision):
        if (version, precision) not in found:
            path = tmp_path_factory.mktemp("engines")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("XDG_CACHE_HOME", str(path / "cache"))
                install(patch, version)
                build(nano, path / "out", precision=precision, preset=PRESET)
            found[version, precision] = path / "out"
        return found[version, precision]

    return get


@pytest.fixture
def fake(monkeypatch, quick_collection):
    made = install(monkeypatch, "10.3.0")
    yield made
    gc.collect()
    made.gpu.check()


@pytest.fixture
def backend(fake, built):
    made = TensorRTBackend(built("10.3.0", "fp32"))
    yield made
    made.forget()


@pytest.fixture
def encoder(backend, nano):
    """Return a memory encoder and inputs for two objects."""
    return backend.open(nano.graph_path("memory_encoder")), graph_inputs(nano, "memory_encoder", {"N": 2})


@pytest.mark.parametrize("version", VERSIONS)
def test_fp16_engines_of_every_version(version, monkeypatch, built, nano):
    """float32 on the host, float16 where the engine has it."""
    fake = install(monkeypatch, version)
    backend, cpu = TensorRTBackend(built(version, "fp16")), open_backend("onnx")
    for graph in GRAPHS:
        runner = backend.open(nano.graph_path(graph))
        inputs = graph_inputs(nano, graph, {"B": 2, "N": 3, "T": 2, "K": 4, "P": 2})
        assert_close(runner.run(inputs), cpu.open(nano.graph_path(graph)).run(inputs), 2e-2)
    assert [str(runner.dtype(name)) for name in ("features", "mask", "memory")] == ["float16", "float32", "float16"]
    del backend, runner
    gc.collect()
    assert (fake.gpu.used, len(fake.gpu.pinned), len(fake.gpu.streams)) == (0, 0, 0)
    fake.gpu.check()


def test_bf16_engines(fake, built, nano):
    """float32 between the engines too."""
    backend, cpu = TensorRTBackend(built("10.3.0", "bf16")), open_backend("onnx")
    for graph in GRAPHS:
        runner = backend.open(nano.graph_path(graph))
        inputs = graph_inputs(nano, graph, {"B": 2, "N": 3, "T": 2, "K": 4, "P": 2})
        assert_close(runner.run(inputs), cpu.open(nano.graph_path(graph)).run(inputs), 0.1)
        assert {str(runner.dtype(spec.name)) for spec in contract(nano.model)[graph][1]} == {"float32"}


def test_what_was_converted_lives_until_it_is_copied(fake, built, nano, monkeypatch):
    """CUDA may still read pageable memory after a copy was queued; the stand-in copies it at once."""
    backend = TensorRTBackend(built("10.3.0", "fp16"))
    runner, inputs = (
        backend.open(nano.graph_path("memory_attention")),
        graph_inputs(nano, "memory_attention", {"N": 1, "T": 2, "K": 4}),
    )
    copy, synchronize, sources, alive = backend.copy, backend.synchronize, [], []

    def noting(source, to):
        if isinstance(source, np.ndarray):
            sources.append(weakref.ref(source))
        copy(source, to)

    def waiting():
        gc.collect()
        alive.extend(source() is not None for source in sources)
        synchronize()

    monkeypatch.setattr(backend, "copy", noting)
    monkeypatch.setattr(backend, "synchronize", waiting)
    runner.run(inputs)
    assert alive == [True] * len(inputs)


def test_images_without_prompts_leave_nothing(fake, built, nano):
    """Of each size there is page-locked memory only as long as it is the last, whatever the decoder's stream does."""
    held = []
    with ImagePredictor(nano, TensorRTBackend(built("10.3.0", "fp32"))) as predictor:
        for height in range(40, 120, 10):
            predictor.set_image(np.zeros((height, 60, 3), np.uint8))
            gc.collect()
            held.append(len(fake.gpu.pinned))
    assert max(held[2:]) <= held[1]


def test_shapes_may_change(backend, nano):
    runner, cpu = (each.open(nano.graph_path("mask_decoder")) for each in (backend, open_backend("onnx")))
    for seed, sides in enumerate(({"N": 1, "P": 3}, {"N": 4, "P": 0}, {"N": 4, "P": 0}, {"N": 2, "P": 1})):
        inputs = graph_inputs(nano, "mask_decoder", sides, seed)
        assert_close(runner.run(inputs), cpu.run(inputs), 1e-5)


def test_only_wanted_outputs_are_downloaded(fake, backend, nano):
    runner, inputs = backend.open(nano.graph_path("mask_decoder")), graph_inputs(nano, "mask_decoder", {"N": 2, "P": 1})
    everything = runner.run(inputs)
    before = fake.gpu.downloaded
    assert_close(runner.run_outputs(inputs, ["iou", "ious"]), {name: everything[name] for name in ("iou", "ious")}, 0)
    assert fake.gpu.downloaded - before == everything["iou"].nbytes + everything["ious"].nbytes


def test_verify_measures_the_existing_engines(fake, nano, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = tmp_path / "nano"
    shutil.copytree(nano.path, bundle)
    build(bundle)
    command = ["verify", bundle, "--clip", REPO / "samples" / "clip.mp4", "--frames", 4, "--box", "101,47,176,122"]
    assert main([str(word) for word in command]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["nano", "fp32", "nano", "fp16", "engines"]
    assert next(line for line in lines if line.startswith("gate")).split()[-1] == "passed"
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main([str(word) for word in [*command, "--candidate", bundle]]) == 0
    message = capsys.readouterr().out.splitlines()[-1]
    assert re.search(r"not measured: .*nano\.engines/fp16 \(TensorRT cannot be imported", message)


def test_frames_are_resized_up_to_the_size_of_the_profile(backend, nano):
    backend.open(nano.graph_path("image_encoder"))
    assert backend.resizer(nano.path, (100, PRESET.limits.side + 1)) is None
    frame = np.random.default_rng(0).integers(0, 256, (90, 200, 3), np.uint8)
    side = nano.model.image_size
    found = backend.resizer(nano.path, (90, 200)).run({"frame": frame, **filter_inputs((90, 200), side)})["image"]
    assert np.abs(found[0].astype(int) - resize(frame, side)).max() <= 1


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_tracks_like_onnx(fake, backend, nano, mode):
    """Objects join, are corrected and leave, mostly in recorded frames; in throughput mode two threads share a GPU."""
    # of the model's size, as the resize of others may differ by a grey level (tests/unit/engines/test_resize.py)
    side = nano.model.image_size
    frames = [Grabbed(cv2.resize(frame, (side, side)), number, 0.0) for number, frame in enumerate(clip_frames(14))]
    scale = np.array([side / WIDTH, side / HEIGHT])
    prompts = {
        0: (1, {"box": (np.reshape(BALL, (2, 2)) * scale).ravel()}),
        5: (2, {"points": [[262, 60]] * scale}),
        6: (1, {"points": [[138, 84]] * scale}),
    }

    def logits(name):
        results = []
        with VideoTracker(nano, name, max_objects=3) as tracker:
            for tracked in stream(frames, tracker, mode):
                result = tracked.result
                if prompt := prompts.get(result.frame_index):
                    result = tracker.prompt(prompt[0], **prompt[1])
                if result.frame_index == 11:
                    tracker.remove(1)
                results.append(result.logits)
        return results

    assert_close(logits(backend), logits("onnx"), 1e-4)
    assert fake.gpu.launches > 5
    gc.collect()
    if mode == "throughput":
        backend.forget()  # frees what the other stream had
    assert (len(fake.engines), fake.gpu.used, len(fake.gpu.pinned)) == (0, 0, 0), "close() frees all but the backend"


def test_segments_like_onnx(backend, nano):
    """More images and more prompts than one run accepts, and a mask alone, for which the decoder gets no point."""
    frames = list(clip_frames(PRESET.limits.images + 1))

    def logits(name):
        with ImagePredictor(nano, name) as predictor:
            predictor.set_image_batch(frames)
            *_, several = predictor.predict_batch(box_batch=[[BALL, BLOCK]] * len(frames))
            *_, alone = predictor.predict(mask_input=several[-1][0, :1])
            boxes = [[10 * n, 20, 10 * n + 60, 90] for n in range(PRESET.limits.prompts + 3)]
            *_, many = predictor.predict(box=boxes)
            *_, refined = predictor.predict(box=boxes, mask_input=many[:, :1], multimask_output=False)
            features = np.repeat(predictor.features(predictor.embedding), len(boxes), axis=0)
            decoded = predictor.decode(np.array(boxes).reshape(-1, 2, 2), [[2, 3]] * len(boxes), features=features)
            return [*several, alone, many, refined, decoded["masks"], decoded["iou"]]

    assert_close(logits(backend), logits("onnx"), 1e-4)


def test_build_measures_engines_on_a_clip(fake, nano, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    clip, out = REPO / "samples" / "clip.mp4", tmp_path / "out"
    command = ["build", nano.path, "-o", out, "--clip", clip, "--frames", 4, "--box", "101,47,176,122", "--gpu", 1]
    assert main([str(word) for word in command]) == 0, capsys.readouterr().err
    assert set(fake.gpu.owners.values()) == {1}
    assert (out / "image_encoder.engine").is_file()
    # each engine is inspected, and tracks; these contexts are freed, and each graph runs alone
    assert fake.calls.count("context") == 2 * len(ENGINES) + len(GRAPHS)


# What stays on the GPU


class Loop:
    """A frame as a tracker queues it: the image is uploaded, four graphs run on the GPU, the mask is downloaded."""

    def __init__(self, backend, bundle):
        self.backend, self.runners = backend, {}
        sides = {"B": 1, "N": 2, "T": 2, "K": 3, "P": 1}
        self.arrays, self.calls = {}, 0
        for graph, (inputs, outputs) in contract(bundle.model).items():
            self.runners[graph] = runner = backend.open(bundle.graph_path(graph))
            for spec in (*inputs, *outputs):
                shape = tuple(sides[side] if isinstance(side, str) else side for side in spec.shape)
                dtype = runner.dtype(spec.name)
                name = "bank" if (graph, spec.name) == ("memory_attention", "memory") else spec.name
                if name not in ("masks", "ious"):
                    self.arrays.setdefault(name, backend.zeros(shape, dtype))
        self.inputs = {}
        for name in ("image", "points", "labels", "bank", "pointers", "memory_age", "pointer_age"):
            self.inputs[name] = backend.staging(self.arrays[name].shape, self.arrays[name].dtype)
        self.found = {name: backend.staging(self.arrays[name].shape) for name in ("mask", "iou")}

    def steps(self):
        self.calls += 1
        backend, arrays = self.backend, self.arrays
        for name, host in self.inputs.items():
            backend.copy(host, arrays[name])
        for graph, outputs in (
            ("image_encoder", ("features", "high_res_0", "high_res_1")),
            ("memory_attention", ("conditioned",)),
            ("mask_decoder", ("mask", "iou", "pointer", "object_score")),
            ("memory_encoder", ("memory",)),
        ):
            runner = self.runners[graph]
            names = [spec.name for spec in runner._signature.inputs]
            named = {
                name: arrays["bank" if (graph, name) == ("memory_attention", "memory") else name] for name in names
            }
            runner.run_into(named, {name: arrays[name] for name in outputs})
        for slot in range(2):  # the next frame attends to these memories
            backend.copy(arrays["memory"][slot], arrays["bank"][slot][1])
        for name, host in self.found.items():
            backend.copy(arrays[name], host)

    def frame(self, key, seed):
        random = np.random.default_rng(seed)
        for host in self.inputs.values():
            high = {"u": 256, "i": 2}.get(host.dtype.kind)
            host[...] = random.standard_normal(host.shape) if high is None else random.integers(0, high, host.shape)
        self.backend.replay(key, self.steps)
        self.backend.synchronize()
        return {name: host.copy() for name, host in self.found.items()}


def test_a_recorded_frame_is_the_same(fake, backend, nano):
    recorded, plain = Loop(backend, nano), Loop(backend.new_stream(), nano)
    for seed in range(6):
        found = recorded.frame("frame", seed)
        assert_close(found, plain.frame(seed, seed), 1e-6)
        assert found["mask"].std() > 0
    assert (recorded.calls, fake.gpu.launches) == (3, 4)


@pytest.mark.parametrize("version", VERSIONS)
def test_frames_of_every_version_are_recorded(version, monkeypatch, built, nano):
    """Each recording has contexts of its own, on the one profile of its engine."""
    fake = install(monkeypatch, version)
    backend = TensorRTBackend(built(version, "fp32"))
    loop = Loop(backend, nano)
    for key in ("one", "other"):
        for seed in range(4):
            loop.frame(key, seed)
    assert fake.gpu.launches == 4
    backend.forget()


def test_a_recorded_frame_does_not_disturb_others(fake, backend, nano):
    """Plain runs of other shapes come between recorded ones, with the same engines and scratch memory.

    The recording holds its arrays, whose memory new arrays do not get.
    """
    loop, decoder = Loop(backend, nano), backend.open(nano.graph_path("mask_decoder"))
    cpu = open_backend("onnx").open(nano.graph_path("mask_decoder"))
    first = [loop.frame("frame", 0) for _ in range(3)][-1]
    for count in (1, 4, 8):
        inputs = graph_inputs(nano, "mask_decoder", {"N": count, "P": 2})
        assert_close(decoder.run(inputs), cpu.run(inputs), 1e-5)
        others = [backend.zeros((2, 3, 32, 32)) for _ in range(3)]  # as large as the outputs that the recording drops
        assert_close(loop.frame("frame", 0), first, 1e-6)
        assert not any(backend.download(other).any() for other in others)
    assert fake.gpu.launches == 4
    shapes = {array.shape for array in loop.arrays.values()}
    loop.arrays.clear()
    backend.synchronize()
    others = [backend.zeros(shape) for shape in shapes for _ in range(3)]
    assert_close(loop.frame("frame", 0), first, 1e-6)
    assert not any(backend.download(other).any() for other in others)


def test_other_steps_under_a_recorded_key_are_refused(backend, nano):
    loop = Loop(backend, nano)
    loop.frame("frame", 0)
    loop.frame("frame", 1)

    def twice():
        loop.steps()
        loop.steps()

    with pytest.raises(BackendError, match="other steps under the same key"):
        backend.replay("frame", twice)
    loop.frame("frame", 2)


def test_steady_state_allocates_nothing(fake, backend, nano):
    loop, taken = Loop(backend, nano), []
    for seed in range(8):
        loop.frame("frame", seed)
        taken.append((fake.gpu.allocations, fake.gpu.used, fake.calls.count("context"), len(fake.gpu.graphs)))
    assert set(taken[3:]) == {taken[2]}


def test_two_threads_share_the_engines(fake, backend, nano):
    loops = [Loop(backend, nano), Loop(backend.new_stream(), nano)]
    expected = [loops[0].frame(seed, seed) for seed in range(5)]

    def work(loop):
        for seed, frame in enumerate(expected):
            assert_close(loop.frame("frame", seed), frame, 1e-6)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, loops))
    assert fake.calls.count("deserialize") == 4


def test_two_trackers_in_two_threads(fake, built, nano):
    """Each with a backend of its own."""
    frames = clip_frames(4)

    def track(_):
        with VideoTracker(nano, TensorRTBackend(built("10.3.0", "fp32"))) as tracker:
            tracker.track(frames[0])
            tracker.prompt(1, box=BALL)
            return [tracker.track(frame).logits for frame in frames[1:]]

    with ThreadPoolExecutor(2) as threads:
        np.testing.assert_array_equal(*threads.map(track, range(2)))
    gc.collect()
    assert (fake.gpu.used, len(fake.gpu.pinned), len(fake.gpu.streams)) == (0, 0, 0)


def test_two_trackers_on_one_backend(fake, built, nano):
    """Weights are on the GPU once, here on the second; the first to close takes nothing from the other."""
    frames, prompts = clip_frames(10), {0: [(1, {"box": BALL})]}
    with VideoTracker(nano, TensorRTBackend(built("10.3.0", "fp32"))) as tracker:
        expected = list(play(tracker, frames, prompts))
    fake.calls.clear()
    backend = TensorRTBackend(built("10.3.0", "fp32"), gpu=1)
    with VideoTracker(nano, backend) as other:
        with VideoTracker(nano, backend) as tracker:
            for found, same, wanted in zip(
                play(tracker, frames[:8], prompts), play(other, frames[:8], prompts), expected[:9], strict=True
            ):
                assert_close([found, same], [wanted] * 2, 1e-6)
            assert fake.calls.count("deserialize") == len(ENGINES)
            recorded = len(fake.gpu.graphs)
        contexts, graphs, taken = fake.calls.count("context"), len(fake.gpu.graphs), fake.gpu.allocations
        assert graphs == recorded // 2 > 0
        for frame, wanted in zip(frames[8:], expected[9:], strict=True):
            assert_close(other.track(frame), wanted, 1e-6)
        assert (fake.calls.count("context"), len(fake.gpu.graphs)) == (contexts, graphs)
        assert fake.gpu.allocations == taken
    gc.collect()
    assert (len(fake.engines), fake.gpu.used, len(fake.gpu.pinned)) == (0, 0, 0)


def test_an_embedding_of_another_gpu(fake, built, nano):
    backends = [TensorRTBackend(built("10.3.0", "fp32"), gpu=number) for number in range(2)]
    frame = clip_frames(1)[0]
    with VideoTracker(nano, backends[0]) as tracker, VideoTracker(nano, backends[1]) as other:
        embedding = tracker.encode(frame)
        other.track(frame)
        other.prompt(1, box=BALL)
        with pytest.raises(BackendError, match="on GPU 1 got an array on GPU 0"):
            other.track(embedding)
        runner = backends[1].open(nano.graph_path("memory_encoder"))
        inputs = {**graph_inputs(nano, "memory_encoder", {"N": 1}), "features": embedding.features}
        with pytest.raises(BackendError, match=r"features is on GPU 0, but this graph is open on GPU 1"):
            runner.run(inputs)


def test_engines_are_for_the_gpu_that_is_used(fake, built, nano):
    fake.gpu.devices[1] = ("Other RTX", (8, 9), 8 << 30, 46)
    assert TensorRTBackend(gpu=1).target.gpu == "Other RTX"
    backend = TensorRTBackend(built("10.3.0", "fp32"), gpu=1)
    with pytest.raises(StaleEngineError, match=r"built for GPU Fake RTX .* but this is Other RTX"):
        backend.open(nano.graph_path("mask_decoder"))
    with pytest.raises(BackendError, match=r"TensorRT needs an NVIDIA GPU, but GPU 2: the driver has 2 \("):
        open_backend("tensorrt", gpu=2)


def test_everything_is_freed(fake, built, nano):
    loop = Loop(TensorRTBackend(built("10.3.0", "fp32")), nano)
    for seed in range(4):
        loop.frame("frame", seed)
    assert len(fake.gpu.graphs) == 1
    del loop
    assert (fake.gpu.used, len(fake.gpu.pinned), len(fake.gpu.streams), fake.gpu.graphs) == (0, 0, 0, {})


def test_run_takes_arrays_of_the_gpu(backend, encoder):
    runner, inputs = encoder
    expected = runner.run(inputs)
    there = backend.zeros(inputs["features"].shape)
    host = backend.staging(there.shape)
    host[...] = inputs["features"]
    backend.copy(host, there)
    assert_close(runner.run({**inputs, "features": there}), expected, 0)


# What is refused


def test_fp16_is_preferred_to_fp32(fake, built, nano, tmp_path):
    copied = shutil.copytree(nano.path, tmp_path / "copy")
    with pytest.raises(
        BackendError, match=r"has no engines in .*copy\.engines; build them with `sam2edge build .*copy`"
    ):
        TensorRTBackend().open(copied / "memory_encoder.onnx")
    for precision in ("fp32", "fp16"):
        shutil.copytree(built("10.3.0", precision), default_directory(copied, precision))
        runner = TensorRTBackend().open(copied / "memory_encoder.onnx")
        assert runner.dtype("features") == {"fp32": np.float32, "fp16": np.float16}[precision]


def test_stale_and_damaged_engines(fake, monkeypatch, built, nano, tmp_path):
    engines, graph = shutil.copytree(built("10.3.0", "fp32"), tmp_path / "engines"), nano.graph_path("memory_encoder")
    edit_manifest(engines, lambda data: data["engines"]["memory_encoder"]["outputs"]["memory"].update(dtype="float16"))
    with pytest.raises(DamagedEngineError, match=r"engines\.json: lists other .* types of memory_encoder than"):
        TensorRTBackend(engines).open(graph)
    file = engines / "memory_encoder.engine"
    file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises(DamagedEngineError, match="sha256 is not the one"):
        TensorRTBackend(engines).open(graph)
    install(monkeypatch, "11.4.0.106")
    with pytest.raises(
        StaleEngineError, match=r"built for tensorrt 10\.3\.0 but this is tensorrt 11\.4.*sam2edge build"
    ):
        TensorRTBackend(engines).open(graph)


def test_engines_that_replace_others_in_use(fake, built, nano, tmp_path):
    engines, graph = tmp_path / "engines", nano.graph_path("memory_encoder")
    shutil.copytree(built("10.3.0", "fp32"), engines)
    backend, inputs = TensorRTBackend(engines), graph_inputs(nano, "memory_encoder", {"N": 2})
    before = backend.open(graph)
    expected = before.run(inputs)
    shutil.rmtree(engines)
    shutil.copytree(built("10.3.0", "fp16"), engines)
    assert_close(backend.open(graph).run(inputs), expected, 2e-2)
    assert_close(before.run(inputs), expected, 0)


def test_more_objects_than_the_engines_accept(backend, nano):
    with VideoTracker(nano, backend) as tracker:
        frame = np.zeros((48, 64, 3), np.uint8)
        tracker.track(frame)
        for object_id in range(PRESET.limits.objects):
            tracker.prompt(object_id, box=[5, 5, 40, 40])
        with pytest.raises(ObjectIdError, match=r"4 objects are tracked already; .*a larger --max-objects"):
            tracker.prompt(9, box=[5, 5, 40, 40])
        assert tracker.track(frame).object_ids == (0, 1, 2, 3)


def test_more_memories_than_the_engines_accept(backend, nano):
    message = r"take 7 frames of an object's memory, but this tracker keeps 8; .*--max-conditioning-frames"
    with pytest.raises(BackendError, match=message):
        VideoTracker(nano, backend, max_conditioning_frames=2)
    message = "take 16 frames of an object's pointers, but this tracker keeps 17"
    with pytest.raises(BackendError, match=message):
        VideoTracker(nano, backend, max_conditioning_frames=2, memory_frames=3)


def test_a_file_that_is_no_graph(backend, nano):
    with pytest.raises(BackendError, match=r"other\.onnx: not a graph of the bundle"):
        backend.open(nano.path / "other.onnx")


def test_without_tensorrt_or_a_gpu(fake, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", None)
        with pytest.raises(BackendError, match=r"TensorRT cannot be imported .*`sam2edge doctor`"):
            open_backend("tensorrt")

    def missing(number):
        raise gpus.GpuError("NVIDIA driver", "libcuda.so.1 is not there", "install the driver")

    monkeypatch.setattr(gpus, "find_gpu", missing)
    with pytest.raises(BackendError, match=r"needs an NVIDIA GPU.*install the driver.*`sam2edge doctor`"):
        open_backend("tensorrt")


@pytest.mark.parametrize(
    ("graph", "sides", "message"),
    [
        ("image_encoder", {"B": 4}, r"image is \[4,128,128,3\] but its B must be 1 to 3 in these .*--max-batch"),
        ("mask_decoder", {"N": 9, "P": 1}, r"its N must be 1 to 8 .*--max-objects .*--max-prompts"),
        ("mask_decoder", {"N": 1, "P": 5}, r"its P must be 0 to 4 .*--max-points"),
        ("memory_attention", {"N": 1, "T": 8, "K": 1}, r"its T must be 1 to 7 .*--max-conditioning-frames"),
        ("memory_encoder", {"N": 0}, "its N must be 1 to 4"),
    ],
)
def test_shapes_beyond_the_engines(backend, nano, graph, sides, message):
    with pytest.raises(BackendError, match=rf"{graph}\.onnx: .*{message}"):
        backend.open(nano.graph_path(graph)).run(graph_inputs(nano, graph, sides))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mask": None}, "inputs must be features, mask, object_score, binarize but are binarize, features, obj"),
        ({"more": np.zeros(1, np.float32)}, "inputs must be .* but are .*more"),
        ({"features": np.zeros((1, 256, 4, 4), np.float32)}, r"features must be \[1,256,8,8\] but is \[1,256,4,4\]"),
        ({"binarize": np.zeros(3, bool)}, r"binarize must be \[2\] but is \[3\]"),
        ({"binarize": np.zeros((2, 1), bool)}, r"binarize must be \[2\] but is \[2,1\]"),
        ({"binarize": np.zeros(2, np.int32)}, "binarize must be bool but is int32"),
        ({"features": np.zeros((1, 256, 8, 8), np.int32)}, "features must be float32 but is int32"),
    ],
)
def test_wrong_inputs(encoder, values, message):
    runner, inputs = encoder
    with pytest.raises(BackendError, match=rf"memory_encoder\.onnx: {message}"):
        runner.run({name: value for name, value in {**inputs, **values}.items() if value is not None})


def test_wrong_arrays(backend, encoder):
    runner, inputs = encoder
    there = {name: backend.zeros(value.shape, value.dtype) for name, value in inputs.items()}
    memory = backend.zeros((2, 64, 64))
    runner.run_into(there, {"memory": memory})
    with pytest.raises(BackendError, match="mask must be an array on the GPU but is a ndarray"):
        runner.run_into({**there, "mask": inputs["mask"]}, {})
    with pytest.raises(BackendError, match=r"memory must be float32\[2,64,64\] on the GPU but is float32\[64,64\]"):
        runner.run_into(there, {"memory": memory[0]})
    with pytest.raises(BackendError, match=r"features must be float32.* but is float16"):
        runner.run_into({**there, "features": backend.zeros((1, 256, 8, 8), np.float16)}, {})
    with pytest.raises(BackendError, match="object_score must begin at a multiple of 256 bytes but is the part of an"):
        runner.run_into({**there, "object_score": backend.zeros((3, 1))[1:]}, {"memory": memory})
    with pytest.raises(BackendError, match=r"memory_encoder\.onnx has no output mask; it has memory"):
        runner.run_into(there, {"mask": memory})
    with pytest.raises(BackendError, match=r"memory_encoder\.onnx has no masks; it has features, mask"):
        runner.dtype("masks")


@pytest.mark.parametrize(
    ("fault", "log", "message"),
    [
        ("run_error", "[gemm] illegal", r"memory_encoder\.onnx: TensorRT failed: \[gemm\] illegal"),
        ("context_error", "[gemm] illegal", r"memory_encoder\.onnx: .* make an execution context: \[gemm\] illegal"),
        ("deserialize_error", "[gemm] illegal", r"memory_encoder\.engine: .*does not load.*: \[gemm\] illegal"),
        ("context_error", "2: OutOfMemory", r"GPU memory ran out .*2: OutOfMemory.*lower max_objects.*--memory-pool"),
    ],
)
def test_errors_say_what_tensorrt_says(fake, backend, nano, fault, log, message):
    setattr(fake.faults, fault, log)
    with pytest.raises(BackendError, match=message):
        backend.open(nano.graph_path("memory_encoder")).run(graph_inputs(nano, "memory_encoder", {"N": 2}))


def test_an_engine_loaded_later_needs_more_memory(fake, backend, nano, encoder):
    """All engines share one array, which is replaced by a larger one."""
    runner, inputs = encoder
    expected = runner.run(inputs)
    fake.activation_bytes = 3 << 20
    decoder = backend.open(nano.graph_path("mask_decoder"))
    decoder.run(graph_inputs(nano, "mask_decoder", {"N": 1, "P": 1}))
    others = [backend.zeros((1 << 20,), np.uint8) for _ in range(2)]
    assert_close(runner.run(inputs), expected, 0)
    assert not any(backend.download(other).any() for other in others)


@pytest.mark.parametrize("call", ["set_input_shape", "set_tensor_address"])
def test_what_tensorrt_rejected_is_set_again(encoder, nano, monkeypatch, call):
    runner, inputs = encoder
    runner.run(graph_inputs(nano, "memory_encoder", {"N": 1}))
    with monkeypatch.context() as patch:
        patch.setattr(IExecutionContext, call, lambda *arguments: False)
        with pytest.raises(BackendError, match=r"memory_encoder\.onnx: TensorRT failed: it gives no reason"):
            runner.run(inputs)
    expected = open_backend("onnx").open(nano.graph_path("memory_encoder")).run(inputs)
    assert_close(runner.run(inputs), expected, 1e-5)


def test_an_error_within_a_recording(fake, backend, nano):
    loop = Loop(backend, nano)
    loop.frame("frame", 0)
    expected = loop.frame("frame", 1)
    fake.faults.run_error = "not while capturing"
    with pytest.raises(BackendError, match="not while capturing"):
        loop.frame("frame", 1)
    fake.faults.run_error = ""
    for _ in range(4):
        assert_close(loop.frame("frame", 1), expected, 1e-6)
    assert fake.gpu.launches == 2


def test_an_engine_that_only_runs_outside_a_recording(backend, nano, monkeypatch):
    """It is not recorded again, and works from then on."""
    enqueue, refused = tensorrt._Runner._enqueue, []

    def refusing(runner, *arrays):
        if backend._capturing:
            refused.append(arrays)
            raise BackendError("not while capturing")
        enqueue(runner, *arrays)

    monkeypatch.setattr(tensorrt._Runner, "_enqueue", refusing)
    loop = Loop(backend, nano)
    expected = [loop.frame("frame", 0), loop.frame("frame", 0)][1]
    with pytest.warns(RuntimeWarning, match=r"CUDA does not record these steps as a graph \(not while capturing\)"):
        assert_close(loop.frame("frame", 0), expected, 0)
    for _ in range(6):
        assert_close(loop.frame("frame", 0), expected, 0)
    assert len(refused) == 1


def test_the_log_of_one_call_is_not_blamed_on_the_next(fake, encoder):
    runner, inputs = encoder
    for error in ("first", "second"):
        fake.faults.run_error = error
        with pytest.raises(BackendError, match=f"TensorRT failed: {error}"):
            runner.run(inputs)
