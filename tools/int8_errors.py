"""Measure what INT8 costs on clips that calibration did not see: the table of docs/explanation/precision.md.

    python -m tools.int8_errors BUNDLE
calibrates on the bundled clip without the gate, and prints for each clip of samples/knob_costs.py the mean IoU with
FP32's masks and J&F with the true ones.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

from sam2edge import Bundle
from sam2edge.calibration.int8.calibrate import calibrate
from sam2edge.calibration.measure.davis import contour_accuracy, davis_mean, region_similarity
from sam2edge.engines.low_precision import FP16
from sam2edge.runtime.model.prompts import Prompt
from tools.precision_errors import rounded
from tools.rounding import with_e4m3

sys.path.insert(0, str(Path(__file__).parents[1] / "samples"))
import demo
import knob_costs
import make_clip

CLIPS = 7


def j_and_f(masks: np.ndarray, true: np.ndarray) -> float:
    """Return J&F in percent, over the frames that DAVIS counts."""
    scores = [davis_mean(np.stack([measure(*pair) for pair in zip(masks, true, strict=True)])) for measure in MEASURES]
    return 100 * float(np.mean(scores))


def in_e4m3(int8: Bundle, source: Bundle, folder: Path) -> Bundle:
    """Write an INT8 bundle with FP8's roundings in place of INT8's; the manifest is not written."""
    (directory := folder / "e4m3").mkdir()
    for name, graph in int8.manifest.graphs.items():
        model = with_e4m3(onnx.load(int8.graph_path(name)), onnx.load(source.graph_path(name)))
        onnx.save(model, directory / graph.file)
    return Bundle(directory, int8.manifest)


MEASURES = region_similarity, contour_accuracy


def main() -> None:
    source, (truth, _) = Bundle.open(sys.argv[1]), demo.read_truth()
    prompts = {number: Prompt(**prompt) for number, prompt in truth.items()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        given = {"clips": [demo.CLIP], "prompts": [prompts], "gate": None, "cache": folder / "cache"}
        bundles = {"INT8": calibrate(source, folder / "int8", **given)}
        (folder / "rounded").mkdir()
        bundles["INT8, FP16 around it"] = rounded(bundles["INT8"], FP16, FP16.islands, folder / "rounded", ())
        bundles["FP8 in place of INT8"] = in_e4m3(bundles["INT8"], source, folder)
        for seed in range(CLIPS):
            frames, labels = make_clip.render(knob_costs.toys(seed))
            true = np.stack([labels == number for number in range(1, 4)], axis=1)
            expected, _ = knob_costs.track(source, frames, true, (), {})
            print(f"seed {seed}: FP32 J&F {j_and_f(expected, true):.1f}", flush=True)
            for name, bundle in bundles.items():
                masks, _ = knob_costs.track(bundle, frames, true, (), {})
                iou = region_similarity(masks, expected).mean()
                print(f"  {name}: IoU {iou:.3f}, J&F {j_and_f(masks, true):.1f}", flush=True)


if __name__ == "__main__":
    main()
