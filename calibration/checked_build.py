"""Build engines that pass the gate: in one precision, or in whichever is fastest for each graph.

Engines are run on the user's clip on this machine, and compared with the FP32 graphs on ONNX Runtime's CPU provider.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection
from pathlib import Path

from sam2edge import bundle as bundles
from sam2edge.bundle import GRAPHS, Bundle
from sam2edge.bundle.engines import (
    ENGINES,
    MEMORY_ATTENTION,
    TENSORRT,
    Engine,
    Engines,
    check_replaceable,
    default_directory,
)
from sam2edge.bundle.words import DETECTOR
from sam2edge.calibration.choose import Assignment, Trial, Variant, choose, name
from sam2edge.calibration.int8.ranges import range_ratios
from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.comparison import Comparison, Measurement
from sam2edge.calibration.measure.configurations import Configuration
from sam2edge.calibration.measure.gate import DEFAULT_GATE, Gate
from sam2edge.calibration.measure.report import report_directory, write_report
from sam2edge.calibration.measure.targets import Prompts, automatic_prompts
from sam2edge.engines.build import FLOAT_IO, EngineBuilder, build, check_bundle_precision, check_memory
from sam2edge.engines.profiles import PRESETS, Preset
from sam2edge.engines.rewrites import FORMS
from sam2edge.errors import GateError, InputError
from sam2edge.files import user_path
from sam2edge.runtime.backends.base import Backend
from sam2edge.types import Progress

AUTO = "auto"


def build_checked(
    bundle: Bundle | str | os.PathLike[str],
    clip: Clip,
    open_engines: Callable[[Engines], Backend],
    out: str | os.PathLike[str] | None = None,
    *,
    precision: str = AUTO,
    attention: str | None = None,
    product: str = TENSORRT,
    compute_capabilities: Collection[str] = (),
    source: Bundle | str | os.PathLike[str] | None = None,
    prompts: Prompts | None = None,
    gate: Gate = DEFAULT_GATE,
    preset: Preset = PRESETS["desktop"],
    gpu: int | None = None,
    force: bool = False,
    progress: Progress = lambda message, fraction: None,
) -> tuple[Engines, list[Trial]]:
    """Build engines that track a clip as FP32 does, and write a report into OUT.report.

    The precision "auto" takes the fastest assignment of precisions to graphs that passes (choose.py), by times measured
    on the clip, and always builds. An INT8 bundle needs its `source`, the FP32 bundle that it was made from. Without
    prompts, boxes around what FP32 finds on the first frame are tracked. Other arguments are those of `build`.

    Returns:
        The engines, and the trials of "auto" with the chosen one last.

    Raises:
        GateError: nothing passes; engines that were at `out` stay. Also raises what `build` does.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    reference = _reference(opened, source)
    if precision != AUTO:
        check_bundle_precision(opened, precision)
    directory = default_directory(opened.path, precision, product) if out is None else user_path(out)
    check_replaceable(directory)
    builder = EngineBuilder.here(preset, product, compute_capabilities, gpu)
    if prompts is None:
        prompts = automatic_prompts(reference, clip.first(), "onnx", min(3, preset.limits.objects))
    fp32 = Configuration("FP32", reference, "onnx")
    comparison = Comparison(fp32, clip, prompts, gate, range_ratios=range_ratios, progress=progress)

    def run(name: str, engines: Engines) -> Measurement:
        return comparison.measure(Configuration(name, opened, open_engines(engines), engines.manifest.engines))

    try:
        if precision == AUTO:
            return _auto(opened, reference, directory, builder, attention, run, progress)

        def check(engines: Engines) -> None:
            verdict = run(precision, engines).verdict
            if verdict is not None and not verdict.passed:
                raise GateError(_failed(precision, verdict.failures, directory))

        built = build(
            opened,
            directory,
            precision=precision,
            attention=attention,
            product=product,
            compute_capabilities=compute_capabilities,
            preset=preset,
            gpu=gpu,
            force=force,
            check=check,
            progress=progress,
        )
        return built, []
    finally:
        write_report(report_directory(directory), clip, gate, comparison.measurements)


def _reference(bundle: Bundle, source: Bundle | str | os.PathLike[str] | None) -> Bundle:
    """Return the FP32 bundle; InputError if an INT8 bundle comes without it or with another one."""
    calibration = bundle.manifest.calibration
    if calibration is None:
        return bundle
    if source is None:
        raise InputError(
            f"{bundle.path}: an INT8 bundle is compared with the FP32 bundle it was made from; give it as --fp32"
        )
    opened = source if isinstance(source, Bundle) else Bundle.open(source)
    if calibration.source != {name: graph.sha256 for name, graph in opened.manifest.graphs.items()}:
        raise InputError(f"{opened.path}: {bundle.path} was made from another bundle; give that one as --fp32")
    return opened


def _auto(
    bundle: Bundle,
    reference: Bundle,
    directory: Path,
    builder: EngineBuilder,
    attention: str | None,
    run: Callable[[str, Engines], Measurement],
    progress: Progress,
) -> tuple[Engines, list[Trial]]:
    """Build every engine that is tried once, under its own name, and keep those that were chosen."""
    quantized = bundle.manifest.calibration is not None
    lowest = ["fp16", "int8"] if quantized else ["fp16"]
    rounds = [lowest, ["fp32"]] if builder.refusal("bf16") else [lowest, ["bf16"], ["fp32"]]

    def forms(precision: str) -> list[str]:
        """Return the forms of the memory attention to measure: in FP32, where TensorRT fuses none, only one."""
        usual = builder.attention_form(bundle.model, precision, attention)
        return [usual] if attention or precision == "fp32" else sorted(FORMS, key=lambda form: form != usual)

    def uniform(precision: str, form: str) -> Assignment:
        return tuple(Variant(precision, form if graph == MEMORY_ATTENTION else "") for graph in GRAPHS)

    with bundles.replacing(directory, check_replaceable) as new:
        built: dict[tuple[str, Variant, bool], Engine] = {}

        def engine(graph: str, variant: Variant, float_io: bool) -> Engine:
            key = graph, variant, float_io and variant.precision not in FLOAT_IO
            if key not in built:
                built[key] = builder.build(
                    bundle if variant.precision == "int8" else reference,
                    graph,
                    variant.precision,
                    new / f"{graph}.{len(built)}.engine",
                    lambda message, fraction: progress(f"{graph} {variant} {message}", fraction),
                    attention=variant.attention or None,
                    float_io=key[2],
                )
            return built[key]

        def assigned(assignment: Assignment) -> dict[str, Engine]:
            """Return the engines of an assignment. Arrays between them are FP32 if any engine needs that."""
            every = zip(ENGINES, (*assignment, Variant("fp32")), strict=True)
            float_io = any(variant.precision in FLOAT_IO for variant in assignment)
            return {graph: engine(graph, variant, float_io) for graph, variant in every}

        def measure(assignment: Assignment) -> Trial:
            engines = assigned(assignment)
            check_memory(engines, builder.preset)
            measured = run(name(assignment), builder.finished(new, AUTO, engines))
            times = measured.run.milliseconds
            failures = measured.verdict.failures if measured.verdict else ()
            return Trial(assignment, tuple(times[graph] for graph in GRAPHS), failures)

        trials = choose([[uniform(one, form) for one in group for form in forms(one)] for group in rounds], measure)
        if not trials[-1].passed:
            raise GateError(_failed("every precision", trials[-1].failures, directory))
        chosen = {}
        for graph, taken in assigned(trials[-1].assignment).items():
            (new / taken.file).rename(new / f"{graph}.engine")
            chosen[graph] = dataclasses.replace(taken, file=f"{graph}.engine")
        if DETECTOR in bundle.graph_names:  # it tracks nothing, so that no trial says anything about it
            file = new / f"{DETECTOR}.engine"
            chosen[DETECTOR] = builder.build(bundle, DETECTOR, lowest[-1], file, lambda message, fraction: None)
            check_memory(chosen, builder.preset)
        for loser in new.glob("*.*.engine"):
            loser.unlink()
        builder.finished(new, AUTO, chosen)
    progress("done", 1.0)
    return Engines.open(directory, bundle, builder.target), trials


def _failed(what: str, failures: tuple[str, ...], directory: Path) -> str:
    return (
        f"{what}: the gate failed: {'; '.join(failures)}; no engines were written. The report is in "
        f"{report_directory(directory)}; build with another --precision (auto finds the fastest that passes), or lower "
        "--min-iou"
    )
