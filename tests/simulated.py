"""A source that does what a script says: a stand-in for cameras that fail."""

from __future__ import annotations

import threading

import numpy as np

from sam2edge.errors import MediaError
from sam2edge.runtime.media.sources import Source

PATIENCE = 20
"""Seconds that a test waits for what must come soon."""


def grey(value, size=(48, 64)):
    """A frame of one value."""
    return np.full((*size, 3), value, np.uint8)


class Simulated(Source):
    """Plays a script: waits for events, calls functions, and gives everything else.

    given: how many things it gave. closed: an event that is set when it was closed.
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
    """A step of a script that raises."""

    def fail():
        raise error

    return fail


def opening(*sources):
    """A function that opens one source after the other, raises those that are errors, and then a MediaError."""
    rest = iter(sources)

    def open_next():
        source = next(rest, MediaError("not there"))
        if isinstance(source, Exception):
            raise source
        return source

    return open_next
