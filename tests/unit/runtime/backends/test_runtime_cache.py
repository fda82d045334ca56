"""Tracking with TensorRT for RTX, and what it keeps of the kernels that it compiles, on stand-ins."""

from __future__ import annotations

import dataclasses
import gc
import shutil

import cv2
import numpy as np
import pytest

from sam2edge import Bundle, VideoTracker
from sam2edge.bundle.engines import ENGINES, Limits, check_replaceable, default_directory
from sam2edge.engines.build import build
from sam2edge.engines.profiles import PRESETS
from sam2edge.errors import EngineError
from sam2edge.runtime.backends import runtime_cache
from sam2edge.runtime.backends.base import open_backend
from sam2edge.runtime.backends.cuda import gpus
from tests.helpers import BALL, HEIGHT, WIDTH, assert_close, clip_frames, graph_inputs
from tests.unit.engines.fake_tensorrt import RTX, IRuntimeCache, install

PRESET = dataclasses.replace(PRESETS["desktop"], limits=Limits(objects=2, prompts=2, points=3))


@pytest.fixture
def fake(monkeypatch, quick_collection):
    made = install(monkeypatch, RTX)
    yield made
    gc.collect()
    made.gpu.check()


@pytest.fixture(scope="module")
def built(nano, tmp_path_factory):
    """A bundle with FP32 engines for RTX; do not write into it."""
    folder = tmp_path_factory.mktemp("rtx") / "nano"
    shutil.copytree(nano.path, folder)
    with pytest.MonkeyPatch.context() as patch:
        install(patch, RTX)
        build(folder, product="tensorrt-rtx", precision="fp32", preset=PRESET)
    return folder


@pytest.fixture
def bundle(built, tmp_path):
    for name in (built.name, f"{built.name}.engines"):
        shutil.copytree(built.with_name(name), tmp_path / name)
    return tmp_path / built.name


def caches(bundle):
    return {file.stem: file for file in default_directory(bundle, "fp32", "tensorrt-rtx").glob("*.cache")}


def encode(bundle, objects=2):
    """Return a memory encoder's outputs in a process of its own, so to speak."""
    backend, graph = open_backend("tensorrt-rtx"), bundle / "memory_encoder.onnx"
    found = backend.open(graph).run(graph_inputs(Bundle.open(bundle), "memory_encoder", {"N": objects}))
    backend.forget()
    return found


def test_kernels_are_compiled_once(fake, bundle):
    """The first process compiles for every shape, the second for none."""
    first = encode(bundle)
    assert len(fake.compiled) == 1
    encode(bundle, 1)
    assert len(fake.compiled) == 2
    before = caches(bundle)["memory_encoder"].stat().st_ino
    for objects in (1, 2):
        assert_close(encode(bundle, objects), first if objects == 2 else encode(bundle, 1), 0)
    assert len(fake.compiled) == 2
    assert caches(bundle)["memory_encoder"].stat().st_ino == before, "written without need"


def test_kernels_are_written_while_tracking_goes_on(fake, bundle, monkeypatch):
    """A process that is killed later loses nothing, and recorded frames compile nothing."""
    monkeypatch.setattr(runtime_cache, "_SETTLED", 3)
    # of the model's size, as the resize of others may differ by a grey level (tests/unit/engines/test_resize.py)
    side = Bundle.open(bundle).model.image_size
    frames, seen = [cv2.resize(frame, (side, side)) for frame in clip_frames(9)], []
    with VideoTracker(bundle, "tensorrt-rtx", max_objects=2) as tracker, VideoTracker(bundle, "onnx") as expected:
        for frame in frames:
            for each in (tracker, expected):
                result = each.track(frame)
                if result.frame_index == 0:
                    result = each.prompt(1, box=np.array(BALL) * side / [WIDTH, HEIGHT, WIDTH, HEIGHT])
            seen.append("memory_attention" in caches(bundle))
        assert_close({"": tracker.track(frames[0]).logits}, {"": expected.track(frames[0]).logits}, 1e-3)
        written = caches(bundle)["memory_attention"].stat().st_mtime_ns
    assert seen == sorted(seen)
    assert not seen[2]
    assert seen[-1]
    assert fake.gpu.launches > 2
    assert caches(bundle).keys() == set(ENGINES)
    assert caches(bundle)["memory_attention"].stat().st_mtime_ns == written


def another_gpu(monkeypatch, cache):
    monkeypatch.setattr(gpus, "find_gpu", lambda *_: gpus.Gpu("Other RTX", "8.9", 8 << 30, 46))


def refused_by_nvidia(monkeypatch, cache):
    monkeypatch.setattr(
        IRuntimeCache,
        "deserialize",
        lambda self, blob: bool(self._logger.log(1, "[Runtime Cache]: Incompatible runtime cache (driver)")),
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            another_gpu,
            "memory_encoder.cache: built for GPU Fake RTX with .* but this is Other RTX with .*; this process compiles",
        ),
        (refused_by_nvidia, r"TensorRT for RTX 1\.7\.1\.116 refuses it: .*Incompatible runtime cache \(driver\)"),
        (lambda _, cache: cache.write_bytes(cache.read_bytes()[:-1]), "its sha256 is not the one in its first line"),
        (lambda _, cache: cache.write_bytes(b"x"), r"not a runtime cache \(JSONDecodeError"),
        (lambda _, cache: cache.write_bytes(b"[]"), r"not a runtime cache \(TypeError"),
        (lambda _, cache: cache.write_bytes(b"[" * 100_000), r"not a runtime cache \(RecursionError"),
    ],
)
def test_a_cache_that_is_not_used(fake, bundle, monkeypatch, change, reason):
    """It is said once, and replaced by a fresh one."""
    first = encode(bundle)
    with monkeypatch.context() as patch:
        change(patch, caches(bundle)["memory_encoder"])
        with pytest.warns(RuntimeWarning, match=reason) as said:
            assert_close(encode(bundle), first, 0)
        assert len(said) == 1
        assert len(fake.compiled) == 2
        if change is not refused_by_nvidia:
            encode(bundle)
            assert len(fake.compiled) == 2


def test_a_directory_that_cannot_be_written(fake, bundle, monkeypatch):
    """Said once."""

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(runtime_cache, "replacing_file", refused)
    backend = open_backend("tensorrt-rtx")
    runner = backend.open(bundle / "memory_encoder.onnx")

    def run(objects):
        runner.run(graph_inputs(Bundle.open(bundle), "memory_encoder", {"N": objects}))
        backend.forget()

    with pytest.warns(RuntimeWarning, match=r"cache: cannot be written \(Permission denied\); every process"):
        run(1)
    run(2)
    assert not caches(bundle)


def test_a_cache_that_cannot_be_serialised(fake, bundle, monkeypatch):
    monkeypatch.setattr(IRuntimeCache, "serialize", lambda self: self._logger.log(1, "no fingerprint"))
    with pytest.warns(RuntimeWarning, match=r"cannot be written \(no fingerprint\)"):
        encode(bundle)


def test_caches_do_not_keep_engines_from_being_replaced(fake, bundle):
    encode(bundle)
    directory = caches(bundle)["memory_encoder"].parent
    (directory / ".mask_decoder.123.cache").touch()  # of a process that was killed
    check_replaceable(directory)
    (directory / "notes.cache").touch()
    with pytest.raises(EngineError, match=r"unexpected notes\.cache"):
        check_replaceable(directory)
