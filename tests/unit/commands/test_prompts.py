"""--point, --box, --mask and --prompts: how they may be written, and what they mean."""

import argparse

import cv2
import numpy as np
import pytest

from sam2edge.commands.prompts import add_prompts, gather, join_coordinates, prompts_by_id
from sam2edge.errors import MediaError, ObjectIdError, PromptError
from sam2edge.runtime.media.mask_files import encode_labels
from tests.helpers import box_mask

HEIGHT, WIDTH = 48, 64


def parsed(*words):
    """Return the options of a command line."""
    parser = argparse.ArgumentParser()
    add_prompts(parser)
    return parser.parse_args(join_coordinates([str(word) for word in words])).prompts


def given(*words):
    """Return the prompts of a command line as (object id, arguments that are given)."""
    return [(each.object_id, each.prompt.arguments) for each in gather(parsed(*words))]


def timed(*words, frame=0):
    """Return the prompts of a command line as (frame, object id, points or box)."""
    prompts = gather(parsed(*words), frame)
    return [(each.frame, each.object_id, each.points or each.box) for each in prompts]


def test_objects_without_id_are_numbered_in_the_order_given():
    assert given("--point", "1,2", "--box", "3,4,5,6", "--point", "7.5,8") == [
        (1, {"points": ((1, 2),), "labels": (1,)}),
        (2, {"box": (3, 4, 5, 6)}),
        (3, {"points": ((7.5, 8),), "labels": (1,)}),
    ]


def test_objects_without_id_take_the_ids_that_are_free():
    prompts = given("--point", "1,2", "--point", "3,4", "--point", "1:5,6", "--point", "3:7,8")
    assert [(object_id, prompt["points"]) for object_id, prompt in prompts] == [
        (2, ((1, 2),)),
        (4, ((3, 4),)),
        (1, ((5, 6),)),
        (3, ((7, 8),)),
    ]


def test_points_and_a_box_with_one_id_are_one_prompt():
    assert given("--point", "7:1,2", "--point", "9:3,3", "--box", "7:0,0,9,9", "--point", "7:5,6,0") == [
        (7, {"points": ((1, 2), (5, 6)), "labels": (1, 0), "box": (0, 0, 9, 9)}),
        (9, {"points": ((3, 3),), "labels": (1,)}),
    ]


def test_prompts_are_for_their_own_frames():
    """In the order of the frames; those without one are for the default, and an id may come again on another frame."""
    words = ("--point", "7,8@3", "--box", "2:1", "1", "9", "9@60", "--point", "1,2", "--point", "1:5,6@4")
    assert timed(*words, frame=2) == [
        (2, 4, ((1, 2),)),
        (3, 3, ((7, 8),)),
        (4, 1, ((5, 6),)),
        (60, 2, (1, 1, 9, 9)),
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
        ("--box 1 2 3 4@60 --point 5 6@7", "--box=1,2,3,4@60 --point=5,6@7"),
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
        (["--point", "x:1,2"], "--point x:1,2: expected the id of an object, from 1 on, before the colon"),
        (["--point", "1,2,0.5"], "--point 1,2,0.5: the label must be 1 (on the object) or 0 (not on it)"),
        (["--point", "1,2,nan"], "--point 1,2,nan: the label must be 1 (on the object) or 0 (not on it)"),
        (["--box", "3:1,2,3"], "--box 3:1,2,3: expected 4 numbers with commas between"),
        (["--box", "1", "2", "3"], "--box 1,2,3: expected 4 numbers with commas between"),
        (["--point", "0:1,2"], "--point 0:1,2: object ids start at 1"),
        (["--point", "1,2@x"], "--point 1,2@x: expected the number of a frame, from 0 on, after the @"),
        (["--point", "9999999999:1,2"], "--point 9999999999:1,2: expected the id of an object, from 1 on, before the"),
        (
            ["--box", "1,1,9,9", "--point", "12,10,0"],
            "--point 12,10,0: only says where the new object 2 is not; give it the ID of the object that it belongs to",
        ),
        (
            ["--point", "3:12,10,0@5", "--point", "3:1,1@6"],
            "--point 3:12,10,0@5: only says where the new object 3 is not",
        ),
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
        (["--mask", "4:{black}"], "{black}: the mask is empty: no pixel is white or opaque"),
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


def write_labels(path, *ids):
    """Write a label image with a column of each id beside the background, as MaskSink does; return it."""
    labels = np.repeat([0, *ids], 8)[None].repeat(HEIGHT, axis=0).astype(np.uint16)
    path.write_bytes(encode_labels(labels))
    return labels


def test_label_images_give_an_object_for_each_id(tmp_path):
    labels = write_labels(tmp_path / "a.png", 3, 1, 255)
    prompts = given("--mask", tmp_path / "a.png", "--point", "1,2")
    assert [object_id for object_id, _ in prompts] == [1, 3, 255, 2]
    for object_id, prompt in prompts[:3]:
        assert np.array_equal(prompt["mask"], labels == object_id)
    assert gather(parsed("--mask", tmp_path / "a.png"))[0].origin == f"--mask {tmp_path / 'a.png'} (object 1)"


def test_an_id_without_file_and_one_of_a_label_image_are_the_same_object(tmp_path):
    write_labels(tmp_path / "a.png", 3, 1)
    with pytest.raises(ObjectIdError, match=r"a.png \(object 3\): duplicate mask for object 3"):
        gather(parsed("--mask", f"3:{tmp_path / 'a.png'}", "--mask", tmp_path / "a.png"))


def test_an_id_picks_an_object_of_a_label_image(tmp_path):
    labels = write_labels(tmp_path / "several.png", 3, 1, 255)
    write_labels(tmp_path / "one.png", 3)
    [(object_id, prompt)] = given("--mask", f"255:{tmp_path / 'several.png'}")
    assert object_id == 255
    assert np.array_equal(prompt["mask"], labels == 255)
    assert [object_id for object_id, _ in given("--mask", f"9:{tmp_path / 'one.png'}")] == [9]
    with pytest.raises(PromptError, match=r"several.png: has the objects 1, 3, 255, but not 2"):
        given("--mask", f"2:{tmp_path / 'several.png'}")


LINES = """
{"frame": 4, "object": 2, "points": [[1, 2], [3, 4.5]], "labels": [1, 0]}
{"frame": 4, "object": 2, "points": [[1, 2], [3, 4.5], [5, 6]], "labels": [1, 0, 1]}
{"object": 7, "box": [1, 1, 9, 9]}

{"mask": "masks/a.png"}
{"frame": 9, "object": 7, "remove": true}
{"frame": 9, "object": 7, "points": [[8, 8]]}
"""


def test_a_file_of_prompts(tmp_path):
    """Lines are prompts of their own, masks are sought beside the file, and options number their objects around it."""
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "a.png"), box_mask(4, 4, 30, 30).astype(np.uint8))
    (tmp_path / "p.jsonl").write_text(LINES)
    prompts = gather(parsed("--point", "3,3", "--prompts", tmp_path / "p.jsonl"), frame=1)
    assert [(each.frame, each.object_id, each.points, each.labels, each.box, each.remove) for each in prompts] == [
        (1, 1, ((3, 3),), (1,), None, False),
        (1, 7, (), (), (1, 1, 9, 9), False),
        (1, 3, (), (), None, False),
        (4, 2, ((1, 2), (3, 4.5)), (1, 0), None, False),
        (4, 2, ((1, 2), (3, 4.5), (5, 6)), (1, 0, 1), None, False),
        (9, 7, (), (), None, True),
        (9, 7, ((8, 8),), (1,), None, False),
    ]
    assert np.array_equal(prompts[2].prompt.mask, box_mask(4, 4, 30, 30))
    assert prompts[2].origin == f"{tmp_path / 'p.jsonl'}, line 6"


def test_lines_of_other_sources_are_left_out(tmp_path, monkeypatch):
    """A file for many videos serves to track one of them again; what has no source is for any."""
    lines = ['{"box": [1, 1, 9, 9]}', *(f'{{"source": "{name}.mp4", "points": [[3, 3]]}}' for name in "ab")]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    (tmp_path / "a.mp4").touch()
    monkeypatch.chdir(tmp_path)
    options = parsed("--prompts", tmp_path / "p.jsonl")
    assert [each.origin for each in gather(options, source="a.mp4")] == [
        f"{tmp_path / 'p.jsonl'}, line 1",
        f"{tmp_path / 'p.jsonl'}, line 2",
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(lines[1:]))
    with pytest.raises(PromptError, match=r"p.jsonl: has no prompt for c.mp4, only for .*a.mp4, .*b.mp4"):
        gather(options, source="c.mp4")
    with pytest.raises(PromptError, match=r"p.jsonl, line 1: names a source, which only `track` and `label` take"):
        prompts_by_id(options)


def test_verbs_with_one_frame_take_one_prompt_for_an_object(tmp_path):
    (tmp_path / "p.jsonl").write_text(LINES)
    assert list(prompts_by_id(parsed("--box", "4:1,1,9,9", "--point", "1,2"))) == [4, 1]
    with pytest.raises(
        PromptError, match=r"--box 1,1,9,9@3: is for frame 3, but only the first frame is prompted here"
    ):
        prompts_by_id(parsed("--box", "1,1,9,9@3"))
    (tmp_path / "p.jsonl").write_text('{"object": 1, "box": [1, 1, 9, 9]}\n{"object": 1, "points": [[3, 3]]}')
    with pytest.raises(PromptError, match=r"p.jsonl, line 2: here every object takes one prompt, but 1 has more"):
        prompts_by_id(parsed("--prompts", tmp_path / "p.jsonl"))
