"""Configurations of the bundled model: PyTorch, its graphs, slightly rounded ones and broken ones."""

import json
import xml.etree.ElementTree as ElementTree
from urllib.request import urlopen

import cv2
import numpy as np
import pytest

from sam2edge.calibration.measure.clip import Clip, TrueMasks
from sam2edge.calibration.measure.closed_loop import Agreement, track_clip
from sam2edge.calibration.measure.comparison import Comparison, Measurement, score
from sam2edge.calibration.measure.configurations import Configuration
from sam2edge.calibration.measure.gate import DEFAULT_GATE, Gate
from sam2edge.calibration.measure.graph_errors import largest
from sam2edge.calibration.measure.report import as_dict, table, worst_frames, write_report
from sam2edge.calibration.measure.targets import automatic_prompts, prompts_from_truth
from sam2edge.errors import InputError, PromptError
from sam2edge.export.reference import TorchBackend
from sam2edge.runtime.model.prompts import Prompt
from tests.conftest import NANO, REPO
from tests.helpers import CLIP
from tests.models import write_wary_nano

MASKS = REPO / "samples" / "clip_masks.npz"
FRAMES = 12


@pytest.fixture(scope="module")
def truth():
    return TrueMasks(MASKS)


def compare_all(configurations, clip, truth, gate=DEFAULT_GATE):
    comparison = Comparison(configurations[0], clip, prompts_from_truth(truth, (240, 320)), gate, truth)
    return [*comparison.measurements, *map(comparison.measure, configurations[1:])]


@pytest.fixture(scope="module")
def measurements(nano, half, broken, truth):
    configurations = [
        Configuration("nano", nano),
        Configuration("half", half),
        Configuration("broken", broken, files={}),
    ]
    return compare_all(configurations, Clip(CLIP, FRAMES), truth)


def test_the_graphs_follow_pytorch(nano, truth):
    """Until the memory bank is full and older: the export must not change the masks, nor J&F by 0.1 point."""
    configurations = [Configuration("PyTorch", nano, TorchBackend(nano, NANO)), Configuration("nano", nano)]
    pytorch, onnx = compare_all(configurations, Clip(CLIP, FRAMES), truth)
    assert onnx.agreement.iou.shape == (FRAMES, 3)
    assert onnx.agreement.mean >= 0.999
    assert onnx.verdict.passed
    assert 1e-8 < max(map(largest, onnx.errors.values())) < 1e-4
    assert pytorch.j_and_f.j_and_f > 0.8
    for name in ("j", "f", "j_and_f"):
        assert abs(getattr(onnx.j_and_f, name) - getattr(pytorch.j_and_f, name)) < 0.001


def test_pytorch_of_other_weights_is_refused(nano, tmp_path):
    with pytest.raises(InputError, match=r"not what .* was exported from"):
        TorchBackend(nano, write_wary_nano(tmp_path / "wary"))


def test_rounded_weights_pass(measurements):
    measurement = measurements[1]
    assert measurement.verdict.passed
    assert measurement.agreement.mean > 0.99
    assert 1e-5 < largest(measurement.errors["image_encoder"]) < 1e-2


def test_a_broken_graph_fails_and_is_named(measurements):
    measurement = measurements[2]
    assert not measurement.verdict.passed
    assert measurement.verdict.sensitive == "memory_attention"
    assert measurement.agreement.mean < 0.97
    assert largest(measurement.errors["memory_attention"]) > 0.1
    # Each graph got what the reference saw: the broken one does not spoil those after it.
    assert {largest(errors) for graph, errors in measurement.errors.items() if graph != "memory_attention"} == {0}


def test_a_bundle_of_other_inputs_is_compared_in_closed_loop_only(nano, pooled, truth):
    configurations = [Configuration("nano", nano), Configuration("pooled", pooled)]
    _, measurement = compare_all(configurations, Clip(CLIP, 8), truth, Gate(min_mean_iou=0.5))
    assert measurement.errors is None
    assert measurement.verdict.sensitive is None
    assert 0.5 < measurement.agreement.mean < 1


def test_score_against_masks_known_to_be_right_and_wrong(nano, truth, tmp_path):
    run, _ = track_clip(nano, Clip(CLIP, 5), prompts_from_truth(truth, (240, 320)))
    own = [run.masks(frame) for frame in range(5)]
    # Objects 1 and 3 exactly as tracked, 2 nowhere after the first frame; the last frame is wrong but does not count.
    labels = np.stack([np.select([masks[0], masks[2]], [1, 3], 0) for masks in own])
    assert not any((masks[0] & masks[2]).any() for masks in own)
    labels[0][own[0][1]] = 2
    labels[4] = 0
    np.savez(tmp_path / "exact.npz", labels=labels)
    scores = score(run, TrueMasks(tmp_path / "exact.npz"))
    assert {i: (one.j, one.f) for i, one in scores.items()} == {1: (1, 1), 2: (0, 0), 3: (1, 1)}


def test_true_masks_that_are_not_the_clips(nano, truth, tmp_path):
    run, _ = track_clip(nano, Clip(CLIP, 4), {9: Prompt(box=(101, 47, 176, 122))})
    with pytest.raises(InputError, match=r"has objects \(1, 2, 3\) .* tracked were \(9,\)"):
        score(run, truth)
    np.savez(tmp_path / "few.npz", labels=np.load(MASKS)["labels"][:3])
    with pytest.raises(InputError, match="there are 3 masks and 4 frames; see --frames"):
        compare_all([Configuration("nano", nano)], Clip(CLIP, 4), TrueMasks(tmp_path / "few.npz"))
    with pytest.raises(InputError, match="nothing is tracked in a single frame"):
        compare_all([Configuration("nano", nano)], Clip(CLIP, 1), truth)


def test_automatic_prompts_find_the_toys(nano, truth):
    frame = Clip(CLIP).first()
    prompts = automatic_prompts(nano, frame)
    assert prompts == automatic_prompts(nano, frame)
    assert list(prompts) == [1, 2, 3]
    boxes = {prompt.box for prompt in prompts.values()}
    for i in truth.object_ids:
        x, y, width, height = cv2.boundingRect((truth[0] == i).astype(np.uint8))
        true = np.array([x, y, x + width, y + height])
        assert min(np.abs(true - box).max() for box in boxes) < 12, i
    with pytest.raises(PromptError, match="no object was found on the first frame"):
        automatic_prompts(nano, np.zeros((48, 64, 3), np.uint8))


def test_true_masks_that_prompt_nothing(tmp_path):
    np.savez(tmp_path / "empty.npz", labels=np.zeros((3, 4, 5), np.uint8))
    with pytest.raises(PromptError, match="first true mask is empty"):
        prompts_from_truth(TrueMasks(tmp_path / "empty.npz"), (240, 320))
    with pytest.raises(InputError, match=r"clip_masks\.npz: the true mask of frame 0 is 320×240 but the frame 300×200"):
        prompts_from_truth(TrueMasks(MASKS), (200, 300))


# the report


def test_a_gate_without_a_limit_is_json(measurements):
    data = as_dict(Clip(CLIP, FRAMES), Gate(max_range_ratio=np.inf), measurements)
    assert json.loads(json.dumps(data, allow_nan=False))["gate"]["max_range_ratio"] is None


def test_report(measurements, tmp_path):
    data_file, page_file = write_report(tmp_path / "new" / "report", Clip(CLIP, FRAMES), Gate(), measurements)
    data = json.loads(data_file.read_text())
    assert (data["frames"], data["objects"]) == (FRAMES, [1, 2, 3])
    assert [row["name"] for row in data["rows"]] == ["nano", "half", "broken"]
    broken = data["rows"][2]
    assert broken["gate"]["passed"] is False
    assert broken["gate"]["sensitive"] == "memory_attention"
    np.testing.assert_allclose(broken["closed_loop"]["iou"], measurements[2].agreement.iou, atol=1e-6)
    assert data["rows"][0]["davis"]["j"] == measurements[0].j_and_f.j

    page = ElementTree.fromstring(page_file.read_text().removeprefix("<!DOCTYPE html>"))
    links = [element.attrib[name] for element in page.iter() for name in ("href", "src") if name in element.attrib]
    assert len(links) == 2 * 4
    assert all(link.startswith("data:image/jpeg;base64,") for link in links)  # nothing from elsewhere
    text = " ".join(page.itertext())
    assert "The gate failed: mean IoU 0." in text
    assert "The graph that differs most: memory_attention." in text
    curves = [element.attrib["points"] for element in page.iter() if element.tag.endswith("polyline")]
    assert len(curves) == 2 * 3
    # The curve of an object falls where its IoU does; in SVG y grows downward.
    heights = [float(point.partition(",")[2]) for point in curves[3].split()]
    assert np.corrcoef(measurements[2].agreement.iou[:, 0], heights)[0, 1] < -0.999
    with urlopen(links[4]) as stream:
        picture = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (360, 480, 3)
    frame = list(Clip(CLIP, FRAMES))[worst_frames(measurements[2].agreement)[0]]
    plain = cv2.cvtColor(cv2.resize(frame, (480, 360), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    changed = np.abs(picture.astype(int) - plain).max(axis=2) > 60
    assert 0.005 < changed.mean() < 0.2  # contours were drawn


def test_table(measurements, nano):
    lines = {name: cells for name, *cells in table(measurements)}
    assert lines[""] == ["nano", "half", "broken"]
    assert lines["memory_attention, relative error"][0] == "–"
    assert float(lines["memory_attention, relative error"][2]) > 0.1
    assert lines["gate"] == ["–", "passed", "FAILED"]
    size = sum(graph.bytes for graph in nano.manifest.graphs.values()) / 2**20
    assert lines["size, MiB"] == [f"{size:.1f}", f"{size:.1f}", "–"]
    assert lines["J&F"][0] == f"{100 * measurements[0].j_and_f.j_and_f:.1f}"
    unscored = [Measurement(measurement.configuration, measurement.run) for measurement in measurements]
    assert not {"J", "F", "J&F", "gate", "objects lost"} & {line[0] for line in table(unscored)}


def test_worst_frames_lie_apart():
    iou = np.ones((60, 2), np.float32)
    iou[30:36, 1] = [0.5, 0.1, 0.2, 0.3, 0.4, 0.6]
    iou[50, 0] = 0.7
    assert worst_frames(Agreement((1, 2), iou, ()), 3) == [31, 34, 50]
    assert worst_frames(Agreement((1, 2), iou[:2], ())) == [0, 1]
