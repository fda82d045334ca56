"""--point, --box and --mask: how they may be written, and what they mean."""

import argparse

import cv2
import numpy as np
import pytest

from sam2edge.commands.prompts import add_prompts, gather, join_coordinates
from sam2edge.errors import MediaError, ObjectIdError, PromptError

HEIGHT, WIDTH = 48, 64


def given(*words):
    """Return the prompts of a command line as (object id, arguments that are given)."""
    parser = argparse.ArgumentParser()
    add_prompts(parser)
    options = parser.parse_args(join_coordinates([str(word) for word in words])).prompts
    return [(each.object_id, each.prompt.arguments) for each in gather(options)]


def test_objects_without_id_are_numbered_in_the_order_given():
    assert given("--point", "1,2", "--box", "3,4,5,6", "--point", "7.5,8,0") == [
        (1, {"points": [(1, 2)], "labels": [1]}),
        (2, {"box": (3, 4, 5, 6)}),
        (3, {"points": [(7.5, 8)], "labels": [0]}),
    ]


def test_objects_without_id_take_the_ids_that_are_free():
    prompts = given("--point", "1,2", "--point", "3,4", "--point", "1:5,6", "--point", "3:7,8")
    assert [(object_id, prompt["points"]) for object_id, prompt in prompts] == [
        (2, [(1, 2)]),
        (4, [(3, 4)]),
        (1, [(5, 6)]),
        (3, [(7, 8)]),
    ]


def test_points_and_a_box_with_one_id_are_one_prompt():
    assert given("--point", "7:1,2", "--point", "9:3,3", "--box", "7:0,0,9,9", "--point", "7:5,6,0") == [
        (7, {"points": [(1, 2), (5, 6)], "labels": [1, 0], "box": (0, 0, 9, 9)}),
        (9, {"points": [(3, 3)], "labels": [1]}),
    ]


@pytest.mark.parametrize(
    ("words", "joined"),
    [
        ("--box 101 47 176 122", "--box=101,47,176,122"),
        ("--box 101, 47, 176, 122 B V", "--box=101,47,176,122 B V"),
        ("--box 3:101 47 176 122 0", "--box=3:101,47,176,122 0"),
        ("--point -5,10 --json x", "--point=-5,10 --json x"),
        ("--point -5 -10.5 B 0", "--point=-5,-10.5 B 0"),
        ("--point 5,10,0 0", "--point=5,10,0 0"),
        ("--point B --box --json", "--point B --box --json"),
        ("B 0 --frame -1", "B 0 --frame -1"),
    ],
)
def test_coordinates_with_spaces_and_signs(words, joined):
    assert join_coordinates(words.split()) == joined.split()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--point", "1"], "--point 1: expected 2 or 3 numbers with commas between"),
        (["--point", "1,2,1,4"], "--point 1,2,1,4: expected 2 or 3 numbers with commas between"),
        (["--point", "a,b"], "--point a,b: expected 2 or 3 numbers with commas between"),
        (["--point", "x:1,2"], "--point x:1,2: expected 2 or 3 numbers with commas between"),
        (["--point", "1,2,0.5"], "--point 1,2,0.5: the label must be 1 (on the object) or 0 (not on it)"),
        (["--point", "1,2,nan"], "--point 1,2,nan: the label must be 1 (on the object) or 0 (not on it)"),
        (["--box", "3:1,2,3"], "--box 3:1,2,3: expected 4 numbers with commas between"),
        (["--box", "1", "2", "3"], "--box 1,2,3: expected 4 numbers with commas between"),
        (["--point", "0:1,2"], "--point 0:1,2: object ids start at 1"),
        (
            ["--box", "2:0,0,4,4", "--box", "2:1,1,5,5"],
            "--box 2:1,1,5,5: duplicate box for object 2; give other objects other IDs",
        ),
        (
            ["--mask", "1:{mask}", "--mask", "1:{mask}"],
            "--mask 1:{mask}: duplicate mask for object 1; give other objects ",
        ),
        (["--mask", "gone.png"], "gone.png: no such mask file"),
        (["--mask", "{text}"], "{text}: no image that OpenCV can read"),
        (["--mask", "4:{black}"], "{black}: the mask is empty: every pixel is black"),
    ],
)
def test_wrong_prompts(tmp_path, words, message):
    files = {name: tmp_path / f"{name}.png" for name in ("mask", "black", "text")}
    for value, name in enumerate(("black", "mask")):
        cv2.imwrite(str(files[name]), np.full((HEIGHT, WIDTH), value, np.uint8))
    files["text"].write_text("text")
    with pytest.raises((PromptError, MediaError, ObjectIdError)) as caught:
        given(*(word.format(**files) for word in words))
    assert str(caught.value).startswith(message.format(**files))


@pytest.mark.parametrize("kind", ["grey", "palette-like colours", "opaque alpha", "16 bits"])
def test_mask_file(tmp_path, monkeypatch, kind):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:20, 30:50] = True
    pixels = {
        "grey": mask * np.uint8(1),
        "palette-like colours": mask[..., None] * np.array([0, 0, 128], np.uint8),
        "opaque alpha": np.dstack([mask * np.uint8(9)] * 3 + [np.full(mask.shape, 255, np.uint8)]),
        "16 bits": mask * np.uint16(3),
    }[kind]
    cv2.imwrite(str(tmp_path / "mask.png"), pixels)
    monkeypatch.setenv("HOME", str(tmp_path))
    [(object_id, prompt)] = given("--mask", "4:~/mask.png")
    assert object_id == 4
    assert list(prompt) == ["mask"]
    assert prompt["mask"].dtype == np.bool_
    assert np.array_equal(prompt["mask"], mask)
