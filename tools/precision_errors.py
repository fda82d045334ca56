"""Measure what FP16 or BF16 costs each output, and which islands are needed (docs/explanation/precision.md).

    python -m tools.precision_errors SOURCE BUNDLE [--precision fp16|bf16] [--clip]
prints errors against the FP32 graphs on the exporter's scenario, relative to the largest magnitude of the output. With
--clip it also tracks the bundled clip with rounded graphs, and prints the IoU with FP32's masks and the true ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Collection
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from sam2edge import Bundle, VideoTracker
from sam2edge.bundle import GRAPHS
from sam2edge.calibration.measure.davis import in_view, region_similarity
from sam2edge.engines.low_precision import BF16, FP16, Fp32Island, LowPrecision, lowered
from sam2edge.export.parity import parity_frames, scenario
from sam2edge.export.reference import Reference
from sam2edge.export.source import load_source
from sam2edge.runtime.media.sources import VideoSource
from samples.demo import CLIP, read_truth
from tools.rounding import with_rounding

CANDIDATES = {
    "activation functions": dict.fromkeys(GRAPHS, ".*/activation"),
    "norms": dict.fromkeys(GRAPHS, ".*norm"),
    "the image": {"image_encoder": r"/Cast$|/Transpose$|/Sub$|/patches/"},
    "position codes": {
        "image_encoder": r"/(Add|Reshape_2)$",
        "memory_attention": r"/(Add(_[123])?|Gather|Unsqueeze(_1)?)$",
    },
    "rotary codes": {"memory_attention": r"/layers\.\d/(Split|Mul|Sub|Concat(_[0-3])?$|Add(_[134])?$)"},
    "sums and norms of the memory attention": {"memory_attention": r"/layers\.\d/Add_[267]$|.*norm"},
    "heads": {"mask_decoder": "/iou_head|/score_head|/pointer_head|/hypernetworks"},
    "the product of the masks": {"mask_decoder": r"/(MatMul|Reshape_6)$"},
    "the mask's way into the memory": {"memory_encoder": "/mask_downsampler|/feature_projection|/Add$"},
}
"""More that may stay FP32, by name: a pattern of nodes for each graph."""
LONG_AGE = 3000
KINDS = {kind.name: kind for kind in (FP16, BF16)}


def rounded(
    bundle: Bundle,
    kind: LowPrecision,
    islands: Collection[Fp32Island],
    directory: Path,
    float_tensors: Collection[str] | None = None,
) -> Bundle:
    """Write every graph with the roundings of a type; the manifest is not written."""
    graphs = {}
    for name in GRAPHS:
        of_graph = [island for island in islands if island.graph == name]
        model = with_rounding(lowered(onnx.load(bundle.graph_path(name)), kind, of_graph, float_tensors))
        onnx.save(model, directory / f"{name}.onnx")
        graphs[name] = bundle.manifest.graphs[name]
    return Bundle(directory, dataclasses.replace(bundle.manifest, graphs=graphs))


def run(file: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def cases(source: str, bundle: Bundle) -> dict[str, tuple[str, dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Return graph, inputs and FP32 outputs of each case by its name."""
    loaded = load_source(source)
    frames, _ = parity_frames(None, bundle.model.image_size)
    reference = Reference(loaded.model, loaded.mean, loaded.std)
    inputs_of = {}
    with torch.inference_mode():
        for graph, inputs, _ in scenario(reference, frames):
            arrays = {name: value.numpy() for name, value in inputs.items()}
            inputs_of[graph] = (graph, arrays)
            if graph == "mask_decoder":  # pixels that FP16 does not have
                inputs_of["mask_decoder, odd points"] = (
                    graph,
                    arrays | {"points": arrays["points"] + np.float32(0.37)},
                )
            if graph == "memory_attention":
                age = np.where(arrays["pointer_age"] > 15, LONG_AGE, arrays["pointer_age"])
                inputs_of[f"memory_attention, age {LONG_AGE}"] = (graph, arrays | {"pointer_age": age})
    return {name: (g, inputs, run(bundle.graph_path(g), inputs)) for name, (g, inputs) in inputs_of.items()}


def track(bundle: Bundle, frames: int | None = None) -> np.ndarray:
    """Track the objects of the bundled clip, or of its first frames, and return their masks, bool [T,N,H,W]."""
    prompts, _ = read_truth()
    masks = []
    with VideoTracker(bundle) as tracker, VideoSource(CLIP) as video:
        for frame in islice(video, frames):
            result = tracker.track(frame)
            for object_id, prompt in prompts.items() if not masks else ():
                result = tracker.prompt(object_id, **prompt)
            masks.append(result.masks)
    return np.stack(masks)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("bundle")
    parser.add_argument("--precision", choices=KINDS, default="fp16")
    parser.add_argument("--clip", action="store_true")
    args = parser.parse_args()
    bundle, kind = Bundle.open(args.bundle), KINDS[args.precision]
    measured = cases(args.source, bundle)
    variants: dict[str, tuple[Collection[Fp32Island], Collection[str] | None]] = {
        "no island": ((), None),
        "the islands": (kind.islands, None),
        **{
            f"without {left.graph} {left.nodes}": ([island for island in kind.islands if island != left], None)
            for left in kind.islands
        },
        f"the islands, {kind.name} inputs and outputs": (kind.islands, ()),
        **{
            f"and {name}": ([*kind.islands, *(Fp32Island(*pair, "", optional=True) for pair in patterns.items())], None)
            for name, patterns in CANDIDATES.items()
        },
    }
    exact = track(bundle) if args.clip else None
    _, true = read_truth()
    if exact is not None:
        print(f"FP32 on the clip: IoU with the truth {region_similarity(exact, true)[in_view(true)].mean():.4f}")
    for variant, (islands, float_tensors) in variants.items():
        with tempfile.TemporaryDirectory() as directory:
            changed = rounded(bundle, kind, islands, Path(directory), float_tensors)
            print(f"\n## {variant}")
            for case, (graph, inputs, expected) in measured.items():
                outputs = run(changed.graph_path(graph), inputs)
                errors = {n: np.abs(outputs[n] - e).max() / np.abs(e).max() for n, e in expected.items()}
                print(f"{case}: " + ", ".join(f"{name} {error:.1e}" for name, error in errors.items()))
            if exact is not None:
                masks = track(changed)
                shown = in_view(true) & in_view(exact)
                same = region_similarity(masks, exact)[shown]
                truth = region_similarity(masks, true)[in_view(true)].mean()
                print(f"clip: IoU with FP32 mean {same.mean():.4f} min {same.min():.4f}; with the truth {truth:.4f}")


if __name__ == "__main__":
    main()
