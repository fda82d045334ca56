"""What a person does with a video, without a browser or threads."""

import json

import cv2
import numpy as np
import pytest

from sam2edge import VideoTracker, WordDetector, cli
from sam2edge.errors import InputError, MediaError, ObjectIdError, PromptError
from sam2edge.runtime.media import rle
from sam2edge.runtime.media.sources import VideoSource
from sam2edge.ui import session as module
from sam2edge.ui.view import Click
from tests.helpers import CLIP, clip_frames, iou, write_frames
from tests.simulated import Simulated, failing, grey
from tests.unit.ui.conftest import TRUTH

BALL, BLOCK = Click(1, 138, 84, 1), Click(2, 262, 60, 1)


# frames


def test_first_frame(clip_session):
    view = clip_session.view()
    with VideoSource(CLIP) as source:
        np.testing.assert_array_equal(view.pixels, next(iter(source)))
    assert (view.source, view.number, view.count, view.live, view.ended) == (str(CLIP), 0, 120, False, False)
    assert (view.result, view.clicks, view.folder) == (None, (), None)


def test_a_clicked_object_is_followed(clip_session):
    clip_session.click(BALL)
    overlaps = [iou(clip_session.view().result.masks[0], TRUTH[0] == 1)]
    for number in range(1, 31):
        assert clip_session.advance()
        result = clip_session.view().result
        assert result.frame_index == clip_session.view().number == number
        overlaps.append(iou(result.masks[0], TRUTH[number] == 1))
    assert np.mean(overlaps) > 0.85


def test_tracking_starts_with_the_first_click(clip_session, nano):
    """Earlier frames, and an object that was removed again, leave no trace."""
    clip_session.click(BLOCK)
    clip_session.advance()
    clip_session.remove(2)
    clip_session.advance()
    clip_session.click(BALL)
    clip_session.advance()
    with VideoTracker(nano) as tracker, VideoSource(CLIP) as source:
        frames = list(source)[2:4]
        tracker.track(frames[0])
        tracker.prompt(1, points=[(138, 84)])
        expected = tracker.track(frames[1])
    np.testing.assert_array_equal(clip_session.view().result.logits, expected.logits)


def test_end(session, simulate):
    simulate(Simulated(grey(1), grey(2), live=False))
    session.open("clip")
    assert session.advance()
    assert not session.advance()
    assert session.ended
    view = session.view()
    assert (view.number, view.ended, view.pixels[0, 0, 0]) == (1, True, 2)


def test_serial_counts_on_over_sources(session, simulate):
    simulate(Simulated(grey(1), grey(2), live=False), Simulated(grey(3), live=False))
    session.open("one")
    session.advance()
    session.open("two")
    assert (session.serial, session.view().number) == (3, 0)


def test_no_frame_in_time(session, simulate, released):
    simulate(Simulated(grey(1), released, live=True))
    session.open("0")
    assert not session.advance(timeout=0.01)
    assert not session.ended
    assert session.view().pixels[0, 0, 0] == 1


# opening


def test_a_source_that_cannot_be_opened_leaves_the_open_one(clip_session):
    clip_session.click(BALL)
    with pytest.raises(MediaError, match="no such video file"):
        clip_session.open("missing.mp4")
    clip_session.advance()
    assert clip_session.view().result.object_ids == (1,)


def test_another_source_forgets_the_objects(session, simulate):
    simulate(Simulated(grey(1, (240, 320)), live=False, size=(240, 320)), Simulated(grey(2), live=False))
    session.open("one")
    session.click(BALL)
    session.open("two", "its name")
    assert (session.view().source, session.view().result, session.view().clicks) == ("its name", None, ())
    session.click(Click(1, 9, 9, 1))
    assert session.view().result.frame_size == (48, 64)


def test_a_camera_is_closed_before_it_is_opened_again(session, monkeypatch):
    first = Simulated(grey(1), *[grey(2)] * 9, live=True)
    closed = []
    sources = iter([lambda: first, lambda: closed.append(first.closed.is_set()) or Simulated(grey(3), live=True)])
    monkeypatch.setattr(module, "open_source", lambda word, **_: next(sources)())
    session.open("0")
    session.open("0")
    assert closed == [True]
    assert session.view().pixels[0, 0, 0] == 3


def test_restart(session):
    session.open(str(CLIP), "clip")
    session.click(BALL)
    session.advance()
    session.restart()
    view = session.view()
    assert (view.source, view.number, view.result) == ("clip", 0, None)


def test_restart_of_a_camera(session, simulate, released):
    simulate(Simulated(grey(1), released, live=True))
    session.open("0")
    with pytest.raises(InputError, match="a camera has no beginning"):
        session.restart()


def test_a_fault_is_shown_until_the_next_frame(session, simulate, released):
    simulate(Simulated(grey(1), released, MediaError("torn"), grey(2), grey(3), live=False))
    session.open("clip")
    released.set()
    session.advance()
    assert session.view().message == "camera: frame 1 is skipped: torn"
    session.advance()
    assert session.view().message == ""


def test_a_source_that_fails(session, simulate):
    simulate(Simulated(grey(1), failing(MediaError("gone")), live=False))
    session.open("clip")
    with pytest.raises(MediaError, match="gone"):
        session.advance()
    assert session.ended


# words


@pytest.fixture
def word_session(tracker, shapes, tmp_path):
    """A session of a bundle with a word detector, with the clip open."""
    with (
        WordDetector(shapes) as detector,
        module.Session(tracker, tmp_path / "saved", detector=detector) as session,
    ):
        session.open(str(CLIP))
        yield session


def found(session):
    result = session.view().result
    return () if result is None else tuple(zip(result.object_ids, result.words, strict=True))


def test_words_are_found_on_the_frame_and_followed(word_session):
    word_session.look_for(["red ball", "a dog"])
    view = word_session.view()
    assert (view.words, view.message) == ("red ball, a dog", "not found on this frame: a dog")
    assert found(word_session) == ((1, "red ball"),)
    for number in range(1, 4):
        word_session.advance()
        assert iou(word_session.view().result.masks[0], TRUTH[number] == 1) > 0.8
    assert word_session.view().message == ""


def test_words_and_clicks(word_session, tmp_path):
    """What was clicked stays when words come and go; clicks on what they found are not saved as prompts."""
    word_session.save(True)
    word_session.click(BLOCK)
    word_session.look_for(["red ball"])
    assert found(word_session) == ((2, ""), (3, "red ball"))
    word_session.click(Click(3, 140, 90, 1))
    word_session.advance()
    word_session.look_for([])
    assert (word_session.view().words, word_session.view().result.object_ids) == ("", (2,))
    word_session.advance()
    assert word_session.view().result.object_ids == (2,)
    word_session.save(False)
    lines = [json.loads(line) for line in (tmp_path / "saved" / "001" / "prompts.jsonl").read_text().splitlines()]
    assert [line["object"] for line in lines] == [2]


def test_words_are_looked_for_in_the_next_source(word_session):
    word_session.look_for(["red ball"])
    word_session.advance()
    word_session.restart()
    assert found(word_session) == ((1, "red ball"),)
    word_session.remove(1)
    assert found(word_session) == ()


def test_words_that_are_refused_change_nothing(word_session, session):
    word_session.look_for(["red ball"])
    with pytest.raises(InputError, match="endoftext"):
        word_session.look_for(["<|endoftext|>"])
    assert (word_session.view().words, found(word_session)) == ("red ball", ((1, "red ball"),))
    assert session.view().words is None
    with pytest.raises(InputError, match="this bundle has no word detector"):
        session.look_for(["red ball"])


# clicks


def test_clicks_on_one_frame_count_together(clip_session, nano):
    more = Click(1, 120, 84, 1)
    clip_session.click(BALL)
    clip_session.click(more)
    with VideoTracker(nano) as tracker, VideoSource(CLIP) as source:
        tracker.track(next(iter(source)))
        tracker.prompt(1, points=[(138, 84)])
        expected = tracker.prompt(1, points=[(138, 84), (120, 84)], labels=[1, 1])
    np.testing.assert_array_equal(clip_session.view().result.logits, expected.logits)
    assert clip_session.view().clicks == (BALL, more)
    clip_session.advance()
    assert clip_session.view().clicks == ()


def test_a_correction_on_a_later_frame(clip_session, nano):
    clip_session.click(BALL)
    clip_session.advance()
    clip_session.click(Click(1, 160, 100, 0))
    corrected = clip_session.view().result
    clip_session.advance()
    with VideoTracker(nano) as tracker, VideoSource(CLIP) as source:
        frames = list(source)[:3]
        tracker.track(frames[0])
        tracker.prompt(1, points=[(138, 84)])
        before = tracker.track(frames[1])
        expected = tracker.prompt(1, points=[(160, 100)], labels=[0])
        np.testing.assert_array_equal(corrected.logits, expected.logits)
        assert (before.logits != expected.logits).any()
        np.testing.assert_array_equal(clip_session.view().result.logits, tracker.track(frames[2]).logits)


def test_undo_leaves_no_trace(clip_session):
    clip_session.click(BALL)
    clip_session.click(BLOCK)
    before = clip_session.view().result
    clip_session.click(Click(2, 240, 50, 0))
    assert (clip_session.view().result.logits != before.logits).any()
    clip_session.undo()
    after = clip_session.view()
    assert after.result.object_ids == (1, 2)
    np.testing.assert_array_equal(after.result.logits, before.logits)
    assert after.clicks == (BALL, BLOCK)
    clip_session.undo()
    clip_session.undo()
    assert (clip_session.view().result, clip_session.view().clicks) == (None, ())


def test_undo_of_corrections(clip_session):
    """The tracker's own result is back, and tracking goes on from it."""
    clip_session.click(BALL)
    clip_session.advance()
    before = clip_session.view().result
    clip_session.click(Click(1, 120, 84, 1))
    once = clip_session.view().result
    clip_session.click(Click(1, 200, 200, 0))
    clip_session.undo()
    np.testing.assert_array_equal(clip_session.view().result.logits, once.logits)
    clip_session.undo()
    view = clip_session.view()
    assert (view.clicks, view.result.frame_index) == ((), 1)
    np.testing.assert_array_equal(view.result.logits, before.logits)


def test_remove(clip_session):
    clip_session.click(BALL)
    clip_session.click(BLOCK)
    clip_session.remove(1)
    view = clip_session.view()
    assert (view.result.object_ids, view.clicks) == ((2,), (BLOCK,))
    assert iou(view.result.masks[0], TRUTH[0] == 2) > 0.7
    clip_session.advance()
    assert clip_session.view().result.object_ids == (2,)


@pytest.mark.parametrize(
    ("click", "error", "message"),
    [
        (Click(0, 9, 9, 1), ObjectIdError, "from 1 to 65535"),
        (Click(-1, 9, 9, 1), ObjectIdError, "from 1 to 65535"),
        (Click(65536, 9, 9, 1), ObjectIdError, "from 1 to 65535"),
        (Click(1, 138, 84, 0), PromptError, "click on object 1 first"),
        (Click(1, 322, 84, 1), PromptError, "lies outside the 320×240 frame"),
        (Click(1, float("nan"), 84, 1), PromptError, "must be finite"),
        (Click(1, 138, 84, 2), PromptError, "unknown label 2"),
    ],
)
def test_wrong_clicks_change_nothing(clip_session, click, error, message):
    with pytest.raises(error, match=message):
        clip_session.click(click)
    assert (clip_session.view().result, clip_session.view().clicks) == (None, ())


def test_more_objects_than_there_is_room_for(clip_session):
    for n in (1, 2, 3):
        clip_session.click(Click(n, 138, 84, 1))
    with pytest.raises(ObjectIdError, match="3 objects are tracked already"):
        clip_session.click(Click(4, 138, 84, 1))


# saving


def saved(folder):
    """Return the label images by their names, and the lines."""
    images = {file.name: cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in (folder / "masks").iterdir()}
    return images, [json.loads(line) for line in (folder / "masks.jsonl").read_text().splitlines()]


def test_a_frame_is_saved_as_last_seen(clip_session, tmp_path):
    """A frame without objects, one with a correction, and the one on which saving ends."""
    clip_session.advance()
    clip_session.save(True)
    clip_session.advance()
    clip_session.click(BALL)
    clip_session.click(BLOCK)
    seen = [clip_session.view().result]
    clip_session.advance()
    clip_session.click(Click(1, 120, 84, 1))
    seen.append(clip_session.view().result)
    assert (clip_session.view().folder, clip_session.view().saved) == (str(tmp_path / "saved" / "001"), 2)
    clip_session.save(False)
    clip_session.save(False)
    assert clip_session.view().folder is None
    images, lines = saved(tmp_path / "saved" / "001")
    assert sorted(images) == ["00001.png", "00002.png", "00003.png"]
    assert not images["00001.png"].any()
    assert [line["frame_index"] for line in lines] == [1, 2, 3]
    assert lines[0]["objects"] == []
    for result, image, line in zip(seen, (images["00002.png"], images["00003.png"]), lines[1:], strict=True):
        np.testing.assert_array_equal(image == 2, result.masks[1])
        for n in (0, 1):
            np.testing.assert_array_equal(rle.decode(line["objects"][n]["segmentation"]), result.masks[n])


def test_saved_prompts_give_the_same_masks_again(clip_session, tmp_path, nano):
    """Clicks before saving began and on a later frame, one that was taken back, an object that went and came again."""
    clip_session.click(BALL)
    clip_session.click(BLOCK)
    clip_session.click(Click(1, 120, 84, 1))
    clip_session.click(Click(1, 10, 10, 0))
    clip_session.undo()
    clip_session.advance()
    clip_session.save(True)
    clip_session.remove(2)
    clip_session.click(Click(1, 160, 100, 0))
    clip_session.advance()
    clip_session.click(BLOCK)
    clip_session.save(False)
    folder = tmp_path / "saved" / "001"
    assert (folder / "prompts.jsonl").read_text().splitlines() == [
        '{"frame": 0, "object": 1, "points": [[138, 84]], "labels": [1]}',
        '{"frame": 0, "object": 2, "points": [[262, 60]], "labels": [1]}',
        '{"frame": 0, "object": 1, "points": [[138, 84], [120, 84]], "labels": [1, 1]}',
        '{"frame": 1, "object": 2, "remove": true}',
        '{"frame": 1, "object": 1, "points": [[160, 100]], "labels": [0]}',
        '{"frame": 2, "object": 2, "points": [[262, 60]], "labels": [1]}',
    ]
    write_frames(tmp_path / "clip", clip_frames(3))
    again = ("--prompts", folder / "prompts.jsonl", "--masks", tmp_path / "again")
    assert cli.main(["track", str(nano.path), str(tmp_path / "clip"), *map(str, again)]) == 0
    for name, labels in saved(folder)[0].items():
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / "again" / name), cv2.IMREAD_UNCHANGED), labels)


def test_saved_masks_are_prompts_again(clip_session, tmp_path, nano):
    clip_session.save(True)
    for click in (Click(7, 262, 60, 1), Click(300, 138, 84, 1)):
        clip_session.click(click)
    clip_session.advance()
    first = tmp_path / "saved" / "001" / "masks" / "00000.png"
    write_frames(tmp_path / "clip", clip_frames(2))
    again = ("--mask", first, "--masks", tmp_path / "again")
    assert cli.main(["track", str(nano.path), str(tmp_path / "clip"), *map(str, again)]) == 0
    before, after = (cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in (first, tmp_path / "again" / "00000.png"))
    for object_id in (7, 300):
        assert iou(before == object_id, after == object_id) > 0.9


def test_saving_again_makes_a_new_folder(clip_session, tmp_path):
    clip_session.save(True)
    clip_session.save(True)
    clip_session.save(False)
    clip_session.save(True)
    clip_session.close()
    assert sorted(folder.name for folder in (tmp_path / "saved").iterdir()) == ["001", "002"]
    assert list(saved(tmp_path / "saved" / "002")[0]) == ["00000.png"]


def test_another_source_ends_saving(clip_session, tmp_path):
    clip_session.save(True)
    clip_session.restart()
    clip_session.advance()
    assert clip_session.view().folder is None
    assert list(saved(tmp_path / "saved" / "001")[0]) == ["00000.png"]


def test_a_folder_that_cannot_be_made(clip_session, tmp_path):
    (tmp_path / "saved").write_text("")
    with pytest.raises(MediaError, match="saved: this directory cannot be made"):
        clip_session.save(True)
    assert clip_session.view().folder is None


def test_a_full_disk_ends_saving_but_not_tracking(clip_session, monkeypatch):
    clip_session.click(BALL)
    clip_session.save(True)
    monkeypatch.setattr(module.MaskSink, "write", lambda *arguments: failing(MediaError("disk is full"))())
    with pytest.raises(MediaError, match="disk is full"):
        clip_session.advance()
    view = clip_session.view()
    assert (view.folder, view.number, view.result.frame_index) == (None, 1, 1)
    assert clip_session.advance()
