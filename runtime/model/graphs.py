"""The graphs of a bundle, opened together, and the embeddings that the image encoder makes."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from sam2edge.bundle import Bundle, contract
from sam2edge.errors import BackendError, FrameError
from sam2edge.runtime.backends.base import AnyArray, Array, Backend, DeviceArray, GraphRunner, open_backend
from sam2edge.runtime.model.prompts import EncodedPrompt
from sam2edge.runtime.model.staging import FrameLoader, Staging
from sam2edge.types import Bools, Frame

P = ParamSpec("P")
T = TypeVar("T")


class _HasGraphs(Protocol):
    _graphs: Graphs


_Owner = TypeVar("_Owner", bound=_HasGraphs)


@dataclass(frozen=True, eq=False)
class Embedding:
    """An encoded image, on which prompts are decoded and in which objects are tracked.

    Its arrays are where the backend that made them runs; on the CPU they are numpy arrays, float32. At S = 1024 they
    take 16 MB, in FP16 half of that.

    Attributes:
        features: [1,C,h,h], without the no-memory embedding, which the decoder's graph adds.
        size: (H,W) of the image.
        high_res_0: [1,C/8,4h,4h], or None for a model without maps of higher resolution.
        high_res_1: [1,C/4,2h,2h], or None.
    """

    features: AnyArray
    size: tuple[int, int]
    high_res_0: AnyArray | None = None
    high_res_1: AnyArray | None = None


class Graphs:
    """Some graphs of a bundle on a backend; `owner` is what messages call the object that uses them.

    Threads may encode while another one does anything else. For the rest the owner's methods take turns (`in_turn`).
    """

    def __init__(
        self, bundle: Bundle | str | os.PathLike[str], backend: str | Backend, names: tuple[str, ...], owner: str
    ) -> None:
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self.backend, self.model, self._owner = open_backend(backend).for_user(), opened.model, owner
        self._bundle = opened.path
        self._files = {name: opened.graph_path(name) for name in names}
        self._contract = contract(opened.model)
        self._graphs: dict[str, GraphRunner] = {name: self.backend.open(file) for name, file in self._files.items()}
        self.turn = threading.RLock()  # an owner's method may call others, also through a callback
        self._encoding = threading.Lock()

    def check_open(self) -> None:
        """Raise BackendError after close()."""
        if not self._graphs:
            raise BackendError(f"the {self._owner} is closed; make a new one")

    def run(self, graph: str, values: Mapping[str, Any], wanted: Collection[str]) -> dict[str, Array]:
        """Run a graph and return the outputs that are wanted, as numpy arrays. values: its inputs, among others."""
        return self._graphs[graph].run_outputs(self._pick(graph, values), wanted)

    def run_into(self, graph: str, values: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        """Queue a run on device arrays. values: the graph's inputs, among others."""
        self._graphs[graph].run_into(self._pick(graph, values), outputs)

    def _pick(self, graph: str, values: Mapping[str, Any]) -> dict[str, Any]:
        return {spec.name: values[spec.name] for spec in self._contract[graph][0]}

    def decode(
        self,
        embedding: Embedding,
        conditioned: AnyArray,
        prompt: EncodedPrompt,
        add_no_memory: Bools,
        multimask: bool,
        wanted: Collection[str],
    ) -> dict[str, Array]:
        """Run the mask decoder for N prompts on features [N,C,h,h]; see EncodedPrompt.inputs."""
        inputs = prompt.inputs(self.model, add_no_memory, multimask)
        return self.run("mask_decoder", {**vars(embedding), **inputs, "conditioned": conditioned}, wanted)

    def zeros(self, graph: str, name: str, *sizes: int) -> DeviceArray:
        """Return a new device array for an input or output of a graph; sizes: of its dynamic axes, in order."""
        [axes] = {spec.shape for specs in self._contract[graph] for spec in specs if spec.name == name}
        size = iter(sizes)
        shape = tuple(next(size) if isinstance(axis, str) else axis for axis in axes)
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
        """Return new device arrays for the image encoder's outputs for B images."""
        _, maps = self._contract["image_encoder"]
        return {spec.name: self.zeros("image_encoder", spec.name, images) for spec in maps}

    def max_size(self, graph: str, name: str, axis: int = 0) -> int | None:
        """Return how many entries an axis of a graph's input may have; None: any number."""
        return self._graphs[graph].max_size(name, axis)

    def loader(self, backend: Backend) -> FrameLoader:
        """Return a new FrameLoader for the image encoder on this backend or a stream of it."""
        return FrameLoader(backend, self._bundle, self.model.image_size)

    def encode(self, frame: Frame) -> Embedding:
        """Encode one frame that was checked already, on a stream of its own."""
        with self._encoding:  # the thread of a stream that was closed early may still be encoding
            self.check_open()
            _, _, loader = self._prefetch
            loader.stage(frame)
            return self._encode(loader.load(), [frame.shape[:2]])[0]

    def encode_batch(self, images: npt.NDArray[np.uint8], sizes: Sequence[tuple[int, int]]) -> list[Embedding]:
        """Encode RGB images uint8 [B,S,S,3] that were of `sizes` (H,W); see `encode`."""
        with self._encoding:
            self.check_open()
            backend, _, _ = self._prefetch
            staging = Staging(backend)  # holds the host's copy until it is uploaded
            return self._encode(staging.constant("images", images), sizes)

    def _encode(self, images: DeviceArray, sizes: Sequence[tuple[int, int]]) -> list[Embedding]:
        backend, encoder, _ = self._prefetch
        maps = self.empty_maps(len(sizes))
        encoder.run_into({"image": images}, maps)
        each = [maps]
        if len(sizes) > 1:  # in arrays of their own, so that one embedding does not keep the others alive
            each = [self.empty_maps() for _ in sizes]
            for row, own in enumerate(each):
                for name, to in own.items():
                    backend.copy(maps[name][row : row + 1], to)
        backend.synchronize()
        return [Embedding(**own, size=size) for own, size in zip(each, sizes, strict=True)]

    @cached_property
    def _prefetch(self) -> tuple[Backend, GraphRunner, FrameLoader]:
        """A stream with its own image encoder and loader, so that one thread can encode while another tracks."""
        backend = self.backend.new_stream()
        shared = backend is self.backend
        encoder = self._graphs["image_encoder"] if shared else backend.open(self._files["image_encoder"])
        return backend, encoder, self.loader(backend)

    def check_embedding(self, embedding: object, size: tuple[int, int] | None = None) -> Embedding:
        """Return the embedding; raise FrameError unless it is from this model and of a frame of `size` (H,W)."""
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

    def close(self) -> None:
        """Free the graphs and what the backend recorded, when the encoding in another thread is done.

        The owner calls it in its turn; it may do so again.
        """
        with self._encoding:
            self._graphs.clear()
            self.__dict__.pop("_prefetch", None)
            self.backend.forget()


def in_turn(method: Callable[Concatenate[_Owner, P], T]) -> Callable[Concatenate[_Owner, P], T]:
    """Make a method of an owner of Graphs wait until no other thread runs one of its methods."""

    @functools.wraps(method)
    def call(owner: _Owner, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with owner._graphs.turn:
            return method(owner, *args, **kwargs)

    return call
