"""GStreamer pipelines, each in a process of its own."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Iterator
from typing import IO, BinaryIO

import numpy as np

from sam2edge.errors import InputError, MediaError
from sam2edge.runtime.media.sources.base import IteratedSource, timed
from sam2edge.types import Frame

_HEADER = re.compile(rb"P6\n([1-9]\d{0,4}) ([1-9]\d{0,4})\n255\n")
_LONGEST_HEADER = len("P6\n99999 99999\n255\n")
_PACKAGES = "gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"


class GStreamerSource(IteratedSource[Frame]):
    """The frames of a GStreamer pipeline, run by gst-launch-1.0 in a process of its own: pip's OpenCV has no GStreamer.

    A pipeline that crashes ends the source, not the program. Every frame comes with its size, which may change.

    Args:
        pipeline: As for gst-launch-1.0, without a sink: "v4l2src ! videoflip method=clockwise".
        live: False for a pipeline over files, whose end is not a fault.
        fps: Frames per second, if known.
        timeout: Seconds to wait for each frame.

    Raises:
        InputError: Quotes in the pipeline do not match.
        MediaError: GStreamer is not installed, or the pipeline fails or gives no frame in time.
    """

    def __init__(self, pipeline: str, *, live: bool = True, fps: float | None = None, timeout: float = 10.0) -> None:
        self.name, self.live, self.fps = f"gst:{pipeline}", live, fps
        self._timeout = timeout
        self._log: collections.deque[bytes] = collections.deque(maxlen=20)
        self._process, self._pipe = _launch(pipeline)
        self._poll = select.poll()
        self._poll.register(self._pipe, select.POLLIN)
        self._logging = threading.Thread(target=_collect, args=(self._process.stdout, self._log), daemon=True)
        self._logging.start()
        # A finalizer also runs when the program ends, which a pipeline that stands still would outlive.
        self._stop = weakref.finalize(self, _stop, self._process, self._pipe)
        rest = self._read()
        first = next(rest, None)
        if first is None:
            self.close()
            raise MediaError(f"{self.name}: the pipeline ended without a frame")
        self.height, self.width = first.shape[:2]
        self._frames = timed(itertools.chain([first], rest), live=live, fps=fps)

    def interrupt(self) -> None:
        """Stop the pipeline."""
        self._process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """Stop the pipeline; iteration then ends. May be called again."""
        super().close()
        self._stop()

    def _read(self) -> Iterator[Frame]:
        """Read PPM images, whose headers say their sizes, until the pipeline ends or is closed."""
        while self._stop.alive:
            deadline = time.monotonic() + self._timeout
            header = bytearray()
            while not (match := _HEADER.fullmatch(header)):
                byte = bytearray(1)
                if len(header) == _LONGEST_HEADER:
                    self.close()
                    raise MediaError(f"{self.name}: expected a PPM image but got {bytes(header)!r}")
                if not self._fill(byte, deadline):
                    self._finish()
                    return
                header += byte
            width, height = map(int, match.groups())
            frame = np.empty((height, width, 3), np.uint8)
            if not self._fill(frame.data.cast("B"), deadline):
                self._finish()
                return
            yield frame

    def _fill(self, buffer: bytearray | memoryview, deadline: float) -> bool:
        """Fill a buffer from the pipe; False if the pipe ends first."""
        filled, view = 0, memoryview(buffer)
        while filled < len(view):
            if not self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                self.close()
                raise MediaError(f"{self.name}: no frame for {self._timeout:g} s")
            count = os.readv(self._pipe.fileno(), [view[filled:]])
            if not count:
                return False
            filled += count
        return True

    def _finish(self) -> None:
        """Close at the end of the pipe; raise MediaError if the pipeline failed."""
        # The pipe may close before the process has exited, and only its exit code tells an end from a failure.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        self.close()
        if self._process.returncode:
            self._logging.join(timeout=1)
            lines = [line.decode(errors="replace").strip() for line in list(self._log)]
            errors = [line for line in lines if re.match("ERROR|WARNING: erroneous", line)]
            code = f"the pipeline died with exit code {self._process.returncode}"
            raise MediaError(f"{self.name}: {' | '.join(errors[:1] or lines[-3:]) or code}")


def csi_pipeline(sensor_id: int = 0, width: int = 1280, height: int = 720, fps: int = 30) -> str:
    """Return the pipeline of a Jetson's CSI camera, for GStreamerSource. It has not been run on a Jetson.

    `width`, `height` and `fps` are one of the sensor's modes, or what NVIDIA's converter scales it to.
    """
    mode = f"video/x-raw(memory:NVMM),width={width},height={height},framerate={fps}/1"
    return f"nvarguscamerasrc sensor-id={sensor_id} ! '{mode}' ! nvvidconv ! video/x-raw,format=BGRx"


def _launch(pipeline: str) -> tuple[subprocess.Popen[bytes], BinaryIO]:
    """Start the pipeline; return it with the end of a pipe through which its frames come as PPM images."""
    program = shutil.which("gst-launch-1.0")
    if program is None:
        raise MediaError(f"GStreamer's gst-launch-1.0 is not installed: apt-get install {_PACKAGES}")
    try:
        words = shlex.split(pipeline)
    except ValueError as error:
        raise InputError(f"gst:{pipeline}: {error}") from error
    # Not through its standard output, where NVIDIA's camera plugin prints.
    reading, writing = os.pipe()
    sink = ["!", "videoconvert", "!", "video/x-raw,format=RGB", "!", "pnmenc", "!", "fdsink", f"fd={writing}"]
    try:
        process = subprocess.Popen(
            # Without --no-fault a pipeline that crashes waits for a debugger.
            [program, "--quiet", "--no-fault", *words, *sink],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(writing,),
            start_new_session=True,  # Ctrl-C must reach this process only, which then stops the pipeline
        )
    finally:
        os.close(writing)
    return process, open(reading, "rb", buffering=0)


def _stop(process: subprocess.Popen[bytes], pipe: BinaryIO) -> None:
    process.send_signal(signal.SIGINT)  # on which it releases the camera, unlike SIGTERM
    try:
        process.wait(timeout=0.5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    pipe.close()


def _collect(output: IO[bytes], log: collections.deque[bytes]) -> None:
    with output:
        log.extend(output)
