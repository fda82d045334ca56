"""Build every graph of bundles at 1024 for the sizes that people use, and hold the engines to their bars.

`python -m tools.engines_1024 BUNDLE …`, or `make engines-1024`, which makes random bundles. TensorRT for RTX builds in
FP16 and needs no GPU. The exit code is 1 if a bar is missed.
"""

from __future__ import annotations

import sys
import time

import onnx

from sam2edge import Bundle
from sam2edge.bundle.engines import ENGINES, MEMORY_ATTENTION, Engine, Limits
from sam2edge.engines.build import check_memory
from sam2edge.engines.profiles import PRESETS, Preset
from sam2edge.errors import BuildError
from tools.compile_listing import Listing, compile_graph

SIZES = (
    Preset("1 object", Limits(objects=1, prompts=1), 1 << 30),
    Preset("8 objects", Limits(objects=8, prompts=8), 4 << 30),
    *PRESETS.values(),
)
BARS = {"1 object": 0.2e9, "8 objects": 1.3e9}
"""Bytes of activations that the memory attention may take."""


def missed(bundle: Bundle, preset: Preset, made: Listing) -> list[str]:
    """Say which bars an engine of the memory attention misses.

    All attentions must be fused. For one object the compiler leaves EdgeTAM's attentions to its memories, which are
    half of them and short, as they are.
    """
    nodes = onnx.load(bundle.graph_path(MEMORY_ATTENTION), load_external_data=False).graph.node
    attentions = sum(node.op_type == "Softmax" for node in nodes)
    if bundle.model.memory_latents and preset.limits.objects == 1:
        attentions //= 2
    bar, taken = BARS.get(preset.name, preset.workspace), made.engine.activation_bytes
    reasons = [f"{made.fused_attentions} of {attentions} attentions are fused"] * (made.fused_attentions != attentions)
    return reasons + [f"activations take {taken / 1e9:.2f} GB, not {bar / 1e9:.2f}"] * (taken > bar)


def main(paths: list[str]) -> int:
    failures = []
    print(
        f"{'bundle':16}{'for':11}{'graph':18}{'kernels':>8}{'engine MB':>11}{'activations MB':>16}{'fused':>7}{'s':>6}"
    )
    for bundle in map(Bundle.open, paths):
        for preset in SIZES:
            engines: dict[str, Engine] = {}
            begin = time.perf_counter()
            try:
                for name in ENGINES:
                    made = compile_graph(bundle, name, "fp16", preset)
                    engine = engines[name] = made.engine
                    sizes = f"{engine.bytes / 1e6:11.1f}{engine.activation_bytes / 1e6:16.1f}"
                    row = f"{bundle.path.name:16}{preset.name:11}{name:18}{len(made.kernels):8}{sizes}"
                    print(f"{row}{made.fused_attentions:7}{engine.seconds:6.0f}", *made.warnings, flush=True)
                    reasons = missed(bundle, preset, made) if name == MEMORY_ATTENTION else []
                    failures += [f"{bundle.path.name}, {preset.name}: {name}: {reason}" for reason in reasons]
                    check_memory(engines, preset)
            except BuildError as error:
                failures.append(f"{bundle.path.name}, {preset.name}: {error}")
            print(f"{bundle.path.name:16}{preset.name:11}{time.perf_counter() - begin:.0f} s", flush=True)
    print(*failures or ["all bars are held"], sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
