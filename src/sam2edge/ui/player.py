"""A player that runs a session in one thread and lets other threads look and act."""

from __future__ import annotations

import collections
import dataclasses
import functools
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from time import monotonic
from typing import Concatenate, ParamSpec

from sam2edge.errors import InputError, PromptError, Sam2EdgeError
from sam2edge.ui.session import Session
from sam2edge.ui.view import Click, View

P = ParamSpec("P")

_PATIENCE = 0.1
"""Seconds without a frame after which calls and the end are noticed."""
_FPS_IF_UNKNOWN = 25.0
_LATE = 2
"""Frames that may have come since the one that a person clicked on, while the source plays."""


def _in_its_thread(act: Callable[Concatenate[Player, P], None]) -> Callable[Concatenate[Player, P], None]:
    """Let the thread in `Player.run` run the method, wait for it, and raise what it raises."""

    @functools.wraps(act)
    def call(player: Player, /, *args: P.args, **kwargs: P.kwargs) -> None:
        done = Future[None]()
        with player._changed:
            if player._over:
                raise _over_error()
            player._calls.put((lambda: act(player, *args, **kwargs), done))
        done.result()

    return call


class Player:
    """Plays a session in the one thread that calls `run`. Every other method may be called from any thread.

    There is one View at a time, and `wait` returns the newest: a slow caller misses frames but delays nothing.
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
                self._calls.get()[1].set_exception(_over_error())

    def wait(self, after: int, timeout: float) -> View | None:
        """Return the view as soon as its version is not `after`, or None after `timeout` seconds.

        Raises InputError once the player has ended.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._view.version != after, timeout)
            if self._over:
                raise _over_error()
            return None if self._view.version == after else self._view

    @_in_its_thread
    def open(self, word: str, name: str | None = None) -> None:
        """Open a source, as Session.open does; a camera plays at once."""
        self._playing = False
        self._session.open(word, name)
        self._playing, self._due = self._session.live, monotonic()
        self._times.clear()

    @_in_its_thread
    def restart(self) -> None:
        """Pause, and open the same video again, as Session.restart does."""
        self._playing = False
        self._session.restart()

    @_in_its_thread
    def play(self) -> None:
        """Play until the end or `pause`; raise InputError if there are no frames left."""
        if self._session.ended:
            raise InputError("there are no frames to play; open a video or start it again")
        self._playing, self._due = True, monotonic()
        self._times.clear()

    @_in_its_thread
    def pause(self) -> None:
        """Stay on the current frame."""
        self._playing = False

    @_in_its_thread
    def step(self) -> None:
        """Pause, and advance by one frame."""
        self._playing = False
        self._session.advance(_PATIENCE if self._session.live else float("inf"))

    @_in_its_thread
    def click(self, click: Click, seen: int) -> None:
        """Click, as Session.click does, on the frame of the serial `seen`.

        Raises PromptError, and pauses, if that frame went by too long ago or was of another source.
        """
        late = self._session.serial - seen
        if seen < self._session.first or not 0 <= late <= (_LATE if self._playing else 0):
            self._playing = False
            raise PromptError(f"that frame is gone ({late} more have come since); paused, so please click again")
        self._session.click(click)

    @_in_its_thread
    def undo(self) -> None:
        """Take the last click back, as Session.undo does."""
        self._session.undo()

    @_in_its_thread
    def remove(self, object_id: int) -> None:
        """Forget an object, as Session.remove does."""
        self._session.remove(object_id)

    @_in_its_thread
    def look_for(self, texts: Sequence[str]) -> None:
        """Look for words, as Session.look_for does."""
        self._session.look_for(texts)

    @_in_its_thread
    def save(self, on: bool) -> None:
        """Start or stop saving masks, as Session.save does."""
        self._session.save(on)

    def _obey(self) -> None:
        patience = min(max(0.0, self._due - monotonic()), _PATIENCE) if self._playing else _PATIENCE
        try:
            act, done = self._calls.get(timeout=patience)
        except queue.Empty:
            return
        try:
            act()
        except Exception as error:  # for the caller to handle
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
            # After a late frame, the next ones are not hurried.
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


def _over_error() -> InputError:
    return InputError("sam2edge ui has ended; start it again")
