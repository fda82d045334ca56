"""The graphs of a bundle, opened together; what the video tracker and the image predictor share."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sam2edge.bundle import Bundle, contract
from sam2edge.errors import BackendError, FrameError
from sam2edge.runtime.backends.base import AnyArray, Array, Backend, DeviceArray, GraphRunner, open_backend
from sam2edge.runtime.model.embedding import Embedding
from sam2edge.runtime.model.frame_loader import FrameLoader
from sam2edge.runtime.model.prompts import EncodedPrompt
from sam2edge.types import Bools


class Graphs:
    """Some graphs of a bundle on a backend.

    bundle: a Bundle or the path of one. names: which graphs. owner: what messages call the object that uses them.
    Raises BundleError and BackendError.
    """

    def __init__(
        self, bundle: Bundle | str | os.PathLike[str], backend: str | Backend, names: tuple[str, ...], owner: str
    ) -> None:
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self.backend, self.model, self._owner = open_backend(backend), opened.model, owner
        self._bundle = opened.path
        self._files = {name: opened.graph_path(name) for name in names}
        self._inputs = {name: [spec.name for spec in contract(opened.model)[name][0]] for name in names}
        self._graphs: dict[str, GraphRunner] = {name: self.backend.open(file) for name, file in self._files.items()}
        self._encoding = threading.Lock()

    def check_open(self) -> None:
        """BackendError after close()."""
        if not self._graphs:
            raise BackendError(f"the {self._owner} is closed; make a new one")

    def run(self, graph: str, **inputs: AnyArray) -> dict[str, Array]:
        """Outputs of a graph by name, as numpy arrays; see sam2edge.bundle.contract."""
        return self._graphs[graph].run(inputs)

    def run_into(self, graph: str, values: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        """Queue a run on device arrays. values: the graph's inputs by name, among others."""
        self._graphs[graph].run_into({name: values[name] for name in self._inputs[graph]}, outputs)

    def zeros(self, graph: str, name: str, shape: tuple[int, ...]) -> DeviceArray:
        """A new device array for an input or output of a graph, which says its type."""
        return self.backend.zeros(shape, self._graphs[graph].dtype(name))

    def upload(self, *pairs: tuple[AnyArray, DeviceArray]) -> None:
        """Copy arrays to the device and into their types there, at once; nothing is changed if memory runs out."""
        staged = []
        for source, to in pairs:
            if isinstance(source, np.ndarray):
                staging = self.backend.staging(source.shape, to.dtype)
                staging[...] = source
                source = staging
            staged.append((source, to))
        for source, to in staged:
            self.backend.copy(source, to)
        self.backend.synchronize()

    def empty_maps(self, images: int = 1) -> dict[str, DeviceArray]:
        """New device arrays for what the image encoder gives of B images."""
        side, channels = self.model.grid, self.model.hidden_dim
        shapes = {
            "features": (images, channels, side, side),
            "high_res_0": (images, channels // 8, 4 * side, 4 * side),
            "high_res_1": (images, channels // 4, 2 * side, 2 * side),
        }
        return {name: self.zeros("image_encoder", name, shape) for name, shape in shapes.items()}

    def max_size(self, graph: str, name: str, axis: int = 0) -> int | None:
        """How many entries an axis of a graph's input may have; None: any number."""
        return self._graphs[graph].max_size(name, axis)

    def loader(self) -> FrameLoader:
        """What brings frames to the image encoder."""
        return FrameLoader(self.backend, self._bundle, self.model.image_size)

    def encode(self, frame: npt.NDArray[np.uint8]) -> Embedding:
        """Encode one RGB frame, uint8 [H,W,3], which is checked already; in a queue of its own."""
        with self._encoding:  # a stream that was given up may be at it yet when the next one begins
            ahead = self._prefetch
            ahead.loader.stage(frame)
            return ahead.encode(ahead.loader.load(), [frame.shape[:2]])[0]

    def encode_batch(self, images: npt.NDArray[np.uint8], sizes: Sequence[tuple[int, int]]) -> list[Embedding]:
        """Encode RGB images uint8 [B,S,S,3] that were of `sizes` (H,W); see `encode`."""
        staging = self._prefetch.backend.staging(images.shape, np.uint8)
        staging[...] = images
        device = self._prefetch.backend.zeros(images.shape, np.uint8)
        self._prefetch.backend.copy(staging, device)
        return self._prefetch.encode(device, sizes)

    @cached_property
    def _prefetch(self) -> _Prefetch:
        backend = self.backend.new_stream()
        shared = backend is self.backend
        encoder = self._graphs["image_encoder"] if shared else backend.open(self._files["image_encoder"])
        return _Prefetch(backend, encoder, FrameLoader(backend, self._bundle, self.model.image_size), self.empty_maps)

    def check_embedding(self, embedding: object, size: tuple[int, int] | None = None) -> Embedding:
        """The embedding; FrameError for anything else, for that of another model or of a frame not of `size` (H,W)."""
        side, channels = self.model.grid, self.model.hidden_dim
        if not isinstance(embedding, Embedding):
            raise FrameError(f"an embedding must be what encode() returns but got {type(embedding).__name__}")
        if embedding.features.shape != (1, channels, side, side):
            raise FrameError(
                f"the embedding is another model's: its features are {list(embedding.features.shape)} but must be "
                f"{[1, channels, side, side]}"
            )
        dtype = self._graphs["image_encoder"].dtype("features")
        if embedding.features.dtype != dtype:
            raise FrameError(f"the embedding is another backend's: {embedding.features.dtype}, but here it is {dtype}")
        if size is not None and embedding.size != size:
            raise FrameError(f"the embedding is of a frame of {list(embedding.size)} but all must be {list(size)}")
        return embedding

    def decode(
        self,
        embedding: Embedding,
        conditioned: AnyArray,
        prompt: EncodedPrompt,
        add_no_memory: Bools,
        multimask: bool,
        wanted: Collection[str],
    ) -> dict[str, Array]:
        """Run the mask decoder for N prompts on features [N,C,h,h] and return the outputs that are wanted."""
        inputs = {
            **prompt.inputs(self.model, add_no_memory, multimask),
            "conditioned": conditioned,
            "high_res_0": embedding.high_res_0,
            "high_res_1": embedding.high_res_1,
        }
        return self._graphs["mask_decoder"].run_outputs(inputs, wanted)

    def close(self) -> None:
        """Free the graphs and what the backend recorded. May be called again."""
        self._graphs.clear()
        self.__dict__.pop("_prefetch", None)
        self.backend.forget()


@dataclass(frozen=True)
class _Prefetch:
    """A queue with an image encoder of its own, so that a thread may encode while another one tracks."""

    backend: Backend
    encoder: GraphRunner
    loader: FrameLoader
    empty_maps: Callable[[int], dict[str, DeviceArray]]

    def encode(self, images: DeviceArray, sizes: Sequence[tuple[int, int]]) -> list[Embedding]:
        maps = self.empty_maps(len(sizes))
        self.encoder.run_into({"image": images}, maps)
        each = [maps]
        if len(sizes) > 1:  # in arrays of their own, so that one does not keep the others alive
            each = [self.empty_maps(1) for _ in sizes]
            for row, one in enumerate(each):
                for name, to in one.items():
                    self.backend.copy(maps[name][row : row + 1], to)
        self.backend.synchronize()
        return [Embedding(**one, size=size) for one, size in zip(each, sizes, strict=True)]
