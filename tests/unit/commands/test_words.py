"""`--words` of `sam2edge track` and `segment`, with the bundled detector on the bundled clip."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2edge.errors import InputError
from sam2edge.runtime.media import rle, sources
from sam2edge.runtime.video import follower
from sam2edge.runtime.words.detector import WordDetector
from tests.helpers import CLIP, clip_frames, iou, true_masks, write_frames
from tests.simulated import Simulated


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """A folder with the first frames of the clip."""
    folder = tmp_path_factory.mktemp("words") / "frames"
    write_frames(folder, clip_frames(4))
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "o.jsonl"


def objects(out, line=0):
    """Return (id, word, mask) of the objects on a line of a file."""
    records = json.loads(out.read_text().splitlines()[line])["objects"]
    return [(each["id"], each.get("word"), rle.decode(each["segmentation"])) for each in records]


def named(out, line=0):
    return [each[:2] for each in objects(out, line)]


def test_track(run, shapes, frames, out):
    code, printed, err = run("track", shapes.path, frames, "--words", "red ball,blue  block , a dog", "--json", out)
    assert (code, err) == (0, "")
    first, second = printed.splitlines()
    assert first == "found 1 × red ball, 1 × blue block, 0 × a dog"
    assert second.startswith("4 frames, ")
    for line in range(4):
        found = sorted(objects(out, line), key=lambda each: each[1])
        assert [word for _, word, _ in found] == ["blue block", "red ball"]
        for (_, _, mask), toy in zip(found, (2, 1), strict=True):
            assert iou(mask, true_masks(toy)[line]) > 0.8


def test_track_words_beside_prompts(run, shapes, frames, out):
    """Ids of objects that words find are above those of prompts, also of prompts that are still to come."""
    prompts = ("--box", "7:220,18,305,103@2", "--not", "yellow star")
    code, printed, _ = run("track", shapes.path, frames, *prompts, "--words", "red ball, a dog", "--json", out)
    assert (code, printed.splitlines()[0]) == (0, "found 1 × red ball, 0 × a dog")
    assert [named(out, line) for line in range(4)] == [[(8, "red ball")]] * 2 + [[(8, "red ball"), (7, "")]] * 2
    assert iou(objects(out, 2)[1][2], true_masks(2)[2]) > 0.8


def test_saved_words_and_how_often_and_how_sure(run, shapes, frames, out, tmp_path, monkeypatch):
    """A file has the words for a device; the follower gets the options."""
    with WordDetector(shapes.path) as detector:
        detector.words(["blue block"], ["red ball"]).save(tmp_path / "w.npz")
    made = []
    real = follower.Follower
    monkeypatch.setattr(follower, "Follower", lambda *given, **options: made.append(options) or real(*given, **options))
    options = ("--words-every", 2, "--words-score", "0.2", "--mode", "throughput")
    code, printed, _ = run("track", shapes.path, frames, "--words", tmp_path / "w.npz", *options, "--json", out)
    assert (code, printed.splitlines()[0]) == (0, "found 1 × blue block")
    assert [named(out, line) for line in range(4)] == [[(1, "blue block")]] * 4
    assert (made[0]["every"], made[0]["score"], made[0]["background"]) == (2, 0.2, False)


def test_frames_of_a_camera_do_not_wait(error_of, shapes, out, monkeypatch):
    """The detector has a thread of its own there."""

    def made(*given, background, **options):
        raise InputError(f"background={background}")

    monkeypatch.setattr(follower, "Follower", made)
    monkeypatch.setattr(sources, "open_source", lambda word, **_: Simulated(*clip_frames(1), size=(240, 320)))
    assert error_of("track", shapes.path, 0, "--words", "red ball", "--json", out) == "background=True"


def test_segment(run, shapes, frames, tmp_path, out):
    arguments = ("--box", "3:220,18,305,103", "--words", "red ball, a dog", "--labels", "-o", tmp_path / "o")
    code, printed, err = run("segment", shapes.path, frames, *arguments, "--json", out)
    assert (code, err) == (0, "")
    assert printed == f"4 of 4 images, 8 masks: {tmp_path / 'o'}\nfound 4 × red ball, 0 × a dog\n"
    for line in range(4):
        (prompted, found) = objects(out, line)
        assert (prompted[:2], found[:2]) == ((3, None), (4, "red ball"))
        assert iou(prompted[2], true_masks(2)[line]) > 0.8
        assert iou(found[2], true_masks(1)[line]) > 0.8
        labels = cv2.imread(str(tmp_path / "o" / f"{line:03d}.labels.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(labels == 4, found[2])
    scores = [each.get("score") for each in json.loads(out.read_text().splitlines()[0])["objects"]]
    assert scores[0] is None
    assert 0.3 < scores[1] <= 1


@pytest.mark.parametrize("verb", ["track", "segment"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--words", ""], "--words '': a word is missing; put commas between names only: \"red cup, person\""),
        (["--words", "cup,,dog"], "--words 'cup,,dog': a word is missing; put"),
        (["--words", "Red  cup, red cup"], "--words 'Red  cup, red cup': 'Red cup' is named twice"),
        (["--words", "cup", "--not", "CUP"], "--not 'CUP': 'CUP' is one of --words, too"),
        (["--words", "cup", "--not", " "], "--not ' ': a word is missing; put"),
        (["--words", "w.npz", "--not", "cup"], "--not: w.npz has words of both kinds already; save it again with"),
        (["--point", "1,1", "--not", "cup"], "--not does nothing without --words"),
        (["--point", "1,1", "--words-score", "0"], "--words-score does nothing without --words"),
        (["--words", "cup", "--words-score", "2"], "--words-score must be a finite number from 0 to 1 but got 2.0"),
        (["--words", "gone.npz"], "gone.npz: cannot be read: No such file"),
        (["--words", "cup " * 20], "the text 'cup cup"),
        (["--words", "<|endoftext|>"], "the text '<|endoftext|>' has <|endoftext|> in it"),
    ],
)
def test_what_is_refused(error_of, shapes, frames, tmp_path, verb, options, message):
    outputs = {"track": ["--json", tmp_path / "o.jsonl"], "segment": ["-o", tmp_path / "o"]}[verb]
    assert error_of(verb, shapes.path, frames, *options, *outputs).startswith(message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--point", "1,1", "--words-every", "3"], "--words-every does nothing without --words"),
        (["--words", "cup", "--words-every", "0"], "--words-every must be an integer of at least 1 but got 0"),
    ],
)
def test_how_often_is_refused(error_of, shapes, out, options, message):
    assert error_of("track", shapes.path, CLIP, *options, "--json", out) == message


def test_words_without_a_detector(error_of, nano, frames, tmp_path):
    """The error says how to get one, and nothing is written."""
    for verb, outputs in (("track", ("--json", tmp_path / "o")), ("segment", ("-o", tmp_path / "o"))):
        message = error_of(verb, nano.path, frames, "--words", "cup", *outputs)
        assert "has no word detector; add one with `sam2edge export google/owlv2-base-patch16-ensemble" in message
    assert not Path(tmp_path / "o").exists()


def test_everything_takes_no_words(error_of, nano, frames, tmp_path):
    message = "--auto finds everything and takes no --point, --box, --mask or --words; give one or the other"
    assert error_of("segment", nano.path, frames, "--auto", "--words", "cup", "-o", tmp_path / "o") == message
