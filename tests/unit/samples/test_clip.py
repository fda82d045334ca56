"""The bundled clip is what samples/make_clip.py draws, and shows what it claims."""

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

SAMPLES = Path(__file__).parents[3] / "samples"
BALL, BLOCK, STAR = 1, 2, 3


@pytest.fixture(scope="module")
def make_clip():
    """The module samples/make_clip.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("make_clip", SAMPLES / "make_clip.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn(make_clip):
    """What it draws now: frames uint8 [T,H,W,3] and labels uint8 [T,H,W]."""
    return make_clip.render()


@pytest.fixture(scope="module")
def unhidden(make_clip):
    """The objects behind others, each drawn alone: {object id: bool [T,H,W]}."""
    return {number: make_clip.render((make_clip.TOYS[number - 1],))[1] == 1 for number in (BALL, BLOCK)}


@pytest.fixture(scope="module")
def labels():
    """The bundled true masks, uint8 [T,H,W]."""
    with np.load(SAMPLES / "clip_masks.npz") as file:
        return file["labels"]


def test_true_masks_are_drawn_again_identically(drawn, labels):
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(drawn[1], labels)
    assert (SAMPLES / "clip_masks.npz").stat().st_size < 100_000


def test_video_shows_the_drawn_frames(drawn):
    video = cv2.VideoCapture(str(SAMPLES / "clip.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == 25
    for index, frame in enumerate(drawn[0]):
        read, decoded = video.read()
        assert read, f"clip.mp4 ends after {index} frames of {len(drawn[0])}"
        error = np.abs(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(int) - frame).mean()
        assert error < 4, f"frame {index} differs by {error:.2f} grey values on average"
    assert not video.read()[0], "clip.mp4 has more frames than were drawn"
    assert (SAMPLES / "clip.mp4").stat().st_size < 300_000


def test_prompts_are_the_boxes_of_the_three_objects_on_frame_0(labels):
    prompts = json.loads((SAMPLES / "clip.json").read_text())["prompts"]
    assert np.unique(labels).tolist() == [0, BALL, BLOCK, STAR]
    assert list(prompts) == ["1", "2", "3"]
    for key, prompt in prompts.items():
        x0, y0, x1, y1 = prompt["box"]
        inside = np.zeros(labels.shape[1:], bool)
        inside[y0:y1, x0:x1] = True
        mask = labels[0] == int(key)
        assert not (mask & ~inside).any()
        assert all(edge.any() for edge in (mask[y0], mask[y1 - 1], mask[:, x0], mask[:, x1 - 1]))


@pytest.mark.parametrize(("front", "back", "share"), [(BLOCK, BALL, 0.15), (STAR, BALL, 0.4), (STAR, BLOCK, 0.3)])
def test_each_object_hides_part_of_those_behind(labels, unhidden, front, back, share):
    hidden = np.count_nonzero((labels == front) & unhidden[back], axis=(1, 2))
    assert hidden.max() > share * np.count_nonzero(unhidden[back][0])
    assert hidden[0] == 0, "the prompts are given where every object shows all of itself"


def test_ball_stays_block_leaves_for_good_and_star_comes_back(labels):
    ball, block, star = (np.count_nonzero(labels == toy, axis=(1, 2)) for toy in (BALL, BLOCK, STAR))
    assert ball.min() > 0.3 * ball[0]
    for area, least in ((block, 5), (star, 10)):
        away = np.flatnonzero(area == 0)
        assert len(away) >= least
        assert np.array_equal(away, np.arange(away[0], away[-1] + 1))
    assert block[-1] == 0
    assert star[-1] > 0.9 * star[0]
