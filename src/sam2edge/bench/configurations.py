"""The precisions that a bundle can run in here: that of its ONNX files, or those of its TensorRT engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sam2edge.bundle import GRAPHS, Bundle, Graph
from sam2edge.bundle.engines import Engine, Engines, engine_directories
from sam2edge.errors import BackendError, EngineError
from sam2edge.runtime.backends import tensorrt_api
from sam2edge.runtime.backends.tensorrt import this_target

ORDER = ("fp32", "fp16", "int8", "auto")


@dataclass(frozen=True)
class Variant:
    """A bundle, and what runs in it. engines: their directory; "" for the ONNX files.

    asked: one of ORDER. precisions: those of the graphs.
    """

    bundle: Bundle
    asked: str
    precisions: str
    engines: str = ""

    def __str__(self) -> str:
        """The precisions that run: "fp16", "auto (fp16/int8)"."""
        return f"auto ({self.precisions})" if self.asked == "auto" else self.precisions

    def same_model(self, other: Variant) -> bool:
        """Whether both are of the same FP32 graphs."""
        return _origin(self.bundle) == _origin(other.bundle)


def variants(bundles: Sequence[Bundle], backend: str) -> tuple[list[Variant], list[str]]:
    """All, those of the first bundle's model first and by precision; engines that may not be loaded, with the reason.

    Raises BackendError for a bundle of which nothing runs with the backend.
    """
    found: list[Variant] = []
    refused: list[str] = []
    for bundle in bundles:
        some, others = _engines(bundle) if backend == "tensorrt" else ([_onnx(bundle)], [])
        found += sorted(some, key=lambda variant: ORDER.index(variant.asked))
        refused += others
    first = found[0]
    return sorted(found, key=lambda one: ORDER.index(one.asked) if one.same_model(first) else len(ORDER)), refused


def _onnx(bundle: Bundle) -> Variant:
    asked = "int8" if bundle.manifest.calibration else "fp32"
    return Variant(bundle, asked, _precisions(bundle.manifest.graphs))


def _engines(bundle: Bundle) -> tuple[list[Variant], list[str]]:
    target, found, refused = this_target(tensorrt_api.load()), [], []
    for directory in engine_directories(bundle.path):
        try:
            listed = Engines.open(directory, bundle, target).manifest.engines
        except EngineError as error:
            refused.append(f"{directory} ({error})")
        else:
            found.append(Variant(bundle, directory.name, _precisions(listed), str(directory)))
    if not found:
        why = "; ".join(refused) or f"there are none; build them with `sam2edge build {bundle.path}`"
        raise BackendError(f"none of the engines of {bundle.path} can be loaded here: {why}")
    return found, refused


def _precisions(files: Mapping[str, Graph] | Mapping[str, Engine]) -> str:
    return "/".join(dict.fromkeys(files[name].precision for name in GRAPHS))


def _origin(bundle: Bundle) -> dict[str, str]:
    """Hashes of the FP32 graphs that the bundle is or was made of."""
    made_of = bundle.manifest.calibration
    return made_of.source if made_of else {name: graph.sha256 for name, graph in bundle.manifest.graphs.items()}
