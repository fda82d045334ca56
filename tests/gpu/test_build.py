"""Real engines; only where TensorRT and a GPU are."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam2edge import Bundle
from sam2edge.bundle import GRAPHS
from sam2edge.engines import cache, compat
from sam2edge.engines.build import PRECISIONS, build
from sam2edge.engines.manifest import Engines, Target, this_target
from sam2edge.engines.profiles import PRESETS, profile
from sam2edge.errors import EngineError


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Target:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    try:
        return this_target(compat.load())
    except EngineError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_build(nano: Bundle, nano_int8: Bundle, tmp_path: Path, target: Target, precision: str) -> None:
    reports: list[str] = []
    bundle = nano_int8 if precision == "int8" else nano
    engines = build(bundle, tmp_path / "out", precision=precision, progress=lambda message, _: reports.append(message))
    assert {
        engine.inputs["features"].dtype for engine in engines.manifest.engines.values() if "features" in engine.inputs
    } == {"float32" if precision == "fp32" else "float16"}
    trt = compat.load()
    for name in GRAPHS:
        logger = compat.new_logger(trt, print)
        engine = compat.deserialized(trt, logger, engines.read(name))
        for tensor, shapes in profile(nano.model, PRESETS["desktop"].limits, name).items():
            assert [tuple(shape) for shape in engine.get_tensor_profile_shape(tensor, 0)] == list(shapes)
    assert cache.timing_cache_path(target.tensorrt, target.gpu).stat().st_size > 0
    assert build(bundle, tmp_path / "out", precision=precision) == engines
    assert Engines.open(tmp_path / "out", bundle, target) == engines
    assert reports[0].startswith("image_encoder")
