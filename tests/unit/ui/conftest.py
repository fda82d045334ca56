"""A session on the bundled clip and a player that runs it."""

import contextlib
import threading

import pytest

from sam2edge import VideoTracker
from sam2edge.ui.player import Player
from sam2edge.ui.session import Session
from tests.conftest import REPO
from tests.simulated import PATIENCE

CLIP = REPO / "samples" / "clip.mp4"


@pytest.fixture(scope="session")
def tracker(nano):
    """One for all: a session forgets its objects when it is closed."""
    with VideoTracker(nano, max_objects=3) as tracker:
        yield tracker


@pytest.fixture
def session(tracker, tmp_path):
    """A session with nothing open."""
    with Session(tracker, tmp_path / "saved") as session:
        yield session


@pytest.fixture
def released():
    """An event for which a source waits, until the end of the test at most."""
    event = threading.Event()
    yield event
    event.set()


@contextlib.contextmanager
def playing(session):
    """A player of a session, which runs in a thread."""
    player, stop = Player(session), threading.Event()
    thread = threading.Thread(target=player.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield player
    finally:
        stop.set()
        thread.join(PATIENCE)
    assert not thread.is_alive()
