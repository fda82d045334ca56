"""Compile the four graphs of a bundle into TensorRT engines for the GPU of this machine."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

from sam2edge import bundle as bundles
from sam2edge.bundle import Bundle
from sam2edge.bundle.engines import (
    ENGINES,
    RESIZE,
    Engine,
    EngineManifest,
    Engines,
    Target,
    Tensor,
    check_replaceable,
    default_directory,
    write_manifest,
)
from sam2edge.engines import timing_cache
from sam2edge.engines.fp16 import HOST_TENSORS, ISLANDS, half, island_nodes, small_weights
from sam2edge.engines.layer_precision import check_precision, count_precisions
from sam2edge.engines.profiles import PRESETS, Preset, profile
from sam2edge.engines.resize import resize_graph
from sam2edge.errors import BuildError, EngineError, InputError
from sam2edge.runtime.backends import tensorrt_api
from sam2edge.runtime.backends.tensorrt import this_target

PRECISIONS = ("fp32", "fp16", "int8")

Check = Callable[[Engines], None]


def build(
    bundle: Bundle | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    precision: str = "fp16",
    preset: Preset = PRESETS["desktop"],
    force: bool = False,
    check: Check = lambda engines: None,
    progress: tensorrt_api.Progress = lambda message, fraction: None,
) -> Engines:
    """Build the engines of a bundle, one graph after the other, which takes minutes.

    out: their directory, BUNDLE.engines/PRECISION by default. precision: "fp16" (the types of the graphs, with the
    FP32 islands of fp16.py), "fp32", or "int8" for a bundle that `calibrate` wrote, with FP16 around INT8. preset: the
    sizes that the engines must take, and memory. force: build even what is there already for the same bundle, machine,
    precision and preset. check: called with the engines at the end; what it raises refuses them. progress: called with
    a message and the fraction done.

    Raises EngineError without TensorRT or a GPU, BuildError when TensorRT fails or an engine got another precision,
    BundleError, InputError. Engines that were at `out` stay until all new ones are there and checked.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    check_asked(opened, precision)
    workshop = EngineBuilder.here(preset)
    directory = default_directory(opened.path, precision) if out is None else Path(out)
    check_replaceable(directory)
    if not force and (current := _current(directory, opened, workshop, precision)):
        check(current)
        progress("up to date", 1.0)
        return current
    with bundles.replacing(directory, check_replaceable) as new:
        engines: dict[str, Engine] = {}
        for index, name in enumerate(ENGINES):
            file = new / f"{name}.engine"
            engines[name] = workshop.build(opened, name, precision, file, _part(progress, name, index))
            check_memory(engines, preset)
        check(workshop.finished(new, precision, engines))
    progress("done", 1.0)
    return Engines.open(directory, opened, workshop.target)


def check_asked(bundle: Bundle, precision: str) -> None:
    """InputError for a precision that is unknown, not offered, or not the bundle's."""
    quantized = bundle.manifest.calibration is not None
    if precision == "fp8":
        raise InputError(
            "fp8 is not offered: it follows FP32 less closely than int8 (docs/calibration.md); use fp16, or int8 for a "
            "bundle of `sam2edge calibrate`"
        )
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)} but is {precision!r}")
    if quantized and precision != "int8":
        raise InputError(
            f"{bundle.path}: is an INT8 bundle, which has no {precision} graphs; build it with --precision int8, or "
            "give the bundle it was made of"
        )
    if precision == "int8" and not quantized:
        raise InputError(f"{bundle.path}: is no INT8 bundle; make one of it with `sam2edge calibrate`")


def _current(directory: Path, bundle: Bundle, workshop: EngineBuilder, precision: str) -> Engines | None:
    """The engines that are there, if they are what would be built."""
    try:
        engines = Engines.open(directory, bundle, workshop.target)
        for name in ENGINES:
            engines.read(name)
    except EngineError:
        return None
    if engines.manifest.engines[RESIZE].graph_sha256 != _graph(bundle, RESIZE).sha256:
        return None
    manifest, preset = engines.manifest, workshop.preset
    same = (manifest.precision, manifest.limits, manifest.workspace) == (precision, preset.limits, preset.workspace)
    return engines if same else None


def _part(progress: tensorrt_api.Progress, name: str, index: int) -> tensorrt_api.Progress:
    """Progress of one graph as a part of the whole."""

    def report(message: str, fraction: float) -> None:
        progress(f"{name}: {message}" if message else name, (index + fraction) / len(ENGINES))

    return report


def check_memory(engines: dict[str, Engine], preset: Preset) -> None:
    """BuildError when the engines so far take more than they may; better now than on the last graph or in the field."""
    taken = sum(engine.bytes + engine.activation_bytes for engine in engines.values())
    if preset.memory is not None and taken > preset.memory:
        raise BuildError(
            f"the engines {', '.join(engines)} take {taken / 2**30:.1f} GiB, but the profile {preset.name} allows "
            f"{preset.memory / 2**30:.1f} GiB for all; lower --max-objects or --max-prompts, use fp16, or export "
            "with a smaller --image-size or with --memory-pool 2"
        )


@dataclass(frozen=True)
class _Typed:
    """A graph as it is built: serialised ONNX, and what the engine must be like.

    inputs, outputs: numpy dtype names. float_nodes: nodes that stay FP32. quantized: how many tensors go to INT8.
    """

    onnx: bytes
    inputs: dict[str, str]
    outputs: dict[str, str]
    float_nodes: set[str]
    small_weights: dict[str, int]
    quantized: int

    @property
    def half_tensors(self) -> set[str]:
        """Inputs and outputs that are FP16."""
        return {name for name, dtype in {**self.inputs, **self.outputs}.items() if dtype == "float16"}


@dataclass(frozen=True)
class _Graph:
    model: onnx.ModelProto
    sha256: str


def _graph(bundle: Bundle, name: str) -> _Graph:
    """A graph of the bundle, or the one that resizes frames."""
    if name != RESIZE:
        return _Graph(onnx.load(bundle.graph_path(name)), bundle.manifest.graphs[name].sha256)
    model = resize_graph(bundle.model.image_size)
    return _Graph(model, hashlib.sha256(model.SerializeToString()).hexdigest())


def _typed(model: onnx.ModelProto, graph: str, precision: str, half_scales: bool, float_io: bool) -> _Typed:
    """Give a graph its types. What takes memory beside the result is freed on return.

    half_scales: whether TensorRT reads FP16 around Q/DQ nodes; else the types of the engine come from flags. float_io:
    see EngineBuilder.build.
    """
    float_nodes, small = set[str](), dict[str, int]()
    typed = model
    if precision != "fp32":
        islands = [island for island in ISLANDS if island.graph == graph]
        float_nodes, small = island_nodes(model.graph, islands), small_weights(model)
        ends = {value.name for value in (*model.graph.input, *model.graph.output)} if float_io else set()
        typed = half(model, islands, HOST_TENSORS | ends)

    def dtypes(values: Iterable[onnx.ValueInfoProto]) -> dict[str, str]:
        types = {value.name: value.type.tensor_type.elem_type for value in values}
        return {name: onnx.helper.tensor_dtype_to_np_dtype(dtype).name for name, dtype in types.items()}

    content = (typed if precision == "fp16" or half_scales else model).SerializeToString()
    quantized = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    return _Typed(content, dtypes(typed.graph.input), dtypes(typed.graph.output), float_nodes, small, quantized)


@dataclass(frozen=True)
class EngineBuilder:
    """Builds single engines for one machine and preset."""

    trt: ModuleType
    target: Target
    preset: Preset

    @staticmethod
    def here(preset: Preset) -> EngineBuilder:
        """For this machine. Raises EngineError without TensorRT or a GPU."""
        trt = tensorrt_api.load()
        return EngineBuilder(trt, this_target(trt), preset)

    def build(
        self,
        bundle: Bundle,
        name: str,
        precision: str,
        file: Path,
        progress: tensorrt_api.Progress,
        *,
        float_io: bool = False,
    ) -> Engine:
        """Build one graph and write its engine. Network and builder are freed on return, before the next.

        float_io: inputs and outputs are FP32 whatever the precision, so that it may run beside FP32 engines.

        Raises BuildError when TensorRT fails, or the engine has other types than were asked for.
        """
        begin = time.perf_counter()
        progress("", 0.0)
        precision = "fp32" if name == RESIZE else precision  # it rounds to whole numbers as the host does
        source = _graph(bundle, name)
        graph = _typed(source.model, name, precision, tensorrt_api.reads_half_scales(self.trt), float_io)
        shapes = profile(bundle.model, self.preset.limits, name)
        logger, said = tensorrt_api.logger(self.trt)
        said.clear()
        content = self._compile(name, graph, precision, shapes, logger, progress)
        if content is None:
            raise _failure(name, said)
        try:
            engine = tensorrt_api.deserialized(self.trt, logger, content)
            layers = tensorrt_api.layers(self.trt, engine, {tensor: usual for tensor, (_, usual, _) in shapes.items()})
        except EngineError as error:
            raise BuildError("; ".join([f"{name}: {error}", *said])) from error
        check_precision(name, precision, counts := count_precisions(layers), graph.quantized)
        _check_types(name, {**graph.inputs, **graph.outputs}, tensorrt_api.tensor_dtypes(self.trt, engine))
        file.write_bytes(content)
        return Engine(
            file=file.name,
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
            precision=precision,
            graph_sha256=source.sha256,
            inputs={tensor: Tensor(dtype, shapes.get(tensor, ())) for tensor, dtype in graph.inputs.items()},
            outputs={tensor: Tensor(dtype) for tensor, dtype in graph.outputs.items()},
            layers=counts,
            small_weights=graph.small_weights,
            activation_bytes=tensorrt_api.activation_bytes(self.trt, engine),
            seconds=round(time.perf_counter() - begin, 1),
        )

    def finished(self, directory: Path, precision: str, engines: dict[str, Engine]) -> Engines:
        """Write engines.json beside the engines of all four graphs."""
        manifest = EngineManifest(precision, self.target, self.preset.limits, self.preset.workspace, engines)
        write_manifest(directory, manifest)
        return Engines(directory, manifest)

    def _compile(
        self,
        name: str,
        graph: _Typed,
        precision: str,
        shapes: dict[str, tensorrt_api.Shapes],
        logger: Any,
        progress: tensorrt_api.Progress,
    ) -> bytes | None:
        """The serialised engine of a graph; None when TensorRT fails."""
        trt = self.trt
        builder = tensorrt_api.new_builder(trt, logger)
        network = tensorrt_api.new_network(trt, builder)
        _parser = tensorrt_api.parse(trt, network, logger, graph.onnx, name)  # kept until the end: it owns the weights
        config = tensorrt_api.new_config(trt, builder, self.preset.workspace)
        tensorrt_api.set_precision(trt, network, config, precision, graph.float_nodes, graph.half_tensors)
        tensorrt_api.add_profile(trt, builder, config, shapes)
        timings = timing_cache.timing_cache_path(self.target.tensorrt, self.target.gpu)
        if not tensorrt_api.use_timing_cache(trt, config, timing_cache.read(timings)):
            tensorrt_api.use_timing_cache(trt, config, b"")  # of another driver, or damaged: begin anew and replace it
        content = tensorrt_api.serialized(trt, builder, network, config, progress)
        if content is not None:
            timing_cache.merge(timings, lambda others: tensorrt_api.merged_timing_cache(trt, config, others))
        return content


def _check_types(name: str, expected: dict[str, str], found: dict[str, str]) -> None:
    """BuildError unless the engine's inputs and outputs have the types of the graph's."""
    for tensor in sorted(expected.keys() | found.keys()):
        if expected.get(tensor) != found.get(tensor):
            raise BuildError(
                f"{name}: {tensor} must be {expected.get(tensor)} but is {found.get(tensor)} in the engine; no engines "
                "were written. Use another version of TensorRT, or build with another --precision"
            )


def _failure(name: str, errors: Collection[str]) -> BuildError:
    """What TensorRT's log says, and what to lower where memory was too small."""
    said, out_of_memory = tensorrt_api.explained(errors)
    if out_of_memory:
        return BuildError(
            f"{name}: memory ran out during the build ({said}); close other programs, lower --max-objects, "
            "--max-prompts or --workspace, or use --profile jetson"
        )
    return BuildError(f"{name}: TensorRT could not build the engine: {said}")
