"""Prompts as text: from files and from a network, numbered, ordered and without files."""

import json
import pickle

import cv2
import numpy as np
import pytest

from sam2edge.errors import MediaError, ObjectIdError, PromptError
from sam2edge.runtime.media import rle
from sam2edge.runtime.media.mask_files import encode_labels
from sam2edge.runtime.media.prompt_files import PromptLine, parse_prompts, read_prompts, schedule, write_prompts
from tests.helpers import box_mask

MASK = box_mask(4, 4, 30, 30)
RLE = rle.encode(MASK)
ID = {"object": 1}


def written(path, *lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "p.jsonl: holds no prompts"),
        ("[1", "p.jsonl: is not JSON: "),
        ("{1", "p.jsonl, line 1: is not JSON: "),
        ("[" * 99999, "p.jsonl: is not JSON: "),
        ("[1]", "p.jsonl, prompt 1: must be a JSON object but is 1"),
        ("\n3", "p.jsonl, line 2: must be a JSON object but is 3"),
        (
            {"point": [1, 2]},
            "line 1: unknown field 'point'; the fields are source, frame, object, points, labels, box, mask, remove",
        ),
        (ID, "line 1: needs points, a box, a mask or remove"),
        ({"points": [[1, 2, 3]]}, "line 1: points must be a list of [x, y] but is [[1, 2, 3]]"),
        ({"points": [[1, True]]}, "line 1: points must be a list of [x, y] but is [[1, true]]"),
        ('{"points": [[1, NaN]]}', "line 1: points must be a list of [x, y] but is [[1, NaN]]"),
        ('{"points": [[1, -1e999]]}', "line 1: points must be a list of [x, y] but is [[1, -Infinity]]"),
        ({"box": [0, 0, 1, 10**400]}, "line 1: box must be [x0, y0, x1, y1] but is [0, 0, 1, 1000"),
        ({"points": [[1, 2]], "labels": [1, 1]}, "line 1: has 1 points but 2 labels; give one for each"),
        ({"points": [[1, 2]], "labels": [0]}, "line 1: only says where the new object 1 is not"),
        ({"box": [1, 2, 3]}, "line 1: box must be [x0, y0, x1, y1] but is [1, 2, 3]"),
        ({"box": [1, 2, 3, 4], "frame": -1}, "line 1: frame must be a whole number from 0 to 2147483647 but is -1"),
        ({"box": [1, 2, 3, 4], "object": 0}, "line 1: object must be a whole number from 1 to 2147483647 but is 0"),
        ({"box": [1, 2, 3, 4], "object": 2**31}, "line 1: object must be a whole number from 1 to 2147483647 but is 2"),
        ({"box": [1, 2, 3, 4], "source": ""}, "line 1: source must be the name of a video or a folder of images but"),
        ({"box": [1, 2, 3, 4], "source": "\0"}, "line 1: source: '\\x00' cannot be the path of a file"),
        ({"mask": "gone.png"}, "gone.png: no such mask file"),
        ({"mask": 3}, "line 1: mask must be the name of an image file, or COCO run lengths but is 3"),
        ({"mask": {"counts": RLE["counts"]}}, 'line 1: mask: COCO run lengths must be {"size": [height, width], "cou'),
        ({"mask": {**RLE, "size": [48, True]}}, "line 1: mask: the size of run lengths must be [height, width] but is"),
        ({"mask": {**RLE, "size": [1e9, 1]}}, "line 1: mask: the size of run lengths must be [height, width] but is"),
        ({"mask": {**RLE, "size": [10**5, 10**5]}}, "line 1: mask: the size of run lengths is 100000×100000; at most"),
        ({"mask": {**RLE, "size": [48, 65]}}, "line 1: mask: the run lengths do not add up to 48×65 pixels: '"),
        ({"mask": {**RLE, "counts": [4, 9]}}, "line 1: mask: run lengths must be COCO's compressed ones, a string,"),
        ({"mask": {**RLE, "counts": "\ud800"}}, "line 1: mask: not COCO run lengths: '\\ud800'"),
        ({**ID, "remove": True}, "line 1: object 1 is not tracked on frame 0"),
        ({**ID, "remove": True, "box": [1, 2, 3, 4]}, "line 1: remove needs the object's id and nothing else"),
    ],
)
def test_wrong_lines(tmp_path, line, message):
    with pytest.raises((PromptError, MediaError, ObjectIdError)) as caught:
        schedule(read_prompts(written(tmp_path / "p.jsonl", line)))
    assert message in str(caught.value)


def test_a_value_that_is_barely_read():
    """json.loads manages some depths that json.dumps does not."""
    for depth in range(900, 1000):
        text = json.dumps({"points": 0}).replace("0", "[" * depth + "]" * depth)
        with pytest.raises(PromptError, match=r"is not JSON|points must be"):
            parse_prompts(text, "text")


def test_files_that_hold_no_prompts(tmp_path):
    (tmp_path / "p.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(PromptError, match=r"p.jsonl: is not a file of prompts: expected JSON lines in UTF-8"):
        read_prompts(tmp_path / "p.jsonl")
    with pytest.raises(MediaError, match=r"gone.jsonl: cannot be read: No such file"):
        read_prompts(tmp_path / "gone.jsonl")


def test_masks_and_sources_are_beside_their_file(tmp_path):
    file = written(tmp_path / "p.jsonl", {"source": "a/b.mp4", "mask": "m.png"}, {"source": "/c", "box": [1, 2, 3, 4]})
    first, second = read_prompts(file, frame=7)
    assert (first.source, first.mask, first.frame) == (tmp_path / "a/b.mp4", tmp_path / "m.png", 7)
    assert str(second.source) == "/c"


def test_what_is_written_is_read_again(tmp_path):
    lines = [
        PromptLine(3, 2, ((1, 2.5), (3, 4)), (1, 0), (0.5, 1, 9, 9)),
        PromptLine(3, 7, mask=RLE, source=tmp_path / "a.mp4"),
        PromptLine(4, 2, remove=True),
    ]
    write_prompts(tmp_path / "p.jsonl", lines)
    assert read_prompts(tmp_path / "p.jsonl") == lines
    assert pickle.loads(pickle.dumps(lines)) == lines


def test_scheduled_lines_need_no_files(tmp_path):
    """Masks become run lengths and label images an object for each id, so that what is left may go anywhere."""
    (tmp_path / "labels.png").write_bytes(encode_labels((MASK * 5 + ~MASK * 2).astype(np.uint8)))
    cv2.imwrite(str(tmp_path / "mask.png"), MASK.astype(np.uint8))
    file = written(
        tmp_path / "p.jsonl",
        {"source": "a.mp4", "mask": "labels.png", "frame": 2},
        {"source": "a.mp4", "mask": "mask.png"},
        {"source": "a.mp4", "object": 3, "mask": "labels.png", "frame": 4},
    )
    with pytest.raises(PromptError, match=r"labels.png: has the objects 2, 5, but not 3"):
        schedule(read_prompts(file))
    lines = schedule(read_prompts(file)[:2])
    assert [(line.frame, line.object_id, line.source) for line in lines] == [(0, 1, None), (2, 2, None), (2, 5, None)]
    assert [line.origin for line in lines] == [
        f"{file}, line 2",
        f"{file}, line 1 (object 2)",
        f"{file}, line 1 (object 5)",
    ]
    for line, mask in zip(lines, (MASK, ~MASK, MASK), strict=True):
        assert np.array_equal(line.prompt.mask, mask)
    assert parse_prompts("\n".join(map(str, lines)), "text") == lines


def test_objects_that_are_tracked_already():
    """Their ids are not free; they may be corrected and removed, and then have to be found anew."""
    lines = parse_prompts('[{"box": [1, 1, 9, 9]}, {"object": 1, "points": [[2, 2]], "labels": [0]}]', "PROMPTS", 5)
    assert [(line.frame, line.object_id) for line in schedule(lines, known=(1, 3))] == [(5, 2), (5, 1)]
    removed = [PromptLine(object_id=3, remove=True), PromptLine(0, 3, ((2, 2),), (0,), origin="PROMPTS, prompt 2")]
    assert schedule(removed[:1], known=(3,)) == removed[:1]
    with pytest.raises(PromptError, match=r"PROMPTS, prompt 2: only says where the new object 3 is not"):
        schedule(removed, known=(3,))


@pytest.mark.parametrize("text", ["", "\n", "[]", b""])
def test_no_prompts_from_a_network(text):
    assert parse_prompts(text, "PROMPTS") == []


@pytest.mark.parametrize("text", ['[{"box": [1, 1, 9, 9]},\n{"mask": %s}]', '{"box": [1, 1, 9, 9]}\n\n{"mask": %s}\n'])
@pytest.mark.parametrize("kind", [str, str.encode])
def test_arrays_and_lines_from_a_network(text, kind):
    box, mask = parse_prompts(kind(text % json.dumps(RLE)), "PROMPTS")
    assert (box.box, box.mask, mask.box, mask.mask) == ((1, 1, 9, 9), None, None, RLE)
    assert mask.origin == ("PROMPTS, prompt 2" if text[0] == "[" else "PROMPTS, line 3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff", "PROMPTS: is not text in UTF-8: invalid start byte"),
        (" " * (16 << 20) + "3", "PROMPTS: has 16777217 characters; give at most 16777216"),
        (
            '{"mask": "/etc/passwd"}',
            "PROMPTS, line 1: mask is the name of a file, '/etc/passwd', and files are not read here; give the mask "
            'itself as COCO run lengths, {"size": [height, width], "counts": "…"}',
        ),
        (
            '[{"source": "a.mp4", "box": [1, 2, 3, 4]}]',
            "PROMPTS, prompt 1: source is the name of a file, 'a.mp4', and files are not read here; leave it out",
        ),
    ],
)
def test_what_a_network_must_not_send(text, message):
    with pytest.raises(PromptError) as caught:
        parse_prompts(text, "PROMPTS")
    assert str(caught.value).startswith(message)


def test_a_mask_is_compared_with_the_frame_before_it_is_unpacked(monkeypatch):
    """An invented size would otherwise take gigabytes."""
    [line] = parse_prompts(json.dumps({"mask": RLE}), "PROMPTS")
    line.check(MASK.shape)
    monkeypatch.setattr(rle, "decode", lambda lengths: pytest.fail("unpacked"))
    with pytest.raises(PromptError, match=r"PROMPTS, line 1: a mask must be of the frame's size \[48, 65\] but"):
        line.check((48, 65))


def test_prompts_are_checked_for_a_frame():
    inside, outside = parse_prompts('{"points": [[63, 2]]}\n{"points": [[70, 2]]}', "PROMPTS")
    inside.check((48, 64))
    PromptLine(object_id=1, remove=True).check((48, 64))
    with pytest.raises(PromptError, match=r"PROMPTS, line 2: point \[70.0, 2.0\]"):
        outside.check((48, 64))
