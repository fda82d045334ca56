"""Real engines; skipped without TensorRT and a GPU."""

from __future__ import annotations

import pytest

from sam2edge import Bundle
from sam2edge.bundle import GRAPHS
from sam2edge.bundle.engines import Engines, Target
from sam2edge.engines import timing_cache
from sam2edge.engines.build import EngineBuilder, build
from sam2edge.engines.profiles import profile
from sam2edge.errors import EngineError
from sam2edge.runtime.backends import tensorrt_api
from sam2edge.runtime.backends.tensorrt import this_target
from tests.gpu.small import SMALL


@pytest.fixture
def target() -> Target:
    try:
        return this_target(tensorrt_api.load())
    except EngineError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32", "int8"])
def test_build(request: pytest.FixtureRequest, target: Target, precision: str) -> None:
    """Build into the default directory, where the other tests find the engines."""
    if reason := EngineBuilder.here(SMALL).refusal(precision):
        pytest.skip(reason)
    bundle: Bundle = request.getfixturevalue("nano_int8" if precision == "int8" else "nano")
    engines = build(bundle, precision=precision, preset=SMALL, progress=lambda message, _: print(message, flush=True))
    assert {
        engine.inputs["features"].dtype for engine in engines.manifest.engines.values() if "features" in engine.inputs
    } == {"float32" if precision in ("fp32", "bf16") else "float16"}
    api = tensorrt_api.load()
    for name in GRAPHS:
        print(name, engines.manifest.engines[name].layers, engines.manifest.engines[name].seconds, "s")
        engine = api.deserialize(engines.read(name))
        for tensor, shapes in profile(bundle.model, SMALL.limits, name).items():
            assert [tuple(shape) for shape in engine.get_tensor_profile_shape(tensor, 0)] == list(shapes)
    assert timing_cache.timing_cache_path(target).stat().st_size > 0
    assert build(bundle, precision=precision, preset=SMALL) == engines
    assert Engines.open(engines.path, bundle, target) == engines
