"""Plays a session in one thread and lets other threads look and act."""

from __future__ import annotations

import collections
import dataclasses
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic

from sam2edge.errors import InputError, PromptError, Sam2EdgeError
from sam2edge.ui.session import Session
from sam2edge.ui.view import Click, View

_PATIENCE = 0.1
"""Seconds after which a call or the end is seen although no frame comes."""
_FPS_IF_UNKNOWN = 25.0
_LATE = 2
"""So many frames may have come since the one that a person clicked on, while they run."""


class Player:
    """Owns the thread in which a session is used: the one that calls `run`. All else may be called by any thread.

    There is one View at a time, and whoever looks gets the newest: one who looks seldom misses frames, and holds up
    nothing.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._calls: queue.Queue[tuple[Callable[[], None], Future[None]]] = queue.Queue()
        self._changed = threading.Condition()  # guards the view and whether it is over
        self._playing = session.live
        self._view = dataclasses.replace(session.view(), playing=self._playing)
        self._over = False
        self._due = 0.0
        self._times = collections.deque[float](maxlen=20)

    def run(self, stop: threading.Event) -> None:
        """Do what other threads ask for, and play, until `stop` is set."""
        try:
            while not stop.is_set():
                self._obey()
                if self._playing and monotonic() >= self._due:
                    self._next()
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()
            while not self._calls.empty():
                self._calls.get()[1].set_exception(_ending())

    def wait(self, after: int, timeout: float) -> View | None:
        """Return the view as soon as its version is not `after`; None after `timeout` seconds.

        Raises InputError when the player has ended.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._view.version != after, timeout)
            if self._over:
                raise _ending()
            return None if self._view.version == after else self._view

    def open(self, word: str, name: str | None = None) -> None:
        """See Session.open; a camera plays at once."""

        def act() -> None:
            self._playing = False
            self._session.open(word, name)
            self._playing, self._due = self._session.live, monotonic()
            self._times.clear()

        self._call(act)

    def restart(self) -> None:
        """See Session.restart; pauses."""

        def act() -> None:
            self._playing = False
            self._session.restart()

        self._call(act)

    def play(self) -> None:
        """Go on until the end or `pause`. Raises InputError if there are no frames left."""

        def act() -> None:
            if self._session.ended:
                raise InputError("there are no frames to play; open a video or start it again")
            self._playing, self._due = True, monotonic()
            self._times.clear()

        self._call(act)

    def pause(self) -> None:
        """Stay on the current frame."""

        def act() -> None:
            self._playing = False

        self._call(act)

    def step(self) -> None:
        """Pause, and go one frame on."""

        def act() -> None:
            self._playing = False
            self._session.advance(_PATIENCE if self._session.live else float("inf"))

        self._call(act)

    def click(self, click: Click, seen: int) -> None:
        """See Session.click. seen: serial of the frame that was clicked on.

        Raises PromptError, and pauses, if the frame has gone by for too long, or was of another source.
        """

        def act() -> None:
            late = self._session.serial - seen
            if seen < self._session.first or not 0 <= late <= (_LATE if self._playing else 0):
                self._playing = False
                raise PromptError(f"this frame had gone by ({late} more had come); paused now, so click again")
            self._session.click(click)

        self._call(act)

    def undo(self) -> None:
        """See Session.undo."""
        self._call(self._session.undo)

    def remove(self, object_id: int) -> None:
        """See Session.remove."""
        self._call(lambda: self._session.remove(object_id))

    def save(self, on: bool) -> None:
        """See Session.save."""
        self._call(lambda: self._session.save(on))

    def _call(self, act: Callable[[], None]) -> None:
        """Have it done by the thread that runs, and wait; raises what it raises."""
        done = Future[None]()
        with self._changed:
            if self._over:
                raise _ending()
            self._calls.put((act, done))
        done.result()

    def _obey(self) -> None:
        patience = min(max(0.0, self._due - monotonic()), _PATIENCE) if self._playing else _PATIENCE
        try:
            act, done = self._calls.get(timeout=patience)
        except queue.Empty:
            return
        try:
            act()
        except Exception as error:  # the caller's to handle
            self._publish()
            done.set_exception(error)
        else:
            self._publish()
            done.set_result(None)

    def _next(self) -> None:
        before = self._session.message
        try:
            moved = self._session.advance(_PATIENCE)
        except Sam2EdgeError as error:
            moved, self._playing, self._session.message = False, False, str(error)
        if self._session.ended:
            self._playing = False
        now = monotonic()
        if moved:
            self._times.append(now)
            # A frame that was late is not made up for by hurrying through the next ones.
            self._due = now if self._session.live else max(self._due + 1 / (self._session.fps or _FPS_IF_UNKNOWN), now)
        if moved or not self._playing or self._session.message != before:
            self._publish()

    def _publish(self) -> None:
        times = self._times
        rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
        view = self._session.view()
        with self._changed:
            version = self._view.version + 1
            self._view = dataclasses.replace(view, version=version, playing=self._playing, rate=rate)
            self._changed.notify_all()


def _ending() -> InputError:
    return InputError("sam2edge ui has ended; start it again")
