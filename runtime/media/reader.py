"""The thread that reads a source for a Grabber."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sam2edge.runtime.media.sources import Source


class Reader:
    """Opens a source in a thread, hands over what it reads until it is refused or the end, and closes it.

    open: makes the source. take: gets this reader and what it read; False refuses. changed: is notified at the end.

    heard: when the last frame was taken, or this was made; time.monotonic(). ended: whether nothing comes any more.
    error: what it ended with, None at the end of the source. They belong to whoever holds `changed`.
    """

    def __init__(
        self, open: Callable[[], Source], take: Callable[[Reader, object], bool], changed: threading.Condition
    ) -> None:
        self.heard = time.monotonic()
        self.ended = False
        self.error: BaseException | None = None
        self._open, self._take, self._changed = open, take, changed
        self._source: Source | None = None
        # A daemon: stuck in a driver, it must not keep the program from ending.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Interrupt the source, if it is open, so that the thread ends soon."""
        if self._source is not None:
            self._source.interrupt()

    def join(self, timeout: float) -> None:
        """Wait for the end of the thread, so many seconds at most."""
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            with self._open() as self._source:
                for item in self._source:
                    if not self._take(self, item):
                        break
        except BaseException as error:  # told or raised by the grabber, in its caller's thread
            self.error = error
        with self._changed:
            self.ended = True
            self._changed.notify_all()
