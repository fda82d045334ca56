"""Magnitudes of activations, taken while the real tracker follows a clip.

Memory attention and the memory encoder only see real data in the loop, so every frame is tracked with FP32 graphs.
On the frames that are recorded other sessions run, whose graphs have two more outputs for each activation: its largest
magnitude, and at most 32768 of its magnitudes at even distances. Nothing else leaves the session, and a histogram of
fixed size takes them up, whatever the clip's length.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from sam2edge.bundle import Bundle
from sam2edge.calibration.int8.histogram import Histogram
from sam2edge.calibration.int8.quantize import layers
from sam2edge.calibration.measure.targets import Prompts
from sam2edge.errors import BundleError, CorruptFileError, InputError
from sam2edge.runtime.backends.base import Array, Backend, GraphRunner, open_backend
from sam2edge.runtime.video.tracker import VideoTracker

Statistics = dict[str, dict[str, Histogram]]
"""Histograms by graph and activation."""

_SAMPLE = 1 << 15


def collect(
    bundle: Bundle,
    frames: Iterable[npt.NDArray[np.uint8]],
    prompts: Prompts,
    record: Collection[int],
    progress: Callable[[int], None] = lambda frame: None,
) -> Statistics:
    """Track `frames` and return the magnitudes of every layer's input on the frames whose numbers are in `record`.

    prompts: given on the first frame. progress: called with the number of frames done. Raises InputError without
    prompts, BundleError for a graph that is no ONNX or gives numbers that are not finite, and what VideoTracker does.
    """
    if not prompts:
        raise InputError("nothing to track: there are no prompts for the first frame")
    with tempfile.TemporaryDirectory(prefix="sam2edge-") as directory:
        observer = _Observer(bundle, Path(directory))
        with VideoTracker(bundle, observer, max_objects=len(prompts)) as tracker:
            for number, frame in enumerate(frames):
                observer.recording = number in record
                tracker.track(frame)
                for object_id, prompt in prompts.items() if number == 0 else ():
                    tracker.prompt(object_id, **prompt.arguments)
                progress(number + 1)
    return observer.statistics


def observed(model: ModelProto, activations: Iterable[str]) -> ModelProto:
    """The model with NAME/largest, float [], and NAME/sample, float [n], of the magnitudes of each activation."""
    new = ModelProto()
    new.CopyFrom(model)
    graph = new.graph
    constants = {"flat": [-1], "one": [1], "two": [2], "start": [0], "sample": [_SAMPLE], "end": [2**62]}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), f"observe/{name}") for name, value in constants.items()
    )
    for name in activations:
        steps = {
            "magnitude": ("Abs", [name]),
            "flat": ("Reshape", [f"{name}/magnitude", "observe/flat"]),
            "largest": ("ReduceMax", [f"{name}/flat"]),
            "size": ("Shape", [f"{name}/flat"]),
            "share": ("Div", [f"{name}/size", "observe/sample"]),
            # odd, so that it does not hit the same channels again and again
            "even": ("Mul", [f"{name}/share", "observe/two"]),
            "step": ("Add", [f"{name}/even", "observe/one"]),
            "sample": (
                "Slice",
                [f"{name}/flat", "observe/start", "observe/end", "observe/start", f"{name}/step"],
            ),
        }
        for output, (operator, inputs) in steps.items():
            attributes = {"keepdims": 0} if operator == "ReduceMax" else {}
            graph.node.append(helper.make_node(operator, inputs, [f"{name}/{output}"], **attributes))
        for output, shape in (("largest", []), ("sample", [None])):
            graph.output.append(helper.make_tensor_value_info(f"{name}/{output}", TensorProto.FLOAT, shape))
    return new


class _Observer(Backend):
    """ONNX Runtime on the CPU; while `recording`, with the observed graphs."""

    def __init__(self, bundle: Bundle, directory: Path) -> None:
        self._names = {bundle.graph_path(name): name for name in bundle.manifest.graphs}
        self._directory, self._inner = directory, open_backend("onnx")
        self.statistics: Statistics = {}
        self.recording = False

    def open(self, graph: Path) -> GraphRunner:
        """Load a graph as it is, and observed."""
        name = self._names[graph]
        model = load_graph(graph)
        activations = list(dict.fromkeys(layer.activation for layer in layers(model)))
        self.statistics[name] = {activation: Histogram() for activation in activations}
        file = self._directory / f"{name}.onnx"
        onnx.save(observed(model, activations), str(file))
        return _Observed(self, name, self._inner.open(graph), self._inner.open(file))


class _Observed(GraphRunner):
    def __init__(self, observer: _Observer, name: str, plain: GraphRunner, watched: GraphRunner) -> None:
        self._observer, self._name, self._plain, self._watched = observer, name, plain, watched

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if not self._observer.recording:
            return self._plain.run(inputs)
        outputs = self._watched.run(inputs)
        for activation, histogram in self._observer.statistics[self._name].items():
            largest, sample = outputs.pop(f"{activation}/largest"), outputs.pop(f"{activation}/sample")
            if not (np.isfinite(largest) and np.isfinite(sample).all()):  # ReduceMax passes over NaN
                raise BundleError(f"{self._name}: {activation} is not finite in FP32 already; export the bundle again")
            histogram.add(sample, float(largest))
        return outputs


def load_graph(file: Path) -> ModelProto:
    """Read an ONNX file. Raises CorruptFileError."""
    try:
        return onnx.load(str(file))
    except Exception as error:  # protobuf's own exceptions, whichever of its implementations is there
        raise CorruptFileError(f"{file}: not readable as ONNX ({error}); export the bundle again") from error
