"""Frames that the caller makes."""

import numpy as np
import pytest

from sam2edge.errors import FrameError, MediaError
from sam2edge.runtime.media.sources import ArraySource
from tests.simulated import grey


def test_list():
    source = ArraySource([grey(i, (20, 30)) for i in range(3)], fps=5, name="mine")
    assert (source.name, source.live, source.fps, source.frame_count) == ("mine", False, 5, 3)
    assert (source.width, source.height) == (30, 20)
    assert [int(frame[0, 0, 0]) for frame in source] == [0, 1, 2]
    assert list(source) == []


def test_generator_is_read_when_asked_for():
    read = []

    def frames():
        for i in range(3):
            read.append(i)
            yield grey(i)

    source = ArraySource(frames(), live=True)
    assert (source.live, source.frame_count, read) == (True, None, [0])
    assert next(iter(source))[0, 0, 0] == 0
    assert next(iter(source))[0, 0, 0] == 1
    assert read == [0, 1]
    source.close()
    assert list(source) == []


def test_no_frames():
    with pytest.raises(MediaError, match="mine: there are no frames"):
        ArraySource([], name="mine")


def test_no_frame():
    with pytest.raises(FrameError, match="must be uint8"):
        ArraySource([np.zeros((4, 4, 3))])
