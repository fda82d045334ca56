"""A strict stand-in for `triton_python_backend_utils`, the module that Triton gives its Python models.

A request's arrays are overwritten when `execute` returns, as the server's shared memory is. A request is answered once,
by what `execute` returns or with the final flag, by tensors of the types that Triton knows.
"""

from __future__ import annotations

import json
import queue
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2
TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
_KINDS = ("uint8", "int32", "int64", "float32", "object")


class TritonModelException(Exception):  # noqa: N818  Triton's name
    pass


class TritonError:
    INVALID_ARG, UNAVAILABLE, INTERNAL = "INVALID_ARG", "UNAVAILABLE", "INTERNAL"

    def __init__(self, message: str, code: str) -> None:
        assert isinstance(message, str)
        assert code in (self.INVALID_ARG, self.UNAVAILABLE, self.INTERNAL)
        self.message, self.code = message, code


class Refused(Exception):  # noqa: N818  as InferenceServerException at the client
    """What a client would raise."""

    def __init__(self, error: TritonError) -> None:
        super().__init__(error.message)
        self.code = error.code


class Tensor:
    def __init__(self, name: str, values: np.ndarray) -> None:
        assert isinstance(values, np.ndarray)
        assert values.dtype.name in _KINDS, (name, values.dtype)
        assert values.dtype != np.object_ or all(isinstance(value, (str, bytes)) for value in values.ravel())
        self._name, self._values = name, values

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._values

    def to_dlpack(self) -> np.ndarray:
        return self._values

    @staticmethod
    def from_dlpack(name: str, values: np.ndarray) -> Tensor:
        return Tensor(name, values)


class InferenceResponse:
    def __init__(self, output_tensors: Collection[Tensor] = (), error: TritonError | None = None) -> None:
        assert (error is None) or not output_tensors
        self.tensors, self.error = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}, error


class Logger:
    """Keeps what is logged."""

    errors: list[str] = []  # noqa: RUF012  one log for a process, as Triton's

    @classmethod
    def log_error(cls, message: str) -> None:
        cls.errors.append(message)


def get_input_tensor_by_name(request: Request, name: str) -> Tensor | None:
    return request._tensors().get(name)


class Request:
    """A request, and what the client gets for it."""

    def __init__(
        self,
        stream: int | str = 0,
        *,
        start: bool = False,
        end: bool = False,
        wanted: Collection[str] = (),
        parameters: Mapping[str, Any] | None = None,
        **inputs: np.ndarray | bytes,
    ) -> None:
        self._stream, self._flags, self._wanted = stream, start + 2 * end, wanted
        self._parameters = json.dumps(parameters) if parameters else ""
        self._inputs: dict[str, Tensor] | None = {
            name: Tensor(name, value.copy() if isinstance(value, np.ndarray) else np.array([value], np.object_))
            for name, value in inputs.items()
        }
        self._responses: queue.Queue[InferenceResponse] = queue.Queue()
        self._answers = 0

    def _tensors(self) -> dict[str, Tensor]:
        assert self._inputs is not None, "the request was released when execute returned"
        return self._inputs

    def correlation_id(self) -> int | str:
        return self._stream

    def flags(self) -> int:
        return self._flags

    def parameters(self) -> str:
        return self._parameters

    def requested_output_names(self) -> list[str]:
        return list(self._wanted)

    def get_response_sender(self) -> Request:
        return self

    def send(self, response: InferenceResponse, flags: int) -> None:
        self._answers += 1
        assert self._answers == 1, "a model that is not decoupled answers once"
        assert flags == TRITONSERVER_RESPONSE_COMPLETE_FINAL
        assert set(response.tensors) <= set(self._wanted), "outputs that nobody asked for"
        self._responses.put(response)

    def release(self) -> None:
        """Take the tensors away, as Triton does after `execute`."""
        for tensor in self._tensors().values():
            if tensor.as_numpy().dtype != np.object_:
                tensor.as_numpy().fill(0xAA)
        self._inputs = None

    @property
    def is_answered(self) -> bool:
        return self._answers > 0

    def answer(self) -> dict[str, Any]:
        """Wait for the answer, the outputs by name; texts as a list. Refused if it is an error."""
        response = self._responses.get(timeout=30)
        if response.error:
            raise Refused(response.error)
        return {
            name: value.tolist() if value.dtype == np.object_ else value for name, value in response.tensors.items()
        }
