"""A source that follows a script: a stand-in for cameras that fail."""

from __future__ import annotations

import threading

import numpy as np

from sam2edge.errors import MediaError
from sam2edge.runtime.media.sources import Source

PATIENCE = 20
"""Seconds that a test waits for something that should happen soon."""


def grey(value, size=(48, 64)):
    """Make a frame of one value."""
    return np.full((*size, 3), value, np.uint8)


class Simulated(Source):
    """Plays a script: waits for events, calls functions, and yields everything else.

    It counts what it has `given`, and sets the event `closed` when it is closed.
    """

    def __init__(self, *script, live=True, name="camera", size=(48, 64)):
        self.script, self.live, self.name = script, live, name
        self.height, self.width = size
        self.given, self.interrupted, self.closed = 0, False, threading.Event()

    def __iter__(self):
        for step in self.script:
            if isinstance(step, threading.Event):
                assert step.wait(PATIENCE), "nobody released the source"
            elif callable(step):
                step()
            else:
                self.given += 1
                yield step

    def interrupt(self):
        self.interrupted = True

    def close(self):
        self.closed.set()


def failing(error):
    """Make a step of a script that raises."""

    def fail():
        raise error

    return fail


def opening(*sources):
    """Make a function that opens one source after the other, raises those that are errors, and then a MediaError."""
    rest = iter(sources)

    def open_next():
        source = next(rest, MediaError("not there"))
        if isinstance(source, Exception):
            raise source
        return source

    return open_next
