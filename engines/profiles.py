"""How large the inputs of the engines may be: optimisation profiles from the graph contract and a few limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sam2edge.bundle import Model, TensorSpec, contract
from sam2edge.bundle.engines import RESIZE, RESIZE_WINDOWS, Limits
from sam2edge.bundle.words import DETECTOR, WordsModel, words_contract
from sam2edge.runtime.backends.tensorrt_api import Shape, Shapes
from sam2edge.runtime.model.resize import window_size


@dataclass(frozen=True)
class Preset:
    """Limits and memory for a kind of machine; PRESETS has "desktop" and "jetson".

    Attributes:
        name: Its name in messages.
        limits: The largest inputs.
        workspace: Bytes of scratch memory that a layer may use, during the build and after.
        memory: Bytes of weights and activations beyond which the build fails; None for no limit.
    """

    name: str
    limits: Limits
    workspace: int
    memory: int | None = None


PRESETS = {
    "desktop": Preset("desktop", Limits(), 4 << 30),
    # the system, the camera and the user's program need about half of the 8 GB that CPU and GPU share
    "jetson": Preset("jetson", Limits(objects=4, prompts=16), 1 << 30, 4 << 30),
}


def profile(model: Model, limits: Limits, graph: str) -> dict[str, Shapes]:
    """Return the smallest, usual and largest shape of every dynamic input of a graph.

    Kernels are chosen for the usual shape: a full memory bank, the limits' `usual_objects`, and the two padding points
    that objects without a prompt get; 1280×720 for frames to resize. P = 0 is for an image prompted with a mask alone,
    which a padding point would change.
    """
    if graph == RESIZE:
        size, side = model.image_size, limits.side
        usual = {"rows": min(720, side), "columns": min(1280, side)}
        shapes: dict[str, Shapes] = {"frame": ((1, 1, 3), (usual["rows"], usual["columns"], 3), (side, side, 3))}
        for name, length in usual.items():
            least, common, most = (window_size(each, size) for each in (1, length, side))
            blocks, block = RESIZE_WINDOWS, size // RESIZE_WINDOWS
            shapes[f"used_{name}"] = (blocks, least), (blocks, common), (blocks, most)
            shapes[name] = (blocks, block, least), (blocks, block, common), (blocks, block, most)
        return shapes
    objects = max(limits.objects, limits.prompts) if graph == "mask_decoder" else limits.objects
    slots = limits.conditioning_frames + model.memory_frames
    pointers = limits.conditioning_frames + model.max_pointers - 1
    axes = {
        "B": (1, 1, limits.images),
        "N": (1, limits.usual_objects, objects),
        "T": (1, slots, slots),
        "K": (1, pointers, pointers),
        "P": (0, 2, limits.points + 1),  # the last point is padding
    }
    return _dynamic(contract(model)[graph][0], axes)


def detector_profile(model: WordsModel, limits: Limits) -> dict[str, Shapes]:
    """Return the same of the word detector, which looks at one frame, usually for four words."""
    axes = {"B": (1, 1, 1), "Q": (1, min(4, limits.words), limits.words)}
    return _dynamic(words_contract(model)[DETECTOR][0], axes)


def _dynamic(inputs: Iterable[TensorSpec], axes: Mapping[str, tuple[int, int, int]]) -> dict[str, Shapes]:
    def at(shape: tuple[int | str, ...], which: int) -> Shape:
        return tuple(axes[side][which] if isinstance(side, str) else side for side in shape)

    dynamic = [spec for spec in inputs if any(isinstance(side, str) for side in spec.shape)]
    return {spec.name: (at(spec.shape, 0), at(spec.shape, 1), at(spec.shape, 2)) for spec in dynamic}
