"""What the tests send to the server, by gRPC; tritonclient comes from the server's environment."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from sam2edge.closeable import Closeable

ALL = ("SIZE", "IDS", "IOUS", "BOXES", "RLE", "BITS", "FRAME_INDEX", "OBJECT_SCORES", "STATES")


def inputs(**values: np.ndarray | bytes | str) -> list[triton.InferInput]:
    """Return the inputs of a request; texts are of one element."""
    made = []
    for name, value in values.items():
        array = value if isinstance(value, np.ndarray) else np.array([value], np.object_)
        kind = {"O": "BYTES", "u": "UINT8", "f": "FP32"}[array.dtype.kind]
        made.append(triton.InferInput(name, array.shape, kind).set_data_from_numpy(array))
    return made


def outputs(names: Sequence[str]) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name) for name in names]


def values(result: triton.InferResult) -> dict[str, Any]:
    """Return the outputs by name; texts as str."""
    arrays = {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}
    return {
        name: [text.decode() for text in array] if array.dtype == np.object_ else array
        for name, array in arrays.items()
    }


class Stream(Closeable):
    """A stream of requests for one sequence, on a connection of its own."""

    def __init__(self, address: str, sequence: int | str, wanted: Sequence[str] = ALL) -> None:
        self._client, self.sequence, self._wanted = triton.InferenceServerClient(address), sequence, wanted
        self._answers: queue.Queue[Any] = queue.Queue()
        self._client.start_stream(callback=lambda result, error: self._answers.put(error or result))

    def send(
        self,
        carrier: Sequence[triton.InferInput] = (),
        *,
        start: bool = False,
        end: bool = False,
        **given: np.ndarray | bytes | str,
    ) -> None:
        """Send a request without waiting for its answer."""
        self._client.async_stream_infer(
            "sam2_video",
            [*carrier, *inputs(**given)],
            outputs=outputs(self._wanted),
            sequence_id=self.sequence,
            sequence_start=start,
            sequence_end=end,
        )

    def receive(self) -> dict[str, Any]:
        """Wait for the next answer; InferenceServerException if it is an error."""
        answer = self._answers.get(timeout=30)
        if isinstance(answer, InferenceServerException):
            raise answer
        return values(answer)

    def ask(self, **given: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        self.send(**given)
        return self.receive()

    def close(self) -> None:
        self._client.stop_stream()
        self._client.close()
