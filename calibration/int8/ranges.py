"""Ranges of activations: the largest magnitudes that occur while the real tracker follows a clip.

Memory attention and the memory encoder only see real data in the loop, so every frame is tracked with FP32 graphs. On
recorded frames other sessions run, whose graphs have two more outputs for each activation: its largest magnitude, and
the sum of its magnitudes, which shows NaN that the largest one hides.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from sam2edge.bundle import Bundle
from sam2edge.calibration.int8.quantize import LARGEST, layers
from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.gate import RangeRatio
from sam2edge.calibration.measure.recorder import Recorded
from sam2edge.calibration.measure.targets import Prompts
from sam2edge.errors import BundleError, CorruptFileError, InputError
from sam2edge.files import cache_directory, check_output_directory, replacing_file
from sam2edge.runtime.backends.base import Array, Backend, GraphRunner, open_backend
from sam2edge.runtime.video.tracker import VideoTracker
from sam2edge.types import Progress

Ranges = dict[str, dict[str, float]]
"""The largest magnitude by graph and activation."""

_CACHE_VERSION = 3
"""To be raised when what is collected changes."""


def collect(
    bundle: Bundle,
    clip: Clip,
    prompts: Prompts,
    record: Collection[int],
    progress: Progress = lambda message, fraction: None,
) -> Ranges:
    """Track a clip and return the largest magnitudes of every layer's input on the frames in `record`.

    Raises:
        BundleError: a graph gives values that are not finite. Also raises what VideoTracker and Clip do.
    """
    if not prompts:
        raise InputError("nothing to track: there are no prompts for the first frame")
    with tempfile.TemporaryDirectory(prefix="sam2edge-") as directory:
        observer = Observer(bundle, Path(directory), tuple(bundle.manifest.graphs))
        with VideoTracker(bundle, observer, max_objects=len(prompts)) as tracker:
            for number, frame in enumerate(clip):
                observer.recording = number in record
                tracker.track(frame)
                for object_id, prompt in prompts.items() if number == 0 else ():
                    with prompt.naming():
                        tracker.prompt(object_id, **prompt.arguments)
                progress(f"tracked {number + 1} frames of {clip.name}", clip.fraction(number + 1))
    return observer.ranges


class Observer(Backend):
    """ONNX Runtime on the CPU, which runs observed forms of some graphs of a bundle while `recording`.

    `ranges` then has the largest magnitude of every layer's input so far.
    """

    def __init__(self, bundle: Bundle, directory: Path, graphs: Iterable[str]) -> None:
        self._names = {bundle.graph_path(name): name for name in graphs}
        self._directory, self._inner = directory, open_backend("onnx")
        self.ranges: Ranges = {}
        self.recording = False

    def open(self, graph: Path) -> GraphRunner:
        """Load a graph twice: as it is, and observed."""
        name, model = self._names[graph], load_graph(graph)
        self.ranges[name] = dict.fromkeys((layer.activation for layer in layers(model)), 0.0)
        file = self._directory / f"{name}.onnx"
        onnx.save(observed(model, self.ranges[name]), str(file))
        return _ObservedRunner(self, name, self._inner.open(graph), self._inner.open(file))


class _ObservedRunner(GraphRunner):
    def __init__(self, observer: Observer, name: str, plain: GraphRunner, observed: GraphRunner) -> None:
        self._observer, self._name, self._plain, self._observed = observer, name, plain, observed

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if not self._observer.recording:
            return self._plain.run(inputs)
        outputs = self._observed.run(inputs)
        ranges = self._observer.ranges[self._name]
        for activation, largest in ranges.items():
            if not np.isfinite(outputs.pop(f"{activation}/sum")):
                raise BundleError(f"{self._name}: {activation} is not finite in FP32 already; export the bundle again")
            ranges[activation] = max(largest, float(outputs.pop(f"{activation}/largest")))
        return outputs


def observed(model: ModelProto, activations: Iterable[str]) -> ModelProto:
    """Return the model with outputs NAME/largest and NAME/sum, float [], of the magnitudes of each activation."""
    new = ModelProto()
    new.CopyFrom(model)
    for name in activations:
        new.graph.node.extend(
            [
                helper.make_node("Abs", [name], [f"{name}/magnitude"]),
                helper.make_node("ReduceMax", [f"{name}/magnitude"], [f"{name}/largest"], keepdims=0),
                helper.make_node("ReduceSum", [f"{name}/magnitude"], [f"{name}/sum"], keepdims=0),
            ]
        )
        for output in ("largest", "sum"):
            new.graph.output.append(helper.make_tensor_value_info(f"{name}/{output}", TensorProto.FLOAT, []))
    return new


def load_graph(file: Path) -> ModelProto:
    """Read an ONNX file; CorruptFileError if that fails."""
    try:
        return onnx.load(str(file))
    except Exception as error:  # each implementation of protobuf has exceptions of its own
        raise CorruptFileError(f"{file}: not readable as ONNX ({error}); export the bundle again") from error


def range_ratios(bundle: Bundle, graph: str, recorded: Iterable[Recorded]) -> list[RangeRatio]:
    """Feed recorded inputs to an INT8 graph and compare its ranges with the largest magnitudes.

    A range eight times too wide wastes three of eight bits. For a single activation that seldom changes the masks of a
    clip enough to be seen, so the gate looks at the ranges themselves. The graph runs on ONNX Runtime's CPU provider,
    whatever runs it later: Q/DQ nodes mean the same everywhere. Activations that are always zero are left out.
    """
    model = load_graph(bundle.graph_path(graph))
    scales = {tensor.name: tensor for tensor in model.graph.initializer}
    ranges = {
        node.input[0]: LARGEST * float(numpy_helper.to_array(scales[node.input[1]]))
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }
    seen = dict.fromkeys(ranges, 0.0)
    with tempfile.TemporaryDirectory(prefix="sam2edge-") as directory:
        file = Path(directory) / f"{graph}.onnx"
        onnx.save(observed(model, ranges), str(file))
        runner = open_backend("onnx").open(file)
        for inputs in (run.inputs for run in recorded if run.graph == graph):
            outputs = runner.run(inputs)
            seen = {name: max(largest, float(outputs[f"{name}/largest"])) for name, largest in seen.items()}
    return [RangeRatio(graph, name, ranges[name] / largest) for name, largest in seen.items() if largest]


# The ranges of each clip are kept in a file, so a killed calibration continues with the clip it was at, and another
# recipe needs no tracking. The file's name is a hash of all that its content depends on.


def prepare_cache(directory: Path | None) -> Path:
    """Make the cache's directory, by default ~/.cache/sam2edge/calibration; InputError if it cannot be written."""
    directory = directory or cache_directory() / "calibration"
    try:
        check_output_directory(directory)
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, InputError) as error:
        raise InputError(
            f"{error}; the ranges of each clip are to be kept there: set XDG_CACHE_HOME to another directory"
        ) from error
    return directory


def cache_key(bundle: Bundle, pixels: str, record: Sequence[int], prompts: Prompts | None) -> str:
    """Return a digest of all that a clip's ranges depend on; automatic prompts (None) follow from graphs and pixels."""
    digest = hashlib.sha256()
    parts: list[object] = [_CACHE_VERSION, [graph.sha256 for graph in bundle.manifest.graphs.values()], pixels, *record]
    if prompts is not None:
        parts += [
            # as a list, since numpy abbreviates large arrays
            (object_id, name, value.tolist() if isinstance(value, np.ndarray) else value)
            for object_id, prompt in prompts.items()
            for name, value in prompt.arguments.items()
        ]
    for part in parts:
        digest.update(f"{part!r}\n".encode())
    return digest.hexdigest()


def write_ranges(file: Path, ranges: Ranges) -> None:
    """Write a file, which appears whole or not at all."""
    flat = [(graph, name, largest) for graph, by_name in ranges.items() for name, largest in by_name.items()]
    with replacing_file(file) as new, new.open("wb") as stream:
        np.savez_compressed(stream, names=[entry[:2] for entry in flat], largest=[entry[2] for entry in flat])


def read_ranges(file: Path) -> Ranges | None:
    """Read what `write_ranges` wrote; None if there is no file or it is damaged."""
    try:
        with file.open("rb") as stream, np.load(stream) as data:
            names, largest = data["names"].tolist(), data["largest"].tolist()
    except Exception:  # damage surfaces as an exception of numpy, zipfile or zlib
        return None
    ranges: Ranges = {}
    for (graph, name), value in zip(names, largest, strict=True):
        ranges.setdefault(graph, {})[name] = value
    return ranges
