"""What no stand-in can answer, on the smallest engine: `python -m tests.gpu.smoke BUNDLE FOLDER`.

Each question has a line of its own. One that fails prints its traceback, and takes only those along that need its
answer. FOLDER gets the engine, and what the inspector says as it is.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sam2edge import Bundle
from sam2edge.bench.readings import gpu_memory
from sam2edge.bundle import contract
from sam2edge.bundle.engines import RESIZE, Engines
from sam2edge.engines.build import EngineBuilder
from sam2edge.engines.profiles import PRESETS, profile
from sam2edge.runtime.backends import tensorrt_api
from sam2edge.runtime.backends.base import open_backend
from sam2edge.runtime.backends.tensorrt import TensorRTBackend, resize_contract
from sam2edge.runtime.model.resize import filter_inputs, resize
from tests.gpu.bars import verdict
from tests.gpu.build import build_one
from tests.helpers import graph_inputs

GRAPH = "memory_encoder"
RUNS = 5
"""Runs of a key, of which the third is recorded and the others after it are launches."""
LAUNCHES = 100


class Smoke:
    """The questions, in the order of `QUESTIONS`; what several need is made by the first."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self.bundle, self.folder = bundle, folder

    @cached_property
    def backend(self) -> TensorRTBackend:
        return TensorRTBackend(self.folder)

    @cached_property
    def engines(self) -> Engines:
        """A set of one engine, FP16."""
        return self._set_of(GRAPH)

    def _set_of(self, graph: str) -> Engines:
        engine = build_one(f"{self.bundle.path},fp16", graph, self.folder / f"{graph}.engine", self.folder)
        return EngineBuilder.here(PRESETS["desktop"]).finished(self.folder, "fp16", {graph: engine})

    @cached_property
    def runner(self) -> Any:
        return self.backend._runner(self.engines, GRAPH, GRAPH, *contract(self.bundle.model)[GRAPH])

    @cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        return graph_inputs(self.bundle, GRAPH, {"N": 1})

    def context(self) -> str:
        before = gpu_memory()
        gpu = self.backend.context.gpu
        after = gpu_memory()
        return f"of GPU {gpu}" + ("" if before is None or after is None else f", takes {after - before:.0f} MiB")

    def copies(self) -> str:
        backend = self.backend
        host, there, back = backend.staging((1000,)), backend.zeros((1000,)), backend.staging((1000,))

        def steps() -> None:
            backend.copy(host, there)
            backend.copy(there, back)

        for run in self._runs("copies", steps, host.fill):
            np.testing.assert_array_equal(back, run)
        return "right"

    def build(self) -> str:
        engine = self.engines.manifest.engines[GRAPH]
        return f"{engine.seconds:.0f} s, layers {engine.layers}"

    def inspector(self) -> str:
        api = tensorrt_api.load()
        engine = api.deserialize(self.engines.read(GRAPH))
        context = engine.create_execution_context()
        for name, (_, usual, _) in profile(self.bundle.model, PRESETS["desktop"].limits, GRAPH).items():
            context.set_input_shape(name, usual)
        inspector = engine.create_engine_inspector()
        inspector.execution_context = context
        text = inspector.get_engine_information(api.trt.LayerInformationFormat.JSON)
        (self.folder / "inspector.json").write_text(text)
        controls = sorted({character for character in text if ord(character) < 32})
        return f"{len(text)} characters, control characters {controls}, {len(api.layers(engine, {}))} layers are read"

    def contexts(self) -> str:
        """Contexts of one engine share its only profile; an error that TensorRT logs is part of the answer."""
        api = tensorrt_api.load()
        engine = api.deserialize(self.engines.read(GRAPH))
        api.errors.clear()
        with self.backend.exclusive():
            made = [api.new_context(engine) for _ in range(3)]
            before = [context.active_optimization_profile for context in made]
            chosen = [api.choose_profile(context, self.backend.stream.handle) for context in made]
            self.backend.synchronize()
            del made
        return f"active profiles {before}, chosen {chosen}, errors {list(api.errors)}"

    def run(self) -> str:
        expected = open_backend("onnx").open(self.bundle.graph_path(GRAPH)).run(self.inputs)
        actual = self.runner.run(self.inputs)
        error = max(float(np.abs(actual[name] - found).max() / np.abs(found).max()) for name, found in expected.items())
        return f"relative error {verdict(error, error <= 5e-3, 'at most 0.005')}"

    def resizing(self) -> str:
        """Without this engine, the only one that returns bytes, frames would be resized on the host."""
        side, frame = self.bundle.model.image_size, np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
        runner = self.backend._runner(self._set_of(RESIZE), RESIZE, RESIZE, *resize_contract(side))
        (found,) = runner.run({"frame": frame, **filter_inputs((240, 320), side)})["image"]
        error = int(np.abs(found.astype(int) - resize(frame, side)).max())
        return f"grey levels {verdict(error, error <= 1, 'at most 1')}"

    def recording(self) -> str:
        backend = self.backend
        expected = self.runner.run(self.inputs)
        inputs = {name: backend.zeros(value.shape, self.runner.dtype(name)) for name, value in self.inputs.items()}
        outputs = {name: backend.zeros(value.shape, self.runner.dtype(name)) for name, value in expected.items()}
        for name, value in self.inputs.items():
            backend.copy(value.astype(inputs[name].dtype), inputs[name])
        (name, found), *_ = expected.items()
        back = backend.staging(found.shape, self.runner.dtype(name))

        def steps() -> None:
            self.runner.run_into(inputs, outputs)
            backend.copy(outputs[name], back)

        for _ in self._runs("runs", steps, lambda run: back.fill(0)):
            np.testing.assert_array_equal(back, found)
        begin = time.perf_counter()
        for _ in range(LAUNCHES):
            backend.replay("runs", steps)
        backend.synchronize()
        return f"the same values, {1e6 * (time.perf_counter() - begin) / LAUNCHES:.0f} µs a launch"

    def _runs(self, key: str, steps: Callable[[], None], prepare: Callable[[int], None]) -> Iterator[int]:
        """Replay steps, and yield the number of each run when its event was waited for, as trackers do.

        AssertionError if CUDA does not record them.
        """
        for run in range(1, RUNS + 1):
            prepare(run)
            self.backend.replay(key, steps)
            self.backend.fence()()
            yield run
        if key not in self.backend._recordings:
            raise AssertionError("the steps are queued one by one, since CUDA does not record them")


QUESTIONS = {
    "primary context": Smoke.context,
    "copies, recorded and launched": Smoke.copies,
    f"build of {GRAPH}, FP16": Smoke.build,
    "inspector": Smoke.inspector,
    "three contexts on one profile": Smoke.contexts,
    "a run against the CPU": Smoke.run,
    "a frame resized, against the CPU": Smoke.resizing,
    "runs, recorded and launched": Smoke.recording,
}


def main(bundle: str, folder: str) -> int:
    """Ask all questions; return how many had no answer."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    smoke, begin, failed = Smoke(Bundle.open(bundle), Path(folder)), time.perf_counter(), 0
    for title, question in QUESTIONS.items():
        try:
            answer = question(smoke)
        except Exception:  # of any kind: the other questions are asked all the same
            failed, answer = failed + 1, f"FAILED\n{traceback.format_exc(limit=-4)}"
        print(f"{time.perf_counter() - begin:5.1f} s  {title}: {answer}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
