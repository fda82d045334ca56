"""What is measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sam2edge.bench.scene import FRAMES, Scene
from sam2edge.errors import InputError
from tests.helpers import CLIP
from tests.simulated import Simulated

MASKS = CLIP.with_name("clip_masks.npz")


@pytest.mark.parametrize("objects", [1, 8, 11])
def test_drawn_scene(objects: int) -> None:
    """Objects move, do not touch, are boxed tightly, differ from the background and come back."""
    scene = Scene()
    frames = scene.frames(objects)
    assert (len(frames), frames[0].shape, frames[0].dtype) == (FRAMES, (480, 640, 3), np.uint8)
    first, quarter, again = (scene.truth(t, objects, (480, 640)) for t in (0, 12, FRAMES))
    assert len(first) == objects
    assert first.sum(axis=0).max() == 1
    assert (first & ~quarter).any(axis=(1, 2)).all()
    assert (again == first).all()
    for mask, (x0, y0, x1, y1) in zip(first, scene.boxes(objects, (480, 640)).astype(int), strict=True):
        assert mask[y0:y1, x0:x1].sum() == mask.sum() > 100
        assert all(edge.any() for edge in (mask[y0], mask[y1 - 1], mask[:, x0], mask[:, x1 - 1]))
        inside, outside = frames[0][mask].mean(axis=0), frames[0][~first.any(axis=0)].mean(axis=0)
        assert np.abs(inside - outside).max() > 60


def test_clip_with_true_masks() -> None:
    """The three toys first, in the order of their ids; the others are spread over the frame."""
    scene, labels = Scene(str(CLIP), str(MASKS)), np.load(MASKS)["labels"]
    assert len(scene.frames(5)) == FRAMES
    boxes, truth = scene.boxes(5, (240, 320)), scene.truth(7, 5, (240, 320))
    assert (truth == np.stack([labels[7] == object_id for object_id in (1, 2, 3)])).all()
    ys, xs = np.nonzero(labels[0] == 2)
    assert boxes[1].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert boxes.shape == (5, 4)
    assert (boxes[3:] >= 0).all()
    assert (boxes[3:] <= (320, 240, 320, 240)).all()
    assert (scene.truth(7, 1, (240, 320)) == truth[:1]).all()


def test_clip_without_true_masks() -> None:
    scene = Scene(str(CLIP))
    assert scene.truth(0, 3, (240, 320)) is None
    assert (scene.boxes(3, (240, 320)) == scene.boxes(5, (240, 320))[:3]).all()


def test_camera_is_no_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sam2edge.calibration.measure.clip.open_source", lambda word, **_: Simulated(name=word))
    with pytest.raises(InputError, match="0: cannot be read twice"):
        Scene("0").frames(1)


def test_true_masks_of_another_clip(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the true mask of frame 0 is 320×240 but the frame 640×480"):
        Scene(str(CLIP), str(MASKS)).boxes(1, (480, 640))
    np.savez(tmp_path / "few.npz", labels=np.load(MASKS)["labels"][:5])
    with pytest.raises(InputError, match="has true masks of 5 frames, but the clip has more"):
        Scene(str(CLIP), str(tmp_path / "few.npz")).truth(5, 1, (240, 320))
