"""Compile the four graphs of a bundle into engines: for this machine's GPU, or with TensorRT for RTX for others."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from sam2edge import bundle as bundles
from sam2edge.bundle import Bundle, Model
from sam2edge.bundle.engines import (
    MEMORY_ATTENTION,
    RESIZE,
    TENSORRT,
    Engine,
    EngineManifest,
    Engines,
    Limits,
    Target,
    Tensor,
    check_replaceable,
    default_directory,
    write_manifest,
)
from sam2edge.bundle.words import DETECTOR
from sam2edge.checks import integer
from sam2edge.engines import timing_cache
from sam2edge.engines.float_weights import with_float_weights
from sam2edge.engines.layer_precision import check_precision, count_precisions
from sam2edge.engines.low_precision import BF16, FP16, ends, island_nodes, lowered, small_weights
from sam2edge.engines.profiles import PRESETS, Preset, detector_profile, profile
from sam2edge.engines.resize import resize_graph
from sam2edge.engines.rewrites import FORMS, rewrite
from sam2edge.errors import BackendError, BuildError, EngineError, InputError
from sam2edge.files import user_path
from sam2edge.runtime.backends import tensorrt_api
from sam2edge.runtime.backends.cuda import gpus
from sam2edge.runtime.backends.cuda.context import primary
from sam2edge.runtime.backends.tensorrt import this_target
from sam2edge.runtime.backends.tensorrt_api import Shapes, TensorRT
from sam2edge.types import Progress

_KINDS = {"fp16": FP16, "bf16": BF16, "int8": FP16}
"""What takes FP32's place; in INT8 graphs, in what lies around the INT8 layers."""
PRECISIONS = ("fp32", *_KINDS)
FLOAT_IO = tuple(precision for precision in PRECISIONS if precision == "fp32" or _KINDS[precision].float_io)
"""Precisions whose inputs and outputs are FP32 in any case."""
_FROM = 8.0
"""The lowest compute capability that TensorRT for RTX builds for unless others are asked for, as by its own default.

They are listed all the same: the default has one more, which has no name in its API, and a manifest must say which."""


def build(
    bundle: Bundle | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    precision: str = "fp16",
    attention: str | None = None,
    product: str = TENSORRT,
    compute_capabilities: Collection[str] = (),
    preset: Preset = PRESETS["desktop"],
    gpu: int | None = None,
    force: bool = False,
    check: Callable[[Engines], None] = lambda engines: None,
    progress: Progress = lambda message, fraction: None,
) -> Engines:
    """Build the engines of a bundle and of its word detector, one graph after the other, which takes minutes.

    Engines that are already at `out` stay until all new ones are built and checked.

    Args:
        bundle: The bundle or its path.
        out: Directory of the engines; default BUNDLE.engines/PRECISION, for RTX BUNDLE.engines/rtx/PRECISION.
        precision: "fp16" or "bf16" (with the FP32 islands of low_precision.py), "fp32", or "int8" (with FP16 around
            it) for a bundle that `calibrate` wrote.
        attention: The form of the memory attention, "fused" or "narrow" (docs/explanation/performance.md); by default
            what `EngineBuilder.attention_form` takes.
        product: "tensorrt", or "tensorrt-rtx" for TensorRT for RTX, which needs no GPU to build.
        compute_capabilities: For RTX, the GPUs to build for, such as "8.6"; default all from 8.0.
        preset: The sizes that the engines must accept, and how much memory they may take.
        gpu: The number of the GPU that engines are built on and for, as open_backend's; RTX needs none.
        force: Build again what is there already for the same bundle, machine and options.
        check: Called with the engines at the end; they are discarded if it raises.
        progress: Called with a message and the fraction done.

    Raises:
        EngineError: There is no TensorRT or, but for RTX, no such GPU.
        BuildError: TensorRT failed, or an engine got another precision.
        BundleError: The bundle cannot be used, or the engines not be written.
        InputError: The bundle has no graphs for this precision, or the product no such compute capability.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    check_bundle_precision(opened, precision)
    builder = EngineBuilder.here(preset, product, compute_capabilities, gpu)
    if reason := builder.refusal(precision):
        raise InputError(reason)
    attention = builder.attention_form(opened.model, precision, attention)
    directory = default_directory(opened.path, precision, product) if out is None else user_path(out)
    check_replaceable(directory)
    if not force and (current := _current(directory, opened, builder, precision, attention)):
        check(current)
        progress("up to date", 1.0)
        return current
    with bundles.replacing(directory, check_replaceable) as new:
        engines: dict[str, Engine] = {}
        names = (*opened.graph_names, RESIZE)
        for index, name in enumerate(names):
            file, part = new / f"{name}.engine", _part(progress, name, index, len(names))
            engines[name] = builder.build(opened, name, precision, file, part, attention=attention)
            check_memory(engines, preset)
        check(builder.finished(new, precision, engines))
    progress("done", 1.0)
    return Engines.open(directory, opened, builder.target)


def check_bundle_precision(bundle: Bundle, precision: str) -> None:
    """Raise InputError for a precision that is unknown, not offered, or not the bundle's."""
    quantized = bundle.manifest.calibration is not None
    if precision == "fp8":
        raise InputError(
            "fp8 is not offered: it follows FP32 less closely than int8 (docs/explanation/precision.md); use fp16, or "
            "int8 for a bundle of `sam2edge calibrate`"
        )
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)} but is {precision!r}")
    if quantized and precision != "int8":
        raise InputError(
            f"{bundle.path}: is an INT8 bundle, which has no {precision} graphs; build it with --precision int8, or "
            "give the bundle it was made from"
        )
    if precision == "int8" and not quantized:
        raise InputError(f"{bundle.path}: is not an INT8 bundle; make one from it with `sam2edge calibrate`")


def _current(directory: Path, bundle: Bundle, builder: EngineBuilder, precision: str, attention: str) -> Engines | None:
    """Return the existing engines if they are what would be built."""
    try:
        engines = Engines.open(directory, bundle, builder.target)
        if engines.manifest.engines.keys() != {*bundle.graph_names, RESIZE}:
            return None
        for name in engines.manifest.engines:
            engines.read(name)
    except EngineError:
        return None
    manifest, preset = engines.manifest, builder.preset
    resizes_alike = manifest.engines[RESIZE].graph_sha256 == _load_graph(bundle, RESIZE)[1]
    attends_alike = manifest.engines[MEMORY_ATTENTION].attention == attention
    built = (manifest.target, manifest.precision, manifest.limits, manifest.workspace)
    same = built == (builder.target, precision, preset.limits, preset.workspace)
    detector = manifest.engines.get(DETECTOR)
    detects_alike = detector is None or detector.graph_sha256 == bundle.graph(DETECTOR).sha256
    return engines if same and resizes_alike and attends_alike and detects_alike else None


def _part(progress: Progress, name: str, index: int, count: int) -> Progress:
    """Turn the progress of one graph into that of the whole build."""

    def report(message: str, fraction: float) -> None:
        progress(f"{name}: {message}" if message else name, (index + fraction) / count)

    return report


def check_memory(engines: dict[str, Engine], preset: Preset) -> None:
    """Raise BuildError if the engines so far take too much memory: better now than after the last graph."""
    activations = max(engine.activation_bytes for engine in engines.values())  # one array serves all
    taken = sum(engine.bytes for engine in engines.values()) + activations
    if preset.memory is not None and taken > preset.memory:
        raise BuildError(
            f"the engines {', '.join(engines)} take {taken / 2**30:.1f} GiB, but the profile {preset.name} allows "
            f"{preset.memory / 2**30:.1f} GiB for all; lower --max-objects or --max-prompts, use fp16, or export "
            "with a smaller --image-size or with --memory-pool 2"
        )


@dataclass(frozen=True)
class _Prepared:
    """A serialised graph, and the types of its engine: dtype names of inputs and outputs, and of what is inside."""

    onnx: bytes
    sha256: str  # of the bundle's graph
    inputs: dict[str, str]
    outputs: dict[str, str]
    float_nodes: set[str]  # stay FP32
    small_weights: dict[str, int]
    quantized: int  # how many tensors become INT8


def _load_graph(bundle: Bundle, name: str) -> tuple[onnx.ModelProto, str]:
    """Return a graph of the bundle, or the one that resizes frames, and its sha256."""
    if name != RESIZE:
        return onnx.load(bundle.graph_path(name)), bundle.graph(name).sha256
    model = resize_graph(bundle.model.image_size)
    return model, hashlib.sha256(model.SerializeToString()).hexdigest()


def _prepare(bundle: Bundle, graph: str, form: str, precision: str, half_scales: bool, float_io: bool) -> _Prepared:
    """Rewrite a graph and give it the types of its engine. Intermediate graphs are freed on return.

    Unless TensorRT reads `half_scales`, an INT8 graph keeps all types but those of its weights, and flags set those of
    the engine.
    """
    model, sha256 = _load_graph(bundle, graph)
    rewrite(model, graph, form)
    float_nodes, small = set[str](), dict[str, int]()
    typed = model
    if precision != "fp32":
        kind = _KINDS[precision]
        islands = [island for island in kind.islands if island.graph == graph]
        float_nodes, small = island_nodes(model.graph, islands), small_weights(model, kind)
        typed = lowered(model, kind, islands, ends(model.graph) if float_io else None)

    def dtypes(values: Iterable[onnx.ValueInfoProto]) -> dict[str, str]:
        types = {value.name: value.type.tensor_type.elem_type for value in values}
        return {name: onnx.helper.tensor_dtype_to_np_dtype(dtype).name for name, dtype in types.items()}

    if precision == "int8" and not half_scales:
        content = with_float_weights(model).SerializeToString()
    else:
        content = typed.SerializeToString()
    quantized = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    inputs, outputs = dtypes(typed.graph.input), dtypes(typed.graph.output)
    return _Prepared(content, sha256, inputs, outputs, float_nodes, small, quantized)


@dataclass(frozen=True)
class EngineBuilder:
    """Builds single engines for one target and preset, on the GPU of a number."""

    api: TensorRT
    target: Target
    preset: Preset
    gpu: int = 0

    @staticmethod
    def here(
        preset: Preset, product: str = TENSORRT, compute_capabilities: Collection[str] = (), gpu: int | None = None
    ) -> EngineBuilder:
        """Make one with a product on this machine; arguments and errors are those of `build`."""
        try:
            api = tensorrt_api.load(product)
        except EngineError as error:
            if product == TENSORRT and not _has_gpu():  # before anyone installs gigabytes in vain
                raise EngineError(
                    f"{error}. It needs an NVIDIA GPU, and there is none here; `--for rtx` builds without one"
                ) from error
            raise
        number = 0 if gpu is None else integer("gpu", gpu, 0)
        return EngineBuilder(api, _target(api, compute_capabilities, gpu), preset, number)

    def attention_form(self, model: Model, precision: str, asked: str | None = None) -> str:
        """Return the form of the memory attention that was asked for, or else the one that suits.

        In FP32 that is "narrow", since attention is never fused there. Otherwise it is what this TensorRT runs best,
        but "fused" wherever "narrow" does not fit into the preset's memory.
        """
        if asked is not None:
            if asked not in FORMS:
                raise InputError(f"attention must be one of {', '.join(FORMS)} but is {asked!r}")
            return asked
        if precision == "fp32":
            return "narrow"
        preset = self.preset
        room = preset.workspace if preset.memory is None else min(preset.workspace, preset.memory)
        return "fused" if narrow_bytes(model, preset.limits) > room else self.api.attention

    def refusal(self, precision: str) -> str:
        """Say why no engines of a precision can be built here, or ""."""
        if precision != "bf16":
            return ""
        if not self.api.has_bfloat16:
            return f"bf16 needs TensorRT 10.3 or newer, but this is {self.api.version}; build with fp16 or fp32"
        if older := [one for one in self.target.compute_capabilities if float(one) < 8.0]:
            return f"bf16 needs compute capability 8.0 or newer, not {', '.join(older)}; build with fp16 or fp32"
        return ""

    def build(
        self,
        bundle: Bundle,
        name: str,
        precision: str,
        file: Path,
        progress: Progress,
        *,
        attention: str | None = None,
        float_io: bool = False,
    ) -> Engine:
        """Build one graph and write its engine; TensorRT's network and builder are freed on return.

        `attention` is the form of the memory attention, by default that of `attention_form`; other graphs have none.
        With `float_io` inputs and outputs are FP32 whatever the precision, so that the engine can run beside FP32
        engines. Raises BuildError if TensorRT fails, or if the engine has other types than were requested.
        """
        begin = time.perf_counter()
        progress("", 0.0)
        if name == RESIZE:
            precision = "fp32"  # its results are whole numbers, as on the host
        elif precision == "int8" and bundle.graph(name).precision != "int8":
            precision = "fp16"  # a word detector may have stayed as it was
        form = self.attention_form(bundle.model, precision, attention) if name == MEMORY_ATTENTION else ""
        graph = _prepare(bundle, name, form, precision, self.api.reads_half_scales, float_io)
        shapes = self._shapes(bundle, name)
        self.api.errors.clear()
        self.api.warnings.clear()
        with self._on_gpu():
            content = self._compile(name, graph, precision, shapes, progress)
        if content is None:
            text, memory_ran_out = self.api.explain_errors()
            if not memory_ran_out:
                raise BuildError(f"{name}: TensorRT could not build the engine: {text}")
            raise BuildError(
                f"{name}: memory ran out during the build ({text}); close other programs, lower --max-objects, "
                "--max-prompts or --workspace, or use --profile jetson"
            )
        try:
            with self._on_gpu():
                engine = self.api.describe(content, {tensor: usual for tensor, (_, usual, _) in shapes.items()})
        except EngineError as error:
            raise BuildError("; ".join([f"{name}: {error}", *self.api.errors])) from error
        check_precision(name, precision, counts := count_precisions(engine.layers), graph.quantized)
        _check_types(name, {**graph.inputs, **graph.outputs}, engine.dtypes)
        file.write_bytes(content)
        return Engine(
            file=file.name,
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
            precision=precision,
            attention=form,
            graph_sha256=graph.sha256,
            inputs={tensor: Tensor(dtype, shapes.get(tensor, ())) for tensor, dtype in graph.inputs.items()},
            outputs={tensor: Tensor(dtype) for tensor, dtype in graph.outputs.items()},
            layers=counts,
            small_weights=graph.small_weights,
            activation_bytes=engine.activation_bytes,
            seconds=round(time.perf_counter() - begin, 1),
        )

    def _on_gpu(self) -> contextlib.AbstractContextManager[None]:
        """Make the GPU the one on which TensorRT works in this thread, which is the first unless it is told."""
        return primary(self.gpu) if self.gpu else contextlib.nullcontext()

    def _shapes(self, bundle: Bundle, name: str) -> dict[str, Shapes]:
        if name == DETECTOR:
            return detector_profile(bundle.word_detector().model, self.preset.limits)
        return profile(bundle.model, self.preset.limits, name)

    def finished(self, directory: Path, precision: str, engines: dict[str, Engine]) -> Engines:
        """Write engines.json beside the engines of all graphs."""
        manifest = EngineManifest(precision, self.target, self.preset.limits, self.preset.workspace, engines)
        write_manifest(directory, manifest)
        return Engines(directory, manifest)

    def _compile(
        self, name: str, graph: _Prepared, precision: str, shapes: dict[str, Shapes], progress: Progress
    ) -> bytes | None:
        """Return the serialised engine of a graph, or None if TensorRT fails."""
        api = self.api
        builder = api.new_builder()
        network = api.new_network(builder)
        _parser = api.parse(network, graph.onnx, name)  # kept until the end: it owns the weights
        config = api.new_config(builder, self.preset.workspace)
        half_tensors = {end for end, dtype in {**graph.inputs, **graph.outputs}.items() if dtype == "float16"}
        api.set_precision(network, config, precision, graph.float_nodes, half_tensors)
        api.add_profile(builder, config, shapes)
        if not self.target.gpu:
            api.set_compute_capabilities(config, self.target.compute_capabilities)
            return api.build(builder, network, config, progress)  # times no kernels, so that there is nothing to keep
        timings = timing_cache.timing_cache_path(self.target)
        if not api.use_timing_cache(config, timing_cache.read(timings)):
            api.use_timing_cache(config, b"")  # it is of another driver, or damaged: start afresh and replace it
        content = api.build(builder, network, config, progress)
        if content is not None:
            timing_cache.merge(timings, lambda others: api.merged_timing_cache(config, others))
        return content


def _has_gpu() -> bool:
    try:
        return gpus.count_gpus() > 0
    except BackendError:
        return False


def narrow_bytes(model: Model, limits: Limits) -> int:
    """Estimate the activations of the memory attention with narrow values in 16 bits, whose scores are in memory.

    They are there before and after the softmax, and keys and features take half as much as one of them. At 1024 this is
    within 2% of what NVIDIA's compiler reports.
    """
    (_, _, (objects, memories, tokens, width)), (_, _, (_, pointers, channels)) = (
        profile(model, limits, MEMORY_ATTENTION)[name] for name in ("memory", "pointers")
    )
    scores = objects * model.grid**2 * (memories * tokens + pointers * channels // width)
    return 5 * scores


def _target(api: TensorRT, asked: Collection[str], gpu: int | None) -> Target:
    """Return what engines are built for: a GPU of this machine, or GPUs of compute capabilities."""
    known = api.compute_capabilities
    if not known:
        if asked:
            raise InputError(
                "compute capabilities can be chosen for TensorRT for RTX only: "
                f"{api.title} builds for the GPU of this machine"
            )
        return this_target(api, gpu or 0)
    if gpu is not None:
        raise InputError(f"gpu must be left out for {api.title}, which builds without a GPU")
    if unknown := sorted(set(asked).difference(known)):
        raise InputError(
            f"{api.title} does not build for compute capability {', '.join(unknown)}; it knows {', '.join(known)}. For "
            "other GPUs build with TensorRT on a machine that has one"
        )
    wanted = asked or [capability for capability in known if float(capability) >= _FROM]
    capabilities = tuple(capability for capability in known if capability in wanted)
    return Target(api.PRODUCT, api.version, "", 0, "", capabilities)


def _check_types(name: str, expected: Mapping[str, str], actual: Mapping[str, str]) -> None:
    """Raise BuildError unless the engine's inputs and outputs have the types of the graph's."""
    for tensor in sorted(expected.keys() | actual.keys()):
        if expected.get(tensor) != actual.get(tensor):
            raise BuildError(
                f"{name}: {tensor} must be {expected.get(tensor)} but is {actual.get(tensor)} in the engine; no "
                "engines were written. Use another version of TensorRT, or build with another --precision"
            )
