"""One frame of the tracker and the objects in it, in arrays that are allocated once and used again.

What goes from graph to graph lies where the backend runs. Only what the host needs comes down with the frame: logits,
predicted IoUs and object scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sam2edge.runtime.backends.base import DeviceArray
from sam2edge.runtime.model.embedding import Embedding
from sam2edge.runtime.model.frame_loader import FrameLoader
from sam2edge.runtime.model.graphs import Graphs
from sam2edge.runtime.model.staging import Upload, Uploads
from sam2edge.runtime.video.steps import Objects, without_prompts

Frame = npt.NDArray[np.uint8]
Times = npt.NDArray[np.int64]


class TrackedFrame:
    """A frame with room for `capacity` objects, of which `count` rows are in use.

    loader, uploads: may be those of other frames, since every call here but `delete` and `remember` waits for its work.
    memory, pointers: what each object would remember of the frame, device arrays [capacity,L,M] and [capacity,C].
    times: [count] frames that each object remembered before this one. doubtful: [count] frames in a row, up to this
    one, on which it was not seen for sure.
    """

    def __init__(self, graphs: Graphs, capacity: int, loader: FrameLoader, uploads: Uploads) -> None:
        model, zeros = graphs.model, graphs.zeros
        self._graphs, self._backend, self._loader, self._uploads = graphs, graphs.backend, loader, uploads
        side, mask_side = model.grid, model.mask_size
        self._key, self._maps = object(), graphs.empty_maps()
        self._size = (0, 0)
        self._conditioned = zeros("memory_attention", "conditioned", (capacity, model.hidden_dim, side, side))
        self.pointers = zeros("mask_decoder", "pointer", (capacity, model.hidden_dim))
        self.memory = zeros("memory_encoder", "memory", (capacity, model.memory_tokens, model.memory_dim))
        shown = {"mask": (capacity, 1, mask_side, mask_side), "iou": (capacity, 1), "object_score": (capacity, 1)}
        self._shown = {name: zeros("mask_decoder", name, shape) for name, shape in shown.items()}
        self._seen = {name: self._backend.staging(shape) for name, shape in shown.items()}
        self._first, self._prompted = np.zeros(capacity, bool), np.zeros(capacity, bool)
        self._constants: dict[int, Mapping[str, DeviceArray]] = {}
        self._corrected = False
        self.count = 0
        self.times: Times = np.zeros(0, np.int64)
        self.doubtful: Times = np.zeros(0, np.int64)

    @property
    def embedding(self) -> Embedding:
        """The frame's; a view that is overwritten when the frame is filled again."""
        return Embedding(**self._maps, size=self._size)

    def objects(self, begin: int = 0, end: int | None = None) -> Objects:
        """Rows from `begin` to `end`, all by default; views. `conditioned` and `pointers` are device arrays."""
        rows = slice(begin, self.count if end is None else end)
        return Objects(
            conditioned=self._conditioned[rows],
            first=self._first[rows],
            prompted=self._prompted[rows],
            logits=self._seen["mask"][rows],
            ious=self._seen["iou"][rows],
            scores=self._seen["object_score"][rows],
            pointers=self.pointers[rows],
        )

    def fill(self, frame: Frame | Embedding, memories: Mapping[str, Any], times: Times) -> None:
        """Find N objects in another frame by what they remember, and encode what they would remember of it.

        frame: RGB uint8 [H,W,3], which is encoded, or an embedding, which is copied. memories: inputs of the
        memory-attention graph but `features`. times: [N].
        """
        self.count = n = len(times)
        self.times, self.doubtful = times, np.zeros(n, np.int64)
        self._first[:n] = self._prompted[:n] = self._corrected = False
        pixels = not isinstance(frame, Embedding)
        if isinstance(frame, Embedding):
            self._size = frame.size
            for name, to in self._maps.items():
                self._backend.copy(getattr(frame, name), to)
        else:
            self._size = frame.shape[:2]
            self._loader.stage(frame)
        staged: dict[str, Upload] = {}
        device: dict[str, DeviceArray] = {}
        if n:
            staged = {name: self._uploads.stage(name, memories[name]) for name in ("memory_age", "pointer_age")}
            device = {**self._untouched(n), "memory": memories["memory"], "pointers": memories["pointers"]}
        key = self._key, pixels and self._loader.generation, n
        self._backend.replay(key, lambda: self._steps(n, pixels, staged, device))
        self._backend.synchronize()

    def _untouched(self, n: int) -> Mapping[str, DeviceArray]:
        """Inputs that say that nothing was prompted, which are made once for each N."""
        if n not in self._constants:
            values = {**without_prompts(self._graphs.model, n), "binarize": np.zeros(n, bool)}
            self._constants[n] = {name: self._uploads.constant(name, value) for name, value in values.items()}
        return self._constants[n]

    def _steps(self, n: int, pixels: bool, staged: Mapping[str, Upload], device: Mapping[str, DeviceArray]) -> None:
        """All work on a frame that is queued; see Backend.replay."""
        if pixels:
            self._graphs.run_into("image_encoder", {"image": self._loader.load()}, self._maps)
        if n:
            for upload in staged.values():
                self._backend.copy(upload.host, upload.device)
            values = {**device, **self._maps, **{name: upload.device for name, upload in staged.items()}}
            values |= {"conditioned": self._conditioned[:n]}
            self._graphs.run_into("memory_attention", values, {"conditioned": values["conditioned"]})
            shown = {name: array[:n] for name, array in self._shown.items()}
            self._graphs.run_into("mask_decoder", values, {**shown, "pointer": self.pointers[:n]})
            for name, array in shown.items():
                self._backend.copy(array, self._seen[name][:n])
            self._encode_memory(values | shown)

    def _encode_memory(self, values: Mapping[str, DeviceArray]) -> None:
        self._graphs.run_into("memory_encoder", values, {"memory": self.memory[: self.count]})

    def remember(self) -> None:
        """Encode the memories again if a prompt came after `fill`; until the next one, since the work may be lost."""
        if self._corrected and self.count:
            binarize = self._uploads.stage("binarize of a correction", self._prompted[: self.count])
            self._backend.copy(binarize.host, binarize.device)
            shown = {name: array[: self.count] for name, array in self._shown.items()}
            self._encode_memory({**self._maps, **shown, "binarize": binarize.device})

    def found(self, row: int) -> tuple[Objects, int]:
        """Copies of what `put` overwrites in a row; with `*` these are its arguments that bring it back."""
        values = {
            name: self._backend.download(array) if name == "pointers" else array.copy()
            for name, array in vars(self.objects(row, row + 1)).items()
            if name != "conditioned"  # which no prompt changes
        }
        return Objects(conditioned=self._conditioned[row : row + 1], **values), int(self.doubtful[row])

    def put(self, row: int, values: Objects, doubtful: int = 0) -> None:
        """Overwrite a row with the only row of `values`, or append it. doubtful: see the class."""
        shown = {"mask": values.logits, "iou": values.ious, "object_score": values.scores}
        arrays = [(values.pointers, self.pointers), *((new, self._shown[name]) for name, new in shown.items())]
        if row == self.count:
            arrays.append((values.conditioned, self._conditioned))
        self._graphs.upload(*((new, to[row : row + 1]) for new, to in arrays))  # first, since it may fail
        if row == self.count:
            self.count += 1
            self.times, self.doubtful = np.append(self.times, 0), np.append(self.doubtful, 0)
        self.doubtful[row] = doubtful
        self._first[row], self._prompted[row] = values.first[0], values.prompted[0]
        self._corrected = True
        for name, new in shown.items():
            self._seen[name][row] = new[0]

    def delete(self, row: int) -> None:
        """Remove a row; those after it move up."""
        self.count -= 1
        for array in (self._conditioned, self.pointers, self.memory, *self._shown.values()):
            for to in range(row, self.count):
                self._backend.copy(array[to + 1], array[to])
        for values in (self._first, self._prompted, *self._seen.values()):
            values[row : self.count] = values[row + 1 : self.count + 1]
        self.times, self.doubtful = np.delete(self.times, row), np.delete(self.doubtful, row)
