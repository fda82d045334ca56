"""Engines that passed the gate: of one precision, or of whichever precision of each graph is fastest.

Engines are run on the user's clip on this very machine, against the FP32 graphs on ONNX Runtime's CPU provider.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from sam2edge import bundle as bundles
from sam2edge.bundle import GRAPHS, Bundle
from sam2edge.bundle.engines import ENGINES, Engine, Engines, check_replaceable, default_directory
from sam2edge.calibration.choose import SAFE, Assignment, Trial, choose
from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.comparison import Comparison, Configuration, Measurement, int8_graphs
from sam2edge.calibration.measure.gate import DEFAULT_GATE, Gate
from sam2edge.calibration.measure.report import report_directory, write_report
from sam2edge.calibration.measure.targets import Prompts, automatic_prompts
from sam2edge.engines.build import EngineBuilder, build, check_bundle_precision, check_memory
from sam2edge.engines.profiles import PRESETS, Preset
from sam2edge.errors import GateError, InputError
from sam2edge.runtime.backends.base import Backend
from sam2edge.types import Progress

AUTO = "auto"

Open = Callable[[Engines], Backend]
"""Opens engines to be run."""


def build_checked(
    bundle: Bundle | str | os.PathLike[str],
    clip: Clip,
    open_engines: Open,
    out: str | os.PathLike[str] | None = None,
    *,
    precision: str = AUTO,
    source: Bundle | str | os.PathLike[str] | None = None,
    prompts: Prompts | None = None,
    gate: Gate = DEFAULT_GATE,
    preset: Preset = PRESETS["desktop"],
    force: bool = False,
    progress: Progress = lambda message, fraction: None,
) -> tuple[Engines, list[Trial]]:
    """Build engines that track a clip as FP32 does, and write a report into OUT.report.

    precision: as for `build`; "auto" takes the fastest assignment of precisions to graphs that passes (choose.py), by
    times measured on the clip. source: the FP32 bundle that an INT8 one was made of. prompts: on the clip's first
    frame; None: boxes around what FP32 finds there. Other arguments as for `build`; "auto" always builds.

    Returns the engines and the trials of "auto", the chosen one last. Raises GateError if nothing passes, and what
    `build` does; engines that were at `out` stay then.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    reference = _reference(opened, source)
    if precision != AUTO:
        check_bundle_precision(opened, precision)
    directory = default_directory(opened.path, precision) if out is None else Path(out)
    check_replaceable(directory)
    workshop = EngineBuilder.here(preset)
    size = sum(graph.bytes for graph in reference.manifest.graphs.values())
    if prompts is None:
        prompts = automatic_prompts(reference, clip.first(), "onnx", min(3, preset.limits.objects))
    ladder = Comparison(
        Configuration("FP32", reference, "onnx", size),
        clip,
        prompts,
        gate,
        progress=lambda message: progress(message, 0.0),
    )

    def run(name: str, engines: Engines) -> Measurement:
        total = sum(engine.bytes for engine in engines.manifest.engines.values())
        return ladder.measure(
            Configuration(name, opened, open_engines(engines), total, int8_graphs(engines.manifest.engines))
        )

    try:
        if precision == AUTO:
            return _auto(opened, reference, directory, workshop, run, progress)

        def check(engines: Engines) -> None:
            verdict = run(precision, engines).verdict
            if verdict is not None and not verdict.passed:
                raise GateError(_failed(precision, verdict.failures, directory))

        built = build(
            opened, directory, precision=precision, preset=preset, force=force, check=check, progress=progress
        )
        return built, []
    finally:
        write_report(report_directory(directory), clip, gate, ladder.rows)


def _reference(bundle: Bundle, source: Bundle | str | os.PathLike[str] | None) -> Bundle:
    """The FP32 bundle. InputError if an INT8 bundle comes without it, or with another one."""
    calibration = bundle.manifest.calibration
    if calibration is None:
        return bundle
    if source is None:
        raise InputError(
            f"{bundle.path}: an INT8 bundle is compared with the FP32 bundle it was made of; give it as --source"
        )
    opened = source if isinstance(source, Bundle) else Bundle.open(source)
    if calibration.source != {name: graph.sha256 for name, graph in opened.manifest.graphs.items()}:
        raise InputError(f"{opened.path}: is not the bundle that {bundle.path} was made of; give that one as --source")
    return opened


def _auto(
    bundle: Bundle,
    reference: Bundle,
    directory: Path,
    workshop: EngineBuilder,
    run: Callable[[str, Engines], Measurement],
    progress: Progress,
) -> tuple[Engines, list[Trial]]:
    """Build every engine that is asked for once, under its own name, and leave those that were chosen."""
    quantized = bundle.manifest.calibration is not None
    with bundles.replacing(directory, check_replaceable) as new:
        made: dict[tuple[str, str, bool], Engine] = {}

        def engine(name: str, precision: str, float_io: bool) -> Engine:
            key = name, precision, float_io and precision != SAFE
            if key not in made:
                made[key] = workshop.build(
                    bundle if precision == "int8" else reference,
                    name,
                    precision,
                    new / f"{name}.{precision}{'-float-io' if key[2] else ''}.engine",
                    lambda message, fraction: progress(f"{name} {precision} {message}", fraction),
                    float_io=key[2],
                )
            return made[key]

        def assigned(assignment: Assignment) -> dict[str, Engine]:
            """An array between two engines has one type: FP32 if any of them is."""
            every = zip(ENGINES, (*assignment, SAFE), strict=True)
            return {name: engine(name, precision, SAFE in assignment) for name, precision in every}

        def measure(assignment: Assignment) -> Trial:
            engines = assigned(assignment)
            check_memory(engines, workshop.preset)
            row = run("/".join(assignment), workshop.finished(new, AUTO, engines))
            times = row.run.milliseconds
            failures = row.verdict.failures if row.verdict else ()
            return Trial(assignment, tuple(times[name] for name in GRAPHS), failures)

        trials = choose(("fp16", "int8") if quantized else ("fp16",), measure)
        if not trials[-1].passed:
            raise GateError(_failed("every precision", trials[-1].failures, directory))
        chosen = {}
        for name, one in assigned(trials[-1].assignment).items():
            (new / one.file).rename(new / f"{name}.engine")
            chosen[name] = dataclasses.replace(one, file=f"{name}.engine")
        for loser in new.glob("*.*.engine"):
            loser.unlink()
        workshop.finished(new, AUTO, chosen)
    progress("done", 1.0)
    return Engines.open(directory, bundle, workshop.target), trials


def _failed(what: str, failures: tuple[str, ...], directory: Path) -> str:
    return (
        f"{what}: the gate failed: {'; '.join(failures)}; no engines were written. The report is in "
        f"{report_directory(directory)}; build with another --precision (auto finds the fastest that passes), or lower "
        "--min-iou"
    )
