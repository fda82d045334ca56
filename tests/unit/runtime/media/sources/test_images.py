"""A folder of images as a video."""

import numpy as np
import pytest

from sam2edge.errors import MediaError
from sam2edge.runtime.media.image_files import write_image
from sam2edge.runtime.media.sources import ImageFolderSource
from tests.simulated import grey


@pytest.fixture
def folder(tmp_path):
    """frame1.png is of value 1, and so on; 10 and 2 would be the wrong way round by their letters."""
    for i in (1, 2, 10, 11):
        write_image(tmp_path / f"frame{i}.png", grey(i, (20, 30)))
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def values(source):
    return [str(item) if isinstance(item, MediaError) else int(item[0, 0, 0]) for item in source]


def test_order_of_the_numbers(folder):
    with ImageFolderSource(folder, fps=4) as source:
        assert (source.width, source.height, source.frame_count, source.fps) == (30, 20, 4, 4)
        assert (source.live, source.name) == (False, str(folder))
        assert values(source) == [1, 2, 10, 11]
        assert values(source) == []


def test_colours_are_rgb(tmp_path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:] = (250, 100, 3)
    write_image(tmp_path / "a.png", pixels)
    assert np.array_equal(next(iter(ImageFolderSource(tmp_path))), pixels)


def test_pattern(folder):
    assert values(ImageFolderSource(f"{folder}/frame1*.png")) == [1, 10, 11]


@pytest.mark.parametrize("broken", [1, 2, 11])
def test_broken_image_is_not_the_end(folder, broken):
    path = folder / f"frame{broken}.png"
    path.write_bytes(path.read_bytes()[:20])
    source = ImageFolderSource(folder)
    assert (source.width, source.height, source.frame_count) == (30, 20, 4)
    message = f"{path}: no image that OpenCV can read: another kind of file, or one cut short"
    assert values(source) == [message if i == broken else i for i in (1, 2, 10, 11)]


def test_all_broken(folder):
    for path in folder.glob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(MediaError, match=r"none of its 4 images can be read; the first: .*frame1\.png: no image"):
        ImageFolderSource(folder)


def test_no_images(tmp_path):
    with pytest.raises(MediaError, match="no images in this folder"):
        ImageFolderSource(tmp_path)


def test_closed(folder):
    source = ImageFolderSource(folder)
    source.close()
    assert values(source) == []
