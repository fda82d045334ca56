"""Clips, and true masks from the files that data sets come in."""

import cv2
import numpy as np
import pytest

from sam2edge.calibration.measure.clip import Clip, TrueMasks
from sam2edge.calibration.measure.closed_loop import track_clip
from sam2edge.errors import InputError, MediaError
from sam2edge.runtime.media.grabber import Grabber
from sam2edge.runtime.media.image_files import write_image
from sam2edge.runtime.media.sources import ImageFolderSource
from tests.conftest import REPO
from tests.helpers import CLIP, write_palette

LABELS = np.array([[0, 1, 1, 0, 2], [0, 1, 3, 3, 2], [0, 0, 3, 0, 2]], np.uint8)


def test_a_clip_is_read_from_the_start_each_time():
    clip = Clip(CLIP, 2)
    frames, again = list(clip), list(clip)
    np.testing.assert_array_equal(frames, again)
    np.testing.assert_array_equal(clip.first(), frames[0])
    assert (clip.length, clip.fraction(1)) == (2, 0.5)
    assert Clip(CLIP).fraction(1) == 0


def test_clips_that_are_refused(nano, tmp_path):
    with pytest.raises(InputError, match="the number of frames must be an integer of at least 1 but got 0"):
        Clip(CLIP, 0)
    with pytest.raises(MediaError, match="no such video file"):
        Clip(tmp_path / "none.mp4").first()
    with pytest.raises(InputError, match="there are no prompts"):
        track_clip(nano, Clip(CLIP), {})


def test_images_of_other_sizes_are_resized(tmp_path):
    """To the first one's size, as `track` does."""
    frame = Clip(CLIP).first()
    for number, picture in enumerate((frame, frame[::2, ::2], cv2.resize(frame, (640, 480)))):
        write_image(tmp_path / f"img{number}.png", picture)
    clip = list(Clip(tmp_path))
    assert [picture.shape for picture in clip] == [frame.shape] * 3
    with Grabber(lambda: ImageFolderSource(tmp_path)) as grabber:
        np.testing.assert_array_equal(clip, [grabbed.pixels for grabbed in grabber])


def test_images_of_more_than_8_bits(tmp_path):
    write_image(tmp_path / "0.png", np.full((4, 6), 1000, np.uint16))
    assert Clip(tmp_path, value_range=(0, 2000)).first()[0, 0].tolist() == [128] * 3
    with pytest.raises(MediaError, match=r"0\.png: its pixels are 16-bit numbers from 1000 to 1000"):
        Clip(tmp_path).first()


def test_a_folder_in_the_order_of_its_numbers(tmp_path):
    for number, value in (("frame10", 3), ("frame1", 1), ("frame9", 2)):
        write_palette(tmp_path / f"{number}.png", np.full((2, 3), value, np.uint8))
        (tmp_path / f"._{number}.png").write_bytes(b"macOS")
    truth = TrueMasks(tmp_path)
    assert len(truth) == 3
    assert [int(truth[i][0, 0]) for i in range(3)] == [1, 2, 3]
    assert truth.object_ids == (1,)
    assert truth.masks(1, (1, 2), (2, 3)).all(axis=(1, 2)).tolist() == [False, True]
    with pytest.raises(InputError, match=r"/frame9\.png: the true mask of frame 1 is 3×2 but the frame 4×2"):
        truth.masks(1, (1,), (2, 4))


def test_davis_layout(tmp_path, monkeypatch):
    clip = tmp_path / "JPEGImages" / "480p" / "dogs"
    masks = tmp_path / "Annotations" / "480p" / "dogs"
    clip.mkdir(parents=True)
    masks.mkdir(parents=True)
    write_palette(masks / "00000.png", LABELS)
    assert TrueMasks(tmp_path, clip).object_ids == (1, 2, 3)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert TrueMasks("~", "~/JPEGImages/480p/dogs").object_ids == (1, 2, 3)
    with pytest.raises(MediaError, match="Annotations/480p/cats: no such folder"):
        TrueMasks(tmp_path, clip.with_name("cats"))


def test_255_is_void_beside_objects_and_the_object_when_alone(tmp_path):
    for name, labels in (("several", LABELS), ("one", np.minimum(LABELS, 1)), ("filled", np.ones_like(LABELS))):
        (tmp_path / name).mkdir()
        marked = np.where(labels == labels.max(), 255, labels).astype(np.uint8)
        cv2.imwrite(str(tmp_path / name / "0.png"), marked)
    assert TrueMasks(tmp_path / "several").object_ids == (1, 2)
    np.testing.assert_array_equal(TrueMasks(tmp_path / "one")[0], LABELS > 0)
    np.testing.assert_array_equal(TrueMasks(tmp_path / "filled")[0], np.ones_like(LABELS))


def test_npz():
    truth = TrueMasks(REPO / "samples" / "clip_masks.npz")
    assert (len(truth), truth.object_ids, truth[0].shape) == (120, (1, 2, 3), (240, 320))


def test_what_cannot_be_read(tmp_path):
    def fails(message, path):
        with pytest.raises(MediaError, match=message):
            TrueMasks(path)

    fails("no such folder; give the one of this clip", tmp_path / "none")
    fails("no PNG files", tmp_path)
    file = tmp_path / "0.png"
    file.write_bytes(b"GIF89a" + bytes(60))
    fails("0.png: not a PNG, or a damaged one", tmp_path)
    write_palette(file, np.random.default_rng(0).integers(0, 4, (200, 200), dtype=np.uint8))
    file.write_bytes(file.read_bytes()[:30])
    fails("0.png: .*damaged", tmp_path)
    file.write_bytes(file.read_bytes()[:20])
    fails("0.png: .*damaged", tmp_path)
    cv2.imwrite(str(file), np.dstack([LABELS * 50] * 3))
    fails("is a colour image", tmp_path)
    np.savez(tmp_path / "a.npz", masks=LABELS)
    fails("array `labels`", tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", labels=LABELS)
    fails(r"integer \[T,H,W\] but are uint8 \[3, 5\]", tmp_path / "a.npz")
    fails("array `labels`", tmp_path / "none.npz")
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    fails("array `labels`", tmp_path / "a.npz")
