"""GStreamer pipelines; most tests need Debian's packages."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from sam2edge.errors import InputError, MediaError
from sam2edge.runtime.media.grabber import Grabber, Reconnect
from sam2edge.runtime.media.image_files import write_image
from sam2edge.runtime.media.sources import GStreamerSource


def missing():
    """Return what these tests need that is not installed."""
    if shutil.which("gst-launch-1.0") is None:
        return ["gst-launch-1.0"]
    elements = ("videotestsrc", "videoconvert", "pngdec", "v4l2src", "pnmenc")
    return [name for name in elements if subprocess.run(["gst-inspect-1.0", "--exists", name]).returncode]


needs_gstreamer = pytest.mark.skipif(
    bool(missing()),
    reason=f"no {missing()}: apt-get install gstreamer1.0-tools gstreamer1.0-plugins-{{base,good,bad}}",
)
# 33 pixels a row, which GStreamer pads: the padding must not be in the frames.
SMALL = "video/x-raw,width=33,height=21,framerate=30/1"


def is_running(source):
    return source._process.poll() is None


@needs_gstreamer
class TestRun:
    def test_frames(self):
        pipeline = f"videotestsrc num-buffers=5 pattern=solid-color foreground-color=0xff0080ff ! {SMALL}"
        with GStreamerSource(pipeline, live=False, fps=30) as source:
            assert (source.width, source.height, source.fps, source.frame_count) == (33, 21, 30, None)
            assert (source.live, source.name) == (False, f"gst:{pipeline}")
            frames = list(source)
        assert [frame.shape for frame in frames] == [(21, 33, 3)] * 5
        assert all(frame.dtype == np.uint8 and frame.flags.c_contiguous for frame in frames)
        # Through YUV, so exact to within a few grey levels.
        assert np.abs(np.array(frames, int) - (0, 128, 255)).max() <= 3
        assert not is_running(source)
        assert list(source) == []

    def test_pixels_are_exact(self, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 256, (21, 33, 3), np.uint8)
        write_image(tmp_path / "noise.png", pixels)
        with GStreamerSource(f"filesrc location={tmp_path}/noise.png ! pngdec", live=False) as source:
            [frame] = source
        assert np.array_equal(frame, pixels)

    def test_size_that_changes(self):
        parts = (f"videotestsrc num-buffers=2 ! video/x-raw,width={w},height={h} ! c." for w, h in ((32, 24), (64, 48)))
        with GStreamerSource(f"concat name=c {' '.join(parts)} c.", live=False) as source:
            assert [frame.shape[:2] for frame in source] == [(24, 32)] * 2 + [(48, 64)] * 2

    def test_quotes_as_in_a_shell(self):
        caps = "video/x-raw, width=(int)32, height=(int)24"
        with GStreamerSource(f"videotestsrc num-buffers=1 ! '{caps}'", live=False) as source:
            assert (source.width, source.height) == (32, 24)

    def test_unknown_element(self):
        with pytest.raises(MediaError, match=r'gst:nosuch ! identity: .*no element "nosuch"'):
            GStreamerSource("nosuch ! identity")

    def test_device_that_is_not_there(self):
        with pytest.raises(MediaError, match=r"ERROR: .*Cannot identify device '/dev/video97'"):
            GStreamerSource("v4l2src device=/dev/video97")

    def test_no_frame_at_all(self):
        with pytest.raises(MediaError, match="the pipeline ended without a frame"):
            GStreamerSource("videotestsrc num-buffers=0")

    def test_failure_in_the_middle(self):
        # The second frame has a size that the filter after it refuses.
        parts = (f"videotestsrc num-buffers=1 ! video/x-raw,width={w},height=24 ! c." for w in (32, 64))
        source = GStreamerSource(f"concat name=c {' '.join(parts)} c. ! video/x-raw,width=32", live=False)
        frames = iter(source)
        assert next(frames).shape == (24, 32, 3)
        with pytest.raises(MediaError, match="ERROR: from element"):
            next(frames)
        assert not is_running(source)

    def test_crash(self):
        with GStreamerSource(f"videotestsrc is-live=true ! {SMALL}") as source:
            os.kill(source._process.pid, signal.SIGSEGV)
            with pytest.raises(MediaError, match="the pipeline died with exit code -11"):
                list(source)

    def test_stall(self):
        with GStreamerSource(f"videotestsrc is-live=true ! {SMALL}", timeout=2) as source:
            os.kill(source._process.pid, signal.SIGSTOP)
            with pytest.raises(MediaError, match="no frame for 2 s"):
                list(source)
            assert not is_running(source), "killed, since it would not end by itself"

    def test_interrupt_ends_a_wait(self):
        with GStreamerSource(f"videotestsrc is-live=true ! {SMALL}") as source:
            threading.Timer(0.1, source.interrupt).start()
            started = time.monotonic()
            assert len(list(source)) < 100
            assert time.monotonic() - started < 5

    def test_closed(self):
        source = GStreamerSource(f"videotestsrc ! {SMALL}")
        source.close()
        source.close()
        assert not is_running(source)
        assert list(source) == []

    def test_pipeline_that_stands_still_ends_with_the_program(self):
        script = f"""
import os, signal
from sam2edge.runtime.media.sources import GStreamerSource
source = GStreamerSource("videotestsrc is-live=true ! {SMALL}")
os.kill(source._process.pid, signal.SIGSTOP)
print(source._process.pid)
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
        with pytest.raises(ProcessLookupError):
            os.kill(int(done.stdout), 0)

    def test_grabber_starts_it_again(self):
        """Killed twice, while the frames go on."""
        made = []

        def open_source():
            made.append(GStreamerSource(f"videotestsrc is-live=true ! {SMALL}"))
            return made[-1]

        with Grabber(open_source, reconnect=Reconnect(first=0.01)) as grabber:
            for grabbed in grabber:
                assert grabbed.pixels.shape == (21, 33, 3)
                if len(made) == 3:
                    break
                if grabber.statistics.reconnects == len(made) - 1:
                    os.kill(made[-1]._process.pid, signal.SIGKILL)
            assert grabber.statistics.reconnects == 2
        assert not any(is_running(source) for source in made)


@pytest.mark.parametrize("what", ["hello", r"P6\n-4 4\n255\n", r"P6\n999999 999999\n255\n"])
def test_output_that_is_not_a_frame(monkeypatch, tmp_path, what):
    """It is refused even if it never ends."""
    program = tmp_path / "gst-launch-1.0"
    program.write_text(f"#!/bin/sh\nfor fd; do :; done\nwhile printf '{what}'; do :; done >/proc/self/fd/${{fd#fd=}}\n")
    program.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(program))
    with pytest.raises(MediaError, match="gst:x: expected a PPM image but got b'"):
        GStreamerSource("x")


def test_pipeline_that_cannot_be_started(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: name)
    with pytest.raises(InputError, match="gst:videotestsrc 'a: No closing quotation"):
        GStreamerSource("videotestsrc 'a")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MediaError, match=r"not installed: apt-get install gstreamer1\.0-tools .*-plugins-bad"):
        GStreamerSource("videotestsrc")
