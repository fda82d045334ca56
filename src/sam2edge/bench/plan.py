"""Which rows a benchmark has, which of them can run here, and running them."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sam2edge.bench.cases import BenchmarkCase, Result, run_case
from sam2edge.bench.configurations import Variant, variants
from sam2edge.bench.scene import Scene
from sam2edge.bench.timed import STEPS, offers
from sam2edge.bundle import Bundle
from sam2edge.calibration.measure.davis import region_similarity
from sam2edge.checks import integer
from sam2edge.errors import BackendError, InputError
from sam2edge.runtime.backends.base import Backend, open_backend
from sam2edge.runtime.video.stream import MODES

TORCH_MODES = ("eager", "compile")
_KEPT = {"device arrays": "arrays stay on the device", "recordings": "frames are recorded"}
_LOWER = {
    "fp16": "engines of `sam2edge build`, with --backend tensorrt",
    "int8": "give a bundle of `sam2edge calibrate` too",
}


@dataclass(frozen=True)
class Settings:
    """What is asked for. bundles: others are compared with the first. backend: its name; tensorrt runs all engines.

    objects: numbers of objects. frames: timed in each row. modes: of MODES. memory_frames: numbers of recent frames
    that are attended to, for the first number of objects; the model's own comes with them. compare: source of
    PyTorch's model, which comes with ONNX Runtime's backends, or "".
    """

    bundles: tuple[Bundle, ...]
    backend: str = "auto"
    objects: tuple[int, ...] = (1, 4, 8)
    frames: int = 100
    modes: tuple[str, ...] = MODES
    memory_frames: tuple[int, ...] = (1, 3)
    compare: str = ""
    scene: Scene = dataclasses.field(default_factory=Scene)

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
            raise InputError(f"{self.scene.masks}: true masks need the clip that they are of; give --clip")


def plan(settings: Settings) -> tuple[list[BenchmarkCase], list[str]]:
    """The rows, and what cannot be measured here, with the reason.

    Raises BackendError if the backend is not here or has nothing that runs, and what the scene does.
    """
    main = open_backend(settings.backend)
    settings.scene.boxes(1, settings.scene.frames(1)[0].shape[:2])  # said now and not by the first row
    rows, missing = _pytorch(settings)
    found, refused = variants(settings.bundles, settings.backend)
    own = [_row(settings, variant, settings.backend) for variant in found]
    chain = [row for row, variant in zip(own, found, strict=True) if variant.same_model(found[0])]
    best = chain[-1]
    steps = _steps(chain, offers(main)) if "latency" in settings.modes else {}
    rows += [row for row in steps if row.without]
    for row in own:
        rows += _tracking(settings, row, settings.modes)
    missing += [f"{step} (the backend {settings.backend} has none)" for step in STEPS if step not in offers(main)]
    memory = settings.bundles[0].model.memory_frames
    counts = [*(count for count in settings.memory_frames if count < memory), memory]
    rows += [dataclasses.replace(best, memory_frames=count) for count in counts if settings.memory_frames]
    for name in ("onnx", "onnx-cuda") if settings.compare else ():
        try:
            other = open_backend(name)
        except BackendError as error:
            missing.append(f"{name} ({str(error).partition(';')[0]})")
        else:
            if not _same(other, main):
                first, _ = variants(settings.bundles[:1], name)
                rows += _tracking(settings, _row(settings, first[0], name), ("latency",))
    for precision, how in _LOWER.items():
        if not any(precision in variant.precisions for variant in found):
            missing.append(f"{precision.upper()} ({how})")
    missing += refused
    missing.append("the export's rewrites one by one (docs/performance.md)")
    return [dataclasses.replace(row, step=row.step or steps.get(row, "")) for row in rows], missing


def _steps(chain: Sequence[BenchmarkCase], offered: Sequence[str]) -> dict[BenchmarkCase, str]:
    """Rows that differ from the one before in one thing, with its name: first precisions, without what is `offered`.

    chain: one model in its precisions.
    """
    left_out = [*offered, ""]
    first = f"exported graphs with their rewrites: {chain[0].name}, {chain[0].backend}"
    labels = [first, *(f"precision: {row.name}" for row in chain[1:])]
    steps = {dataclasses.replace(row, without=left_out[0]): label for row, label in zip(chain, labels, strict=True)}
    for before, after in itertools.pairwise(left_out):
        steps[dataclasses.replace(chain[-1], without=after)] = _KEPT[before]
    return {**steps, dataclasses.replace(chain[-1], mode="throughput"): "throughput mode"}


def _pytorch(settings: Settings) -> tuple[list[BenchmarkCase], list[str]]:
    absent = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if not settings.compare:
        return [], ["PyTorch (give --compare SOURCE)"]
    if absent:
        return [], [f'PyTorch ({absent[0]} is not installed: pip install "sam2edge[export]")']
    size = settings.bundles[0].model.image_size
    return [
        BenchmarkCase(
            "PyTorch",
            "pytorch",
            settings.compare,
            mode,
            count,
            settings.frames,
            image_size=size,
            step=f"PyTorch {mode}" if count == settings.objects[0] else "",
            scene=settings.scene,
        )
        for mode in TORCH_MODES
        for count in settings.objects
    ], []


def _tracking(settings: Settings, one: BenchmarkCase, modes: Sequence[str]) -> list[BenchmarkCase]:
    rows = []
    for count in settings.objects:
        row = dataclasses.replace(one, objects=count)
        rows += [dataclasses.replace(row, mode=mode) for mode in modes]
        rows.append(dataclasses.replace(row, kind="stages"))
    return rows


def _row(settings: Settings, variant: Variant, backend: str) -> BenchmarkCase:
    path = variant.bundle.path
    same = [one.path.name for one in settings.bundles].count(path.name) > 1
    name, model = f"{path if same else path.name} {variant}", str(path.resolve())
    row = BenchmarkCase(name, "track", model, backend, settings.objects[0], settings.frames)
    return dataclasses.replace(row, engines=variant.engines, scene=settings.scene)


def _same(one: Backend, other: Backend) -> bool:
    return type(one) is type(other) and vars(one) == vars(other)


def run(
    rows: Sequence[BenchmarkCase], progress: Callable[[str, float], None] = lambda message, fraction: None
) -> tuple[list[Result], list[str]]:
    """Run the rows one after the other; the results, and rows that failed, with the reason.

    Only what is compared with may fail: BackendError for a row of a bundle. progress: called with the row and what
    part of the rows is done.
    """
    results: list[Result] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="sam2edge-") as directory:
        references: dict[int, Path] = {}
        for number, row in enumerate(rows):
            progress(str(row), number / len(rows))
            masks = Path(directory) / f"{number}.npz"
            try:
                measured = run_case(row, str(masks))
            except BackendError as error:
                if row.kind != "pytorch":
                    raise
                failed.append(str(error))
                continue
            reference = references.setdefault(row.objects, masks)
            results.append(Result(row, measured, _agreement(reference, masks)))
    return results, failed


def _agreement(reference: Path, other: Path) -> float:
    """Mean IoU of the masks in two files."""
    with np.load(reference) as one, np.load(other) as two:
        return float(region_similarity(two["masks"], one["masks"]).mean())
