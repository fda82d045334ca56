"""A request to a model: read from Triton's tensors, decoded, and checked."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from sam2edge.bundle import Model
from sam2edge.errors import FrameError, PromptError
from sam2edge.runtime.media.image_files import decode_image
from sam2edge.runtime.media.prompt_files import PromptLine, parse_prompts, schedule
from sam2edge.runtime.model.resize import check_frame
from sam2edge.serving.tensors import INPUTS
from sam2edge.types import Frame


@dataclass(frozen=True, eq=False)
class Request:
    """What a request holds.

    Attributes:
        stream: Its id, 0 for a request without one.
        start: Whether it is the stream's first.
        end: Whether it is the stream's last.
        inputs: By name. Triton takes its arrays back when `execute` returns.
        wanted: Names of the outputs that were asked for.
        parameters: Whatever else the client said.
    """

    stream: Hashable
    start: bool
    end: bool
    inputs: Mapping[str, Any]
    wanted: frozenset[str]
    parameters: Mapping[str, Any]

    @staticmethod
    def read(request: Any) -> Request:
        """Read one of Triton's requests."""
        inputs = {}
        for name in INPUTS:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is not None:
                values = tensor.as_numpy()
                inputs[name] = values[0] if values.dtype == np.object_ else values
        flags = request.flags()
        return Request(
            request.correlation_id(),
            bool(flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START),
            bool(flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END),
            inputs,
            frozenset(request.requested_output_names()),
            json.loads(request.parameters() or "{}"),
        )

    def copied(self) -> Request:
        """Return the request with inputs of its own."""
        inputs = {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in self.inputs.items()}
        return dataclasses.replace(self, inputs=inputs)

    def pixels(self) -> Frame | None:
        """Return the frame, decoded; None without one. FrameError or MediaError if it is none."""
        if "FRAME" in self.inputs and "ENCODED" in self.inputs:
            raise FrameError("got both FRAME and ENCODED; give one of them")
        if "ENCODED" in self.inputs:
            return decode_image(np.frombuffer(self.inputs["ENCODED"], np.uint8), "ENCODED")
        return check_frame(self.inputs["FRAME"], what="FRAME") if "FRAME" in self.inputs else None

    def prompts(self, frame: int, size: tuple[int, int], known: Sequence[int], model: Model) -> list[PromptLine]:
        """Return the prompts, numbered and checked, removals first.

        Args:
            frame: Number of the frame that they come with.
            size: (H,W) of it.
            known: The objects that are tracked already.
            model: The model that they are for.

        Raises:
            InputError: One of them is wrong.
        """
        lines = parse_prompts(self.inputs.get("PROMPTS", b""), "PROMPTS", frame)
        for line in lines:
            if line.frame != frame:
                raise PromptError(
                    f"{line.origin}: is for frame {line.frame} but came with frame {frame}; send it with its frame, "
                    "and leave the number out"
                )
        lines = schedule(sorted(lines, key=lambda line: not line.remove), known)
        for line in lines:
            line.check(size)
            if line.mask is not None:  # which may be too small for the model
                line.prompt.encode(size, model)
        return lines
