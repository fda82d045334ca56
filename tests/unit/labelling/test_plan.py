"""From the command line's words to items."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2edge.errors import InputError, MediaError, ObjectIdError, PromptError
from sam2edge.labelling.items import Settings
from sam2edge.labelling.plan import plan
from sam2edge.runtime.media.prompt_files import PromptLine

PROMPTS, AUTO, WORDS = (Settings(mode=mode) for mode in ("prompts", "auto", "words"))


@pytest.fixture
def folder(tmp_path):
    """Videos a and b, text, and a folder of 66 images."""
    for name in ("a.mp4", "b.mp4", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "images").mkdir()
    for number in range(66):
        (tmp_path / "images" / f"{number}.jpg").touch()
    return tmp_path


def line(source=None, object_id=1, frame=0, **fields):
    return PromptLine(frame, object_id, **{"box": (0, 0, 9, 9), **fields}, source=source, origin="p.jsonl, line 1")


def names(drafts):
    return [[os.path.basename(source) for source in draft.sources] for draft in drafts]


def test_prompts_name_the_videos(folder):
    drafts = plan([], [line(folder / "b.mp4"), line(folder / "a.mp4"), line(folder / "b.mp4", 2, 5)], PROMPTS)
    assert names(drafts) == [["b.mp4"], ["a.mp4"]]
    item = drafts[0].item()
    assert (item.key, item.kind, item.sources, item.start) == (drafts[0].key, "video", (str(folder / "b.mp4"),), 0)
    assert [(prompt.object_id, prompt.frame) for prompt in item.prompts] == [(1, 0), (2, 5)]


def test_sources_choose_among_the_prompts(folder):
    prompts = [line(folder / "a.mp4"), line(folder / "b.mp4"), line(folder / "images")]
    assert names(plan([str(folder / "a.mp4")], prompts, PROMPTS)) == [["a.mp4"]]
    assert names(plan([str(folder / "*.mp4")], prompts, PROMPTS)) == [["a.mp4"], ["b.mp4"]]
    assert names(plan([str(folder)], prompts, PROMPTS)) == [["a.mp4"], ["b.mp4"]]
    assert names(plan([str(folder / "images")], prompts, PROMPTS)) == [["images"]]


def test_link_and_relative_path_are_the_same_video(folder, monkeypatch):
    (folder / "link.mp4").symlink_to("a.mp4")
    monkeypatch.chdir(folder)
    assert names(plan(["./link.mp4"], [line(folder / "a.mp4")], PROMPTS)) == [["link.mp4"]]
    [draft] = plan([], [line(folder / "a.mp4"), line(folder / "link.mp4", 2)], PROMPTS)
    assert [prompt.object_id for prompt in draft.item().prompts] == [1, 2]


def test_prompts_without_a_source(folder):
    [draft] = plan([str(folder / "a.mp4")], [line()], PROMPTS)
    assert len(draft.item().prompts) == 1
    with pytest.raises(PromptError, match='line 1: does not say which video it is for, and there are 2; add "source"'):
        plan([str(folder)], [line()], PROMPTS)


def test_videos_without_prompts_are_named(folder):
    with pytest.raises(PromptError, match=r"without prompts, so that nothing can be followed: .*b\.mp4$"):
        plan([str(folder)], [line(folder / "a.mp4")], PROMPTS)


def test_a_stream_is_no_item():
    with pytest.raises(InputError, match="rtsp://camera: is no file; `sam2edge track`"):
        plan(["rtsp://camera"], [line()], PROMPTS)


def test_auto_takes_images_in_items(folder):
    (folder / "one.png").touch()
    drafts = plan([str(folder / "images"), str(folder / "one.png"), str(folder / "images")], (), AUTO)
    assert [len(draft.sources) for draft in drafts] == [64, 2, 1]
    assert names(drafts)[0][:3] == ["0.jpg", "1.jpg", "2.jpg"]
    assert {draft.kind for draft in drafts} == {"images"}


def test_words_follow_in_videos_and_look_at_images(folder):
    (folder / "images" / "clip.mp4").touch()
    drafts = plan([str(folder / "*.mp4"), str(folder / "images"), str(folder / "notes.txt")], (), WORDS)
    assert [(draft.kind, len(draft.sources)) for draft in drafts] == [
        ("video", 1),
        ("video", 1),
        ("video", 1),
        ("images", 64),
        ("images", 2),
        ("video", 1),
    ]


@pytest.mark.parametrize("settings", [PROMPTS, AUTO, WORDS])
def test_what_is_missing_fails_alone(folder, settings):
    drafts = plan([str(folder / "gone.mp4")], [line(folder / "gone.mp4")], settings)
    with pytest.raises(MediaError, match=r"gone\.mp4: no such"):
        drafts[0].item()


def test_keys(folder):
    """They say what they are of, and change with all that the labels depend on."""

    def key(*lines):
        [draft] = plan([str(folder / "a.mp4")], lines or [line()], PROMPTS)
        return draft.key

    first = key()
    assert first.startswith("a-")
    assert key() == first == key(line(folder / "a.mp4"))
    assert key(line(frame=3)) != first
    os.utime(folder / "a.mp4", (0, 0))
    assert key() != first
    mask = folder / "mask.png"
    cv2.imwrite(str(mask), np.full((4, 4), 255, np.uint8))
    with_mask = key(line(box=None, mask=mask))
    os.utime(mask, (0, 0))
    assert key(line(box=None, mask=mask)) != with_mask


def test_key_of_images_changes_with_each(folder):
    before = [draft.key for draft in plan([str(folder / "images")], (), AUTO)]
    (folder / "images" / "65.jpg").write_bytes(b"1")
    after = [draft.key for draft in plan([str(folder / "images")], (), AUTO)]
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_keys_are_names_of_files(folder):
    strange = folder / "déjà vu [1]*.mp4"
    strange.touch()
    [draft] = plan([str(strange)], [line()], PROMPTS)
    assert Path(draft.key).name == draft.key
    assert draft.key.startswith("déjà-vu--1---")


def test_bad_masks_fail_when_the_item_is_made(folder):
    (folder / "mask.png").write_text("no mask")
    bad = line(folder / "b.mp4", box=None, mask=folder / "mask.png")
    good, broken = plan([], [line(folder / "a.mp4"), bad], PROMPTS)
    assert good.item().prompts
    with pytest.raises(MediaError, match=r"mask\.png"):
        broken.item()


def test_prompts_that_contradict_fail_when_the_item_is_made(folder):
    [draft] = plan([], [line(folder / "a.mp4", box=None, remove=True)], PROMPTS)
    with pytest.raises(ObjectIdError, match="line 1: object 1 is not tracked"):
        draft.item()
