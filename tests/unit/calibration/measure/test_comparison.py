"""The ladder on the bundled model: PyTorch, its graphs, slightly rounded ones and broken ones."""

import json
from html.parser import HTMLParser
from urllib.request import urlopen

import cv2
import numpy as np
import pytest

from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.closed_loop import Agreement, compare, track_clip
from sam2edge.calibration.measure.comparison import Configuration, Measurement, compare_all, score
from sam2edge.calibration.measure.gate import Gate
from sam2edge.calibration.measure.graph_errors import largest
from sam2edge.calibration.measure.report import as_dict, table, worst_frames, write_report
from sam2edge.calibration.measure.targets import automatic_prompts, prompts_from_truth
from sam2edge.calibration.measure.truth import TrueMasks
from sam2edge.errors import InputError, PromptError
from sam2edge.export.reference import TorchBackend
from sam2edge.runtime.model.prompts import Prompt
from tests.conftest import NANO, REPO
from tests.models import halved, overdriven, write_changed, write_wary_nano

CLIP = REPO / "samples" / "clip.mp4"
MASKS = REPO / "samples" / "clip_masks.npz"
FRAMES = 40


@pytest.fixture(scope="module")
def truth():
    return TrueMasks(MASKS)


@pytest.fixture(scope="module")
def half(nano, tmp_path_factory):
    return write_changed(nano, tmp_path_factory.mktemp("half") / "half", halved)


@pytest.fixture(scope="module")
def broken(nano, tmp_path_factory):
    return write_changed(nano, tmp_path_factory.mktemp("broken") / "broken", overdriven)


@pytest.fixture(scope="module")
def rows(nano, half, broken, truth):
    rungs = [
        Configuration("nano", nano, bytes=2**20),
        Configuration("half", half, bytes=2**19),
        Configuration("broken", broken),
    ]
    return compare_all(rungs, Clip(CLIP, FRAMES), prompts_from_truth(truth), Gate(), truth)


def test_the_graphs_follow_pytorch(nano, truth):
    """All of the clip: the export must not change the masks, nor J&F by 0.1 point."""
    rungs = [Configuration("PyTorch", nano, TorchBackend(nano, NANO)), Configuration("nano", nano)]
    pytorch, onnx = compare_all(rungs, Clip(CLIP), prompts_from_truth(truth), Gate(), truth)
    assert onnx.comparison.iou.shape == (120, 3)
    assert onnx.comparison.mean >= 0.999
    assert onnx.verdict.passed
    assert 1e-8 < max(map(largest, onnx.errors.values())) < 1e-4
    assert pytorch.j_and_f.j_and_f > 0.8
    for name in ("j", "f", "j_and_f"):
        assert abs(getattr(onnx.j_and_f, name) - getattr(pytorch.j_and_f, name)) < 0.001


def test_pytorch_of_other_weights_is_refused(nano, tmp_path):
    with pytest.raises(InputError, match=r"not what .* was exported from"):
        TorchBackend(nano, write_wary_nano(tmp_path / "wary"))


def test_rounded_weights_pass(rows):
    row = rows[1]
    assert row.verdict.passed
    assert row.comparison.mean > 0.99
    assert 1e-5 < largest(row.errors["image_encoder"]) < 1e-2


def test_a_broken_graph_fails_and_is_named(rows):
    row = rows[2]
    assert not row.verdict.passed
    assert row.verdict.sensitive == "memory_attention"
    assert row.comparison.mean < 0.97
    assert largest(row.errors["memory_attention"]) > 0.1
    # Each graph got what the reference saw: the broken one does not spoil those after it.
    assert {largest(errors) for graph, errors in row.errors.items() if graph != "memory_attention"} == {0}


def test_a_bundle_of_other_inputs_is_compared_in_closed_loop_only(nano, pooled, truth):
    rungs = [Configuration("nano", nano), Configuration("pooled", pooled)]
    _, row = compare_all(rungs, Clip(CLIP, 8), prompts_from_truth(truth), Gate(min_mean_iou=0.5))
    assert row.errors is None
    assert row.verdict.sensitive is None
    assert 0.5 < row.comparison.mean < 1


def test_score_against_masks_known_to_be_right_and_wrong(nano, truth, tmp_path):
    run, _ = track_clip(nano, Clip(CLIP, 5), prompts_from_truth(truth))
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
        compare_all(
            [Configuration("nano", nano)],
            Clip(CLIP, 4),
            prompts_from_truth(truth),
            Gate(),
            TrueMasks(tmp_path / "few.npz"),
        )
    with pytest.raises(InputError, match="in one frame nothing is tracked"):
        compare_all([Configuration("nano", nano)], Clip(CLIP, 1), prompts_from_truth(truth), Gate())


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
    with pytest.raises(PromptError, match="nothing was found on the first frame"):
        automatic_prompts(nano, np.zeros((48, 64, 3), np.uint8))


def test_prompts_from_an_empty_mask(tmp_path):
    np.savez(tmp_path / "empty.npz", labels=np.zeros((3, 4, 5), np.uint8))
    with pytest.raises(PromptError, match="first true mask is empty"):
        prompts_from_truth(TrueMasks(tmp_path / "empty.npz"))


# the report


class Page(HTMLParser):
    """Open tags, pictures and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.lines, self.text, self.links = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag not in ("meta", "img", "path", "rect", "polyline"):
            self.open.append(tag)
        if tag == "img":
            self.images.append(given["src"])
        if tag == "polyline":
            self.lines.append([tuple(map(float, point.split(","))) for point in given["points"].split()])
        self.links += [given[name] for name in ("href", "src") if name in given]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_a_gate_without_a_limit_is_json(rows):
    data = as_dict(Clip(CLIP, FRAMES), Gate(max_range_ratio=np.inf), rows)
    assert json.loads(json.dumps(data, allow_nan=False))["gate"]["max_range_ratio"] is None


def test_report(rows, tmp_path):
    data_file, page_file = write_report(tmp_path / "new" / "report", Clip(CLIP, FRAMES), Gate(), rows)
    data = json.loads(data_file.read_text())
    assert (data["frames"], data["objects"]) == (FRAMES, [1, 2, 3])
    assert [row["name"] for row in data["rows"]] == ["nano", "half", "broken"]
    broken = data["rows"][2]
    assert broken["gate"]["passed"] is False
    assert broken["gate"]["sensitive"] == "memory_attention"
    np.testing.assert_allclose(broken["closed_loop"]["iou"], rows[2].comparison.iou, atol=1e-6)
    assert data["rows"][0]["davis"]["j"] == rows[0].j_and_f.j

    page = Page(page_file.read_text())
    assert not page.open
    assert len(page.lines) == 2 * 3
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)  # nothing from elsewhere
    assert len(page.images) == 2 * 4
    text = " ".join(page.text)
    assert "The gate failed: mean IoU 0." in text
    assert "The graph that differs most: memory_attention." in text
    # The curve of an object falls where its IoU does; in SVG y grows downward.
    column = rows[2].comparison.iou[:, 0]
    heights = np.array([y for _, y in page.lines[3]])
    assert np.corrcoef(column, heights)[0, 1] < -0.999
    with urlopen(page.images[4]) as stream:
        picture = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (360, 480, 3)
    frame = list(Clip(CLIP, FRAMES))[worst_frames(rows[2].comparison)[0]]
    plain = cv2.cvtColor(cv2.resize(frame, (480, 360), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    changed = np.abs(picture.astype(int) - plain).max(axis=2) > 60
    assert 0.005 < changed.mean() < 0.2  # contours were drawn


def test_table(rows):
    lines = {name: cells for name, *cells in table(rows)}
    assert lines[""] == ["nano", "half", "broken"]
    assert lines["memory_attention, relative error"][0] == "–"
    assert float(lines["memory_attention, relative error"][2]) > 0.1
    assert lines["gate"] == ["–", "passed", "FAILED"]
    assert lines["size, MiB"] == ["1.0", "0.5", "–"]
    assert lines["J&F"][0] == f"{100 * rows[0].j_and_f.j_and_f:.1f}"
    unscored = [Measurement(row.rung, row.run) for row in rows]
    assert not {"J", "F", "J&F", "gate", "objects lost"} & {line[0] for line in table(unscored)}


def test_worst_frames_lie_apart():
    iou = np.ones((60, 2), np.float32)
    iou[30:36, 1] = [0.5, 0.1, 0.2, 0.3, 0.4, 0.6]
    iou[50, 0] = 0.7
    assert worst_frames(Agreement((1, 2), iou, ()), 3) == [31, 34, 50]
    assert worst_frames(Agreement((1, 2), iou[:2], ())) == [0, 1]


def test_a_run_compared_with_itself_is_the_same(rows):
    comparison = compare(rows[0].run, rows[0].run)
    assert (comparison.mean, comparison.lost) == (1, ())
