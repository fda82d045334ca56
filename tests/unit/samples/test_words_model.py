"""The bundled word detector finds what its metrics claim, and its trainer goes on where it stopped."""

import argparse
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

WORDS = Path(__file__).parents[3] / "samples" / "words"


@pytest.fixture(scope="module")
def trained():
    """The modules words_data, words_eval and train_words of samples/words, which are no part of a package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(WORDS))
        yield argparse.Namespace(
            **{name: importlib.import_module(name) for name in ("words_data", "words_eval", "train_words")}
        )


@pytest.fixture(scope="module")
def detector(trained):
    return trained.words_eval.Detector(WORDS)


def test_weights_fit_into_two_megabytes():
    assert (WORDS / "model.safetensors").stat().st_size < 2_000_000


def test_clip_is_found_as_often_as_the_metrics_say(trained, detector):
    written = json.loads((WORDS / "metrics.json").read_text())
    claimed, now = written["every tenth frame"], trained.words_eval.on_clip(detector, every=10)
    assert now["frames"] == claimed["frames"] == 12
    for way in ("together", "alone"):
        for word, counts in claimed[way]["found"].items():
            assert now[way]["found"][word] == pytest.approx(counts, abs=1)
        assert now[way]["frames without a box"] == pytest.approx(claimed[way]["frames without a box"], abs=1)


def test_a_detector_in_two_parts_is_the_whole_model(trained, detector):
    texts = ["red ball", "a photo of a blue block"]
    image, _ = trained.words_data.picture(np.random.default_rng(3))
    pixels = trained.words_eval.normalised(torch.from_numpy(image[None]))
    tokens = detector.tokenizer(texts, padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        whole = detector.model(pixel_values=pixels, **tokens)
    scores, boxes = detector.detect([image], texts)
    np.testing.assert_allclose(scores, whole.logits.sigmoid().numpy(), atol=1e-5)
    np.testing.assert_allclose(boxes, trained.words_eval.corners(whole.pred_boxes).numpy(), atol=1e-5)


def test_average_precision_of_known_lists(trained):
    precision = trained.words_eval.average_precision
    assert precision([(0.9, True), (0.8, True)], 2) == 1
    assert precision([(0.9, False), (0.8, True)], 1) == 0.5
    assert precision([(0.9, True), (0.8, False)], 2) == pytest.approx(0.5, abs=0.01)
    assert precision([], 2) == 0


def test_hidden_objects_are_neither_found_nor_mistaken(trained):
    data, boxes = trained.words_data, np.array([[0.1, 0.1, 0.3, 0.3], [0.6, 0.6, 0.9, 0.9]])
    hidden, shown = (
        data.Object("red", "ball", tuple(box), visible) for box, visible in zip(boxes, (0.2, 1), strict=True)
    )
    overlap, scores = trained.words_eval.overlaps(boxes, boxes), np.array([0.9, 0.5])
    phrase = data.Phrase("red ball", "red", "ball")
    assert trained.words_eval.judge([hidden, shown], phrase, scores, boxes, overlap, 0.05) == ([(0.5, True)], 1)
    assert trained.words_eval.judge([shown], phrase, scores, boxes, overlap, 0.05) == ([(0.9, False), (0.5, True)], 1)


def test_training_goes_on_where_it_stopped(trained, tmp_path):
    def trainer(folder):
        folder.mkdir(exist_ok=True)
        arguments = argparse.Namespace(out=folder, init=WORDS, minutes=60.0, steps=1, batch=2, lr=1e-3, seed=5)
        return trained.train_words.Trainer(arguments)

    whole = trainer(tmp_path / "whole")
    losses = [whole.step(), whole.step()]
    trainer(tmp_path / "parts").run()
    second = trainer(tmp_path / "parts")
    assert second.steps == 1
    second.minutes = whole.minutes  # the learning rate falls with the clock
    assert second.step() == pytest.approx(losses[1], rel=1e-4)
    for name, weight in whole.average.state_dict().items():
        torch.testing.assert_close(second.average.state_dict()[name], weight, rtol=1e-4, atol=1e-6)
    assert any((weight != whole.average.state_dict()[name]).any() for name, weight in whole.model.named_parameters())
