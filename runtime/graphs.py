"""The graphs of a bundle, opened together; what the video tracker and the image predictor share."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from sam2edge.bundle import Bundle
from sam2edge.errors import BackendError, FrameError
from sam2edge.runtime.backend import Array, Backend, GraphRunner, open_backend
from sam2edge.runtime.embedding import Embedding
from sam2edge.runtime.preprocess import resize


class Graphs:
    """Some graphs of a bundle on a backend.

    bundle: a Bundle or the path of one. names: which graphs. owner: what messages call the object that uses them.
    Raises BundleError and BackendError.
    """

    def __init__(
        self, bundle: Bundle | str | os.PathLike[str], backend: str | Backend, names: tuple[str, ...], owner: str
    ) -> None:
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        runtime = open_backend(backend)
        self.model = opened.model
        self._owner = owner
        self._graphs: dict[str, GraphRunner] = {name: runtime.open(opened.graph_path(name)) for name in names}

    def check_open(self) -> None:
        """BackendError after close()."""
        if not self._graphs:
            raise BackendError(f"the {self._owner} is closed; make a new one")

    def run(self, graph: str, **inputs: Array) -> dict[str, Array]:
        """Outputs of a graph by name; see sam2edge.bundle.contract."""
        return self._graphs[graph].run(inputs)

    def encode(self, frame: npt.NDArray[np.uint8]) -> Embedding:
        """Encode one RGB frame, uint8 [H,W,3], which is checked already."""
        encoded = self.run("image_encoder", image=resize(frame, self.model.image_size)[None])
        return Embedding(**encoded, size=frame.shape[:2])

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
        if size is not None and embedding.size != size:
            raise FrameError(f"the embedding is of a frame of {list(embedding.size)} but all must be {list(size)}")
        return embedding

    def decode(
        self,
        embedding: Embedding,
        conditioned: Array,
        add_no_memory: Array,
        points: Array,
        labels: Array,
        mask_input: Array | None,
        multimask: bool,
    ) -> dict[str, Array]:
        """Run the mask decoder for N objects.

        embedding: gives high_res_0 and high_res_1. conditioned: [N,C,h,h]. add_no_memory: bool [N]. points and
        labels: as prompts.to_model gives them. mask_input: [N,1,4h,4h] or None.
        """
        n, side = len(conditioned), self.model.mask_size
        return self.run(
            "mask_decoder",
            conditioned=conditioned,
            add_no_memory=add_no_memory,
            high_res_0=embedding.high_res_0,
            high_res_1=embedding.high_res_1,
            points=points,
            labels=labels,
            mask_input=np.zeros((n, 1, side, side), np.float32) if mask_input is None else mask_input,
            has_mask_input=np.full(n, mask_input is not None),
            multimask=np.full(n, multimask),
        )

    def close(self) -> None:
        """Free the graphs. May be called again."""
        self._graphs.clear()
