"""A session, a player that runs it, and sources that are opened in place of a camera."""

import contextlib
import threading

import numpy as np
import pytest

from sam2edge import VideoTracker
from sam2edge.ui import session as session_module
from sam2edge.ui.player import Player
from sam2edge.ui.session import Session
from tests.conftest import REPO
from tests.helpers import CLIP
from tests.simulated import PATIENCE, opening

TRUTH = np.load(REPO / "samples" / "clip_masks.npz")["labels"]


@pytest.fixture(scope="session")
def tracker(nano):
    """Open one tracker for all tests: a session forgets its objects when it is closed."""
    with VideoTracker(nano, max_objects=3) as tracker:
        yield tracker


@pytest.fixture
def session(tracker, tmp_path):
    """Return a session with nothing open."""
    with Session(tracker, tmp_path / "saved") as session:
        yield session


@pytest.fixture
def clip_session(session):
    """Return a session with the bundled clip open."""
    session.open(str(CLIP))
    return session


@pytest.fixture
def simulate(monkeypatch):
    """Return a function after which these sources are opened in turn, whatever their word."""

    def simulate(*sources):
        open_next = opening(*sources)
        monkeypatch.setattr(session_module, "open_source", lambda word, **_: open_next())

    return simulate


@pytest.fixture
def released():
    """Return an event for which a source waits, until the end of the test at most."""
    event = threading.Event()
    yield event
    event.set()


@contextlib.contextmanager
def playing(session):
    """Run a player of a session in a thread."""
    player, stop = Player(session), threading.Event()
    thread = threading.Thread(target=player.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield player
    finally:
        stop.set()
        thread.join(PATIENCE)
    assert not thread.is_alive()
