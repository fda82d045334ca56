"""Say what NVIDIA's compiler makes of the graphs of a bundle: `python -m tools.compile_listing BUNDLE`.

It is the one of TensorRT for RTX, which needs no GPU: for each graph the kernels, the bytes that they read and write,
the memory that activations take, and how many attentions became one kernel. The engines are for exactly one frame with
`--objects` objects that have full memory banks, because sizes that vary have no number of bytes.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from sam2edge import Bundle
from sam2edge.bundle.engines import ENGINES, RTX, Engine, Limits
from sam2edge.bundle.words import DETECTOR
from sam2edge.engines.build import EngineBuilder
from sam2edge.engines.profiles import Preset
from sam2edge.engines.rewrites import FORMS
from sam2edge.runtime.backends.tensorrt_api import Description, Shape, Shapes, TensorRTForRTX, load

NO_KERNELS = frozenset({"signal", "wait", "shape_call"})
"""Types of layers that only order others, or compute sizes."""
BYTES = {"Half": 2, "BFloat16": 2, "Float": 4, "Int8": 1, "UInt8": 1, "Bool": 1, "Int32": 4, "Int64": 8}


@dataclass(frozen=True)
class Listing:
    """What a graph was compiled into."""

    engine: Engine
    layers: Sequence[Mapping[str, Any]]
    warnings: Sequence[str]

    @property
    def kernels(self) -> list[str]:
        """The names of the kernels, in the order in which they run, without numbers."""
        names = (str(layer["Name"]) for layer in self.layers if layer["LayerType"] not in NO_KERNELS)
        return [re.sub(r"_myl\d+_\d+$", "", name) for name in names]

    @property
    def fused_attentions(self) -> int:
        """How many attentions are one kernel."""
        return sum("mha" in name for name in self.kernels)

    @property
    def moved(self) -> int:
        """Bytes that all kernels read and write, if no size is dynamic."""
        tensors = (
            tensor
            for layer in self.layers
            if layer["LayerType"] not in NO_KERNELS
            for side in ("Inputs", "Constants", "Outputs")
            for tensor in layer[side]
        )
        return sum(prod(tensor["Dimensions"]) * BYTES[tensor["Format/Datatype"]] for tensor in tensors)


class Compiler(TensorRTForRTX):
    """TensorRT for RTX, which keeps the description of the last engine; `pinned` ones are for their largest sizes."""

    def __init__(self, pinned: bool = False) -> None:
        super().__init__(load(RTX).trt)
        self.pinned = pinned
        self.described: Description | None = None

    def add_profile(self, builder: Any, config: Any, shapes: Mapping[str, Shapes]) -> None:
        if self.pinned:
            shapes = {name: (largest,) * 3 for name, (_, _, largest) in shapes.items()}
        super().add_profile(builder, config, shapes)

    def describe(self, content: bytes, shapes: Mapping[str, Shape]) -> Description:
        self.described = super().describe(content, shapes)
        return self.described


def compile_graph(
    bundle: Bundle, name: str, precision: str, preset: Preset, *, attention: str | None = None, pinned: bool = False
) -> Listing:
    """Compile a graph as `sam2edge build --for rtx` does, and keep no engine."""
    api = Compiler(pinned)
    builder = dataclasses.replace(EngineBuilder.here(preset, RTX), api=api)
    api.warnings.clear()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "engine"
        engine = builder.build(bundle, name, precision, file, lambda message, fraction: None, attention=attention)
    assert api.described is not None
    return Listing(engine, api.described.layers, tuple(api.warnings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--attention", choices=tuple(FORMS))
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--graph", choices=(*ENGINES, DETECTOR), nargs="+", default=ENGINES)
    parser.add_argument("--names", type=int, default=0, metavar="N", help="print the N most frequent kernels")
    args = parser.parse_args()
    bundle = Bundle.open(args.bundle)
    preset = Preset("listing", Limits(objects=args.objects, prompts=args.objects, points=1), 64 << 30)
    print(f"{'graph':18}{'kernels':>8}{'MB moved':>10}{'activations MB':>16}{'fused':>7}{'seconds':>9}")
    for name in args.graph:
        made = compile_graph(bundle, name, args.precision, preset, attention=args.attention, pinned=True)
        print(
            f"{name:18}{len(made.kernels):8}{made.moved / 1e6:10.0f}{made.engine.activation_bytes / 1e6:16.1f}"
            f"{made.fused_attentions:7}{made.engine.seconds:9.1f}"
        )
        for kernel, count in Counter(made.kernels).most_common(args.names):
            print(f"    {count:4} {kernel}")


if __name__ == "__main__":
    main()
