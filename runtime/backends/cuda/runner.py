"""Runs of a graph on the GPU: what is checked before, and the copies to the GPU and back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sam2edge.bundle import TensorSpec
from sam2edge.errors import BackendError
from sam2edge.runtime.backends.base import Array, DeviceArray, GraphRunner
from sam2edge.runtime.backends.cuda.backend import CudaBackend
from sam2edge.runtime.backends.cuda.memory import CudaArray

Shape = tuple[int, ...]

_OPTIONS = {
    "B": "--max-batch",
    "N": "--max-objects (in the decoder also --max-prompts)",
    "T": "--max-conditioning-frames",
    "K": "--max-conditioning-frames",
    "P": "--max-points",
}


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a graph: contract, types on the device, smallest and largest shapes of limited inputs."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dtypes: Mapping[str, np.dtype[Any]]
    limits: Mapping[str, tuple[Shape, Shape]] = field(default_factory=dict)

    def check_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Shape]:
        """Return the shapes of the outputs for these inputs; BackendError for a wrong name or shape."""
        if inputs.keys() != {spec.name for spec in self.inputs}:
            raise BackendError(
                f"{self.name}: inputs must be {', '.join(spec.name for spec in self.inputs)} but are "
                f"{', '.join(sorted(inputs)) or 'none'}"
            )
        sides: dict[str, int] = {}
        for spec in self.inputs:
            shape = tuple(inputs[spec.name].shape)
            expected = tuple(sides.get(side, side) if isinstance(side, str) else side for side in spec.shape)
            if len(shape) != len(expected) or any(
                isinstance(side, int) and side != given for side, given in zip(expected, shape, strict=True)
            ):
                raise BackendError(f"{self.name}: {spec.name} must be {_text(expected)} but is {_text(shape)}")
            sides.update({side: given for side, given in zip(expected, shape, strict=True) if isinstance(side, str)})
            least, most = self.limits.get(spec.name, (shape, shape))
            for axis, given, low, high in zip(spec.shape, shape, least, most, strict=True):
                if not low <= given <= high:
                    raise BackendError(
                        f"{self.name}: {spec.name} is {_text(shape)} but its {axis} must be {low} to {high} in these "
                        f"engines; build them with `sam2edge build` and another {_OPTIONS.get(str(axis), 'profile')}"
                    )
        return {
            spec.name: tuple(sides.get(side, -1) if isinstance(side, str) else side for side in spec.shape)
            for spec in self.outputs
        }

    def check_array(self, name: str, array: Any, shape: Shape, gpu: int) -> CudaArray:
        """Return the array; BackendError unless it is on this GPU with this shape and the tensor's type."""
        if not isinstance(array, CudaArray):
            raise BackendError(f"{self.name}: {name} must be an array on the GPU but is a {type(array).__name__}")
        if (array.shape, array.dtype) != (shape, self.dtypes[name]):
            raise BackendError(
                f"{self.name}: {name} must be {self.dtypes[name]}{_text(shape)} on the GPU but is "
                f"{array.dtype}{_text(array.shape)}"
            )
        if array.gpu != gpu:
            raise BackendError(f"{self.name}: {name} is on GPU {array.gpu}, but this graph is open on GPU {gpu}")
        return array

    def as_device(self, name: str, array: Any) -> Array:
        """Convert an array on the host to the tensor's type on the GPU; BackendError unless both are of floats."""
        host, kind = np.ascontiguousarray(array), self.dtypes[name]
        if host.dtype != kind and not (host.dtype.kind == kind.kind == "f"):
            raise BackendError(f"{self.name}: {name} must be {kind} but is {host.dtype}")
        with np.errstate(over="ignore"):  # becomes infinite, as everywhere in FP16
            return host.astype(kind, copy=False)


def _text(shape: tuple[object, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"


class CudaRunner(GraphRunner):
    """One graph on the GPU, on the stream of its backend."""

    def __init__(self, backend: CudaBackend, signature: Signature) -> None:
        self._backend, self._signature = backend, signature
        backend.stream.runners.add(self)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type of any input or output as device array; BackendError for an unknown name."""
        if name not in self._signature.dtypes:
            raise BackendError(f"{self._signature.name} has no {name}; it has {', '.join(self._signature.dtypes)}")
        return self._signature.dtypes[name]

    def max_size(self, name: str, axis: int = 0) -> int | None:
        return self._signature.limits[name][1][axis] if name in self._signature.limits else None

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        return self.run_outputs(inputs, [spec.name for spec in self._signature.outputs])

    def run_outputs(self, inputs: Mapping[str, Any], wanted: Collection[str]) -> dict[str, Array]:
        signature, backend = self._signature, self._backend
        shapes = signature.check_inputs(inputs)
        with backend.exclusive():
            on_gpu, hosts = {}, []  # a queued copy may still read what was converted
            for name, value in inputs.items():
                if isinstance(value, CudaArray):
                    on_gpu[name] = signature.check_array(name, value, value.shape, backend.gpu)
                    continue
                hosts.append(host := signature.as_device(name, value))
                on_gpu[name] = backend.scratch((signature.name, name), host.shape, host.dtype)
                backend.copy(host, on_gpu[name])
            outputs = self._all_outputs({}, shapes)
            backend.stream.use()
            self._enqueue(on_gpu, outputs)
            results = {name: np.empty(outputs[name].shape, outputs[name].dtype) for name in wanted}
            for name, array in results.items():
                backend.copy(outputs[name], array)
            backend.synchronize()
        dtypes = {spec.name: spec.dtype for spec in signature.outputs}
        return {name: array.astype(dtypes[name], copy=False) for name, array in results.items()}

    def run_into(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        """Queue a run; BackendError for arrays that are not on the GPU or have a wrong name, shape or dtype."""
        signature, backend = self._signature, self._backend
        shapes = signature.check_inputs(inputs)
        checked = {
            name: signature.check_array(name, array, tuple(array.shape), backend.gpu) for name, array in inputs.items()
        }
        for name in outputs:
            if name not in shapes:
                raise BackendError(f"{signature.name} has no output {name}; it has {', '.join(shapes)}")
        given = {name: signature.check_array(name, array, shapes[name], backend.gpu) for name, array in outputs.items()}
        with backend.exclusive():
            backend.hold(*checked.values(), *given.values())
            backend.stream.use()
            self._enqueue(checked, self._all_outputs(given, shapes))

    def _all_outputs(self, given: Mapping[str, CudaArray], shapes: Mapping[str, Shape]) -> dict[str, CudaArray]:
        """Add scratch arrays for the outputs that are dropped, in the order of the graph."""
        name = self._signature.name
        return {
            output: given[output]
            if output in given
            else self._backend.scratch((name, output), shape, self._signature.dtypes[output])
            for output, shape in shapes.items()
        }

    @abstractmethod
    def _enqueue(self, inputs: Mapping[str, CudaArray], outputs: Mapping[str, CudaArray]) -> None:
        """Queue a run on checked arrays. The caller has `exclusive` use of the stream."""
