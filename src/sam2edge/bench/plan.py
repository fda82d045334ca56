"""Which cases a benchmark has, which of them can run here, and running them."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sam2edge.bench.cases import WORDS_FRAMES, BenchmarkCase, Result, run_case
from sam2edge.bench.scene import Scene
from sam2edge.bundle import Bundle
from sam2edge.bundle.engines import RTX, TENSORRT, build_command, engine_directories
from sam2edge.calibration.measure.configurations import Configuration, find_configurations, precisions, without_pytorch
from sam2edge.calibration.measure.davis import region_similarity
from sam2edge.checks import integer
from sam2edge.errors import BackendError, InputError
from sam2edge.runtime import BACKENDS
from sam2edge.runtime.backends.base import open_backend
from sam2edge.runtime.video.stream import MODES
from sam2edge.types import Progress

TORCH_MODES = ("eager", "compile")
_ORDER = ("fp32", "bf16", "fp16", "int8", "auto")
_LOWER = {
    "fp16": "engines of `sam2edge build`, with --backend tensorrt or tensorrt-rtx",
    "int8": "give a bundle of `sam2edge calibrate` too",
}
"""How to get the precisions that are missing."""


@dataclass(frozen=True)
class Settings:
    """What is to be measured; InputError for values out of range."""

    bundles: tuple[Bundle, ...]  # others are compared with the first
    backend: str = "auto"  # tensorrt and tensorrt-rtx run all engines
    objects: tuple[int, ...] = (1, 4, 8)
    frames: int = 100  # timed in each case
    modes: tuple[str, ...] = MODES
    memory_frames: tuple[int, ...] = (1, 3)  # for the first number of objects, and beside the model's own
    compare: str = ""  # source of PyTorch's model, which is measured together with ONNX Runtime's backends
    scene: Scene = dataclasses.field(default_factory=Scene)
    threads: int | None = None  # of the CPU, for ONNX Runtime; None for one a core
    gpu: int | None = None  # its number, for the other backends; None for the first

    def __post_init__(self) -> None:
        integer("the number of timed frames", self.frames, 1)
        for name, values in (("objects", self.objects), ("memory frames", self.memory_frames)):
            for value in values:
                integer(f"the number of {name}", value, 1)
        if unknown := set(self.modes) - set(MODES):
            raise InputError(f"unknown mode {min(unknown)!r}; use {' or '.join(MODES)}")
        if not (self.bundles and self.objects and self.modes):
            raise InputError("a benchmark needs a bundle, a number of objects and a mode")
        if self.scene.masks and not self.scene.clip:
            raise InputError(f"{self.scene.masks}: true masks need the clip that they belong to; give --clip")


def plan(settings: Settings) -> tuple[list[BenchmarkCase], list[str]]:
    """Return the cases, and what cannot be measured here, with the reason.

    Raises:
        BackendError: the backend is not here, or nothing runs with it. Also raises what the scene does.
    """
    open_backend(settings.backend, threads=settings.threads, gpu=settings.gpu)  # raises what is wrong with it
    settings.scene.boxes(1, settings.scene.frames(1)[0].shape[:2])  # raises here rather than in the first case
    configurations, refused = _configurations(settings)
    own = [_case(settings, configuration, settings.backend) for configuration in configurations]
    same = [_same_model(settings, configuration) for configuration in configurations]
    chain = list(itertools.compress(own, same))
    best = chain[-1]
    cases, missing = _pytorch(settings)
    for case in own:
        cases += _tracking(settings, case, settings.modes)
    if settings.bundles[0].words:
        frames = min(settings.frames, WORDS_FRAMES)
        cases += [dataclasses.replace(case, kind="words", frames=frames) for case in itertools.compress(own, same)]
    memory = settings.bundles[0].model.memory_frames
    counts = [*(count for count in settings.memory_frames if count < memory), memory]
    cases += [dataclasses.replace(best, memory_frames=count) for count in counts if settings.memory_frames]
    for name in ("onnx", "onnx-cuda") if settings.compare else ():
        try:
            threads, gpu = _place(settings, name)
            open_backend(name, threads=threads, gpu=gpu)
        except BackendError as error:
            missing.append(f"{name} ({str(error).partition(';')[0]})")
        else:
            if BACKENDS[name] != BACKENDS[settings.backend]:
                first = find_configurations(settings.bundles, name, engines=())[0][0]
                cases += _tracking(settings, _case(settings, first, name), ("latency",))
    for precision, how in _LOWER.items():
        if not any(precision in precisions(configuration.graphs) for configuration in configurations):
            missing.append(f"{precision.upper()} ({how})")
    missing += [*refused, "the export's rewrites one by one (docs/explanation/performance.md)"]
    steps = _steps(chain) if "latency" in settings.modes else {}
    return [dataclasses.replace(case, step=case.step or steps.get(case, "")) for case in cases], missing


def _configurations(settings: Settings) -> tuple[list[Configuration], list[str]]:
    """Find what runs with the backend: the first bundle's model in all its precisions, then the other bundles."""
    engines = {TENSORRT, RTX}.intersection([settings.backend])
    found, refused = find_configurations(
        settings.bundles, settings.backend, graphs=not engines, engines=engines, gpu=settings.gpu or 0
    )
    for bundle in settings.bundles:
        if not any(configuration.bundle is bundle for configuration in found):
            reasons = [refused[directory] for directory in engine_directories(bundle.path, settings.backend)]
            command = build_command(bundle.path, settings.backend)
            why = "; ".join(reasons) or f"there are none; build them with `{command}`"
            raise BackendError(f"none of the engines of {bundle.path} can be loaded here: {why}")

    def place(configuration: Configuration) -> tuple[int, int]:
        other = 0 if _same_model(settings, configuration) else 1 + settings.bundles.index(configuration.bundle)
        return other, _ORDER.index(configuration.precision)

    return sorted(found, key=place), list(refused.values())


def _same_model(settings: Settings, configuration: Configuration) -> bool:
    """Whether a configuration was made from the same FP32 graphs as the first bundle."""

    def origin(bundle: Bundle) -> dict[str, str]:
        calibration = bundle.manifest.calibration
        return calibration.source if calibration else {n: graph.sha256 for n, graph in bundle.manifest.graphs.items()}

    return origin(configuration.bundle) == origin(settings.bundles[0])


def _steps(chain: Sequence[BenchmarkCase]) -> dict[BenchmarkCase, str]:
    """Return the waterfall's steps with their labels: a model in its precisions, then throughput mode."""
    first, *others = chain
    return {
        first: f"exported graphs with their rewrites: {first.name}, {first.backend}",
        **{case: f"precision: {case.name}" for case in others},
        dataclasses.replace(chain[-1], mode="throughput"): "throughput mode",
    }


def _pytorch(settings: Settings) -> tuple[list[BenchmarkCase], list[str]]:
    if absent := without_pytorch(settings.compare, "--against"):
        return [], [absent]
    case = BenchmarkCase("PyTorch", "pytorch", settings.compare, "", settings.objects[0], settings.frames)
    case = dataclasses.replace(case, image_size=settings.bundles[0].model.image_size, scene=settings.scene)
    return [
        dataclasses.replace(case, backend=mode, objects=count, step=f"PyTorch {mode}" * (count == settings.objects[0]))
        for mode in TORCH_MODES
        for count in settings.objects
    ], []


def _tracking(settings: Settings, case: BenchmarkCase, modes: Sequence[str]) -> list[BenchmarkCase]:
    cases = []
    for count in settings.objects:
        counted = dataclasses.replace(case, objects=count)
        cases += [dataclasses.replace(counted, mode=mode) for mode in modes]
        cases.append(dataclasses.replace(counted, kind="stages"))
    return cases


def _case(settings: Settings, configuration: Configuration, backend: str) -> BenchmarkCase:
    model, engines = str(configuration.bundle.path.resolve()), str(configuration.engines or "")
    case = BenchmarkCase(configuration.name, "track", model, backend, settings.objects[0], settings.frames)
    threads, gpu = _place(settings, backend)
    return dataclasses.replace(case, engines=engines, scene=settings.scene, threads=threads, gpu=gpu)


def _place(settings: Settings, backend: str) -> tuple[int | None, int | None]:
    """Return the threads and the GPU of a backend, which has either."""
    return (settings.threads, None) if BACKENDS[backend] == BACKENDS["onnx"] else (None, settings.gpu)


def run(
    cases: Sequence[BenchmarkCase], progress: Progress = lambda message, fraction: None
) -> tuple[list[Result], list[str]]:
    """Run the cases; return the results, and why cases of PyTorch or of words failed. Others may not fail."""
    results: list[Result] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="sam2edge-") as directory:
        references: dict[int, Path] = {}
        for number, case in enumerate(cases):
            progress(str(case), number / len(cases))
            file = Path(directory) / f"{number}.npz"
            try:
                measured = run_case(case, str(file))
            except BackendError as error:
                if case.kind not in ("pytorch", "words"):
                    raise
                failed.append(str(error))
                continue
            if case.kind == "words":
                results.append(Result(case, measured))
                continue
            reference = references.setdefault(case.objects, file)
            with np.load(reference) as expected, np.load(file) as masks:
                agreement = float(region_similarity(masks["masks"], expected["masks"]).mean())
            results.append(Result(case, measured, agreement))
    return results, failed
